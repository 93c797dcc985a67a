"""Videos, read and written frame by frame through OpenCV's FFmpeg."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    """An `.mp4` to write in a `with` block, as large as its first frame; `fps` is frames a second."""

    def __init__(self, file: Path, fps: float) -> None:
        self._file, self._fps, self._writer = file, fps, cv2.VideoWriter()

    def write(self, frame: np.ndarray) -> None:
        """Appends an (H, W, 3) uint8 RGB frame.

        Raises:
            UserError: No video of this size can be written there.
        """
        if not self._writer.isOpened():
            height, width = frame.shape[:2]
            fourcc = cv2.VideoWriter.fourcc(*"mp4v")
            if not self._writer.open(str(self._file), fourcc, self._fps, (width, height)):
                raise UserError(f"no .mp4 of {width} x {height} pixels can be written to {self._file.parent}")
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        yield np.ascontiguousarray(frame[:, :, ::-1], dtype=np.uint8)
