"""What the command line answers at once, what it says, and how its sub-commands share configurations."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse._typehints import get_all_subclass_paths
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger

import anchor_lightning.__main__
from anchor_lightning.cli import main
from anchor_lightning.cli.help import TEXTS, TRAINER_COMMANDS, command_names, help_text
from anchor_lightning.cli.messages import format_warning
from anchor_lightning.cli.results import metrics_text
from anchor_lightning.cli.trainer import all_options
from anchor_lightning.commands import COMMANDS, command_function
from anchor_lightning.commands.configs import CONFIG_FOLDER, shipped_configs
from tests.helpers.made_data import make_yolo
from tests.helpers.tiny_training import SYNTHETIC

pytestmark = pytest.mark.usefixtures("elsewhere")

COMMON = {"config", "data", "help", "help-all", "print_config", "data.help", "model.detector", "model.detector.help"}

LIGHT = """
import sys
from anchor_lightning.cli import main
for words in ("--help", "--version", "fit --help", "predict --source x --help", "anchors", "anchors fit --help",
              "configs", "fitt", "fit --config smal.yaml"):
    try:
        main(words.split())
    except SystemExit as end:
        print(words, "->", str(end).splitlines()[0])
    loaded = {"torch", "lightning", "numpy"} & sys.modules.keys()
    assert not loaded, (words, loaded)
"""


def options_in(text: str) -> set[str]:
    return {name.rstrip(".") for name in re.findall(r"(?<![\w-])--([a-z][\w.+-]*)", text)}


def run(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "anchor_lightning", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)  # type: ignore[call-overload,no-any-return]


def refused(*words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words])
    return str(end.value.code)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert refused(*words) == "0"
    return capsys.readouterr().out


def test_help_version_names_and_typos_need_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "fitt -> anchor_lightning: error: fitt is not a sub-command" in done.stdout


@pytest.mark.parametrize("name", ["program", *command_names()])
def test_help_is_one_page_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *name.replace("program", "").split(), "--help")
    lines = text.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 120
    assert any(line.startswith("  anchor-lightning ") for line in lines[lines.index("examples:") :])
    assert text.strip() == help_text(name)


@pytest.mark.parametrize("name", [name for name in command_names() if name != "anchors"])
def test_help_names_options_that_there_are(name: str) -> None:
    """Of our own commands all of them; of Lightning's the common ones."""
    named, known = options_in(help_text(name)), set(COMMON)
    if name in COMMANDS:
        own = set(inspect.signature(command_function(name)).parameters) - {"fit_options", "data_words"}
        assert own <= named
        known |= own | set(all_options())  # those of data sets, and of `fit` in examples
    if name in TRAINER_COMMANDS:
        known |= set(all_options()) | {"source", "output", "show_anchors", "image_size", "batch_size", "device"}
        known |= {"score_threshold"}
    assert named <= known, named - known


def test_every_help_text_has_a_command() -> None:
    names = {path.stem.replace("_", " ") for path in TEXTS.glob("*.txt")}
    assert names == {"program", *command_names()}


def test_both_forms_of_predict_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--trainer.max_steps" in printed(capsys, "predict", "--help-all")
    assert "--show_anchors" in printed(capsys, "predict", "--source", "x", "--help-all")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "--version")
    assert text.startswith(f"anchor_lightning {anchor_lightning.__version__} (Python ")
    assert f"torch {torch.__version__.partition('+')[0]}" in text


