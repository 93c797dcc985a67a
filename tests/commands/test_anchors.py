"""`anchors fit`, `score` and `export` through the command line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from anchor_lightning.anchors import initial_shapes, mean_best_iou
from anchor_lightning.callbacks.shape_recorder import append_rows
from anchor_lightning.cli import main
from anchor_lightning.commands.sources import read_shapes
from anchor_lightning.data import COCODataModule, DetectionDataModule, VOCDataModule, YOLODataModule
from anchor_lightning.data.reading import box_shapes
from anchor_lightning.detectors.yolov2.darknet_cfg import cfg_text
from anchor_lightning.fitting import ascent_shapes, kmeans_shapes, learn_shapes
from anchor_lightning.fitting.score import score_shapes
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
