"""Through the front door: every shipped configuration on tiny made data, and what bad input gets."""

from __future__ import annotations

import csv
import errno
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers import CSVLogger

from anchor_lightning.cli import main
from anchor_lightning.commands.configs import CONFIG_FOLDER, find_config, named_configs
from tests.helpers.made_data import make_brainwash, make_coco, make_voc, make_yolo
from tests.helpers.tiny_training import SMALL, SYNTHETIC

pytestmark = pytest.mark.usefixtures("elsewhere")

REPOSITORY = Path(__file__).resolve().parents[1]
CONFIGS = sorted(
    str(path.relative_to(CONFIG_FOLDER))
    for path in CONFIG_FOLDER.rglob("*.yaml")
    if path.parent.name not in ("sweep", "launcher")  # another format; and classes of Ray, which is an extra
)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def values(folder: Path, key: str) -> list[float]:
    return [float(row[key]) for row in rows(folder / "metrics.csv") if row.get(key)]


@pytest.mark.parametrize(
    ("config", "make", "sizes"),
    [
        ("voc.yaml", make_voc, ["--data.image_size", "64"]),
        ("coco.yaml", make_coco, ["--data.image_size", "[64, 96]"]),
        ("brainwash.yaml", make_brainwash, ["--data.image_size", "64", "--data.val_image_size", "[96, 128]"]),
        ("small.yaml", make_voc, ["--data.image_size", "64", "--data.years", "[2012]"]),
        ("small.yaml", make_yolo, ["--data", "YOLODataModule", "--data.image_size", "64"]),
        ("synthetic.yaml", None, ["--data.image_size", "64", "--data.num_train", "6", "--data.num_val", "2"]),
    ],
)
def test_every_configuration_trains(
    tmp_path: Path, config: str, make: Callable[[Path], Path] | None, sizes: list[str]
) -> None:
    data = [] if make is None else ["--data.root", str(make(tmp_path / "data"))]
    main(["fit", "--config", config, *SMALL, *sizes, *data])
    run = tmp_path / "runs" / "version_0"
    found = {str(path.relative_to(run)) for path in run.rglob("*")}
    assert {"config.yaml", "metrics.csv", "anchors.csv", "anchors.png", "checkpoints/last.ckpt"} <= found
    keys = set(rows(run / "metrics.csv")[0])
    losses = {f"train/{name}" for name in ("loss", "loss_xy", "loss_wh", "loss_objectness", "loss_class")}
    scalars = {"anchors/temperature", "anchors/lambda", "anchors/mean_best_iou", "anchors/mean_best_iou_augmented"}
    scalars.add("train/loss_clustering")
    shapes = {f"anchors/{k}/{side}" for k in range(5) for side in "wh"} | {f"anchors/usage_{k}" for k in range(5)}
    metrics = {f"val/{name}" for name in ("map", "map_50", "map_voc07", "map_voc")}
    assert losses | scalars | shapes | metrics <= keys
    assert sum(values(run, f"anchors/usage_{k}")[-1] for k in range(5)) == pytest.approx(1)
    start = values(run, "anchors/temperature")[0]
    assert start > 0 if config == "small.yaml" else start == 2.0  # small.yaml starts at the boxes' critical temperature
    assert values(run, "anchors/lambda")[0] == 1.0
    learned = rows(run / "anchors.csv")
    assert learned[0].keys() == {"step", "anchor", "w", "h"}
    assert {row["step"] for row in learned} >= {"0", "2"}
    torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    if config in ("voc.yaml", "coco.yaml", "brainwash.yaml"):
        (offline,) = (tmp_path / "runs" / "wandb").glob("offline-run-*")
        assert list(offline.glob("*.wandb")), "W&B is the default there"
        assert list(offline.glob("files/media/images/anchors/figure_*.png"))
        (table,) = offline.glob("files/media/table/anchors/*.table.json")
        content = json.loads(table.read_text())
        assert content["columns"][:3] == ["anchor", "initial w", "initial h"] and len(content["data"]) == 5


