"""`fit_anchors` and `score_anchors`: what `anchors fit` and `anchors score` do, in Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anchor_lightning import fit_anchors, score_anchors
from anchor_lightning.cli import main
from anchor_lightning.commands.sources import read_shapes
from anchor_lightning.data.reading import read_data
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import AnchorSet, anchors_text
from tests.helpers.made_data import make_brainwash, make_coco, make_voc, make_yolo

pytestmark = pytest.mark.usefixtures("elsewhere")

DOC = Path(__file__).resolve().parents[2] / "docs" / "anchors.md"
PAIRS = [[10.0, 20.0], [40.0, 30.0], [10.0, 20.0]]
BOXES: dict[str, Any] = {
    "list": PAIRS,
    "float64 array": np.array(PAIRS),
    "int array": np.array(PAIRS, dtype=np.int64),
    "tensor": torch.tensor(PAIRS),
    "half tensor with gradient": torch.tensor(PAIRS, dtype=torch.float16, requires_grad=True),
}


@pytest.mark.parametrize("kind", BOXES)
def test_boxes_of_two_shapes_are_fitted_by_these(kind: str) -> None:
    """By hand: both shapes are met exactly, and serve two boxes of three and one."""
    found = fit_anchors(BOXES[kind], num=2)
    torch.testing.assert_close(found.anchors.wh, torch.tensor([[10.0, 20.0], [40.0, 30.0]]))
    assert found.anchors.wh.dtype == torch.float32 and not found.anchors.wh.requires_grad
    assert found.score.mean_best_iou == pytest.approx(1) and found.score.recall_iou == 1
    assert found.score.usage.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert found.anchors.image_size is None and found.anchors.resize is None
    assert found.boxes.text == "3 boxes" and len(found.tried) == 1


def test_the_score_by_hand() -> None:
    """10 x 20 against 10 x 10: IoU 1/2 and a ratio of 2; 40 x 30 against it: IoU 1/12 and 4, which is out of reach."""
    score = score_anchors(PAIRS, [[10, 10]])
    assert score.mean_best_iou == pytest.approx((0.5 + 1 / 12 + 0.5) / 3)
    assert score.recall_iou == score.recall_ratio == pytest.approx(2 / 3)
    assert score_anchors(PAIRS, [[10, 10]], ratio_threshold=4.1).recall_ratio == 1


@pytest.mark.parametrize("make", [make_voc, make_coco, make_yolo, make_brainwash])
@pytest.mark.filterwarnings("ignore:.*holds.*:UserWarning")
def test_a_path_gives_what_the_command_gives(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "set")
    found = fit_anchors(path, num=4, levels=2, image_size=[64, 96], resize="letterbox", seed=3)
    options = ["--num=4", "--levels=2", "--image_size=[64,96]", "--resize=letterbox", "--seed=3"]
    written = main(["anchors", "fit", "--data", str(path), *options])
    assert torch.equal(found.anchors.wh, written.wh)
    assert found.anchors.score == written.score and found.anchors.source == written.source
    assert found.anchors.per_level == (2, 2) and found.anchors.image_size == (64, 96)
    given = [str(path), "--image_size=[64,96]", "--resize=letterbox"]
    (score,) = main(["anchors", "score", "--data", *given, "--shapes", "anchors.json", "--output=null"])
    for shapes in ("anchors.json", Path("anchors.json"), found.anchors, found.anchors.wh.numpy()):
        same = score_anchors(str(path), shapes, image_size=(64, 96), resize="letterbox")
        assert same.mean_best_iou == score.mean_best_iou == found.score.mean_best_iou


def test_a_range_takes_the_elbow(tmp_path: Path) -> None:
    path = make_yolo(tmp_path / "set", num=20)
    found = fit_anchors(str(path), "2..5")
    assert [len(point.wh) for point in found.tried] == [2, 3, 4, 5]
    assert torch.equal(found.tried[found.chosen].wh, found.anchors.wh) and 0 < found.chosen < 3
    assert torch.equal(main(["anchors", "fit", "--data", str(path), "--num", "2..5"]).wh, found.anchors.wh)


def test_a_set_with_options_of_its_own(tmp_path: Path) -> None:
    path = make_voc(tmp_path / "set")
    found = fit_anchors(read_data(path, years=[2012], train_split="val", image_size=64), 2)
    assert found.anchors.image_size == (64, 64) and "val" in found.boxes.text
    assert found.boxes.wh.shape == (len(found.boxes.classes), 2)


def test_numpys_integers_are_numbers(tmp_path: Path) -> None:
    """The set is written like any other, which JSON would refuse for numpy's integers."""
    two = np.int64(2)
    found = fit_anchors(PAIRS, two, levels=two, image_size=np.array([64, 96]), seed=np.uint32(2**32 - 1))  # type: ignore[arg-type]
    assert found.anchors.per_level == (1, 1) and found.anchors.image_size == (64, 96)
    (tmp_path / "a.json").write_text(anchors_text(found.anchors, "json"))
    assert read_shapes(str(tmp_path / "a.json")).image_size == (64, 96)
    assert fit_anchors(PAIRS, 2, image_size=np.int64(64)).anchors.image_size == (64, 64)  # type: ignore[arg-type]


