"""Videos: what is written is read, and nothing but our sentence is said of broken ones."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import anchor_lightning
from anchor_lightning.data.video import Mpeg4Writer, VideoFile, open_video, quiet

VARIABLES = ("OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_DEBUG", "OPENCV_LOG_LEVEL")


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("codec", "size"), [("h264", (98, 130)), ("mpeg4", (96, 128))])
def test_what_is_written_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, size: tuple[int, int]
) -> None:
    """An odd side gets a row or column more in H.264, and loses one through OpenCV."""
    monkeypatch.setattr("anchor_lightning.data.video.has_h264", lambda: codec == "h264")
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    with VideoFile(tmp_path / "film.mp4", 12.5) as film:
        for colour in colours:
            film.write(np.full((97, 129, 3), colour, dtype=np.uint8))
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert container.streams.video[0].codec_context.name == codec
    with open_video(tmp_path / "film.mp4") as video:
        assert (video.fps, video.stated) == (12.5, 3)
        for frame, colour in zip(video.frames, colours, strict=True):
            assert frame.shape == (*size, 3) and frame.dtype == np.uint8
            assert np.abs(frame.astype(int) - colour).mean() < 15, "RGB"
    with pytest.raises(ValueError, match=r"no \.mp4 of 1\d\d x 9\d pixels can be written to .*none"), quiet():
        VideoFile(tmp_path / "none" / "film.mp4", 25).write(frame)


# The packages are named without what their __init__ imports, which takes seconds.
PROGRAM = """
import sys
from pathlib import Path
from types import ModuleType
package, *names = sys.argv[1:]
for name, folder in (("anchor_lightning", package), ("anchor_lightning.data", f"{package}/data")):
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [folder]
from anchor_lightning.data.video import open_video
for name in names:
    try:
        with open_video(Path(name)) as video:
            print(len(list(video.frames)))
    except ValueError as error:
        print(error)
"""


def test_of_broken_videos_nothing_but_our_sentence_is_printed(tmp_path: Path) -> None:
    """In a process of its own: FFmpeg writes past Python's stderr, and reads its level once."""
    noise = np.random.default_rng(0).integers(0, 255, (20, 96, 128, 3), dtype=np.uint8)
    film = Mpeg4Writer(tmp_path / "film.mp4", 10, (128, 96))  # a damaged frame does not spoil those behind it
    for frame in noise:
        film.write(frame)
    film.close()
    whole = (tmp_path / "film.mp4").read_bytes()
    middle = len(whole) // 2
    contents = {
        "damaged.mp4": whole[:3000] + noise.tobytes()[:middle] + whole[3000 + middle :],
        "empty.mp4": b"",
        "text.mp4": b"no video at all" * 100,
        "cut.mp4": whole[:2000],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", PROGRAM, str(Path(anchor_lightning.__file__).parent), *contents]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    damaged, *others = done.stdout.splitlines()
    assert 0 < int(damaged) < 20
    for name, line in zip(("empty", "text", "cut"), others, strict=True):
        assert line.startswith(f"{name}.mp4 has no frames")


@pytest.mark.parametrize("name", [None, *VARIABLES])
def test_quiet_leaves_everything_as_it_was_and_what_the_user_has_set(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    if name:
        monkeypatch.setenv(name, "32")
    before, level = dict(os.environ), cv2.utils.logging.getLogLevel()
    with suppress(KeyError), quiet():
        ffmpeg_is_the_users = name in ("OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_DEBUG")
        assert dict(os.environ) == (before if ffmpeg_is_the_users else before | {"OPENCV_FFMPEG_LOGLEVEL": "-8"})
        silent = cv2.utils.logging.LOG_LEVEL_SILENT
        assert cv2.utils.logging.getLogLevel() == (level if name == "OPENCV_LOG_LEVEL" else silent)
        raise KeyError
    assert dict(os.environ) == before and cv2.utils.logging.getLogLevel() == level
