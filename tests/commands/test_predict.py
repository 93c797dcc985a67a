"""`predict --source` through the command line: images, folders, globs and videos of one's own."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from anchor_lightning.cli import main
from anchor_lightning.commands.export import load_task
from anchor_lightning.commands.predict import picture_names
from anchor_lightning.data.images import read_image, reduced
from anchor_lightning.detectors import YOLOv2
from anchor_lightning.task import DetectionTask
from tests.helpers.checkpoints import save_task
from tests.helpers.made_data import draw, make_voc

pytestmark = pytest.mark.usefixtures("elsewhere")

SIZE = (64, 96)


@pytest.fixture
def checkpoint() -> Path:
    """Of an untrained detector of cats and dogs, as a run would leave it."""
    return make_checkpoint(Path("runs/version_0/checkpoints/last.ckpt"))


def make_checkpoint(path: Path, **details: Any) -> Path:
    torch.manual_seed(0)
    task = DetectionTask(num_classes=2, class_names=["cat", "dog"], detector=partial(YOLOv2, width=0.1))
    task.shapes.set_initial(torch.tensor([[20.0, 30], [40, 20], [50, 50], [15, 15], [60, 30]]))
    with torch.no_grad():  # as if it were sure of some boxes, and each image must differ
        task.detector.network.head.rest.weight.mul_(20)
    return save_task(task, path, **{"image_size": list(SIZE), "images_seen": 8} | details)


def make_images(folder: str, *names: str, size: tuple[int, int] = (96, 128)) -> Path:
    for seed, name in enumerate(names):
        draw(Path(folder) / name, seed, size)
    return Path(folder)


def make_video(path: str, num: int = 5) -> Path:
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 12.5, (128, 96))
    for seed in range(num):
        draw(Path("frames") / f"{seed}.png", seed)
        writer.write(cv2.imread(f"frames/{seed}.png"))
    writer.release()
    return Path(path)


def predict(*args: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    results = main(["predict", "--ckpt_path", "runs/version_0/checkpoints/last.ckpt", "--device", "cpu", *args])
    return json.loads(results.read_text()), json.loads((results.parent / "images.json").read_text())


def everything(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_a_folder_is_found_as_the_validation_finds_it(tmp_path: Path) -> None:
    """The same boxes as Lightning's own predict on the same images, the large ones among them."""
    root = make_voc(tmp_path / "set")
    make_images(str(root / "VOC2007/JPEGImages"), "2007_10000.jpg", size=(300, 500))  # decoded at a fraction
    model = ["--model.detector.width", "0.1", "--data.image_size", "64", "--data.val_image_size", "[64, 96]"]
    common = ["--config", "small.yaml", "--data.root", str(root), "--trainer.precision", "32-true", *model]
    quiet = ["--trainer.enable_progress_bar", "false", "--data.batch_size", "2", "--model.score_threshold", "0.02"]
    main(["fit", *common, *quiet, "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"])
    checkpoint = "runs/version_0/checkpoints/last.ckpt"
    cli = main(["predict", *common, *quiet, "--ckpt_path", checkpoint])
    theirs = json.loads((Path(cli.trainer.log_dir) / "predictions.json").read_text())
    records = cli.datamodule.predict_dataloader().dataset.records
    assert len(records) == 4 and any(record.height == 300 for record in records)

    args = ["--source", str(root / "VOC2007/JPEGImages/2007_1*.jpg"), "--score_threshold", "0.02"]
    ours, images = predict(*args, "--batch_size", "2")
    names = {record.ground_truth.image_id: record.path.name for record in records}
    assert [image["file_name"] for image in images["images"]] == sorted(names.values())
    assert [image["id"] for image in images["images"]] == [1, 2, 3, 4]
    ids = {image["file_name"]: image["id"] for image in images["images"]}
    assert len(ours) == len(theirs) > 20
    theirs = sorted(({**row, "image_id": ids[names[row["image_id"]]]} for row in theirs), key=lambda r: r["image_id"])
    for ours_row, their_row in zip(ours, theirs, strict=True):
        assert ours_row["image_id"] == their_row["image_id"] and ours_row["category_id"] == their_row["category_id"]
        assert ours_row["score"] == pytest.approx(their_row["score"], abs=1e-6)
        assert ours_row["bbox"] == pytest.approx(their_row["bbox"], abs=1e-3)


