"""A small share of the cases of docs/robustness.md, and that a case which ends otherwise is seen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.robustness.__main__ import all_cases, shortened, table
from benchmarks.robustness.harness import Case, Outcome, judge, said

REPOSITORY = Path(__file__).resolve().parents[1]
SHARE = (
    *("Images: CMYK JPEG", "Images: 1 x 1 PNG", "Images: an HTML page", "Images: a JPEG cut to 50 %"),
    *("Images: a named pipe", "Images: a JPEG cut to 50 %, `skip_bad_images`"),
    *("VOC annotations: an entity bomb (10^10 letters)", "VOC annotations: all of these at once"),
    *("VOC annotations: a list that is not UTF-8", "COCO annotations: a category_id that is a list"),
    *("COCO annotations: a bbox with a number of 400 digits", "COCO annotations: NaN in a bbox"),
    *("Brainwash annotations: a name with a zero byte", "Brainwash annotations: reversed corners"),
    *("YOLO annotations: data.yaml: names that are an alias bomb", "YOLO annotations: pixels"),
    *("Configurations: an unknown key", "Configurations: an image size of 100", "Checkpoints: cut to 50 %"),
    *("Checkpoints: an object that runs a command, saved by torch", "Weights files: backbone: cut by one byte"),
)


def test_a_share_of_the_cases() -> None:
    """In a process of its own, which forks; all others are for `python -m benchmarks.robustness`."""
    only = "^(" + "|".join(map(re.escape, SHARE)) + ")$"
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.robustness", "--only", only],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert f"{len(SHARE)} cases, 0 defects" in run.stdout


def test_there_are_many_cases_of_every_group() -> None:
    cases = all_cases()
    assert len(cases) >= 500 and len({case.group for case in cases}) == 12
    assert {case.ends for case in cases} == {"goes on", "refused"}


FORBIDDEN = {
    *("pickle.load", "pickle.loads", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("os.system", "os.popen", "eval", "exec", "ElementTree.parse", "ElementTree.fromstring", "shutil.unpack_archive"),
}
OWN_FILES = {"stock_export.py": 2}
"""Calls of `torch.load(weights_only=False)`: on what the same training has written a moment before."""


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, object]]]:
    """Name and constant keyword arguments of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            constants = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
            yield ast.unparse(node.func), constants


def test_no_file_is_unpickled_and_no_shell_is_called() -> None:
    loads: Counter[tuple[str, object]] = Counter()
    for file in sorted((REPOSITORY / "anchor_lightning").rglob("*.py")):
        for name, keywords in calls(ast.parse(file.read_text(encoding="utf-8"))):
            assert name not in FORBIDDEN and "shell" not in keywords, f"{file}: {name}"
            if name == "torch.load" or name.endswith("load_from_checkpoint"):
                loads[file.name, keywords.get("weights_only")] += 1
    trusted = {name: count for (name, safe), count in loads.items() if safe is not True}
    assert trusted == OWN_FILES and sum(loads.values()) > 4


REFUSED = Case("G", "x", says=r"a\.xml")
GOOD = {"code": 1, "output": "anchor_lightning: a.xml: is no XML\n", "made": [], "changed": [], "busy": 1.0}


@pytest.mark.parametrize(
    ("case", "outcome", "defect"),
    [
        (REFUSED, GOOD, ""),
        (REFUSED, GOOD | {"code": 0}, "exit code 0 where a refusal is due"),
        (REFUSED, GOOD | {"code": None}, "hangs"),
        (REFUSED, GOOD | {"code": -9}, "killed by signal 9"),
        (REFUSED, GOOD | {"output": "anchor_lightning: is no XML"}, "does not say"),
        (REFUSED, GOOD | {"output": "Traceback (most recent call last):\na.xml"}, "shows a traceback"),
        (REFUSED, GOOD | {"output": "a.xml\n" * 20}, "says too much"),
        (REFUSED, GOOD | {"output": "a.xml\nCOMPLAINT: code was run"}, "code was run"),
        (REFUSED, GOOD | {"made": ["runs"]}, "leaves runs"),
        (REFUSED, GOOD | {"changed": ["data/a.xml"]}, "changes data/a.xml"),
        (REFUSED, GOOD | {"busy": 99.0}, "takes 99 s"),
        (Case("G", "x", exit_code=143), GOOD, "exit code 1, not 143"),
        (Case("G", "x", early=False), GOOD | {"made": ["runs"]}, ""),
        (Case("G", "x", ends="goes on"), GOOD, "exit code 1 where it should go on"),
        (Case("G", "x", ends="goes on"), GOOD | {"code": 0}, "exit code 0 without runs/"),
        (Case("G", "x", ends="goes on", makes="a"), GOOD | {"code": 0, "made": ["a"]}, ""),
        (
            Case("G", "x", ends="goes on", makes="a", says="1 dropped"),
            GOOD | {"code": 0, "made": ["a"]},
            "does not say",
        ),
    ],
)
def test_what_a_defect_is(tmp_path: Path, case: Case, outcome: dict[str, object], defect: str) -> None:
    (tmp_path / "a").write_text("")
    result = Outcome(seconds=1.0, **outcome)  # type: ignore[arg-type]
    result.defects = judge(case, result, tmp_path)
    assert (defect in "; ".join(result.defects)) if defect else result.defects == []
    assert result.ending == ("DEFECT" if defect else case.ends)
    assert f"| x | {result.ending}" in table([case], [result])


def test_the_table_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    text = shortened(f"{tmp_path}/007/data/a.xml {sys.prefix}/lib {REPOSITORY}/tests", tmp_path / "007", tmp_path)
    assert text == "HERE/data/a.xml PYTHON/lib PROJECT/tests"
    assert said(REFUSED, "Seed set to 0\nanchor_lightning: a.xml is bad\n\n") == "anchor_lightning: a.xml is bad"
