"""Image files as they come: odd but whole ones are trained on, damaged ones rejected, or skipped and counted."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from tests.helpers.bad_input import ARGS, CommandLine, cases, write

FIT = ("fit", *ARGS["voc"])
SKIP = "--data.skip_bad_images=true"
STEM = "2012_10000"
FIRST = Path("data/JPEGImages", f"{STEM}.jpg")
"""The first training image."""
COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8))


def picture(mode: str = "RGB", size: tuple[int, int] = (128, 96)) -> Image.Image:
    """Smooth colours in any of PIL's modes."""
    return COLOURS.resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(kind: str, mode: str | Image.Image = "RGB", **options: Any) -> bytes:
    """The bytes of an image file."""
    stream = BytesIO()
    (picture(mode) if isinstance(mode, str) else mode).save(stream, kind, **options)
    return stream.getvalue()


def deep(kind: str, *channels: int) -> bytes:
    """The bytes of a 16-bit image."""
    values = np.random.default_rng(0).integers(0, 65536, (96, 128, *channels)).astype(np.uint16)
    return bytes(cv2.imencode(kind, values)[1])


def turned(orientation: int) -> bytes:
    """A JPEG with an EXIF tag that turns it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded("JPEG", exif=exif)


def png(width: int, height: int) -> bytes:
    """A PNG that says its size and holds a few zeros."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def sized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header says another size than its data fills."""
    data = bytearray(encoded("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def part(data: bytes, percent: int) -> bytes:
    """The first bytes."""
    return data[: len(data) * percent // 100]


def overwritten(data: bytes, value: int, length: int) -> bytes:
    """The data with a stretch behind its middle overwritten."""
    place = len(data) // 2
    return data[:place] + bytes([value]) * min(length, len(data) - place) + data[place + length :]


JPEG, PNG, PROGRESSIVE = encoded("JPEG", quality=95), encoded("PNG"), encoded("JPEG", quality=95, progressive=True)
WEBP, BMP, TIFF = encoded("WEBP"), encoded("BMP"), encoded("TIFF")
WHOLE: dict[str, object] = {
    "CMYK JPEG": (".jpg", encoded("JPEG", "CMYK")),
    "progressive JPEG": (".jpg", PROGRESSIVE),
    "JPEG with 10 kB behind its end": (".jpg", JPEG + bytes(10_000)),
    "JPEG with an invalid ICC profile": (".jpg", encoded("JPEG", icc_profile=b"nonsense")),
    "JPEG with invalid EXIF": (".jpg", encoded("JPEG", exif=b"Exif\x00\x00nonsense")),
    "PNG with invalid EXIF": (".png", encoded("PNG", exif=b"Exif\x00\x00nonsense")),
    "WebP with invalid EXIF": (".webp", encoded("WEBP", exif=b"Exif\x00\x00nonsense")),
    "JPEG named .JPEG": (".JPEG", JPEG),
    "GIF named .jpg": (".jpg", encoded("GIF", "P")),
    "PNG with alpha": (".png", encoded("PNG", "RGBA")),
    "PNG with a palette and a transparent colour": (".png", encoded("PNG", "P", transparency=3)),
    "PNG of 1 bit": (".png", encoded("PNG", "1")),
    "PNG, 16-bit grey": (".png", deep(".png")),
    "PNG, 16-bit colour": (".png", deep(".png", 3)),
    "animated PNG": (".png", encoded("PNG", save_all=True, append_images=[picture("L").convert("RGB")])),
    "BMP": (".bmp", BMP),
    "WebP, lossless with alpha": (".webp", encoded("WEBP", "RGBA", lossless=True)),
    "TIFF, LZW": (".tiff", encoded("TIFF", compression="tiff_lzw")),
    "TIFF of two pages": (".tif", encoded("TIFF", save_all=True, append_images=[picture()])),
    "1 x 1 PNG": (".png", encoded("PNG", picture(size=(1, 1)))),
    "1 x 1 JPEG": (".jpg", encoded("JPEG", picture(size=(1, 1)))),
    "20,000 x 96 JPEG": (".jpg", encoded("JPEG", picture(size=(20_000, 96)))),
    "JPEG with EXIF orientation 6": (".jpg", turned(6)),
    "20,000 x 96 PNG": (".png", encoded("PNG", picture(size=(20_000, 96)))),
}
# Those whose header tells are rejected before training begins.
BROKEN_HEADER: dict[str, object] = {
    "an empty file": (".jpg", b""),
    "an HTML page": (".jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "zeros": (".jpg", bytes(5000)),
    "a JPEG's first two bytes, then zeros": (".jpg", b"\xff\xd8" + bytes(3000)),
    "a JPEG's tables without an image": (".jpg", JPEG[: JPEG.index(b"\xff\xc0")] + b"\xff\xd9"),
    "a PNG that says 100,000 x 100,000": (".png", png(100_000, 100_000)),
    "a PNG that says 0 x 0": (".png", png(0, 0)),
    "a JPEG that says 65,500 x 65,500": (".jpg", sized_jpeg(65_500, 65_500)),
    "a JPEG that says 0 x 96": (".jpg", sized_jpeg(0, 96)),
    "a JPEG cut to 1 %": (".jpg", part(JPEG, 1)),
    "a WebP cut to 70 %": (".webp", part(WEBP, 70)),
}
BROKEN_PIXELS: dict[str, object] = {
    "a PNG that says 128 x 96 and holds 100 bytes": (".png", png(128, 96)),
    "a PNG with a wrong checksum in its data": (".png", overwritten(PNG, 0x55, 1)),
    "a JPEG that says it is twice as high": (".jpg", sized_jpeg(128, 192)),
    "a WebP overwritten in the middle": (".webp", overwritten(WEBP, 0xFF, 10_000)),
    "a TIFF of floating point numbers": (".tif", encoded("TIFF", "F")),
    "a 32-bit TIFF": (".tif", encoded("TIFF", picture("I").point(lambda v: v * 1000))),
    "a JPEG cut to 50 %": (".jpg", part(JPEG, 50)),
    "a JPEG cut to 99 %": (".jpg", part(JPEG, 99)),
    "a progressive JPEG cut to 70 %": (".jpg", part(PROGRESSIVE, 70)),
    "a PNG cut to 90 %": (".png", part(PNG, 90)),
    "a BMP cut to 70 %": (".bmp", part(BMP, 70)),
    "a TIFF cut to 70 %": (".tif", part(TIFF, 70)),
}
SPECIAL: dict[str, object] = {
    "a folder with an image's name": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("nowhere.jpg"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a named pipe": os.mkfifo,
    "no file": lambda path: None,
}


def replace(command_line: CommandLine, suffix: str, content: bytes) -> None:
    """Another file instead of the first training image."""
    command_line.copy("voc")
    FIRST.unlink()
    write(FIRST.with_suffix(suffix), content)


@cases("suffix, content", WHOLE, ("CMYK JPEG",), reads=True)
def test_whole(command_line: CommandLine, suffix: str, content: bytes) -> None:
    replace(command_line, suffix, content)
    command_line.succeeds("", *FIT)


@cases("stem", {"in Greek": "εικόνα", "with a quote": "it's", "of 200 letters": "x" * 200}, reads=True)
def test_names_of_links(command_line: CommandLine, stem: str) -> None:
    command_line.copy("voc")
    FIRST.rename("data/elsewhere.jpg")
    FIRST.with_stem(stem).symlink_to(Path("data/elsewhere.jpg").resolve())
    Path("data/Annotations", f"{STEM}.xml").rename(f"data/Annotations/{stem}.xml")
    file = Path("data/ImageSets/Main/train.txt")
    file.write_text(file.read_text().replace(STEM, stem))
    command_line.succeeds("", *FIT)


@cases("suffix, content", BROKEN_HEADER, ("a PNG that says 0 x 0",), reads=True)
def test_broken_header(command_line: CommandLine, suffix: str, content: bytes) -> None:
    replace(command_line, suffix, content)
    command_line.fails(FIRST.with_suffix(suffix).name, *FIT)


@cases("suffix, content", BROKEN_PIXELS, ("a JPEG cut to 50 %",), reads=True)
def test_broken_pixels(command_line: CommandLine, suffix: str, content: bytes) -> None:
    replace(command_line, suffix, content)
    name = FIRST.with_suffix(suffix).name
    command_line.fails(name, *FIT, early=False)
    command_line.succeeds(f"skipped.1 {name}", *FIT, SKIP)


@cases("make", SPECIAL, ("a named pipe",), reads=True)
def test_no_plain_file(command_line: CommandLine, make: Callable[[Path], None]) -> None:
    command_line.copy("voc")
    FIRST.unlink()
    make(FIRST)
    command_line.fails(FIRST.name, *FIT)


@cases("percent", {"empty": 0, "cut in the middle": 50}, reads=True)
def test_all_skipped(command_line: CommandLine, percent: int) -> None:
    command_line.copy("voc")
    for path in FIRST.parent.glob("2012_1*"):
        path.write_bytes(part(path.read_bytes(), percent))
    command_line.fails("2012_1", *FIT, SKIP, early=not percent)
