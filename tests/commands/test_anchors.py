"""`anchors fit`, `score` and `export` through the command line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from anchor_lightning.anchors import initial_shapes, mean_best_iou
from anchor_lightning.callbacks.shape_recorder import append_rows
from anchor_lightning.cli import main
from anchor_lightning.commands.anchor_numbers import numbers_of
from anchor_lightning.commands.anchor_tables import anchor_table, best_text, usage_table, verdict_text
from anchor_lightning.commands.sources import read_shapes
from anchor_lightning.data import COCODataModule, DetectionDataModule, VOCDataModule, YOLODataModule
from anchor_lightning.data.reading import box_shapes
from anchor_lightning.detectors.yolov2.darknet_cfg import cfg_text
from anchor_lightning.fitting import ascent_shapes, kmeans_shapes, learn_shapes
from anchor_lightning.fitting.formats import AnchorSet
from anchor_lightning.fitting.score import Verdict, score_shapes, size_groups
from tests.helpers.made_data import make_brainwash, make_coco, make_voc, make_yolo

pytestmark = pytest.mark.usefixtures("elsewhere")

Printed = pytest.CaptureFixture[str]
PAIRS = "[[10, 13], [33, 23]]"


def own_voc(root: Path) -> Path:
    """A set of one's own in VOC's style."""
    shutil.move(make_voc(root / "devkit") / "VOC2012", root / "own")
    return root / "own"


def only_boxes(root: Path) -> Path:
    """A COCO file whose images are not at hand."""
    make_coco(root)
    shutil.rmtree(root / "train2017")
    return root / "annotations" / "instances_train2017.json"


def roboflow(root: Path) -> Path:
    """train/_annotations.coco.json beside its images."""
    make_coco(root / "coco")
    shutil.move(root / "coco" / "train2017", root / "set" / "train")
    shutil.move(root / "coco/annotations/instances_train2017.json", root / "set/train/_annotations.coco.json")
    return root / "set"


MAKERS: dict[str, Callable[[Path], Path]] = {
    "VOC devkit": make_voc,
    "VOC style": own_voc,
    "COCO": make_coco,
    "COCO file, no images": only_boxes,
    "COCO in one folder": roboflow,
    "YOLO": make_yolo,
    "YOLO file": lambda root: make_yolo(root) / "data.yaml",
    "Brainwash": make_brainwash,
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.filterwarnings("ignore:.*holds.*:UserWarning")
def test_a_path_is_enough(tmp_path: Path, kind: str) -> None:
    path = MAKERS[kind](tmp_path / "set")
    found = main(["anchors", "fit", "--data", str(path), "--num", "2", "--image_size", "64"])
    assert found.wh.shape == (2, 2) and found.image_size == (64, 64)
    assert found.resize == ("native" if kind == "Brainwash" else "stretch")
    assert torch.equal(read_shapes("anchors.json").wh, found.wh)


@pytest.mark.parametrize("method", ["ascent", "kmeans", "learned"])
def test_fit_scores_what_it_writes_and_says_what_comes_next(
    tmp_path: Path, method: str, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anchor_lightning.fitting.fit.LEARN_STEPS", 3)
    root = make_yolo(tmp_path / "set", num=20)
    args = ["--data", str(root), "--num", "6", "--levels", "3", "--method", method, "--output", "out/a.json"]
    found = main(["anchors", "fit", *args, "--image_size", "[64, 96]", "--seed", "1"])
    boxes = YOLODataModule(root=str(root), image_size=[64, 96]).train_box_shapes()
    start = kmeans_shapes(boxes, 6, seed=1)
    learned = learn_shapes(boxes, start, 3, (64, 96), 2.0, seed=1)[-1]
    expected = {"ascent": ascent_shapes(boxes, 6, seed=1), "kmeans": start, "learned": learned}
    assert torch.equal(found.wh, expected[method]) and not torch.equal(start, kmeans_shapes(boxes, 6))
    assert found.score["mean best IoU"] == pytest.approx(mean_best_iou(boxes, found.wh), abs=1e-5)
    out = capsys.readouterr().out
    assert "40 boxes of 20 images" in out and "96 x 64 pixels" in out and "level" in out
    (line,) = (line for line in out.splitlines() if "anchors export" in line)
    text = main(line.split()[3:])  # the line to paste works
    assert yaml.safe_load(text)["anchors"][0] == pytest.approx(found.wh[:2].flatten().tolist(), rel=1e-4)
    assert f"mean best IoU {found.score['mean best IoU']:.4f}" in text and str(root) in text


@pytest.mark.parametrize(("config", "make", "side"), [("small.yaml", make_voc, 416), ("coco.yaml", make_coco, 544)])
def test_a_shipped_configuration_gives_its_data(
    tmp_path: Path, config: str, make: Callable[[Path], Path], side: int
) -> None:
    """Without what is not data; options behind it win."""
    args = ["anchors", "fit", "--config", config, "--data.root", str(make(tmp_path / "set")), "--num", "2"]
    assert main([*args, "--image_size", "64"]).image_size == (64, 64)
    assert main(args).image_size == (side, side)


def test_configurations_are_laid_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("data: {class_path: VOCDataModule, init_args: {root: x, image_size: 64}}")
    (tmp_path / "b.yaml").write_text("model: {width: 1}\ndata: {init_args: {root: y}}")
    (tmp_path / "c.yaml").write_text("data: {class_path: COCODataModule, init_args: {root: z}}")
    make_voc(Path("y"))
    make_coco(Path("z"))
    args = ["anchors", "fit", "--config", "a.yaml", "--num", "2", "--config=b.yaml", "--data.years", "[2012]"]
    found = main(args)
    assert found.image_size == (64, 64) and "VOCDataModule y" in found.source
    assert "COCODataModule z" in main(["anchors", "fit", "--config=a.yaml", "-c", "c.yaml", "--num", "2"]).source


def test_classes_take_the_options_of_fit(tmp_path: Path) -> None:
    make_voc(tmp_path / "set")
    args = ["--data", "VOCDataModule", "--data.root", "set", "--data.years", "[2012]", "--data.train_split", "val"]
    boxes = VOCDataModule(root="set", years=[2012], train_split="val").train_box_shapes()
    assert torch.equal(main(["anchors", "fit", *args, "--num", "3"]).wh, ascent_shapes(boxes, 3))


def test_letterbox_keeps_the_aspect(tmp_path: Path) -> None:
    """The made images are 128 x 96: to 64 x 64 letterboxed all sides halve, stretched heights shrink to 2 / 3."""
    data: DetectionDataModule = YOLODataModule(root=str(make_yolo(tmp_path)), image_size=64)
    stretched, labels = box_shapes(data)
    kept, _ = box_shapes(data, letterbox=True)
    stored = [r.ground_truth.boxes_xyxy[:, 2:] - r.ground_truth.boxes_xyxy[:, :2] for r in data.records("train")]
    sides = torch.cat([torch.from_numpy(wh) for wh in stored]).float()
    torch.testing.assert_close(kept, sides / 2)
    torch.testing.assert_close(stretched, sides * torch.tensor([1 / 2, 2 / 3]))
    assert labels.tolist() == [0, 1] * 4


def test_score_sets_side_by_side(tmp_path: Path, capsys: Printed) -> None:
    data = ["--data", str(make_coco(tmp_path / "set", num=6))]
    main(["anchors", "fit", *data, "--num", "3"])
    capsys.readouterr()
    given = ["--shapes", "anchors.json", "uniform", PAIRS]
    fitted, named, pairs = main(["anchors", "score", *data, *given, "--details"])
    boxes = COCODataModule(root=data[1]).train_box_shapes()
    assert named.mean_best_iou == score_shapes(boxes, read_shapes("uniform").wh).mean_best_iou
    assert fitted.mean_best_iou > named.mean_best_iou > pairs.mean_best_iou
    out = capsys.readouterr().out
    table = {line[:48].strip(): line.split()[-3:] for line in out.splitlines()}
    assert [f"{s.mean_best_iou:.4f}" for s in (fitted, named, pairs)] == table["mean best IoU"]
    assert [f"{s.recall_ratio:.4f}" for s in (fitted, named, pairs)] == table["BPR at ratio 4"]
    for part in ("boxes as training augments them", "pixels of the network input", "large, 96² and more", "  cat"):
        assert part in out
    assert all(line == line.rstrip() for line in out.splitlines())
    assert Path("anchors.png").read_bytes().startswith(b"\x89PNG")
    args = ["--shapes", PAIRS, "--resize", "letterbox", "--output", "null", "--ratio_threshold", "2.5"]
    Path("anchors.png").unlink()
    main(["anchors", "score", *data, *args])
    out = capsys.readouterr().out
    assert "BPR at ratio 2.5" in out and "letterboxed" in out and "augments" not in out
    assert len(out.splitlines()) == 5 and out.splitlines()[-1].startswith("poor: ")
    assert not Path("anchors.png").exists()


def test_where_shapes_come_from(tmp_path: Path, capsys: Printed) -> None:
    """A run, a file, a checkpoint, a list: shown in the order that they have there."""
    wh = torch.tensor([[60.0, 50.0], [10.0, 13.0], [33.0, 23.0]])
    Path("run").mkdir()
    append_rows(Path("run/anchors.csv"), 0, wh * 2)
    append_rows(Path("run/anchors.csv"), 50, wh)
    Path("a.cfg").write_text(cfg_text(wh, 2, (64, 64)))
    state = {"state_dict": {"shapes.log_wh": wh.log()}, "global_step": 7, "anchor_lightning": {"image_size": [64, 96]}}
    torch.save(state, "last.ckpt")
    given = ["run", "a.cfg", "last.ckpt", "[[60, 50], [10, 13], [33, 23]]"]
    for name in given:
        torch.testing.assert_close(read_shapes(name).wh, wh, rtol=1e-5, atol=1e-4)
    assert read_shapes("last.ckpt").image_size == (64, 96) and "step 7" in read_shapes("last.ckpt").source
    assert read_shapes("run").source == "run, step 50" and read_shapes("a.cfg").image_size == (64, 64)
    assert torch.equal(read_shapes("yolov2-coco").wh, initial_shapes("yolov2-coco"))  # type: ignore[arg-type]
    args = ["--data", str(make_yolo(tmp_path / "set")), "--shapes", *given, "--output", "null", "--details"]
    main(["anchors", "score", *args])
    lines = capsys.readouterr().out.splitlines()
    here = "are taken as they are at 416 x 416 pixels (w x h)."
    assert [line for line in lines if "another network input" in line] == [
        f"a.cfg: these shapes are for another network input, 64 x 64 pixels (w x h), and {here}",
        f"last.ckpt: these shapes are for another network input, 96 x 64 pixels (w x h), and {here}",
    ]
    assert sum("for which network input these shapes are is not stated" in line for line in lines) == 1, "the run"
    heads = [line.split()[-6:] for line in lines if line.startswith("usage by")]
    assert heads == [["anchor", "0", "anchor", "1", "anchor", "2"]] * 4
    for start in (at for at, line in enumerate(lines) if line.startswith("anchor  width")):
        rows = [line.split()[:3] for line in lines[start + 1 : start + 4]]
        assert rows == [["0", "60.0", "50.0"], ["1", "10.0", "13.0"], ["2", "33.0", "23.0"]]


@pytest.mark.parametrize("to", ["darknet", "ultralytics", "mmdet", "torchvision", "json"])
def test_export_writes_the_file_or_prints_it(to: str, capsys: Printed) -> None:
    args = ["anchors", "export", "--shapes", "[[33,23],[10,13],[62,45]]", "--levels", "3", "--to", to]
    text = main(args)
    assert capsys.readouterr().out == text
    main([*args, "--output", "new/out.txt"])
    assert Path("new/out.txt").read_text() == text and [path.name for path in Path("new").iterdir()] == ["out.txt"]


def test_a_named_set_of_three_levels_is_written_with_these() -> None:
    """Nine shapes of YOLOv3, three for each of strides 8, 16 and 32; the first of each level by hand."""
    assert read_shapes("yolov3-coco").per_level == (3, 3, 3) and read_shapes("yolov2-coco").per_level == (5,)
    text = main(["anchors", "export", "--shapes", "yolov3-coco", "--to", "darknet"])
    assert "[region]" not in text and text.count("\n[yolo]\n") == 3
    head = yaml.safe_load(main(["anchors", "export", "--shapes", "yolov3-coco", "--to", "ultralytics"]))["anchors"]
    assert [level[:2] for level in head] == [[10, 13], [30, 61], [116, 90]]


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


def test_how_images_were_resized_goes_with_the_shapes(tmp_path: Path, capsys: Printed) -> None:
    """Noted by fit; score and export say where it is otherwise, export beside the text."""
    data = ["--data", str(make_yolo(tmp_path / "set"))]
    kept = main(["anchors", "fit", *data, "--num", "4", "--levels", "2", "--resize", "letterbox", "--output", "b.json"])
    assert kept.resize == "letterbox" and read_shapes("b.json").resize == "letterbox"
    main(["anchors", "fit", *data, "--num", "4", "--levels", "2", "--output", "a.json"])
    capsys.readouterr()
    args = ["--shapes", "a.json", "b.json", "--resize", "letterbox", "--output", "null"]
    main(["anchors", "score", *data, *args])
    out = capsys.readouterr().out
    assert out.count("not letterboxed as here") == 1 and "a.json: these shapes are for images stretched" in out
    for shapes, to in (("a.json", "ultralytics"), ("a.json", "mmdet"), ("b.json", "darknet")):
        text = main(["anchors", "export", "--shapes", shapes, "--to", to])
        said = capsys.readouterr()
        assert said.out == text and f"Note: {to} " in said.err and "fit again with resize" in said.err
        assert all(note[6:] in text.replace("\n# ", " ") for note in said.err.splitlines())
    main(["anchors", "export", "--shapes", "b.json", "--to", "ultralytics", "--levels", "4"])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "YOLOv8 and later" in said[0]


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


@pytest.mark.parametrize(
    ("command", "said"),
    [("fit", "9 with 3 levels"), ("score", "YOLOv5's anchor_t"), ("export", "grid units"), ("", "{fit,score,export}")],
)
def test_help_says_what_each_option_is(command: str, said: str, capsys: Printed) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["anchors", *command.split(), "--help"])
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("of", "option"), [([], "--data.val_share"), (["VOCDataModule"], "--data.years"), (["YOLOSet"], "--data.data_yaml")]
)
def test_help_of_a_class(of: list[str], option: str, capsys: Printed) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["anchors", "fit", "--data.help", *of])
    assert option in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["YOLODataModule", "anchor_lightning.data.YOLODataModule", "YOLOSet", "anchor_lightning.data.YOLOSet"]
)
def test_a_set_by_the_name_of_its_class_or_of_its_data_module(tmp_path: Path, name: str) -> None:
    make_yolo(tmp_path / "set")
    found = main(["anchors", "fit", "--data", name, "--data.root", "set", "--num", "2"])
    assert "YOLODataModule set train" in found.source
    Path("own.yaml").write_text(f"data: {{class_path: {name}, init_args: {{root: set}}}}")
    assert torch.equal(main(["anchors", "fit", "--config", "own.yaml", "--num", "2"]).wh, found.wh)


def test_what_is_mistyped(capsys: Printed) -> None:
    assert "{fit,score,export}" in bad() and "no sub-command" in bad("fti")
    assert bad("fit", "--nmu", "5") == "2"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3 and "--nmu is not an option" in lines[0] and lines[1] == "Did you mean --num?"


def test_usage_by_size_and_class_by_hand() -> None:
    """Two shapes, given large first, and shown so."""
    anchors = AnchorSet(torch.tensor([[100.0, 100.0], [20.0, 20.0]]))
    boxes = torch.tensor([[20.0, 22.0], [30.0, 20.0], [90.0, 100.0], [200.0, 90.0]])
    score, classes = score_shapes(boxes, anchors.wh), torch.tensor([0, 2, 2, 2])
    table = usage_table(score, size_groups(boxes), classes, ["a", "none", "b"])
    assert table.splitlines()[0].endswith("boxes  anchor 0  anchor 1")
    assert [line.split() for line in table.splitlines()[1:]] == [
        [*["small,", "area", "below", "32²"], "2", "0.0%", "100.0%"],
        [*["medium,", "32²", "to", "96²"], "1", "100.0%", "0.0%"],
        [*["large,", "96²", "and", "more"], "1", "100.0%", "0.0%"],
        ["a", "1", "0.0%", "100.0%"],
        ["b", "3", "66.7%", "33.3%"],
    ]
    assert [line.split() for line in anchor_table(anchors, score).splitlines()] == [
        ["anchor", "width", "height", "usage"],
        ["0", "100.0", "100.0", "50.0%"],
        ["1", "20.0", "20.0", "50.0%"],
    ]


@pytest.mark.parametrize(("per_level", "levels", "num"), [((2,), 1, 2), ((1, 2), 2, 4), ((1, 4, 2), 3, 9)])
def test_the_advice_of_a_verdict_is_a_number_that_divides(per_level: tuple[int, ...], levels: int, num: int) -> None:
    """The levels of a set may have other numbers of shapes; those of `fit` have the same."""
    boxes = torch.tensor([[40.0, 40.0], [80.0, 80.0]])
    score = score_shapes(boxes, torch.full((sum(per_level), 2), 10.0))
    spread = f" --levels {levels}" if levels > 1 else ""
    poor = verdict_text(Verdict(covers=False, reachable=0.9, is_fitted=False), score, levels)
    assert poor.endswith(f"anchors fit --num {num}{spread}") and f"{sum(per_level)} shapes fitted" in poor
    more = verdict_text(Verdict(covers=False, reachable=0.9, is_fitted=True), score, levels)
    assert f"anchors fit --num {num}..{num + 8 * levels}{spread} shows" in more
    assert numbers_of(num, levels) == [num]


def test_the_best_of_several_sets_by_hand() -> None:
    """Boxes of 40 x 40 and 80 x 80; the shapes' IoU with them is 1 and 0.25, 1 and 0.4, twice 0.55, twice 1."""
    boxes = torch.tensor([[40.0, 40.0], [80.0, 80.0]])
    sets = {
        "one": [[40.0, 40.0]],
        "uneven": [[40.0, 40.0], [32.0, 80.0]],
        "even": [[22.0, 40.0], [44.0, 80.0]],
        "exact": [[40.0, 40.0], [80.0, 80.0]],
    }

    def best(*names: str) -> str:
        return best_text(names, [score_shapes(boxes, torch.tensor(sets[name])) for name in names], 4)

    assert best("even", "exact") == "Best: exact by mean best IoU; even and exact by BPR at IoU 0.5 and BPR at ratio 4"
    by_iou = "uneven by mean best IoU; even by BPR at IoU 0.5"
    assert best("uneven", "even") == f"Best: {by_iou}; uneven and even by BPR at ratio 4; the measures disagree"
    assert best("one", "exact").startswith("Best: exact (2 shapes) by mean best IoU and BPR at IoU 0.5; one (1 shape)")
    assert best("even", "even") == "Best: even and even by every measure"
