"""The directions of imports within the package, as `setup.cfg` states them, and what a command does not wait for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.launching import environment
from tests.helpers.made_data import make_coco, make_voc, make_yolo

LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics"}  # each takes seconds
PROGRAM = """
import json, sys
from anchor_lightning.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        print(end.code, file=sys.stderr)
print("\\n" + json.dumps(sorted(sys.modules)))
"""

WATCHED = """
import gc, json, sys
from anchor_lightning import __main__, cli
collecting = {}
class Watch:
    def find_spec(self, name, path, target=None):
        collecting.setdefault(name, gc.isenabled())
sys.meta_path.insert(0, Watch())
started, sys.argv = sys.argv[1], ["anchor_lightning", *sys.argv[2:]]
try:
    __main__.run() if started == "program" else cli.main()
except SystemExit as end:
    print(end.code, file=sys.stderr)
print(json.dumps([collecting["torch"], gc.isenabled(), gc.get_freeze_count() > 0]))
"""


def test_contracts_hold() -> None:
    # In a process of its own: import-linter disables the loggers of the process, whose messages other tests look for.
    code = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, show_timings=False))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def imported(program: str, folder: Path, *args: str) -> tuple[set[str], str]:
    """The modules that a program has in the end, which its last line lists, and what it wrote to stderr."""
    command = [sys.executable, "-c", program, *args]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1])), done.stderr


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([["--help"], ["--version"], ["fit", "--help"], ["anchors", "fit", "--help"]], "0"),
        ([["anchor"]], "Did you mean anchors?"),
    ],
    ids=["help and version", "a mistyped command"],
)
def test_help_and_version_do_not_wait_for_torch(tmp_path: Path, lines: Sequence[list[str]], status: str) -> None:
    modules, said = imported(PROGRAM, tmp_path, json.dumps(lines))
    assert not modules & {"torch", *LIGHTNING} and status in said


@pytest.mark.parametrize(("started", "during_and_after"), [("program", (False, True, True)), ("", (True, True, False))])
def test_a_program_collects_no_garbage_during_its_imports(
    tmp_path: Path, started: str, during_and_after: tuple[bool, ...]
) -> None:
    """Collection is on again when the command runs; a caller in Python has it as it was."""
    command = [sys.executable, "-c", WATCHED, started, "anchors", "export", "--shapes", "nowhere", "--to", "darknet"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == list(during_and_after) and "nowhere" in done.stderr


def test_anchors_do_not_wait_for_lightning(tmp_path: Path) -> None:
    folders = [str(make(tmp_path / make.__name__)) for make in (make_voc, make_coco, make_yolo)]
    lines = [["anchors", "fit", "--data", folder, "--num", "2", "--image_size", "64"] for folder in folders]
    lines += [["anchors", "fit", "--data", folders[0], "--num", "2..4", "--method", "kmeans", "--output", "range.json"]]
    lines += [["anchors", "score", "--data", folders[1], "--shapes", "anchors.json", "yolov2-voc", "--details"]]
    lines += [["anchors", "export", "--shapes", "anchors.json", "--to", "detectron2", "--data", folders[2]]]
    lines += [["anchors", "fit", "--config", "small.yaml", "--data.root", folders[0]]]
    modules, said = imported(PROGRAM, tmp_path, json.dumps(lines))
    assert not modules & LIGHTNING and "Traceback" not in said and "error" not in said
    assert "torch" in modules and (tmp_path / "anchors.png").exists() and (tmp_path / "range-numbers.png").exists()


def test_nor_do_mistakes_in_their_options(tmp_path: Path) -> None:
    lines = [["anchors", "fit", "--nmu", "5"], ["anchors", "fit", "--data", "nowhere", "--data.rot", "x"]]
    lines += [["anchors", "score", "--data", str(make_yolo(tmp_path / "set")), "--shapes", "nowhere.json"]]
    modules, said = imported(PROGRAM, tmp_path, json.dumps(lines))
    assert not modules & LIGHTNING
    assert all(words in said for words in ("Did you mean --num?", "no folder or file nowhere", "--shapes: there is no"))


def test_neither_do_they_in_python(tmp_path: Path) -> None:
    program = """
import json, sys
from anchor_lightning import fit_anchors, score_anchors
fit_anchors(sys.argv[1], 2)
print(json.dumps(sorted(sys.modules)))
"""
    modules, _ = imported(program, tmp_path, str(make_yolo(tmp_path / "set")))
    assert not modules & LIGHTNING
