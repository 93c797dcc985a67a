"""Videos: what is written is read, and nothing but our sentence is said of broken ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from anchor_lightning.data.video import VideoFile, open_video, quiet

VARIABLES = ("OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_DEBUG", "OPENCV_LOG_LEVEL")


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    with VideoFile(tmp_path / "film.mp4", 12.5) as film:
        for colour in colours:
            film.write(np.full((96, 128, 3), colour, dtype=np.uint8))
    with open_video(tmp_path / "film.mp4") as video:
        assert (video.fps, video.stated) == (12.5, 3)
        for frame, colour in zip(video.frames, colours, strict=True):
            assert frame.shape == (96, 128, 3) and frame.dtype == np.uint8
            assert np.abs(frame.astype(int) - colour).mean() < 15, "RGB"


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r".*film\.mp4 has no frames"), open_video(tmp_path / "film.mp4"):
        pass
    with (
        pytest.raises(ValueError, match=r"no \.mp4 of 128 x 96 pixels can be written to .*none"),
        quiet(),
        VideoFile(tmp_path / "none" / "film.mp4", 25) as film,
    ):
        film.write(np.zeros((96, 128, 3), dtype=np.uint8))


PROGRAM = """
import sys
from pathlib import Path
from anchor_lightning.data.video import open_video
for name in sys.argv[1:]:
    try:
        with open_video(Path(name)) as video:
            print(len(list(video.frames)))
    except ValueError as error:
        print(error)
"""


def test_of_broken_videos_nothing_but_our_sentence_is_printed(tmp_path: Path) -> None:
    """In a process of its own: FFmpeg writes past Python's stderr, and reads its level once."""
    noise = np.random.default_rng(0).integers(0, 255, (20, 96, 128, 3), dtype=np.uint8)
    with VideoFile(tmp_path / "film.mp4", 10) as film:
        for frame in noise:
            film.write(frame)
    whole = (tmp_path / "film.mp4").read_bytes()
    middle = len(whole) // 2
    contents = {
        "damaged": whole[:3000] + noise.tobytes()[:middle] + whole[3000 + middle :],
        "empty": b"",
        "text": b"no video at all" * 100,
        "cut": whole[:2000],
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
    command = [sys.executable, "-c", PROGRAM, *(f"{name}.mp4" for name in contents)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    damaged, *others = done.stdout.splitlines()
    assert 0 < int(damaged) < 20
    assert others == [
        f"{name}.mp4 has no frames that can be read; is it a video, and whole?" for name in ("empty", "text", "cut")
    ]


def test_quiet_leaves_everything_as_it_was() -> None:
    level = cv2.utils.logging.getLogLevel()
    with quiet():
        assert os.environ["OPENCV_FFMPEG_LOGLEVEL"] == "-8"
        assert cv2.utils.logging.getLogLevel() == cv2.utils.logging.LOG_LEVEL_SILENT
    assert cv2.utils.logging.getLogLevel() == level
    assert not any(name in os.environ for name in VARIABLES)


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_has_set_holds(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "32")
    level = cv2.utils.logging.getLogLevel()
    with quiet():
        assert os.environ[name] == "32"
        if name == "OPENCV_LOG_LEVEL":
            assert cv2.utils.logging.getLogLevel() == level
        else:
            assert os.environ.get("OPENCV_FFMPEG_LOGLEVEL") == ("32" if name.endswith("LOGLEVEL") else None)
    assert os.environ[name] == "32"