def test_configs_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    main(["configs"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == shipped_configs()
    for name in shipped_configs():
        first = (CONFIG_FOLDER / name).read_text().splitlines()[0]
        assert first.startswith("# ") and first.endswith("."), f"{name}: the first line is no sentence"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "a sub-command is missing\nSub-commands: fit, "),
        ("predikt", "Did you mean predict?"),
        ("anchors", "{fit,score,export}"),
        ("fit --config smal.yaml", "Did you mean small.yaml?"),
        ("fit --config small.yaml --data no/such", "error: --data: there is no folder or file no/such"),
    ],
)
def test_what_is_mistyped(words: str, says: str) -> None:
    assert says in refused(*words.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--nmu 5", "Did you mean --model.anchors.num?"),
        ("--data.root x", "no class is chosen for data; give --data FOLDER instead, --data CLASS before it"),
        ("--trainer.logger.name x", "--trainer.logger.name: no class is chosen for trainer.logger"),
        ("--config synthetic.yaml --data.bach_size 2", "--data.bach_size is not an option of SyntheticDataModule"),
        ("--config synthetic.yaml --data.bach_size 2", "Did you mean --data.batch_size?"),
        ("--trainer.logger CSVLogger --trainer.logger.nmae x", "Did you mean --trainer.logger.name?"),
        ("--trainer.logger CSVLogger --trainer.logger.nmae x", "--trainer.logger.help CSVLogger"),
        ("--trainer.max_steps ten", "--trainer.max_steps: expected int, got ten\n"),
        ("--soft_assignment.distance l3", "--soft_assignment.distance: expected iou or l2, got l3\n"),
        (
            "--model.detector YOLOv2 --model.detector.freeze_backbone some",
            "--model.detector.freeze_backbone: expected int or all, got some\n",
        ),
    ],
)
def test_what_options_of_classes_get(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("fit", *words.split()) == "2"
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("fit --config synthetic.yaml --num 5", "model.anchors.num"),
        ("fit --config synthetic.yaml --image_size 416", "data.image_size"),
        ("fit --config synthetic.yaml --shapes a.json", "model.anchors.init"),
        ("fit --config synthetic.yaml --seed 1", "seed_everything"),
        ("export --ckpt_path last --to onnx", "format"),
        ("anchors export --shapes uniform --format darknet", "to"),
        ("anchors fit --data . --model.anchors.num 5", "num"),
        ("anchors score --data . --init uniform", "shapes"),
    ],
)
def test_the_name_of_another_command_is_answered_with_the_one_here(
    words: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_yolo(Path())
    assert refused(*words.split()) == "2"
    assert capsys.readouterr().err.splitlines()[1] == f"Did you mean --{name}?"


def test_the_configuration_of_one_sub_command_serves_all(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "fit", *SYNTHETIC, "--resume", "--print_config")
    Path("whole.yaml").write_text(text)
    for command in TRAINER_COMMANDS:
        assert printed(capsys, command, *SYNTHETIC, "--print_config") == text
        assert printed(capsys, command, "--config", "whole.yaml", "--print_config") == text


@pytest.mark.parametrize("base", [Logger, Callback, LightningDataModule])
def test_no_short_name_stands_for_two_classes(base: type) -> None:
    paths = get_all_subclass_paths(base)
    ours = [path.rpartition(".")[2] for path in paths if path.startswith("anchor_lightning.")]
    names = [path.rpartition(".")[2] for path in paths]
    assert ours and all(names.count(name) == 1 for name in ours)


def test_the_short_name_of_the_wandb_logger_is_ours(recwarn: pytest.WarningsRecorder) -> None:
    logger = ["--trainer.logger", "WandbLogger", "--trainer.logger.project", "mine"]
    main(["fit", *SYNTHETIC, *logger, "--trainer.callbacks", "Checkpoint"])
    config = yaml.safe_load(Path("runs/version_0/config.yaml").read_text())
    assert config["trainer"]["logger"] == {
        "class_path": "anchor_lightning.training.loggers.FallbackWandbLogger",
        "init_args": {"save_dir": "runs", "project": "mine"},
    }
    assert list(Path("runs/wandb").glob("offline-run-*")) and not Path("wandb").exists()
    assert any("Checkpoint is Lightning's base class" in str(warning.message) for warning in recwarn)


def test_tensorboard_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchor_lightning.cli.logger_options.find_spec", lambda name: None)
    said = refused("fit", *SYNTHETIC, "--config", "logger/tensorboard.yaml")
    assert "pip install tensorboard" in said and not Path("runs").exists()


def test_metrics_by_hand() -> None:
    metrics = {"test/map": torch.tensor(0.123456), "test/map_large": float("nan")}
    by_class = {"test/ap/rider/bike": 0.5, "test/ap_voc/rider/bike": 1, "test/ap/cup": 0.25}
    of_a_callback = {"loss": 2}
    assert metrics_text(metrics | by_class | of_a_callback).splitlines() == [
        "metric           value",
        "test/map        0.1235",
        "test/map_large       -",
        "loss            2.0000",
        "",
        "class           ap  ap_voc",
        "rider/bike  0.5000  1.0000",
        "cup         0.2500       -",
    ]


def test_a_run_says_what_concerns_it() -> None:
    done = run("fit", *SYNTHETIC, "--trainer.callbacks", "Checkpoint")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "YOLOv2: 517,879 parameters, on cpu" in said and "Warning: trainer.callbacks: Checkpoint" in said
    for noise in ("TPU", "GPU", "Seed", "logging interval", "Tip:", "litlogger", "FLOPs", "UserWarning", ".py:"):
        assert noise not in said
    done = run("test", *SYNTHETIC, "--ckpt_path", "last")
    assert "DataLoader 0" not in done.stdout and re.search(r"^test/map_50 +0\.\d{4}$", done.stdout, re.MULTILINE)
    assert format_warning("3 boxes dropped", UserWarning, "cleaning.py", 60) == "Warning: 3 boxes dropped\n"


def test_an_interrupted_command_has_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("anchor_lightning.commands.configs.shipped_configs", interrupt)
    monkeypatch.setattr(sys, "argv", ["anchor-lightning", "configs"])
    with pytest.raises(SystemExit, match="130"):
        anchor_lightning.__main__.run()
    assert capsys.readouterr().err == "\nanchor_lightning: interrupted\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "anchor_lightning", "configs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 141
