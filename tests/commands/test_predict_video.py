"""`predict --source` of a video, through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from anchor_lightning.task import DetectionTask
from tests.helpers.predictions import everything, make_video, predict

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(("args", "height"), [([], 96), (["--show_anchors"], 130)])
def test_a_video_comes_back_annotated(checkpoint: Path, args: list[str], height: int) -> None:
    make_video("film.mp4")
    rows, images = predict("--source", "film.mp4", "--output", "out", "--batch_size", "2", *args)
    assert everything("out") == ["film.mp4", "images.json", "predictions.json"]
    assert images["images"] == [
        {"id": index + 1, "file_name": "film.mp4", "frame": index, "width": 128, "height": 96} for index in range(5)
    ]
    assert {row["image_id"] for row in rows} == {1, 2, 3, 4, 5}
    capture, original = cv2.VideoCapture("out/film.mp4"), cv2.VideoCapture("film.mp4")
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    for _ in range(5):
        (there, drawn), (_, plain) = capture.read(), original.read()
        assert there and drawn.shape[1] == 128 and drawn.shape[0] >= height
        assert args or np.abs(drawn.astype(int) - plain).max() > 60  # frames and texts
    assert not capture.read()[0]


def test_a_video_for_want_of_an_encoder_of_h264_is_said(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_video("film.mp4")
    for h264 in (True, False):
        monkeypatch.setattr("anchor_lightning.data.video.has_h264", lambda h264=h264: h264)
        predict("--source", "film.mp4", "--output", "out")
        assert ("browsers do not play" in capsys.readouterr().out) != h264


def test_a_video_that_fails_halfway_leaves_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_video("film.mp4")
    Path("out").mkdir()
    Path("out/film.mp4").write_text("of an earlier run")
    Path("out/images.json").write_text("{}")
    detect, calls = DetectionTask.detect, []

    def fails(self: DetectionTask, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 2:
            raise RuntimeError("the lights went out")
        return detect(self, batch)

    monkeypatch.setattr(DetectionTask, "detect", fails)
    with pytest.raises(RuntimeError, match="the lights went out"):
        predict("--source", "film.mp4", "--output", "out", "--batch_size", "2")
    assert everything("out") == ["film.mp4", "images.json"] and Path("out/film.mp4").read_text() == "of an earlier run"


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100, None], ids=["empty", "text", "cut"])
def test_a_video_without_frames_raises(checkpoint: Path, content: bytes | None) -> None:
    film = make_video("film.mp4")
    film.write_bytes(film.read_bytes()[:2000] if content is None else content)
    with pytest.raises(SystemExit, match=r"film\.mp4 has no frames that can be read"):
        predict("--source", "film.mp4", "--output", "out")
    assert not Path("out").exists()
