"""`predict --source` through the command line: images, folders and globs of one's own."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from anchor_lightning import commands
from anchor_lightning.cli import main
from anchor_lightning.commands.prediction_input import find_files, picture_names
from anchor_lightning.data.images import read_image, reduced
from anchor_lightning.task import DetectionTask
from anchor_lightning.visualization.detections import save_picture
from tests.helpers.made_data import draw, make_voc
from tests.helpers.predictions import everything, make_checkpoint, make_images, make_video, predict
from tests.helpers.tiny_training import QUIET, SMALL_BATCHES

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_a_folder_is_found_as_the_validation_finds_it(tmp_path: Path) -> None:
    """The same boxes as Lightning's own predict on the same images, the large ones among them."""
    root = make_voc(tmp_path / "set")
    source = make_images(str(root / "VOC2007/JPEGImages"), "2007_10000.jpg", size=(300, 500))  # decoded at a fraction
    args = ["--config", "small.yaml", "--data.root", str(root), "--trainer.precision", "32-true", *QUIET]
    args += ["--model.detector.width", "0.1", *SMALL_BATCHES, "--data.val_image_size", "[64, 96]"]
    args += ["--model.score_threshold", "0.02", "--model.detector.objectness_init", "0.5"]
    main(["fit", *args, "--trainer.max_steps", "2", "--trainer.val_check_interval", "2"])
    cli = main(["predict", *args, "--ckpt_path", "last"])
    records = cli.datamodule.predict_dataloader().dataset.records
    assert len(records) == 4 and any(record.height == 300 for record in records)
    names = {record.ground_truth.image_id: record.path.name for record in records}

    options = ["--score_threshold", "0.02", "--batch_size", "2", "--precision", "32-true"]
    ours, images = predict("--source", f"{source}/2007_1*.jpg", *options)
    ids = {image["file_name"]: image["id"] for image in images["images"]}
    assert list(ids.items()) == [(name, index) for index, name in enumerate(sorted(names.values()), 1)]
    theirs = json.loads((Path(cli.trainer.log_dir) / "predictions.json").read_text())
    theirs = sorted(({**row, "image_id": ids[names[row["image_id"]]]} for row in theirs), key=lambda r: r["image_id"])
    assert len(ours) == len(theirs) > 20
    for our_row, their_row in zip(ours, theirs, strict=True):
        assert our_row.pop("bbox") == pytest.approx(their_row.pop("bbox"), abs=1e-3)
        assert our_row == pytest.approx(their_row, abs=1e-6)


