"""Through the front door: every shipped configuration on tiny made data, and what bad input gets."""

from __future__ import annotations

import csv
import errno
import json
import re
import runpy
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
        (table,) = offline.glob("files/media/table/anchors/table_*.table.json")
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
            return all(holds(value, whole.get(key, whole.get(str(key)))) for key, value in part.items())
        if isinstance(part, list) and isinstance(whole, list):
            return all(holds(a, b) for a, b in zip(part, whole, strict=True))
        # A class may be given by its name alone.
        return part == whole or (isinstance(whole, str) and whole.endswith(f".{part}"))

    assert holds(given, composed), "what the overlay says is what comes out"
    assert composed["trainer"]["max_steps"] == 30000, "and what it does not mention stays"


def test_the_baseline_is_the_baseline(tmp_path: Path) -> None:
    main(["fit", *SYNTHETIC, "--config", "ablation/baseline.yaml"])
    run = tmp_path / "runs" / "version_0"
    assert (run / "trajectory.png").exists() and not (run / "anchors.gif").exists(), "nothing moves"
    learned = rows(run / "anchors.csv")
    assert len({(row["w"], row["h"]) for row in learned if row["anchor"] == "0"}) == 1
    assert set(values(run, "anchors/temperature")) == {0.0} and set(values(run, "train/loss_clustering")) == {0.0}
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any("head.norm" in name for name in state)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["anchor_lightning"])
        main(["fit", *SYNTHETIC, "--trainer.default_root_dir", str(folder)])
    return folder / "version_0"


def test_validate_test_and_predict_from_a_checkpoint(trained: Path) -> None:
    for command in ("validate", "test", "predict"):
        main([command, *SYNTHETIC, "--ckpt_path", str(trained / "checkpoints" / "last.ckpt")])
    assert values(Path("runs/version_0"), "val/map_50") == pytest.approx(values(trained, "val/map_50"), abs=1e-6)
    tested = rows(Path("runs/version_1/metrics.csv"))[0]
    assert {"test/map_50", "test/map_voc07"} <= tested.keys()
    assert sum(key.startswith("test/ap_voc07/") for key in tested) == 4, "one for each class"
    predictions = json.loads(Path("runs/version_2/predictions.json").read_text())
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in predictions)


def test_a_saved_config_repeats_the_run(trained: Path) -> None:
    main(["fit", "--config", str(trained / "config.yaml"), "--trainer.default_root_dir", "runs"])
    first, again = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in (trained, Path("runs/version_0"))
    )
    assert all(torch.equal(first[name], again[name]) for name in again)


def test_a_saved_config_says_nothing_of_the_checkpoint_that_the_run_began_with(trained: Path) -> None:
    """Else `test --config` of a resumed run would measure the run before, and `fit --config` go on from it."""
    last = str(trained / "checkpoints" / "last.ckpt")
    main(["validate", *SYNTHETIC, "--ckpt_path", last])
    main(["fit", *SYNTHETIC, "--ckpt_path", last, "--trainer.max_steps", "3"])
    resumed = torch.load("runs/version_1/checkpoints/last.ckpt", weights_only=True)
    assert resumed["global_step"] == 3 and last not in resumed["anchor_lightning"]["config"]
    for version in (0, 1):
        with pytest.raises(SystemExit, match="--ckpt_path: is not given"):
            main(["validate", "--config", f"runs/version_{version}/config.yaml"])


