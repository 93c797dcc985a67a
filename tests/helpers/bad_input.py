"""Command lines on bad input: tables of cases, the data that they spoil, and the two ends that are allowed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from anchor_lightning import data
from anchor_lightning.cli import main
from anchor_lightning.errors import UserError

# Names of options, here alone.
DETECTOR: Final = "--model.detector"
"""Where the detector's own options are."""
OTHER_DETECTOR: Final = ("--config", "detector/ssd_small.yaml")
RESNET: Final = ("--config", "detector/retinanet_r50_fpn.yaml", f"{DETECTOR}.backbone_weights=data/x.pth")
"""A backbone of torchvision's with weights from a file."""
TINY: Final = (
    *("--config", "small.yaml", "--trainer.precision=32-true", f"{DETECTOR}.width=0.1", f"{DETECTOR}.prior_images=0"),
    *("--model.anchors.init=identical", "--trainer.max_steps=2", "--trainer.val_check_interval=2"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.log_every_n_steps=1"),
    *("--soft_assignment.start=2.0", "--anchor_logger.animation=false", "--anchor_logger.every_n_steps=1"),
    "--prediction_pictures.num_images=0",
)
SIZES: Final = ("--data.num_workers=0", "--data.batch_size=4", "--data.image_size=64")
FOLDER: Final = (*SIZES, "--data.root=data")
SYNTHETIC: Final = (*TINY, "--data=SyntheticDataModule", *SIZES, "--data.num_train=8", "--data.num_val=2")
ARGS: Final[Mapping[str, tuple[str, ...]]] = {
    "voc": (*TINY, "--data=VOCDataModule", *FOLDER),
    "coco": (*TINY, "--data=COCODataModule", *FOLDER),
    "brainwash": (*TINY, "--data=BrainwashDataModule", *FOLDER, "--data.val_image_size=64"),
    "yolo": (*TINY, "--data=YOLODataModule", *FOLDER),
    "synthetic": SYNTHETIC,
    "trained": SYNTHETIC,
}
"""Kind of data -> options of two steps of four images, on a copy of it in `data`."""
MOST_LINES: Final = 12
SWAPPED, CLIPPED = "1.corners", "1.clipped"
DROPPED_EMPTY, DROPPED_NAN = "1.dropped[^0-9]*area", "1.dropped[^0-9]*number"
"""How many boxes were repaired, and how."""
ALIAS_BOMB: Final = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
"""YAML of 10^9 words."""


def read(args: Sequence[str]) -> None:
    """What a training reads, without the training: the data module of a command line, and all its images."""
    options = {name: yaml.safe_load(value) for name, _, value in (a.partition("=") for a in args if "--data" in a)}
    kind = getattr(data, options.pop("--data"))
    try:
        module = kind(**{name.removeprefix("--data."): value for name, value in options.items()})
        module.setup("fit")
        assert list(module.train_dataloader()) and list(module.val_dataloader())
        module.teardown("fit")
    except UserError as error:
        raise SystemExit(str(error)) from None


def cases(
    names: str, table: Mapping[str, object], fast: Collection[str] = (), reads: bool = False
) -> pytest.MarkDecorator:
    """Runs a test on every case of a table: through the whole command line if slow tests are asked for.

    Args:
        names: Arguments of the test for a case's values.
        table: Name of a case -> its value or values.
        fast: Cases that always go through the command line.
        reads: All cases always go through the data module alone, too.
    """
    assert set(fast) <= set(table), f"no such cases: {set(fast) - set(table)}"
    params = [
        pytest.param(
            run,
            *(values if isinstance(values, tuple) else (values,)),
            id=f"{run.__name__}: {name}".encode("ascii", "replace").decode(),
            marks=() if run is read or name in fast else pytest.mark.slow,
        )
        for name, values in table.items()
        for run in ((read, main) if reads else (main,))
    ]
    return pytest.mark.parametrize(f"command_line, {names}", params, indirect=["command_line"])


def write(path: str | Path, content: str | bytes) -> None:
    """Writes a file, with its folders."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(content.encode() if isinstance(content, str) else content)


def state_of_files() -> dict[Path, tuple[int, int]]:
    """Size and time of every file here, nothing for a folder."""
    found = ((path, path.lstat()) for path in Path().rglob("*"))
    return {path: (0, 0) if path.is_dir() else (stat.st_size, stat.st_mtime_ns) for path, stat in found}


def check_says(text: str, says: str) -> None:
    """Every pattern of `says` (they are separated by blanks) is found in the text."""
    missing = [pattern for pattern in says.split() if not re.search(pattern, text, re.IGNORECASE)]
    assert not missing, f"{missing} not in: {text}"


class Command:
    """An object whose loading runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch evil",)


class CommandLine:
    """A command line in an empty folder, on a copy of a made data set in `data`; no command in the data may run.

    Args:
        run: The whole command line, or `read`.
        templates: Kind of data -> folder to copy.
        capture: What is printed.
        log: What is logged.
        warned: What is warned of; pytest keeps warnings from being printed.
    """

    def __init__(
        self,
        run: Callable[[Sequence[str]], None],
        templates: Mapping[str, Path],
        capture: pytest.CaptureFixture[str],
        log: pytest.LogCaptureFixture,
        warned: pytest.WarningsRecorder,
    ) -> None:
        self.run, self.templates, self.capture, self.log, self.warned = run, templates, capture, log, warned

    def copy(self, kind: str) -> None:
        """Copies a data set; the synthetic one is an empty folder."""
        if kind in self.templates:
            shutil.copytree(self.templates[kind], "data", symlinks=True)
        else:
            Path("data").mkdir()

    def output(self) -> str:
        """All that was printed, logged and warned of."""
        printed = self.capture.readouterr()
        return "\n".join(
            [printed.out, self.log.text, *(str(warning.message) for warning in self.warned.list), printed.err]
        )

    def succeeds(self, says: str, *args: str, makes: str = "runs/version_*/checkpoints/last.ckpt") -> None:
        """The command ends well: the files are made, and what was repaired or left out is reported."""
        before = state_of_files()
        self.run(list(args))
        after = state_of_files()
        assert {path: after.get(path) for path in before} == before, "input was changed"
        assert self.run is read or not makes or set(Path().glob(makes)) - set(before)
        assert not list(Path().rglob("evil"))
        check_says(self.output(), says)

    def fails(self, says: str, *args: str, early: bool = True) -> None:
        """The command ends with one short message that names what is at fault; any other exception is pytest's.

        Args:
            says: Patterns, separated by blanks.
            args: The command line.
            early: Before anything is written.
        """
        before = state_of_files()
        with pytest.raises(SystemExit) as end:
            self.run(list(args))
        assert end.value.code
        after, output = state_of_files(), self.output()
        assert {path: after.get(path) for path in before} == before, "input was changed"
        assert "Traceback" not in output
        assert not list(Path().rglob("evil"))
        message = end.value.code if isinstance(end.value.code, str) else output
        check_says(message, says)
        if early:
            assert after == before, "something was written"
            assert len(re.findall("^(?!usage)\\S", message, re.MULTILINE)) <= MOST_LINES
