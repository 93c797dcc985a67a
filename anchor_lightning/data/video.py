"""Videos, frame by frame: read through OpenCV's FFmpeg, written through PyAV's where it is installed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, Self

import cv2
import numpy as np

from anchor_lightning.errors import UserError

VIDEO_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".ts", ".gif")
FFMPEG_LEVEL: Final = "OPENCV_FFMPEG_LOGLEVEL"


class Video(NamedTuple):
    """A video that has a frame at least.

    Args:
        frames: (H, W, 3) uint8 RGB each, in their order, to be gone through once.
        fps: Frames a second; 25 if the file does not say.
        stated: How many frames the file says it has, which may be wrong; None if it does not say.
    """

    frames: Iterator[np.ndarray]
    fps: float
    stated: int | None


@contextmanager
def open_video(file: Path) -> Iterator[Video]:
    """A video to read, whose frames can be had until the block ends.

    Raises:
        UserError: Not one frame can be read.
    """
    with quiet():
        capture = cv2.VideoCapture(str(file), cv2.CAP_FFMPEG)
        try:
            frames = _frames(capture)
            if (first := next(frames, None)) is None:
                raise UserError(f"{file} has no frames that can be read; is it a video, and whole?")
            stated, fps = (capture.get(name) for name in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
            yield Video(
                chain([first], frames),
                fps if math.isfinite(fps) and fps > 0 else 25.0,
                int(stated) if math.isfinite(stated) and stated > 0 else None,
            )
        finally:
            capture.release()


class VideoFile:
    """An `.mp4` to write in a `with` block, as large as its first frame: H.264 through PyAV, else MPEG-4 Part 2.

    H.264 has even sides only, so that an odd one gets a row or column more.

    Args:
        file: Where to.
        fps: Frames a second.

    Attributes:
        plays_in_browsers: Whether it is H.264; browsers do not play the other.
    """

    def __init__(self, file: Path, fps: float) -> None:
        self._file, self._fps = file, fps
        self.plays_in_browsers = has_h264()
        self._writer: H264Writer | Mpeg4Writer | None = None

    def write(self, frame: np.ndarray) -> None:
        """Appends an (H, W, 3) uint8 RGB frame.

        Raises:
            UserError: No video of this size can be written there.
        """
        if self._writer is None:
            height, width = frame.shape[:2]
            kind = H264Writer if self.plays_in_browsers else Mpeg4Writer
            try:
                self._writer = kind(self._file, self._fps, (width, height))
            except (OSError, ValueError):
                where = f"no .mp4 of {width} x {height} pixels can be written to {self._file.parent}"
                raise UserError(where) from None
        self._writer.write(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def has_h264() -> bool:
    """Whether PyAV (the extra `video`) is installed with an encoder of H.264."""
    try:
        import av
    except ImportError:
        return False
    return "libx264" in av.codecs_available


class H264Writer:
    """A file of H.264 through PyAV; `size` is the width and height of its frames in pixels."""

    def __init__(self, file: Path, fps: float, size: tuple[int, int]) -> None:
        import av

        self._container = av.open(str(file), "w", format="mp4", options={"movflags": "faststart"})
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self._stream.width, self._stream.height = (side + side % 2 for side in size)
        self._stream.pix_fmt = "yuv420p"  # the only one that all browsers play
        self._container.start_encoding()  # writes the head of the file, or raises

    def write(self, frame: np.ndarray) -> None:
        """Appends an (H, W, 3) uint8 RGB frame."""
        from av import VideoFrame

        even = np.pad(frame, [(0, side % 2) for side in frame.shape[:2]] + [(0, 0)], mode="edge")
        self._container.mux(self._stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))

    def close(self) -> None:
        """Writes what is left, and closes the file."""
        self._container.mux(self._stream.encode())
        self._container.close()


class Mpeg4Writer:
    """A file of MPEG-4 Part 2 (`mp4v`) through OpenCV, whose wheels have no encoder of H.264; odd sides are cut."""

    def __init__(self, file: Path, fps: float, size: tuple[int, int]) -> None:
        self._writer = cv2.VideoWriter()
        if not self._writer.open(str(file), cv2.VideoWriter.fourcc(*"mp4v"), fps, size):
            raise OSError(f"OpenCV cannot write {file}")

    def write(self, frame: np.ndarray) -> None:
        """Appends an (H, W, 3) uint8 RGB frame."""
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Closes the file."""
        self._writer.release()


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps from stderr what OpenCV and FFmpeg say of a broken video, unless their environment variables are set."""
    logging = cv2.utils.logging
    # Either variable is a wish to see FFmpeg's messages, or a level of the user's own.
    ours = FFMPEG_LEVEL not in os.environ and "OPENCV_FFMPEG_DEBUG" not in os.environ
    level = None if "OPENCV_LOG_LEVEL" in os.environ else logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    if ours:
        os.environ[FFMPEG_LEVEL] = "-8"
    try:
        yield
    finally:
        if ours:
            os.environ.pop(FFMPEG_LEVEL, None)
        if level is not None:
            logging.setLogLevel(level)


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while (frame := capture.read()[1]) is not None:
        yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)