def test_a_folder_gives_pictures_and_coco_files(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_images("photos", "b.jpg", "a.PNG", "c.bmp", "notes.txt.png")
    (source / "readme.txt").write_text("no image")
    sizes = {path.name: path.stat().st_size for path in source.iterdir()}
    rows, images = predict("--source", "photos", "--show_anchors", "--output", "out")
    assert everything("out") == ["a.png", "b.jpg", "c.png", "images.json", "notes.txt.png", "predictions.json"]
    pictures = [("a.PNG", "a.png"), ("b.jpg", "b.jpg"), ("c.bmp", "c.png"), ("notes.txt.png", "notes.txt.png")]
    assert [(i["file_name"], i["picture"]) for i in images["images"]] == pictures
    assert [image["id"] for image in images["images"]] == [1, 2, 3, 4]
    assert images["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert {row["image_id"] for row in rows} == {1, 2, 3, 4} and all(row["score"] > 0.3 for row in rows)
    drawn, plain = read_image("out/a.png"), read_image("photos/a.PNG")
    assert drawn.shape[1] == plain.shape[1] and (drawn[:96] != plain).any()
    assert drawn.shape[0] > plain.shape[0] == 96, "a strip with the anchors"
    assert {path.name: path.stat().st_size for path in source.iterdir()} == sizes
    assert len(COCO("out/images.json").loadRes("out/predictions.json").anns) == len(rows)
    assert "in 4 images to out" in capsys.readouterr().out


def test_anchors_are_shown_only_when_asked_for(checkpoint: Path) -> None:
    make_images("photos", "a.png")
    pictures = []
    for args in ([], ["--show_anchors"], ["--show_anchors", "true"], ["--show_anchors=false"]):
        predict("--source", "photos/a.png", *args)
        pictures.append(read_image("runs/version_0/predictions/a/a.png"))
    assert pictures[0].shape == (96, 128, 3) != pictures[1].shape
    assert (pictures[1] == pictures[2]).all() and (pictures[0] == pictures[3]).all()


def test_category_ids_and_threshold_of_the_caller(tmp_path: Path) -> None:
    make_checkpoint(Path("runs/version_0/checkpoints/last.ckpt"), category_ids=[17, 18])
    make_images("photos", "a.png")
    rows, images = predict("--source", "photos", "--score_threshold", "0.1", "--image_size", "[96, 64]")
    assert [category["id"] for category in images["categories"]] == [17, 18]
    assert {row["category_id"] for row in rows} <= {17, 18} and min(row["score"] for row in rows) < 0.3


def test_where_nothing_is_found_it_says_which_threshold_would_find_something(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images("photos", "a.png", "b.png")
    assert predict("--source", "photos", "--score_threshold", "0.99999")[0] == []
    printed = capsys.readouterr().out
    said = re.search(
        r"No box scores above --score_threshold 0\.99999; the best scores (\S+)\. Give (.*) or less", printed
    )
    assert said is not None, printed
    rows = predict("--source", "photos", *said[2].split())[0]
    assert max(row["score"] for row in rows) == pytest.approx(float(said[1]), abs=1e-4)
    assert "No box scores" not in capsys.readouterr().out


def test_a_detector_that_is_sure_of_nothing_at_all(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    weights = saved["state_dict"]
    (bias,) = [name for name in weights if name.endswith("head.rest.bias")]
    weights[bias] = weights[bias].reshape(5, -1).index_fill(1, torch.tensor([2]), -1e4).flatten()
    torch.save(saved, checkpoint)
    make_images("photos", "a.png")
    assert predict("--source", "photos")[0] == []
    assert "No box scores above --score_threshold 0.3, nor above 0.005. Was the detector" in capsys.readouterr().out


def test_equal_names_of_several_folders_stay_apart(checkpoint: Path) -> None:
    for folder in ("sets/one", "sets/two"):
        make_images(folder, "a.jpg", "b.jpg")
    _, images = predict("--source", "sets/*/*.jpg")
    pictures = {"one/a.jpg": "a.jpg", "one/b.jpg": "b.jpg", "two/a.jpg": "a-2.jpg", "two/b.jpg": "b-2.jpg"}
    assert {image["file_name"]: image["picture"] for image in images["images"]} == pictures
    written = sorted([*pictures.values(), "images.json", "predictions.json"])
    assert everything("runs/version_0/predictions/sets") == written


def test_no_two_pictures_have_one_name() -> None:
    files = [Path(name) for name in ("a-2.png", "a.bmp", "a.png", "A.tif", "b/a.png", "a.jpg", "a.JPEG")]
    names = picture_names(files)
    assert names == ["a-2.png", "a.png", "a-3.png", "A-4.png", "a-5.png", "a.jpg", "a-2.jpg"]


def test_broken_images_are_left_out_and_named(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_images("photos", "a.jpg", "b.jpg", "c.jpg")
    (source / "a.jpg").write_bytes((source / "b.jpg").read_bytes()[:-500])
    (source / "d.png").write_bytes(b"")
    _, images = predict("--source", "photos", "--output", "out", "--batch_size", "1")
    assert [(image["id"], image["file_name"]) for image in images["images"]] == [(1, "b.jpg"), (2, "c.jpg")]
    assert everything("out") == ["b.jpg", "c.jpg", "images.json", "predictions.json"]
    printed = capsys.readouterr().out
    assert "2 of 4 images cannot be read and were skipped:" in printed
    assert "photos/a.jpg: the JPEG is truncated" in printed
    assert "photos/d.png: cannot be read" in printed
    (source / "b.jpg").unlink()
    (source / "c.jpg").unlink()
    with pytest.raises(SystemExit, match=r"no image can be read \(0 of 2\), nothing was written\. photos/a\.jpg"):
        predict("--source", "photos", "--output", "none")
    assert not Path("none").exists()


def test_a_video_comes_back_annotated(checkpoint: Path) -> None:
    make_video("film.mp4")
    rows, images = predict("--source", "film.mp4", "--output", "out", "--batch_size", "2")
    assert everything("out") == ["film.mp4", "images.json", "predictions.json"]
    assert images["images"] == [
        {"id": index + 1, "file_name": "film.mp4", "frame": index, "width": 128, "height": 96} for index in range(5)
    ]
    assert {row["image_id"] for row in rows} == {1, 2, 3, 4, 5}
    capture, original = cv2.VideoCapture("out/film.mp4"), cv2.VideoCapture("film.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    for _ in range(5):
        (there, drawn), (_, plain) = capture.read(), original.read()
        assert there and drawn.shape == (96, 128, 3)
        assert np.abs(drawn.astype(int) - plain).max() > 60  # frames and texts
    assert not capture.read()[0]


def test_a_frame_is_reduced_as_a_png_is() -> None:
    for size in ((96, 128), (127, 300), (128, 192), (300, 900), (1100, 1600)):
        draw(Path("a.png"), 0, size)
        np.testing.assert_array_equal(reduced(read_image("a.png"), SIZE), read_image("a.png", SIZE))


def test_a_video_that_fails_halfway_leaves_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video("film.mp4")
    Path("out").mkdir()
    Path("out/film.mp4").write_text("of an earlier run")
    detect, calls = DetectionTask.detect, []

    def fails(self: DetectionTask, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 2:
            raise RuntimeError("the lights went out")
        return detect(self, batch)

    monkeypatch.setattr(DetectionTask, "detect", fails)
    with pytest.raises(RuntimeError, match="the lights went out"):
        predict("--source", "film.mp4", "--output", "out", "--batch_size", "2")
    assert everything("out") == ["film.mp4"] and Path("out/film.mp4").read_text() == "of an earlier run"


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100, None], ids=["empty", "text", "cut"])
def test_a_video_without_frames_raises(checkpoint: Path, content: bytes | None) -> None:
    film = make_video("film.mp4")
    film.write_bytes(film.read_bytes()[:2000] if content is None else content)
    with pytest.raises(SystemExit, match=r"film\.mp4 has no frames that can be read"):
        predict("--source", "film.mp4", "--output", "out")
    assert not Path("out").exists()


def test_a_video_shows_its_anchors(checkpoint: Path) -> None:
    make_video("film.mp4")
    _, images = predict("--source", "film.mp4", "--output", "out", "--show_anchors")
    assert {image["height"] for image in images["images"]} == {96}
    capture = cv2.VideoCapture("out/film.mp4")
    there, drawn = capture.read()
    assert there and drawn.shape[0] > 130 and drawn.shape[1] == 128


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--source", "file"], r"--source: file is no image.* \.jpg, .*Videos .*\.mp4"),
        (["--source", "none.jpg"], "there is no file or folder none.jpg"),
        (["--source", "empty"], r"empty holds no images .*glob"),
        (["--source", "link", "--output", "photos"], "photos holds the source itself"),
        (["--source", "photos", "--output", "link/../photos/"], "holds the source itself"),
        (["--source", "photos/a.jpg", "--output", "."], None),
        (["--source", "photos", "--output", "file/out"], "file/out cannot be written to"),
        (["--source", "photos", "--score_threshold", "1.5"], "--score_threshold: 1.5 must be"),
        (["--source", "photos", "--batch_size", "0"], "--batch_size: 0 must be"),
        (["--source", "photos", "--image_size", "100"], "--image_size: must be a positive multiple of 32"),
        (["--source", "photos", "--device", "abacus"], "--device: abacus cannot be used"),
        (["--source", "photos", "--ckpt_path", "none.ckpt"], r"there is no file none\.ckpt"),
        (["--source", "photos", "--ckpt_path", "foreign.ckpt"], "not a checkpoint of this project"),
        (["--source", "photos", "--ckpt_path", "other.ckpt"], "does not fit this version"),
    ],
)
def test_what_cannot_be_done_is_one_message(checkpoint: Path, args: list[str], message: str | None) -> None:
    make_images("photos", "a.jpg")
    before = Path("photos/a.jpg").read_bytes()
    Path("empty").mkdir()
    Path("link").symlink_to("photos")
    Path("file").write_text("in the way")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, "foreign.ckpt")
    torch.save({"state_dict": {"shapes.log_wh": torch.zeros(5, 2)}, "pytorch-lightning_version": "2.6.0"}, "other.ckpt")
    if message is None:
        predict(*args)
    else:
        with pytest.raises(SystemExit, match=message):
            predict(*args)
        assert not Path("runs/version_0/predictions").exists()
    assert Path("photos/a.jpg").read_bytes() == before and everything("photos") == ["a.jpg"]


def test_without_a_size_in_the_checkpoint_it_says_which_it_takes(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    del saved["anchor_lightning"]["image_size"]
    torch.save(saved, checkpoint)
    assert "image_size" not in load_task(checkpoint)[1]
    make_images("photos", "a.jpg")
    predict("--source", "photos")
    assert "states no image size: taking 416 x 416" in capsys.readouterr().out
