"""Networks of timm as backbones: against timm itself, and through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anchor_lightning.anchors import AnchorOptions
from anchor_lightning.cli import main
from anchor_lightning.commands.export import load_task
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.detectors.timm_backbone import TimmBackbone
from anchor_lightning.detectors.yolo.postprocess import boxes_and_scores
from anchor_lightning.errors import UserError
from anchor_lightning.task import DetectionTask
from tests.helpers.made_data import make_yolo

timm = pytest.importorskip("timm")
NAME = "mobilenetv3_small_050"
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(1)
    return timm.create_model(NAME).eval()


def make_detector(**options: Any) -> YOLOv2:
    return YOLOv2(2, AnchorOptions("identical"), width=0.1, backbone=NAME, **options)


def same(first: State, second: State) -> bool:
    return all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_features_are_those_of_timm_with_its_own_mean(tmp_path: Path, network: Any, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":  # without the classifier, which is not used, and as data parallelism leaves it
        state = {f"module.{k}": v for k, v in network.state_dict().items() if not k.startswith("classifier")}
        torch.save({"state_dict": state}, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(network.state_dict(), path)
    backbone = TimmBackbone(NAME).eval()
    assert NAME in backbone.load(str(path))
    images = torch.rand(2, 3, 64, 96)
    mean, deviation = (torch.tensor(network.pretrained_cfg[k])[:, None, None] for k in ("mean", "std"))
    assert mean.unique().numel() == 3, "a channel's own"
    expected = network.forward_intermediates((images - mean) / deviation, indices=2, intermediates_only=True)
    fine, coarse = backbone(images)
    assert [f.shape[1:] for f in (fine, coarse)] == [(backbone.channels[0], 4, 6), (backbone.channels[1], 2, 3)]
    torch.testing.assert_close(fine, expected[0])
    torch.testing.assert_close(coarse, expected[1])


def without_a_block(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith("blocks.3")}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("part.pth", without_a_block, "in part only"),
        ("mobilenetv3_small_075-0.pth", dict, "mobilenetv3_small_075"),
        (
            "nan.pth",
            lambda state: state | {"conv_stem.weight": state["conv_stem.weight"] * torch.nan},
            "conv_stem.weight",
        ),
        ("other.pth", lambda state: state | {"conv_stem.weight": torch.zeros(8, 3, 3, 3)}, "conv_stem.weight"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, network: Any, name: str, change: Any, said: str) -> None:
    torch.save(change(network.state_dict()), tmp_path / name)
    backbone = TimmBackbone(NAME)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(UserError, match=said):
        backbone.load(str(tmp_path / name))
    assert same(backbone.state_dict(), before)


def test_a_hubs_file_says_its_network_beside_it(tmp_path: Path, network: Any) -> None:
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text('{"architecture": "mobilenetv3_small_minimal_100"}')
    with pytest.raises(UserError, match="mobilenetv3_small_minimal_100"):
        TimmBackbone(NAME).load(str(tmp_path / "pytorch_model.bin"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mobilnetv3_small_050", "mobilenetv3_small_050"),
        ("vit_tiny_patch16_224", "16 and 32"),
        ("swin_tiny_patch4_window7_224", "any size"),
    ],
)
def test_networks_without_such_features(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        TimmBackbone(name)


@pytest.mark.parametrize(("stages", "norms"), [(0, False), (2, False), (0, True), ("all", None)])
def test_what_is_frozen_keeps_weights_and_statistics(stages: Any, norms: bool | None) -> None:
    weights = {"backbone_weights": "not read here"} if norms is None else {"freeze_norms": norms}
    detector = make_detector(freeze_backbone=stages, **weights)
    backbone = detector.network.backbone
    optimizer = torch.optim.SGD(detector.parameters(), 0.1)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    detector.train()
    for _ in range(2):
        detector.network(torch.rand(2, 3, 64, 64)).raw.square().sum().backward()
        optimizer.step()
    changed = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    stem = "network.conv_stem.weight"
    statistics = {key for key in changed if "running" in key}
    if stages == "all":
        assert not changed
    else:
        assert any(key.startswith("network.blocks.4") for key in changed)
        assert (stem in changed) == (stages == 0)
        assert bool(statistics) != bool(norms)
        assert not any(key.startswith(("network.bn1", "network.blocks.0")) for key in changed) or stages == 0
    assert detector.network.neck.join[1].training


def test_stages_hold_every_parameter_once() -> None:
    backbone = TimmBackbone(NAME)
    parameters = [parameter for stage in backbone.stages() for parameter in stage]
    assert len(backbone.stages()) == 5 and len(set(parameters)) == len(parameters) == len(list(backbone.parameters()))
    with pytest.raises(UserError, match="5 stages"):
        backbone.freeze(6, norms=False)


def test_parameters_that_no_feature_needs_are_frozen() -> None:
    """Data parallelism would wait for their gradients."""
    backbone = TimmBackbone("hrnet_w18_small")
    sum(feature.sum() for feature in backbone(torch.rand(2, 3, 64, 64))).backward()  # type: ignore[union-attr]
    assert all((p.grad is not None) == p.requires_grad for p in backbone.parameters())
    assert not all(p.requires_grad for p in backbone.parameters()), "the case must have some"


def test_batch_norms_that_lose_their_activations_are_rejected() -> None:
    backbone = TimmBackbone(NAME)
    backbone.check()
    torch.nn.SyncBatchNorm.convert_sync_batchnorm(backbone)
    with pytest.raises(UserError, match="sync_batchnorm"):
        backbone.check()


def test_its_parameter_groups_have_their_factor() -> None:
    detector = {"class_path": "YOLOv2", "init_args": {"backbone": NAME, "backbone_lr_mult": 0.1, "width": 0.1}}
    task = DetectionTask(2, detector=detector, anchors=AnchorOptions("identical", lr_mult=3.0), learning_rate=1e-2)
    groups = {group["name"]: group for group in task._parameter_groups()}
    backbone = set(task.detector.network.backbone.parameters())
    assert {*groups["backbone"]["params"], *groups["backbone_no_decay"]["params"]} == backbone
    assert groups["backbone"]["lr"] == groups["backbone_no_decay"]["lr"] == 0.1
    assert groups["network"]["lr"] == 1 and groups["backbone_no_decay"]["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups.values()) == len(list(task.parameters()))


def test_through_the_command_line(tmp_path: Path, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained from a file, which is not needed again, resumed with more frozen, exported to ONNX, not to darknet."""
    monkeypatch.chdir(tmp_path)
    torch.save(network.state_dict(), "weights.pth")
    make_yolo(tmp_path / "set")
    option = "--model.detector"
    args = [
        "fit",
        "--config",
        "small.yaml",
        "--data",
        "YOLODataModule",
        "--data.root",
        "set",
        "--data.image_size",
        "64",
    ]
    args += ["--data.batch_size", "2", "--trainer.logger", "false", "--trainer.limit_val_batches", "0"]
    args += [
        "--trainer.precision",
        "32",
        f"{option}.width",
        "0.1",
        f"{option}.backbone",
        NAME,
        "--model.anchors.num",
        "2",
    ]
    main(
        [
            *args,
            "--trainer.max_steps",
            "2",
            f"{option}.backbone_weights",
            "weights.pth",
            f"{option}.freeze_backbone",
            "3",
        ]
    )
    Path("weights.pth").unlink()
    checkpoint = str(next(Path("runs").rglob("last.ckpt")))
    task, _ = load_task(checkpoint)
    stem = task.detector.network.backbone.network.conv_stem.weight
    torch.testing.assert_close(stem, network.conv_stem.weight, rtol=0, atol=0)
    more = [f"{option}.backbone_weights", "weights.pth", f"{option}.freeze_backbone", "all"]
    main([*args, *more, "--trainer.max_steps", "3", "--ckpt_path", checkpoint])
    with pytest.raises(SystemExit):
        main(["export", "--ckpt_path", checkpoint, "--format", "darknet"])
    (onnx,) = main(["export", "--ckpt_path", checkpoint, "--format", "onnx", "--nms", "false", "--output", "out"])
    session = pytest.importorskip("onnxruntime").InferenceSession(str(onnx))
    images = torch.rand(1, 3, 64, 64)
    boxes, scores = (torch.from_numpy(x) for x in session.run(None, {"images": images.numpy()}))
    with torch.no_grad():
        expected = boxes_and_scores(task.detector.network(images).raw, task.shapes.log_wh, 32)
    torch.testing.assert_close(boxes, expected[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores, expected[1], rtol=1e-4, atol=1e-5)
