"""What `anchors fit` writes and other tools' files hold, through the command line: frames, numbers, sizes, ratios."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from anchor_lightning.anchors import mean_best_iou
from anchor_lightning.cli import main
from anchor_lightning.commands.anchor_numbers import elbow
from anchor_lightning.commands.sources import read_shapes
from anchor_lightning.data import COCODataModule
from anchor_lightning.data.reading import box_shapes
from anchor_lightning.task import DetectionTask
from tests.commands.test_anchors_refused import bad
from tests.helpers.made_data import make_coco, make_yolo
from tests.helpers.tiny_training import QUIET, SMALL

pytestmark = pytest.mark.usefixtures("elsewhere")

Printed = pytest.CaptureFixture[str]


def test_what_fit_writes_is_where_training_starts(tmp_path: Path, capsys: Printed) -> None:
    """The command that `anchors fit` prints trains from its file; at another size that is warned of."""
    data = ["--data", str(make_yolo(tmp_path / "set"))]
    found = main(["anchors", "fit", *data, "--num", "3", "--image_size", "[64, 96]", "--output", "my shapes.json"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "model.anchors.init" in line)
    args = [*shlex.split(line)[3:], *SMALL, "--trainer.precision", "32-true", "--anchor_logger.animation", "false"]
    cli = main([*args, "--prediction_pictures.num_images", "0", "--trainer.max_steps", "1"])
    torch.testing.assert_close(cli.model.shapes.initial_wh, found.wh)
    assert cli.datamodule.image_size == (64, 96)
    with pytest.warns(UserWarning, match=r"for a network input of 96 x 64 pixels \(w x h\), and are taken as they are"):
        DetectionTask(2, anchors={"init": "my shapes.json"}, image_size=[64, 64])
    with pytest.raises(SystemExit, match=r"--output: shapes: name it with \.json behind, by which it is read again"):
        main(["anchors", "fit", *data, "--num", "3", "--output", "shapes"])
    main(["anchors", "fit", *data, "--num", "3", "--image_size", "64", "--resize", "letterbox"])
    with pytest.warns(UserWarning, match="are for images letterboxed, which training here does not do"):
        DetectionTask(2, anchors={"init": "anchors.json"}, image_size=[64, 64])


def test_a_run_and_its_checkpoint_keep_levels_size_and_resizing(tmp_path: Path) -> None:
    """Of RetinaNet's five levels in their order, at the size of the training."""
    root = str(make_yolo(tmp_path / "set"))
    args = [
        "fit",
        "--config",
        "small.yaml",
        "--config",
        "detector/retinanet_small_fpn.yaml",
        "--data",
        "YOLODataModule",
    ]
    args += ["--data.root", root, "--data.image_size", "64", "--data.val_image_size", "96", *QUIET]
    args += ["--data.batch_size", "2", "--trainer.max_steps", "1", "--trainer.precision", "32-true"]
    args += [
        "--trainer.limit_val_batches",
        "0",
        "--trainer.val_check_interval",
        "2",
        "--anchor_logger.animation",
        "false",
    ]
    cli = main([*args, "--soft_assignment.steps", "0", "--prediction_pictures.num_images", "0"])
    for given in ("runs/version_0", "runs/version_0/checkpoints/last.ckpt", "runs/version_0/anchors.json"):
        found = read_shapes(given)
        assert found.per_level == (9,) * 5 and found.image_size == (64, 64) and found.resize == "stretch", given
        torch.testing.assert_close(found.wh.sort(0).values, cli.model.shapes.wh.sort(0).values, atol=1e-3, rtol=0)
    text = main(["anchors", "export", "--shapes", "runs/version_0", "--to", "torchvision"])
    assert "45 anchors for a network input of 64 x 64" in text and "of the 5 levels" in text


def test_a_cfg_keeps_its_levels(tmp_path: Path) -> None:
    anchors = "anchors = 10,13,  16,30,  33,23,  30,61,  62,45,  59,119,  116,90,  156,198,  373,326\nnum=9\n"
    layers = "".join(f"[yolo]\nmask={mask}\n{anchors}" for mask in ("6,7,8", "3,4,5", "0,1,2"))
    Path("yolov3.cfg").write_text(f"[net]\nwidth=608\nheight=608\n{layers}")
    text = main(["anchors", "export", "--shapes", "yolov3.cfg", "--to", "mmdet"])
    assert "strides=[32, 16, 8]" in text and "608 x 608" in text and "[(116, 90), (156, 198), (373, 326)]," in text


