"""Reading images: every format ends as the stored pixels in RGB, and what is broken names itself."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from anchor_lightning.data.images import MAX_PIXELS, image_size_of, read_image
from anchor_lightning.errors import UserError
from tests.helpers.tiny_data import texture, write_image

PIXELS = texture(40, 60)


def jpeg_bytes(tmp_path: Path, **options: object) -> bytes:
    path = tmp_path / "whole.jpg"
    Image.fromarray(texture(200, 300)).save(path, quality=95, **options)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(PIXELS).save(path, lossless=True)
    np.testing.assert_array_equal(read_image(path), PIXELS)
    assert image_size_of(path) == (40, 60)


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a-png.jpg", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a-png.jpg"), PIXELS)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, "png") for mode in ("L", "1", "P", "RGBA", "LA")),
        ("RGB", "jpg"),
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
    ],
)
def test_other_modes_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    path = tmp_path / f"image.{suffix}"
    image.save(path, **({"quality": 98, "subsampling": 0} if suffix == "jpg" else {}))
    read = read_image(path)
    assert read.shape == (40, 60, 3) and read.dtype == np.uint8
    assert np.abs(read.astype(int) - np.asarray(image.convert("RGB"))).mean() < 2


def test_a_transparent_pixel_keeps_its_colour(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.dstack([PIXELS, np.zeros((40, 60), dtype=np.uint8)])).save(path)
    np.testing.assert_array_equal(read_image(path), PIXELS)


def test_16_bits_are_scaled(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    assert cv2.imwrite(str(path), values)
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 1, 128, 255])
    assert cv2.imwrite(str(path), np.full((2, 2, 3), (65535, 257, 0), dtype=np.uint16))
    np.testing.assert_array_equal(read_image(path)[0, 0], [0, 1, 255])


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.fromarray(PIXELS).save(tmp_path / "image.jpg", exif=exif)
    assert read_image(tmp_path / "image.jpg").shape == (40, 60, 3)
    assert image_size_of(tmp_path / "image.jpg") == (40, 60)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(
    ("min_size", "expected"),
    [
        (None, (320, 480)),
        ((161, 100), (320, 480)),
        ((160, 240), (160, 240)),
        ((80, 120), (80, 120)),
        ((1, 1), (40, 60)),
    ],
)
def test_reduced_decoding_never_falls_below_what_is_asked(
    tmp_path: Path, suffix: str, min_size: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    path = write_image(tmp_path / f"image.{suffix}", 320, 480)
    reduced = read_image(path, min_size)
    assert reduced.shape[:2] == expected
    area = cv2.resize(read_image(path), expected[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - area).mean() < 3


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_an_error(tmp_path: Path, keep: float, progressive: bool) -> None:
    data = jpeg_bytes(tmp_path, progressive=progressive)
    path = tmp_path / "part.jpg"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"part\.jpg"):
        read_image(path)


def test_missing_data_behind_an_end_marker_is_an_error(tmp_path: Path) -> None:
    data = jpeg_bytes(tmp_path)
    path = tmp_path / "part.jpg"
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    with pytest.raises(UserError, match="truncated"):
        read_image(path)


def test_harmless_warnings_are_no_error(tmp_path: Path) -> None:
    data = jpeg_bytes(tmp_path)
    whole = read_image(tmp_path / "whole.jpg")
    for name, changed in {"extra": data[:-2] + b"\x12" * 9 + data[-2:], "garbage": data + b"garbage" * 9}.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(changed)
        assert np.abs(read_image(path).astype(int) - whole).max() <= 2, name


def test_errors_say_why_a_file_is_no_image(tmp_path: Path) -> None:
    cases = {
        "a.txt": (b"hello", r"a\.txt .*\.jpg, .*\.webp"),
        "a.png": (b"hello", r"a\.png: .*no image"),
        "b.png": (b"", r"b\.png: .*empty"),
        "a.jpg": (b"<html>not found</html>", r"a\.jpg: .*no image"),
        "c.jpg": (b"\xff\xd8\xff\xe0 no image", r"c\.jpg: "),
        "d.jpg": (b"\xff\xd8", r"d\.jpg: "),
        "e.jpg": (b"\x89PNG\r\n", r"e\.jpg: "),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        for read in (read_image, image_size_of):
            with pytest.raises(UserError, match=message) as caught:
                read(tmp_path / name)
            assert "BytesIO" not in str(caught.value) and "identify" not in str(caught.value)
    os.mkfifo(tmp_path / "pipe.jpg")
    for read in (read_image, image_size_of):
        with pytest.raises(UserError, match=r"gone\.jpg: no such image"):
            read(tmp_path / "gone.jpg")
        with pytest.raises(UserError, match=r"pipe\.jpg: .*plain file"):
            read(tmp_path / "pipe.jpg")
    path = write_image(tmp_path / "part.png")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"part\.png"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_size_other_than_the_annotated_one_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = write_image(tmp_path / f"image.{suffix}")
    assert read_image(path, expected_size=(40, 60)).shape == (40, 60, 3)
    with pytest.raises(UserError, match=r"60 x 40 .* 40 x 60\. .*EXIF"):
        read_image(path, expected_size=(60, 40))


def test_float_images_have_no_known_range(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "image.tif")
    with pytest.raises(UserError, match="no known range"):
        read_image(tmp_path / "image.tif")


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
    for read in (read_image, image_size_of):
        with pytest.raises(UserError, match=rf"a\.png: .*{str(error) or type(error).__name__}"):
            read(tmp_path / "a.png")