def test_an_image_is_decoded_once_unless_a_fraction_of_it_is_enough(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network input has 64 x 96 pixels."""
    decoded: list[str] = []

    def counted(path: Path, *args: Any, **options: Any) -> np.ndarray:
        decoded.append(path.name)
        return read_image(path, *args, **options)

    monkeypatch.setattr(commands.prediction_input, "read_image", counted)
    make_images("photos", "small.jpg", "small.png", size=(120, 300))
    make_images("photos", "large.jpg", size=(127, 191))
    predict("--source", "photos")
    assert sorted(decoded) == ["large.jpg", "large.jpg", "small.jpg", "small.png"]


def test_a_folder_gives_pictures_and_coco_files(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_images("photos", "b.jpg", "a.PNG", "c.bmp", "notes.txt.png")
    (source / "readme.txt").write_text("no image")
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    rows, images = predict("--source", "photos", "--output", "out")
    pictures = {"a.PNG": "a.png", "b.jpg": "b.jpg", "c.bmp": "c.png", "notes.txt.png": "notes.txt.png"}
    assert everything("out") == sorted([*pictures.values(), "images.json", "predictions.json"])
    assert [(i["file_name"], i["picture"]) for i in images["images"]] == list(pictures.items())
    assert [image["id"] for image in images["images"]] == [1, 2, 3, 4]
    assert images["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert {row["image_id"] for row in rows} == {1, 2, 3, 4} and all(row["score"] > 0.3 for row in rows)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert len(COCO("out/images.json").loadRes("out/predictions.json").anns) == len(rows)
    assert "in 4 images to out" in capsys.readouterr().out
    drawn, plain = read_image("out/a.png"), read_image("photos/a.PNG")
    assert drawn.shape == plain.shape == (96, 128, 3) and (drawn != plain).any()
    for args, height in (["--show_anchors"], 130), (["--show_anchors", "true"], 130), (["--show_anchors=false"], 96):
        predict("--source", "photos/a.PNG", *args)
        assert read_image("runs/version_0/predictions/a/a.png").shape[0] >= height
    assert (read_image("runs/version_0/predictions/a/a.png") == drawn).all()


def test_category_ids_and_threshold_of_the_caller(capsys: pytest.CaptureFixture[str]) -> None:
    make_checkpoint(category_ids=[17, 18], image_size=None)
    make_images("photos", "a.png")
    rows, images = predict("--source", "photos", "--score_threshold", "0.1", "--image_size", "[96, 64]")
    assert "network input 96 x 64" in capsys.readouterr().out
    assert [category["id"] for category in images["categories"]] == [17, 18]
    assert {row["category_id"] for row in rows} <= {17, 18} and min(row["score"] for row in rows) < 0.3
    predict("--source", "photos")
    assert "no image size: taking 416 x 416" in capsys.readouterr().out


def test_files_of_other_kinds_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("a.jpg", "b.PNG", "c.HEIC", "d.heic", "e.mp4", "f.txt", "g.json", ".hidden.heic", "LICENSE")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.avif").mkdir()
    for source in (str(tmp_path), f"{tmp_path}/*"):
        assert [file.name for file in find_files(source)] == ["a.jpg", "b.PNG"]
        assert capsys.readouterr().out == "Files of other kinds that are passed over: 3 (.heic, .mp4)\n"
    find_files(f"{tmp_path}/[ab]*")
    assert capsys.readouterr().out == ""


def test_where_nothing_is_found_it_says_which_threshold_would_find_something(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_images("photos", "a.png", "b.png")
    assert predict("--source", "photos", "--score_threshold", "0.99999")[0] == []
    said = re.search(r"above --score_threshold 0\.99999; the best scores (\S+)\. Give (.*) or", capsys.readouterr().out)
    assert said is not None
    rows = predict("--source", "photos", *said[2].split())[0]
    assert max(row["score"] for row in rows) == pytest.approx(float(said[1]), abs=1e-4)
    assert "No box scores" not in capsys.readouterr().out
    saved = torch.load(checkpoint, weights_only=True)
    weights = saved["state_dict"]
    (bias,) = [name for name in weights if name.endswith("head.rest.bias")]
    weights[bias].view(5, -1)[:, 2] = -1e4  # objectness
    torch.save(saved, checkpoint)
    assert predict("--source", "photos")[0] == []
    assert "above --score_threshold 0.3, nor above 0.005" in capsys.readouterr().out


def test_no_two_pictures_have_one_name(checkpoint: Path) -> None:
    make_images("sets", "a-2.png", "a.bmp", "a.png", "A.tif", "A.png", "b/a.png", "b/c.jpg", "a.jpg", "a.JPEG")
    _, images = predict("--source", "sets/**/*.*")
    pictures = {"A.png": "A.png", "A.tif": "A-2.png", "a-2.png": "a-2-2.png", "a.bmp": "a-3.png", "a.png": "a-4.png"}
    pictures |= {"b/a.png": "a-5.png", "a.JPEG": "a.jpg", "a.jpg": "a-2.jpg", "b/c.jpg": "c.jpg"}
    assert {image["file_name"]: image["picture"] for image in images["images"]} == pictures
    written = sorted([*pictures.values(), "images.json", "predictions.json"])
    assert everything("runs/version_0/predictions/sets") == written


def test_many_pictures_of_one_name_take_no_time() -> None:
    """Half a minute where each looks for its number from the first on."""
    begin = time.monotonic()
    names = picture_names([Path(str(number), "Frame.jpg" if number % 2 else "frame.jpg") for number in range(10000)])
    assert time.monotonic() - begin < 5
    assert names[:3] == ["frame.jpg", "Frame-2.jpg", "frame-3.jpg"] and names[-1] == "Frame-10000.jpg"


def test_what_is_in_the_output_folder(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Predictions are replaced, which is said; what may be an original is not."""
    make_images("a/images", "a.png", "b.png")
    make_images("b/images", "b.png")
    for source, said in (("a/images", False), ("b/images", True)):
        predict("--source", source)
        assert ("before are replaced" in capsys.readouterr().out) == said
    make_video("film.mp4")
    make_images("mine", "b.png", "c.png")
    Path("mine/film.mp4").touch()
    for source, name in (("a/images", "b.png"), ("film.mp4", "film.mp4")):
        with pytest.raises(SystemExit, match=rf"--output: mine holds {name}, which would be replaced, and no images"):
            predict("--source", source, "--output", "mine")
    make_images("out", "c.png")
    predict("--source", "a/images", "--output", "out")
    assert everything("out") == ["a.png", "b.png", "c.png", "images.json", "predictions.json"]


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


def test_a_frame_is_reduced_as_a_png_is() -> None:
    for size in ((96, 128), (127, 300), (128, 192), (300, 900), (1100, 1600)):
        draw(Path("a.png"), 0, size)
        np.testing.assert_array_equal(reduced(read_image("a.png"), (64, 96)), read_image("a.png", (64, 96)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
def test_an_interruption_leaves_what_was_done(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[BaseException],
) -> None:
    """Without what was found and not drawn; and the same command may be given again."""
    make_images("photos", "a.png", "b.png", "c.png", "d.png")
    detect, calls, raised = DetectionTask.detect, [], threading.Event()

    def interrupted(self: DetectionTask, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 2:
            raised.set()
            raise error("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return detect(self, batch)

    def slow(*args: Any) -> None:
        raised.wait(10)
        time.sleep(0.3)  # until the picture that waits for this one is given up
        save_picture(*args)

    with monkeypatch.context() as patch:
        patch.setattr(DetectionTask, "detect", interrupted)
        patch.setattr("anchor_lightning.commands.predict.save_picture", slow)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            predict("--source", "photos", "--output", "out", "--batch_size", "2")
    assert everything("out") == ["a.png", "images.json", "predictions.json"]
    (image,) = json.loads(Path("out/images.json").read_text())["images"]
    assert image["picture"] == "a.png"
    assert {row["image_id"] for row in json.loads(Path("out/predictions.json").read_text())} == {1}
    assert "1 of 4 images were done; their results are in out" in capsys.readouterr().err
    predict("--source", "photos", "--output", "out")
    assert everything("out") == ["a.png", "b.png", "c.png", "d.png", "images.json", "predictions.json"]


def test_too_little_memory_names_the_options_of_this_command(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: DetectionTask, batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(DetectionTask, "detect", fails)
    make_images("photos", "a.png")
    with pytest.raises(SystemExit, match=r"out of memory \(CUDA .*\); lower --image_size, --batch_size$"):
        predict("--source", "photos", "--output", "out")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--source", "file"], r"--source: file is no image.* \.jpg, .*Videos .*\.mp4"),
        (["--source", "none.jpg"], "there is no file or folder none.jpg"),
        (["--source", "empty"], r"empty holds no images .*glob"),
        (["--source", "link", "--output", "photos"], "photos holds the source itself"),
        (["--source", "photos", "--output", "link/../photos/"], "holds the source itself"),
        (["--source", "photos", "--output", "file/out"], "file/out cannot be written to"),
        (["--source", "photos", "--score_threshold", "1.5"], "--score_threshold: 1.5 must be"),
        (["--source", "photos", "--batch_size", "0"], "--batch_size: 0 must be"),
        (["--source", "photos", "--image_size", "100"], "--image_size: must be a positive multiple of 32"),
        (["--source", "photos", "--device", "abacus"], "--device: abacus cannot be used"),
    ],
)
def test_what_cannot_be_done_is_one_message(checkpoint: Path, args: list[str], message: str) -> None:
    make_images("photos", "a.jpg")
    before = Path("photos/a.jpg").read_bytes()
    Path("empty").mkdir()
    Path("link").symlink_to("photos")
    Path("file").write_text("in the way")
    with pytest.raises(SystemExit, match=message):
        predict(*args)
    assert not Path("runs/version_0/predictions").exists()
    assert Path("photos/a.jpg").read_bytes() == before and everything("photos") == ["a.jpg"]
