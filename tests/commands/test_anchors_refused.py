"""What the `anchors` commands refuse, and what they say then."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from anchor_lightning.cli import main
from tests.helpers.made_data import make_coco, make_voc, make_yolo

Printed = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("elsewhere")


PAIRS = "[[10, 13], [33, 23]]"


def own_voc(root: Path) -> Path:
    """A set of one's own in VOC's style."""
    shutil.move(make_voc(root / "devkit") / "VOC2012", root / "own")
    return root / "own"


@pytest.mark.parametrize("output", ["file/new/a.json", "folder", "pipe", "x" * 300])
def test_an_output_that_cannot_be_written_leaves_nothing(tmp_path: Path, output: str) -> None:
    Path("file").write_text("kept")
    Path("folder").mkdir()
    os.mkfifo("pipe")
    before = sorted(tmp_path.rglob("*"))
    assert "cannot be written to" in bad("export", "--shapes", "uniform", "--to", "json", "--output", output)
    args = ("export", "--shapes", PAIRS, "--to", "ultralytics", "--output", "file")
    assert "2 to 4 levels, and these 2 shapes are for 1; fit again, `anchors fit --num 9 --levels 3`" in bad(*args)
    assert "do not divide" in bad(*args, "--levels", "3")
    assert bad(*args, "yolov2-voc") == "2", "export takes one set"
    assert sorted(tmp_path.rglob("*")) == before and Path("file").read_text() == "kept"


def bad(*args: str) -> str:
    """The message that a command line ends with."""
    with pytest.raises(SystemExit) as end:
        main(["anchors", *args])
    assert end.value.code not in (0, None)
    return str(end.value.code)


def test_bad_data(tmp_path: Path) -> None:
    root = str(make_yolo(tmp_path / "set"))
    Path("empty").mkdir()
    for name, text in (("note.txt", ""), ("broken.json", "{"), ("none.yaml", "model: {}")):
        Path(name).write_text(text)
    for args, message in (
        (["--data", root, "--num", "9"], "only 8 distinct"),
        (["--data", root, "--image_size", "100"], "multiple of 32"),
        (["--data", root, "--levels", "3"], "cannot be divided"),
        (["--data", root, "--levels", "0"], "--levels: 0"),
        (["--data", root, "--num", "-1"], "--num: -1"),
        (["--data", "empty"], "holds no data set"),
        (["--data", "no/such"], "--data: there is no folder or file no/such"),
        (["--data", "no.json"], "--data: there is no folder or file no.json"),
        (["--data", "VOCDataModul"], "or file VOCDataModul, nor a data module of that name; known are BrainwashData"),
        (["--data", "note.txt"], "neither a COCO"),
        (["--data", "broken.json"], "is no JSON"),
        (["--config", "none.yaml"], "names a data set"),
    ):
        assert message in bad("fit", *args), args
    score = ("score", "--data", root, "--shapes", "uniform")
    assert "--ratio_threshold: 1; give a factor above 1" in bad(*score, "--ratio_threshold", "1")
    for file in Path(root, "labels", "train").iterdir():
        file.write_text("")
    assert "no boxes" in bad("fit", "--data", root) and "no boxes" in bad(*score)
    assert not Path("anchors.json").exists() and not Path("anchors.png").exists()


def test_lists_that_are_missing_or_ambiguous(tmp_path: Path) -> None:
    """Without train.txt the list trainval is taken; without lists all images are."""
    root = own_voc(tmp_path)
    (root / "ImageSets" / "Main" / "train.txt").unlink()
    assert main(["anchors", "fit", "--data", str(root), "--num", "2"]).source.count("trainval") == 1
    shutil.rmtree(root / "ImageSets")
    assert len(main(["anchors", "fit", "--data", str(root), "--num", "2"]).wh) == 2
    root = make_coco(tmp_path / "set")
    shutil.copy(root / "annotations/instances_train2017.json", root / "annotations/instances_train_b.json")
    assert "several candidates" in bad("fit", "--data", str(root))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no.ckpt", "there is no no.ckpt"),
        ("yolov9", "yolov2-voc"),
        ("other.ckpt", "is not a checkpoint of this project"),
        ("noise.ckpt", "noise.ckpt is not a checkpoint that can be read: it is cut off, or of another kind of file"),
        ("other.json", "no anchors.json"),
        ("empty", "anchors.csv cannot be read"),
        ("wrong", "is not the anchors.csv"),
        ("fresh", "no shapes yet"),
        ("[[1, 2, 3]]", "no list of pairs"),
        ("[[0, 5]]", "--shapes: [[0, 5]]: shape 0 is 0 x 5; widths and heights are pixels"),
        ("nan.ckpt", "--shapes: nan.ckpt: shape 1 is nan x 20; widths"),
        ("x.cfg", "--shapes: x.cfg: no [region]"),
    ],
)
def test_bad_shapes(given: str, message: str) -> None:
    torch.save({"state_dict": {"layer.weight": torch.ones(1)}}, "other.ckpt")
    Path("noise.ckpt").write_bytes(b"noise")
    Path("other.json").write_text('{"a": 1}')
    torch.save({"state_dict": {"shapes.log_wh": torch.tensor([[10, 10], [torch.nan, 20]]).log()}}, "nan.ckpt")
    Path("x.cfg").write_text("[net]\n")
    for name, text in (("empty", None), ("wrong", "a,b\n1,2\n"), ("fresh", "step,anchor,w,h\n")):
        Path(name).mkdir()
        if text:
            (Path(name) / "anchors.csv").write_text(text)
    whole = bad("export", "--shapes", given, "--to", "json")
    assert message in whole and whole.count("--shapes") == 1 and "model.anchors" not in whole


def test_what_is_mistyped(capsys: Printed) -> None:
    assert "{fit,score,export}" in bad() and "no sub-command" in bad("fti")
    assert bad("fit", "--nmu", "5") == "2"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3 and "--nmu is not an option" in lines[0] and lines[1] == "Did you mean --num?"