def test_boxes_note_their_network_input() -> None:
    found = fit_anchors(PAIRS, 2, image_size=[320, 640], resize="letterbox")
    assert found.anchors.image_size == (320, 640) and found.anchors.resize == "letterbox"
    assert "3 boxes; network input 640 x 320 pixels" in found.anchors.source


def test_shapes_for_another_network_input_are_warned_of() -> None:
    made = fit_anchors(PAIRS, 2, image_size=640, resize="letterbox").anchors
    with pytest.warns(UserWarning) as warned:
        score_anchors(PAIRS, made, image_size=416, resize="stretch")
    size, resize = (str(warning.message) for warning in warned)
    assert "another network input, 640 x 640" in size and "416 x 416" in size
    assert "letterboxed, not stretched" in resize
    score_anchors(PAIRS, made)  # nothing is known of the boxes
    score_anchors(PAIRS, AnchorSet(made.wh), image_size=416)  # nor here of the shapes


def test_names_are_those_of_the_command_line() -> None:
    assert score_anchors(PAIRS, "yolov2-voc").mean_best_iou == pytest.approx(
        score_anchors(PAIRS, read_shapes("yolov2-voc").wh).mean_best_iou
    )


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ("nowhere", {}, "nowhere"),
        ([[1.0, 2.0, 3.0]], {}, r"data: give \(N, 2\)"),
        ([], {}, r"data: give \(N, 2\)"),
        (torch.zeros(0, 2), {}, r"data: give \(N, 2\)"),
        ([[1.0], [1.0, 2.0]], {}, r"data: give \(N, 2\)"),
        (None, {}, r"data: give \(N, 2\)"),
        ([["a", "b"]], {}, r"data: give \(N, 2\)"),
        ([[1.0, 2.0], [0.0, 3.0], [float("nan"), 1.0]], {}, r"data: 2 of 3 sizes .* \[0.0, 3.0\]"),
        (PAIRS, {"num": 3}, "only 2 distinct"),
        (PAIRS, {"num": 0}, "num: 0"),
        (PAIRS, {"num": "few"}, "num: few"),
        (PAIRS, {"num": 2.0}, "num: 2.0; give a whole number"),
        (PAIRS, {"num": 2, "levels": None}, "levels: None; give a whole number"),
        (PAIRS, {"num": 2, "seed": 2**70}, "seed: 1180591620717411303424; give a number from 0 to 4294967295"),
        (PAIRS, {"num": 2, "seed": -1}, "seed: -1; give a number from 0"),
        (PAIRS, {"num": 2, "image_size": [64.0, 64.0]}, "image_size: 64.0; give a whole number"),
        (PAIRS, {"num": 2, "levels": 3}, "3 levels"),
        (PAIRS, {"num": 2, "image_size": 100}, "image_size: must be a positive multiple of 32"),
        (PAIRS, {"num": 2, "method": "k-means"}, "method: k-means is not known; give ascent or kmeans or learned"),
        (PAIRS, {"num": 2, "method": "learned"}, "method: learned counts the boxes of an image"),
        (PAIRS, {"num": 2, "method": "kmeans", "objective": "ratio"}, "objective: ratio is climbed"),
        (PAIRS, {"num": 2, "objective": "giou"}, "objective: giou is not known; give iou or ratio"),
        (PAIRS, {"num": 2, "resize": "crop"}, "resize: crop is not known; give stretch or letterbox"),
    ],
)
def test_what_cannot_be_fitted(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_anchors(data, **options)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ("nowhere.json", {}, "shapes: there is no nowhere.json"),
        ([[1.0, -2.0]], {}, "shapes: 1 of 1 sizes"),
        ([[1.0, 2.0]], {"ratio_threshold": 1.0}, "ratio_threshold: 1"),
    ],
)
def test_what_cannot_be_scored(shapes: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        score_anchors(PAIRS, shapes, **options)


def test_the_example_of_the_documentation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_yolo(tmp_path / "FOLDER", num=20)
    (example,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, str(DOC), "exec"), names)
    assert names["found"].anchors.wh.shape == (9, 2) and names["found"].anchors.levels == 3
    assert torch.equal(read_shapes("anchors.json").wh, names["found"].anchors.wh)
    assert len(capsys.readouterr().out.splitlines()) >= 3