def test_tensorboard_gets_the_figure(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Path("runs/version_0").mkdir(parents=True)  # of a run without TensorBoard
    main(["fit", *SYNTHETIC, "--config", "logger/tensorboard.yaml"])
    (events,) = (tmp_path / "runs" / "tensorboard" / "version_1").glob("events.out*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    assert "anchors/figure" in accumulator.Tags()["images"]
    assert {"anchors/0/w", "train/loss"} <= set(accumulator.Tags()["scalars"])
    assert (tmp_path / "runs" / "version_1" / "metrics.csv").exists(), "CSV always"


def test_logger_of_ones_own_keeps_the_run_folder_and_fast_dev_run_leaves_nothing(tmp_path: Path) -> None:
    cli = main(["fit", *SYNTHETIC, "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "here"])
    assert isinstance(cli.trainer.loggers[0], CSVLogger) and len(cli.trainer.loggers) == 1
    assert list((tmp_path / "here").rglob("anchors.png"))
    main(["fit", *SYNTHETIC, "--trainer.fast_dev_run", "true"])
    assert not (tmp_path / "runs").exists()


def test_names_of_configurations(tmp_path: Path) -> None:
    path = str(CONFIG_FOLDER / "voc.yaml")
    given = named_configs(["fit", "--config", "voc.yaml", "-c", "voc.yaml", "--config=voc.yaml"])
    assert given == ["fit", "--config", path, "-c", path, f"--config={path}"]
    (tmp_path / "voc.yaml").write_text("{}")
    assert find_config("voc.yaml") == "voc.yaml", "a file here goes before a shipped one"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("--config vco.yaml", r"vco\.yaml.*mean (voc|coco)\.yaml"),
        ("--config voc.yaml --data.root nowhere", "nowhere"),
        ("--data.image_size 100", r"data\.image_size.*96 or 128"),
        ("--model.anchors.init [[10,-4]]", "shape 0 .* must be positive"),
        ("--model.anchors.num 3 --model.anchors.init uniform", "has 5 shapes"),
        ("--data.batch_size 7", r"batch_size.*7"),
        ("--ckpt_path nothing.ckpt", "no file nothing.ckpt"),
        ("--config mine.yaml", r"mine\.yaml: model\.num_classes"),
        ("--model.detector YOLOv9", "YOLOv9.*YOLOv2"),
        ("--model.detector ssd_small", "--model.detector SSD --model.detector.backbone small"),
        ("--soft_assignment.steps -1", r"soft_assignment\.steps"),
        ("--model.anchor.num=7", r"--model\.anchor\.num .*--model\.anchors\.num\?"),
        ("--data.bach_size=3", r"--data\.bach_size .*--data\.batch_size\?"),
        ("--model.detector.widht=0.3", r"--model\.detector\.widht .*--model\.detector\.width\?"),
        ("--soft_asignment.steps=3", r"--soft_asignment\.steps .*--soft_assignment\.steps\?"),
        ("--trainer.max_step=3", r"--trainer\.max_step .*--trainer\.max_steps\?"),
        ("--model.width=0.3", r"--model\.width .*--model\.detector\.width\n"),
        ("--model.weights_backbone=x", r"--model\.weights_backbone .*--model\.detector\.backbone_weights\n"),
        ("--data.batch_size many", r"--data\.batch_size: .* int, .* many"),
        ("--model.anchors.num many", r"--model\.anchors\.num: .* int .*many"),
        ("--model.detector.width wide", r"--model\.detector\.width: .* float, .* wide"),
        ("--model.learning_rate fast", r"--model\.learning_rate: .* float .*fast"),
        ("--config voc.yaml --model.detector SSD --model.detector.width 0.5", r"--model\.detector\.width .* SSD\n"),
    ],
)
def test_what_bad_input_gets(args: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Three lines at most: what is wrong, the nearest name (or the new one), and where help is."""
    Path("mine.yaml").write_text("model: {num_classes: 7}")
    with pytest.raises(SystemExit) as end:
        main(["fit", *([] if "--config voc" in args else SYNTHETIC), *args.split()])
    said = capsys.readouterr().err if end.value.code == 2 else f"{end.value.code}\n"
    said = said[said.index("anchor_lightning: error") :]
    assert re.search(message, said, re.DOTALL), said[-2000:]
    assert said.count("\n") <= 3 and "NestedArg" not in said and not Path("runs").exists()
    assert end.value.code != 2 or "--help" in said.splitlines()[-1]


def test_what_is_refused_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    """No run folder, no W&B run: neither for data and options, nor for checkpoints that do not fit."""
    checkpoint = trained / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    torch.save({"state_dict": {}, "epoch": 1}, "foreign.ckpt")
    torch.save({name: value for name, value in content.items() if "optim" not in name}, "weights.ckpt")
    Path("cut.ckpt").write_bytes(checkpoint.read_bytes()[:20000])
    for command, args, message in (
        ("fit", "--data.batch_size=1000", "--data.batch_size: "),
        ("fit", "--ckpt_path=foreign.ckpt", "foreign.ckpt"),
        ("validate", "", "--ckpt_path: is not given, and validate would show what random weights find"),
        ("test", "", "--ckpt_path: is not given"),
        ("predict", "", "--ckpt_path: is not given"),
        ("validate", "--ckpt_path=foreign.ckpt", "foreign.ckpt"),
        ("validate", "--ckpt_path=cut.ckpt", "cut.ckpt"),
        ("fit", "--ckpt_path=weights.ckpt", "weights.ckpt"),
        ("fit", "--ckpt_path=.", "--ckpt_path"),
        ("validate", f"--ckpt_path={checkpoint} --model.detector.width=0.2", "--model.detector.width: "),
        ("fit", f"--ckpt_path={checkpoint} --model.detector.width=0.2", "--model.detector.width: "),
        ("fit", "--model.detector.backbone_weights=none.conv.23", "none.conv.23"),
        ("fit", "--data.num_train=2 --model.anchors.init=kmeans --model.anchors.num=99", "distinct"),
    ):
        with pytest.raises(SystemExit, match=re.escape(message)):
            main([command, *SYNTHETIC, "--config", "logger/wandb.yaml", *args.split()])
        assert not (tmp_path / "runs").exists(), args


def test_the_module_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["anchor_lightning", "fit", "--config", "voc.yaml", "--data.root", "nowhere"])
    with pytest.raises(SystemExit, match="nowhere"):
        runpy.run_module("anchor_lightning", run_name="__main__")


def test_help_of_a_detector_lists_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--model.detector.help", "YOLOv2"])
    text = capsys.readouterr().out
    assert "--model.detector.width" in text and "--model.detector.bn_without_shift" in text
    assert "num_classes" not in text, "which the data module gives"
    assert "Not used with `weights`, whose head is trained." in " ".join(text.split())


@pytest.mark.parametrize(
    ("error", "reaches"),
    [
        *((kind("planted"), kind) for kind in (ValueError, RuntimeError, KeyError)),
        (OSError(errno.ENOSPC, "planted"), SystemExit),
    ],
)
def test_only_errors_of_the_user_and_the_machine_become_a_message(
    error: Exception, reaches: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def assign_levels(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("anchor_lightning.detectors.yolo.detector.assign_levels", assign_levels)
    with pytest.raises(reaches, match="planted") as caught:
        main(["fit", *SYNTHETIC])
    assert reaches is SystemExit or caught.traceback[-1].name == "assign_levels"


def test_another_size_than_in_the_training_is_said(tmp_path: Path) -> None:
    main(["fit", *SYNTHETIC, "--trainer.max_steps", "2"])
    trained = yaml.safe_load((tmp_path / "runs" / "version_0" / "config.yaml").read_text())["data"]["init_args"]
    assert trained["val_image_size"] is None
    side = trained["image_size"]
    with pytest.warns(UserWarning, match=rf"validated at {side} x {side} pixels .* here it is run at 128 x 128"):
        main(["validate", *SYNTHETIC, "--ckpt_path", "last", "--data.val_image_size", "128"])