def test_a_range_gives_the_elbow(tmp_path: Path, capsys: Printed) -> None:
    """Four kinds of boxes: up to four shapes gain, from there on nothing is left to gain."""
    root = make_yolo(tmp_path / "set", num=16)
    for index, file in enumerate(sorted((root / "labels/train").iterdir())):
        w, h = ((0.1, 0.1), (0.2, 0.8), (0.8, 0.2), (0.9, 0.9))[index % 4]
        file.write_text(f"0 0.5 0.5 {w + index / 1e4} {h}\n")
    args = ["--data", str(root), "--image_size", "320", "--num", "2..8", "--output", "out/a.json"]
    found = main(["anchors", "fit", *args])
    out = capsys.readouterr().out
    assert len(found.wh) == 4 and "Suggested: 4 shapes" in out and Path("out/a-numbers.png").read_bytes()[1:4] == b"PNG"
    (line,) = (line for line in out.splitlines() if line.endswith("<- elbow"))
    assert line.split()[0] == "4" and len(read_shapes("out/a.json").wh) == 4
    assert len(main(["anchors", "fit", *args, "--levels", "2", "--objective", "ratio"]).wh) == 4
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[2:6]] == ["2", "4", "6", "8"]
    for num, message in (("2..3", "an elbow needs 3"), ("8..2", "smaller end first"), ("some", "a range as in 2..12")):
        assert message in bad("fit", "--data", str(root), "--num", num)
    assert "only 16 distinct" in bad("fit", "--data", str(root), "--num", "10..20")


def test_the_elbow_is_farthest_above_the_line() -> None:
    assert elbow([2, 3, 4, 5], [0.5, 0.8, 0.85, 0.9]) == 1
    assert elbow([3, 6, 12], [0.5, 0.55, 0.9]) == 1, "the only place between the ends"


def test_sizes_and_ratios_with_their_cost(tmp_path: Path, capsys: Printed) -> None:
    data = ["--data", str(make_coco(tmp_path / "set", num=12))]
    main(["anchors", "fit", *data, "--num", "8", "--levels", "2", "--resize", "letterbox", "--image_size", "320"])
    boxes, _ = box_shapes(COCODataModule(root=data[1], image_size=320), letterbox=True)
    free = mean_best_iou(boxes, read_shapes("anchors.json").wh)
    capsys.readouterr()
    for to in ("retinanet", "detectron2", "mmdet-anchor"):
        text = main(["anchors", "export", "--shapes", "anchors.json", "--to", to, *data, "--output", "a.py"])
        cost = re.search(
            r"# mean best IoU (\S+) with free shapes, (\S+) with sizes, scales and ratios, of 24 boxes", text
        )
        assert cost is not None and cost[0][2:] in capsys.readouterr().err
        assert float(cost[1]) == pytest.approx(free, abs=1e-4) and 0.5 < float(cost[2]) < free
    written = text.replace("anchor_generator=dict(", "anchor_generator=dict(strides=[8, 16],")
    Path("a.py").write_text(written)
    assert mean_best_iou(boxes, read_shapes("a.py").wh) == pytest.approx(float(cost[2]), abs=2e-4), "as it is written"
    Path("b.json").write_text(Path("anchors.json").read_text().replace("320", "300"))
    text = main(["anchors", "export", "--shapes", "b.json", "--to", "retinanet", *data])
    assert "network input 300 x 300 pixels" in text, "SSD's, no multiple of 32"
    assert "taken as boxes" in main(["anchors", "export", "--shapes", "anchors.json", "--to", "retinanet"])
    assert "--data: it is for retinanet" in bad("export", "--shapes", "anchors.json", "--to", "mmdet", *data)
    assert "--version" in bad("export", "--shapes", "anchors.json", "--to", "retinanet", "--version", "3")


@pytest.mark.parametrize("levels", [1, 2, 5, 6])
def test_the_advice_of_fit_is_taken(tmp_path: Path, levels: int, capsys: Printed) -> None:
    """Every tool that it names takes the shapes."""
    root = make_yolo(tmp_path / "set", num=12)
    main(["anchors", "fit", "--data", str(root), "--num", str(2 * levels), "--levels", str(levels)])
    lines = capsys.readouterr().out.splitlines()
    at = next(index for index, line in enumerate(lines) if "anchors export" in line)
    tools = [lines[at].split()[-1], *lines[at + 1].strip().removeprefix("(or ").removesuffix(")").split(", ")]
    assert len(tools) >= 6
    for to in tools:
        assert main([*lines[at].split()[3:-1], to])
