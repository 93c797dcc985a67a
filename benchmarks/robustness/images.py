"""Image files as they come: odd but whole ones go on, damaged ones are refused, or skipped and counted."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image

from benchmarks.robustness.harness import Case
from benchmarks.robustness.made import write

SKIP: Final = "--data.skip_bad_images=true"
SIZE: Final = (128, 96)
"""Width and height of the images of the made sets."""


def picture(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """Smooth colours in any of PIL's modes."""
    small = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    (image or picture()).save(stream, kind, **options)
    return stream.getvalue()


def deep(kind: str, channels: int) -> bytes:
    """A 16-bit image."""
    shape = (SIZE[1], SIZE[0], channels)[: 2 if channels == 1 else 3]
    values = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    return bytes(cv2.imencode(f".{kind}", values)[1])


def turned(orientation: int) -> bytes:
    """A JPEG with an EXIF tag that turns it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded("JPEG", exif=exif)


def png_chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size and holds a few zeros."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")


def sized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header says another size than its data fills."""
    data = bytearray(encoded("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def spoilt(data: bytes, start: float, value: int = 0x55, length: int = 200) -> bytes:
    """The data with a stretch overwritten."""
    place = int(len(data) * start)
    return data[:place] + bytes([value]) * min(length, len(data) - place) + data[place + length :]


def whole() -> dict[str, tuple[str, bytes]]:
    """Odd images with nothing missing: name -> suffix and content."""
    gif, cmyk = encoded("GIF", picture("P")), encoded("JPEG", picture("CMYK"))
    found = {
        "CMYK JPEG": (".jpg", cmyk),
        "grey JPEG": (".jpg", encoded("JPEG", picture("L"))),
        "progressive JPEG": (".jpg", encoded("JPEG", progressive=True)),
        "JPEG with restart markers": (".jpg", encoded("JPEG", restart_marker_rows=1)),
        "JPEG without chroma subsampling": (".jpg", encoded("JPEG", subsampling=0)),
        "JPEG at quality 1": (".jpg", encoded("JPEG", quality=1)),
        "JPEG with 10 kB behind its end": (".jpg", encoded("JPEG") + bytes(10_000)),
        "JPEG with a comment of 60 kB": (".jpg", encoded("JPEG", comment=b"x" * 60_000)),
        "JPEG with an ICC profile that is none": (".jpg", encoded("JPEG", icc_profile=b"nonsense")),
        "JPEG with EXIF that is none": (".jpg", encoded("JPEG", exif=b"Exif\x00\x00nonsense")),
        "JPEG named .png": (".png", encoded("JPEG")),
        "JPEG named .JPEG": (".JPEG", encoded("JPEG")),
        "PNG named .jpg": (".jpg", encoded("PNG")),
        "GIF named .jpg": (".jpg", gif),
        "WebP named .jpg": (".jpg", encoded("WEBP")),
        "PNG with alpha": (".png", encoded("PNG", picture("RGBA"))),
        "PNG, grey with alpha": (".png", encoded("PNG", picture("LA"))),
        "PNG with a palette": (".png", encoded("PNG", picture("P"))),
        "PNG with a palette and a transparent colour": (".png", encoded("PNG", picture("P"), transparency=3)),
        "PNG of 1 bit": (".png", encoded("PNG", picture("1"))),
        "PNG, 16-bit grey": (".png", deep("png", 1)),
        "PNG, 16-bit colour": (".png", deep("png", 3)),
        "PNG, 16-bit colour with alpha": (".png", deep("png", 4)),
        "animated PNG": (".png", encoded("PNG", save_all=True, append_images=[picture("L").convert("RGB")])),
        "BMP": (".bmp", encoded("BMP")),
        "BMP with a palette": (".bmp", encoded("BMP", picture("P"))),
        "WebP, lossless with alpha": (".webp", encoded("WEBP", picture("RGBA"), lossless=True)),
        "animated WebP": (".webp", encoded("WEBP", save_all=True, append_images=[picture()])),
        "TIFF": (".tif", encoded("TIFF")),
        "TIFF, LZW": (".tiff", encoded("TIFF", compression="tiff_lzw")),
        "TIFF, 16-bit grey": (".tiff", deep("tiff", 1)),
        "TIFF, CMYK": (".tif", encoded("TIFF", picture("CMYK"))),
        "TIFF of two pages": (".tif", encoded("TIFF", save_all=True, append_images=[picture()])),
        "1 x 1 PNG": (".png", encoded("PNG", picture(size=(1, 1)))),
        "1 x 1 JPEG": (".jpg", encoded("JPEG", picture(size=(1, 1)))),
        "20,000 x 96 JPEG": (".jpg", encoded("JPEG", picture(size=(20_000, 96)))),
        "20,000 x 96 PNG": (".png", encoded("PNG", picture(size=(20_000, 96)))),
        "128 x 20,000 JPEG": (".jpg", encoded("JPEG", picture(size=(128, 20_000)))),
    }
    return found | {f"JPEG that EXIF turns, orientation {n}": (".jpg", turned(n)) for n in (3, 6, 8)}


def broken() -> dict[str, tuple[str, bytes, bool]]:
    """Files that lack something: name -> suffix, content, and whether the header tells before training begins."""
    jpeg, png, webp = encoded("JPEG", quality=95), encoded("PNG"), encoded("WEBP")
    bmp, tiff, progressive = encoded("BMP"), encoded("TIFF"), encoded("JPEG", quality=95, progressive=True)
    found: dict[str, tuple[str, bytes, bool]] = {
        "an empty file": (".jpg", b"", True),
        "an HTML page": (".jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", True),
        "text": (".jpg", b"hello\n", True),
        "JSON": (".png", b'{"error": "not found"}', True),
        "a ZIP archive": (".jpg", b"PK\x03\x04" + bytes(100), True),
        "a PDF": (".jpg", b"%PDF-1.7\n" + bytes(100), True),
        "an SVG": (".png", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', True),
        "zeros": (".jpg", bytes(5000), True),
        "a Git LFS pointer": (".jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", True),
        "a JPEG's first two bytes, then zeros": (".jpg", b"\xff\xd8" + bytes(3000), True),
        "a JPEG's tables without an image": (".jpg", jpeg[: jpeg.index(b"\xff\xc0")] + b"\xff\xd9", True),
        "a PNG that says 100,000 x 100,000": (".png", png_header(100_000, 100_000), True),
        "a PNG that says 0 x 0": (".png", png_header(0, 0), True),
        "a PNG that says 128 x 96 and holds 100 bytes": (".png", png_header(128, 96), False),
        "a PNG with a wrong checksum in its data": (".png", spoilt(png, 0.5, length=1), False),
        "a PNG overwritten in the middle": (".png", spoilt(png, 0.5), False),
        "a JPEG that says 65,500 x 65,500": (".jpg", sized_jpeg(65_500, 65_500), True),
        "a JPEG that says 0 x 96": (".jpg", sized_jpeg(0, 96), True),
        "a JPEG that says it is twice as high": (".jpg", sized_jpeg(128, 192), False),
        "a WebP overwritten in the middle": (".webp", spoilt(webp, 0.5, 0xFF, 10_000), False),
        "a TIFF of floating point numbers": (".tif", encoded("TIFF", picture("F")), False),
        "a 32-bit TIFF": (".tif", encoded("TIFF", picture("I").point(lambda v: v * 1000)), False),
    }
    for percent in (1, 10, 50, 90, 99):
        found[f"a JPEG cut to {percent} %"] = (".jpg", jpeg[: len(jpeg) * percent // 100], percent <= 10)
        found[f"a PNG cut to {percent} %"] = (".png", png[: len(png) * percent // 100], False)
    for percent in (30, 70):
        cut = progressive[: len(progressive) * percent // 100]
        found[f"a progressive JPEG cut to {percent} %"] = (".jpg", cut, False)
        found[f"a WebP cut to {percent} %"] = (".webp", webp[: len(webp) * percent // 100], True)
        found[f"a BMP cut to {percent} %"] = (".bmp", bmp[: len(bmp) * percent // 100], False)
        found[f"a TIFF cut to {percent} %"] = (".tif", tiff[: len(tiff) * percent // 100], False)
    return found


def replaced(data: Path, suffix: str, content: bytes, *words: str) -> Sequence[str]:
    """The first training image as another file."""
    (data / "JPEGImages" / "t0.jpg").unlink()
    write(data / "JPEGImages" / f"t0{suffix}", content)
    # Boxes of the whole image, and of one pixel in a small one.
    return words


def special(data: Path, make: Callable[[Path], None], *words: str) -> Sequence[str]:
    """The first training image as something that is no plain file."""
    path = data / "JPEGImages" / "t0.jpg"
    path.unlink()
    make(path)
    return words


def moved(path: Path) -> None:
    """A link to the image elsewhere."""
    path.symlink_to(write(path.parents[1] / "elsewhere.jpg", encoded("JPEG")))


def renamed(data: Path, stem: str) -> None:
    """The first training image and its annotation under another name."""
    (data / "JPEGImages" / "t0.jpg").rename(data / "JPEGImages" / f"{stem}.jpg")
    (data / "Annotations" / "t0.xml").rename(data / "Annotations" / f"{stem}.xml")
    write(data / "ImageSets" / "Main" / "train.txt", f"{stem}\nt1\nt2\nt3\n")


def all_broken(data: Path, cut: bool) -> Sequence[str]:
    """Every training image empty, or cut in the middle."""
    for path in (data / "JPEGImages").glob("t*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if cut else b"")
    return (SKIP,)


def cases() -> list[Case]:
    """Whole images, broken ones, and broken ones with `data.skip_bad_images`."""
    group = "Images"
    result = [
        Case(group, name, prepare=partial(replaced, suffix=suffix, content=content), ends="goes on")
        for name, (suffix, content) in whole().items()
    ]
    result += [
        Case(group, f"a file name {w}", prepare=partial(renamed, stem=s), ends="goes on", says=n)
        for w, s, n in (("in Greek", "εικόνα", ""), ("with a quote", "it's", ""), ("of 200 letters", "x" * 200, ""))
    ]
    result.append(Case(group, "a link to an image", prepare=partial(special, make=moved), ends="goes on"))
    for name, (suffix, content, early) in broken().items():
        spoil = partial(replaced, suffix=suffix, content=content)
        result.append(Case(group, name, prepare=spoil, says=rf"t0\{suffix}", early=early))
        if "cut" in name or early:
            continue
    specials: dict[str, Callable[[Path], None]] = {
        "a folder with an image's name": Path.mkdir,
        "a link to nothing": lambda path: path.symlink_to("nowhere.jpg"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a named pipe": lambda path: os.mkfifo(path),
        "no file": lambda path: None,
    }
    result += [
        Case(group, name, prepare=partial(special, make=make), says=r"t0\.jpg") for name, make in specials.items()
    ]
    for name in ("a JPEG cut to 50 %", "a PNG cut to 90 %", "a WebP overwritten in the middle", "a 32-bit TIFF"):
        suffix, content, _ = broken()[name]
        spoil = partial(_skipping, suffix=suffix, content=content)
        says = rf"Skipped 1 images that cannot be read, .*t0\{suffix}"
        result.append(Case(group, f"{name}, `skip_bad_images`", prepare=spoil, ends="goes on", says=says))
    for name, cut, says in (("empty", False, "t0"), ("cut in the middle", True, "in a row cannot be read")):
        spoil_all = partial(all_broken, cut=cut)
        what = f"every image {name}, `skip_bad_images`"
        result.append(Case(group, what, prepare=spoil_all, says=says, early=not cut))
    return result


def _skipping(data: Path, suffix: str, content: bytes) -> Sequence[str]:
    return replaced(data, suffix, content, SKIP)