@pytest.mark.parametrize("overlay", [name for name in CONFIGS if "/" in name and "table7" not in name])
def test_every_overlay_composes(overlay: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", "voc.yaml", "--config", overlay, "--print_config"])
    assert end.value.code == 0
    composed = yaml.safe_load(capsys.readouterr().out)
    given = yaml.safe_load((CONFIG_FOLDER / overlay).read_text())

    def holds(part: object, whole: object) -> bool:
        if isinstance(part, dict) and isinstance(whole, dict):
            return all(holds(value, whole[key]) for key, value in part.items())
        if isinstance(part, list) and isinstance(whole, list):
            return all(holds(a, b) for a, b in zip(part, whole, strict=True))
        # A class may be given by its name alone.
        return part == whole or (isinstance(whole, str) and whole.endswith(f".{part}"))

    assert holds(given, composed), "what the overlay says is what comes out"
    assert composed["trainer"]["max_steps"] == 30000, "and what it does not mention stays"


def test_the_baseline_is_the_baseline(tmp_path: Path) -> None:
    main(["fit", *SYNTHETIC, "--config", "ablation/baseline.yaml"])
    run = tmp_path / "runs" / "version_0"
    learned = rows(run / "anchors.csv")
    assert len({(row["w"], row["h"]) for row in learned if row["anchor"] == "0"}) == 1
    assert set(values(run, "anchors/temperature")) == {0.0} and set(values(run, "train/loss_clustering")) == {0.0}
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any("head.norm" in name for name in state)


def test_validate_test_and_predict_from_a_checkpoint(tmp_path: Path) -> None:
    main(["fit", *SYNTHETIC])
    trained = values(tmp_path / "runs" / "version_0", "val/map_50")[-1]
    for command in ("validate", "test", "predict"):
        options = [arg for pair in zip(SYNTHETIC[::2], SYNTHETIC[1::2], strict=True) for arg in pair]
        main([command, *options, "--ckpt_path", "last"])
    assert values(tmp_path / "runs" / "version_1", "val/map_50") == [pytest.approx(trained, abs=1e-6)]
    tested = rows(tmp_path / "runs" / "version_2" / "metrics.csv")[0]
    assert {"test/map_50", "test/map_voc07"} <= tested.keys()
    assert sum(key.startswith("test/ap_voc07/") for key in tested) == 4, "one for each class"
    predictions = json.loads((tmp_path / "runs" / "version_3" / "predictions.json").read_text())
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in predictions)


