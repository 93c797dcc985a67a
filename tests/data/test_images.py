"""Reading images: every format ends as the stored pixels in RGB, and what is broken names itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from anchor_lightning.data.images import AS_STATED, MAX_PIXELS, image_header, read_image
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import texture, write_image

PIXELS = texture(40, 60)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "PNG"), ("a.bmp", "BMP"), ("a.tif", "TIFF"), ("a.webp", "WEBP"), ("a.jpg", "PNG")]
)
def test_lossless_formats_come_back_exactly_whatever_the_suffix(tmp_path: Path, name: str, kind: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / name, format=kind, lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / name), PIXELS)
    assert image_header(tmp_path / name) == (40, 60, 1)


@pytest.mark.parametrize(
    "name", ["L.png", "1.png", "P.png", "RGBA.png", "LA.png", "RGB.jpg", "L.jpg", "CMYK.jpg", "CMYK.tif"]
)
def test_other_modes_become_rgb(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    image = Image.fromarray(PIXELS).convert(path.stem)
    if path.stem == "RGBA":
        image.putalpha(0)  # a transparent pixel keeps its colour
    image.save(path, **({"quality": 98, "subsampling": 0} if path.suffix == ".jpg" else {}))
    read = read_image(path)
    assert read.shape == (40, 60, 3) and read.dtype == np.uint8
    assert np.abs(read.astype(int) - np.asarray(image.convert("RGB"))).mean() < 2


def test_16_bits_are_scaled_and_floats_have_no_known_range(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    assert cv2.imwrite(str(path), np.array([[0, 257, 32768, 65535]], dtype=np.uint16))
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 1, 128, 255])
    assert cv2.imwrite(str(path), np.full((2, 2, 3), (65535, 257, 0), dtype=np.uint16))
    np.testing.assert_array_equal(read_image(path)[0, 0], [0, 1, 255])
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "image.tif")
    with pytest.raises(UserError, match="no known range"):
        read_image(tmp_path / "image.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_pil_turns_it_where_that_is_asked(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PIXELS).save(path := tmp_path / "image.webp", exif=exif, lossless=True)
    with Image.open(path) as image:
        turned = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    header = image_header(path)
    assert header == (40, 60, orientation) and header.shown_size == turned.shape[:2]
    np.testing.assert_array_equal(read_image(path, orientation=orientation, expected_size=turned.shape[:2]), turned)
    np.testing.assert_array_equal(read_image(path), PIXELS)  # the stored pixels, unless asked
    # Where the annotation's size says which of the two it was made on:
    np.testing.assert_array_equal(read_image(path, expected_size=(40, 60), orientation=AS_STATED), PIXELS)
    if orientation >= 5:
        np.testing.assert_array_equal(read_image(path, expected_size=(60, 40), orientation=AS_STATED), turned)
        assert read_image(path, (20, 10), orientation=orientation).shape == (30, 20, 3)
    else:
        with pytest.raises(UserError, match="60 x 40 pixels, its annotation says 40 x 60"):
            read_image(path, expected_size=(60, 40), orientation=AS_STATED)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(tmp_path: Path, orientation: int) -> None:
    """White in the first quarter of the stored rows and columns; where this is shown is EXIF 2.32's definition."""
    stored = np.zeros((40, 60, 3), dtype=np.uint8)
    stored[:10, :15] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path := tmp_path / "image.tif", exif=exif)
    header = image_header(path)
    shown = read_image(path, orientation=header.orientation, expected_size=header.shown_size)
    assert shown.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
    at_the_bottom, at_the_right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    corner = shown[:: -1 if at_the_bottom else 1, :: -1 if at_the_right else 1][:10, :10]
    assert corner.min() == 255 and np.count_nonzero(shown[..., 0]) == 150


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(
    ("min_size", "factor"), [(None, 1), ((161, 100), 1), ((160, 240), 2), ((80, 120), 4), ((1, 1), 8)]
)
def test_reduced_decoding_never_falls_below_what_is_asked(
    tmp_path: Path, suffix: str, min_size: tuple[int, int] | None, factor: int
) -> None:
    path = write_image(tmp_path / f"image.{suffix}", 320, 480)
    reduced = read_image(path, min_size)
    assert reduced.shape == (320 // factor, 480 // factor, 3)
    area = cv2.resize(read_image(path), reduced.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - area).mean() < 3


@pytest.mark.parametrize("progressive", [False, True])
def test_missing_data_is_an_error_and_harmless_warnings_are_none(tmp_path: Path, progressive: bool) -> None:
    path = tmp_path / "some.jpg"
    Image.fromarray(texture(200, 300)).save(path, quality=95, progressive=progressive)
    data, whole = path.read_bytes(), read_image(path).astype(int)
    for content in (data[:-2] + b"\x12" * 9 + data[-2:], data + b"garbage" * 9):
        path.write_bytes(content)
        assert np.abs(read_image(path) - whole).max() <= 2
    half = data[: len(data) // 2]
    for content in (data[: len(data) // 10], half, data[: int(0.999 * len(data))], half + b"\xff\xd9"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"some\.jpg: .*truncated"):
            read_image(path)


@pytest.mark.parametrize("read", [read_image, image_header])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"hello", r"a\.txt .*\.jpg, .*\.webp"),
        ("a.png", b"hello", r"a\.png: .*no image"),
        ("b.png", b"", r"b\.png: .*empty"),
        ("a.jpg", b"<html>not found</html>", r"a\.jpg: .*no image"),
        ("c.jpg", b"\xff\xd8\xff\xe0 no image", r"c\.jpg: "),
        ("d.jpg", b"\xff\xd8", r"d\.jpg: "),
        ("e.jpg", b"\x89PNG\r\n", r"e\.jpg: "),
        ("gone.jpg", None, r"gone\.jpg: no such image"),
        ("pipe.jpg", None, r"pipe\.jpg: .*plain file"),
    ],
)
def test_errors_say_why_a_file_is_no_image(
    tmp_path: Path, read: Callable[[Path], object], name: str, content: bytes | None, message: str
) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name)
    assert "BytesIO" not in str(caught.value) and "identify" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_size_other_than_the_annotated_one_or_less_data_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"image.{suffix}")
    assert read_image(path, expected_size=(40, 60)).shape == (40, 60, 3)
    with pytest.raises(UserError, match=r"60 x 40 .* 40 x 60\. .*turned since"):
        read_image(path, expected_size=(60, 40))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=rf"image\.{suffix}"):
        read_image(path)


def test_a_jpeg_that_says_it_is_huge_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(simplejpeg.encode_jpeg(np.zeros((16, 16, 3), dtype=np.uint8)))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = b"\xff\xdc\xff\xdc"
    assert MAX_PIXELS < 0xFFDC**2
    (tmp_path / "a.jpg").write_bytes(data)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"a\.jpg: 65500 x 65500"):
        read_image(tmp_path / "a.jpg", expected_size=(65500, 65500))


@pytest.mark.parametrize("error", [IndexError("x"), EOFError(), MemoryError()])
def test_whatever_pil_raises_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("anchor_lightning.data.images.Image.open", fail)
    (tmp_path / "a.png").write_bytes(b"x")
    for read in (read_image, image_header):
        with pytest.raises(UserError, match=rf"a\.png: .*{str(error) or type(error).__name__}"):
            read(tmp_path / "a.png")