def test_last_is_the_newest_run_and_a_saved_config_repeats_it(tmp_path: Path) -> None:
    main(["fit", *SYNTHETIC])
    config = str(tmp_path / "runs" / "version_0" / "config.yaml")
    main(["fit", "--config", config, "--ckpt_path", "last", "--trainer.max_steps", "4"])
    steps = [row["step"] for row in rows(tmp_path / "runs" / "version_1" / "anchors.csv")]
    assert steps[0] == "0" and steps.index("4") == len(steps) - 5 and len(steps) == len(set(steps)) * 5, "and its past"
    main(["fit", "--config", config, "--trainer.max_steps", "4"])
    resumed, whole = (
        torch.load(tmp_path / "runs" / f"version_{n}" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for n in (1, 2)
    )
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_tensorboard_gets_the_figure(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    main(["fit", *SYNTHETIC, "--config", "logger/tensorboard.yaml"])
    (events,) = (tmp_path / "runs" / "tensorboard").rglob("events.out*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    assert "anchors/figure" in accumulator.Tags()["images"]
    assert {"anchors/0/w", "train/loss"} <= set(accumulator.Tags()["scalars"])
    assert (tmp_path / "runs" / "version_0" / "metrics.csv").exists(), "CSV always"


def test_logger_of_ones_own_keeps_the_run_folder(tmp_path: Path) -> None:
    cli = main(["fit", *SYNTHETIC, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "here"])
    assert isinstance(cli.trainer.loggers[0], CSVLogger) and len(cli.trainer.loggers) == 1
    assert list((tmp_path / "here").rglob("anchors.png"))


def test_fast_dev_run_leaves_nothing(tmp_path: Path) -> None:
    main(["fit", *SYNTHETIC, "--trainer.fast_dev_run", "true"])
    assert not list(tmp_path.rglob("anchors.*"))


def test_names_of_configurations(tmp_path: Path) -> None:
    shipped = str(CONFIG_FOLDER / "voc.yaml")
    assert named_configs(["fit", "--config", "voc.yaml", "-c", "voc.yaml", "--config=voc.yaml"]) == [
        "fit",
        "--config",
        shipped,
        "-c",
        shipped,
        f"--config={shipped}",
    ]
    (tmp_path / "voc.yaml").write_text("{}")
    assert find_config("voc.yaml") == "voc.yaml", "a file here goes before a shipped one"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config", "vco.yaml"], r"vco\.yaml.*mean (voc|coco)\.yaml"),
        (["--config", "voc.yaml", "--data.root", "nowhere"], "nowhere"),
        ([*SYNTHETIC, "--data.image_size", "100"], r"data\.image_size.*96 or 128"),
        ([*SYNTHETIC, "--model.anchors.init", "[[10, -4]]"], "shape 0 .* must be positive"),
        ([*SYNTHETIC, "--model.anchors.num", "3", "--model.anchors.init", "uniform"], "has 5 shapes"),
        ([*SYNTHETIC, "--data.batch_size", "7"], r"batch_size.*7"),
        ([*SYNTHETIC, "--ckpt_path", "nothing.ckpt"], "there is no file nothing.ckpt"),
        ([*SYNTHETIC, "--model.detector", "YOLOv9"], "YOLOv9.*YOLOv2"),
        ([*SYNTHETIC, "--model.detector", "ssd_small"], "--model.detector SSD --model.detector.backbone small"),
        ([*SYNTHETIC, "--soft_assignment.steps", "-1"], r"soft_assignment\.steps"),
    ],
)
def test_what_bad_input_gets(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One message that says it, an exit code that is not 0."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *args])
    said = f"{end.value.code} {capsys.readouterr().err}"
    assert end.value.code not in (0, None)
    assert re.search(message, said, re.DOTALL), said[-2000:]


def test_what_is_refused_leaves_nothing(tmp_path: Path) -> None:
    """No run folder, no W&B run: neither for data and options, nor for checkpoints that do not fit."""
    main(["fit", *SYNTHETIC, "--trainer.default_root_dir", "trained"])
    checkpoint = tmp_path / "trained" / "version_0" / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "foreign.ckpt")
    torch.save({name: value for name, value in content.items() if "optim" not in name}, tmp_path / "weights.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:20000])
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save({"state_dict": Path("x")}, tmp_path / "pickled.ckpt")
    cases = {
        "--data.batch_size=1000": "--data.batch_size: ",
        "--ckpt_path=foreign.ckpt": "foreign.ckpt",
        "--ckpt_path=cut.ckpt": "cut.ckpt",
        "--ckpt_path=text.ckpt": "text.ckpt",
        "--ckpt_path=pickled.ckpt": "pickled.ckpt",
        "--ckpt_path=weights.ckpt": "weights.ckpt",
        "--ckpt_path=.": "--ckpt_path",
        f"--ckpt_path={checkpoint} --model.detector.width=0.2": "--model.detector.width: ",
        "--model.detector.backbone_weights=none.conv.23": "none.conv.23",
        "--data.num_train=2 --data.batch_size=2 --model.anchors.init=kmeans --model.anchors.num=99": "distinct",
    }
    for args, message in cases.items():
        for command in ("fit", "validate"):
            if command == "validate" and ("batch_size" in args or "weights.ckpt" in args):
                continue
            with pytest.raises(SystemExit, match=re.escape(message)):
                main([command, *SYNTHETIC, "--config", "logger/wandb.yaml", *args.split()])
            assert not (tmp_path / "runs").exists(), args


def test_what_comes_from_the_data_cannot_be_set(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {num_classes: 7}")
    with pytest.raises(SystemExit, match=r"mine\.yaml: model\.num_classes"):
        main(["fit", *SYNTHETIC, "--config", "mine.yaml"])


def test_an_error_of_ours_ends_without_a_traceback(tmp_path: Path) -> None:
    args = ["fit", "--config", "voc.yaml", "--data.root", "nowhere", "--trainer.logger", "false"]
    run = subprocess.run(
        [sys.executable, "-m", "anchor_lightning", *args],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)},
        timeout=240,
        check=False,
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr and "nowhere" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("--model.anchor.num=7", "--model.anchors.num"),
        ("--data.bach_size=3", "--data.batch_size"),
        ("--model.detector.widht=0.3", "--model.detector.width"),
        ("--soft_asignment.steps=3", "--soft_assignment.steps"),
        ("--trainer.max_step=3", "--trainer.max_steps"),
        ("--model.width=0.3", "--model.detector.width"),
        ("--model.weights_backbone=x", "--model.detector.backbone_weights"),
    ],
)
def test_a_mistyped_option_prints_the_nearest(typo: str, nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Three lines at most: what is wrong, the nearest name (or the new one), and where help is."""
    with pytest.raises(SystemExit) as end:
        main(["fit", *SYNTHETIC, typo])
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and len(lines) <= 3
    assert typo.partition("=")[0] in lines[0] and lines[0].startswith("anchor_lightning")
    assert nearest in "".join(lines[:2]) and "--help" in lines[-1]
    assert "NestedArg" not in "".join(lines)


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("--data.batch_size", "many", "int"),
        ("--model.anchors.num", "many", "int"),
        ("--model.detector.width", "wide", "float"),
        ("--model.learning_rate", "fast", "float"),
    ],
)
def test_a_value_of_another_type(option: str, value: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", *SYNTHETIC, option, value])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3 and all(part in lines[0] for part in (option, value, kind))


def test_an_option_of_another_detector(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--config", "voc.yaml", "--model.detector", "SSD", "--model.detector.width", "0.5"])
    first = capsys.readouterr().err.splitlines()[0]
    assert "--model.detector.width" in first and "SSD" in first


def test_help_of_a_detector_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.detector.help", "YOLOv2"])
    text = capsys.readouterr().out
    assert "--model.detector.width" in text and "--model.detector.bn_without_shift" in text
    assert "num_classes" not in text, "which the data module gives"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape bug in the loss: the exception comes through, with file and line, not one message without them."""

    def wh_loss(offset_wh: torch.Tensor, log_wh: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        return (offset_wh + torch.zeros(3, 7)).sum()

    monkeypatch.setattr("anchor_lightning.detectors.yolov2.loss.wh_loss", wh_loss)
    with pytest.raises(RuntimeError, match="must match the size") as caught:
        main(["fit", *SYNTHETIC])
    assert any(entry.name == "wh_loss" for entry in caught.traceback)


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, AssertionError])
def test_only_user_errors_become_a_message(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def assign(*args: object, **kwargs: object) -> None:
        raise kind("planted")

    monkeypatch.setattr("anchor_lightning.detectors.yolov2.detector.assign", assign)
    with pytest.raises(kind, match="planted"):
        main(["fit", *SYNTHETIC])


def test_a_full_disk_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def assign(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr("anchor_lightning.detectors.yolov2.detector.assign", assign)
    with pytest.raises(SystemExit, match="No space left"):
        main(["fit", *SYNTHETIC])
