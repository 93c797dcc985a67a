"""The one place where image files are read: JPEGs by libjpeg-turbo in strict mode, the others by PIL."""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from anchor_lightning.errors import UserError

MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Turned by the file's own orientation where it has the expected size only then: by a quarter, never only mirrored or
# upside down, for which the size is the same either way.
AS_STATED: Final = 0
UPRIGHT: Final = 1  # The EXIF orientation of an image that is stored as it is shown
ORIENTATION_TAG: Final = 274
TRANSPOSED: Final = 5  # From this orientation on height and width change places


class ImageHeader(NamedTuple):
    """What the header of an image file says.

    Args:
        height, width: Of the stored image in pixels; of a TIFF, which PIL turns as it reads it, of the shown one.
        orientation: EXIF's, 1 to 8: how the stored image is to be turned to be shown; 1 of a TIFF.
    """

    height: int
    width: int
    orientation: int = UPRIGHT

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width of the stored image in pixels."""
        return self.height, self.width

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width in pixels of the image as it is shown."""
        return swapped(self.stored_size, self.orientation)


def swapped(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width, swapped if an orientation turns the image by a quarter; from stored to shown, and back."""
    return size[::-1] if orientation >= TRANSPOSED else size


def read_image(
    path: Path | str,
    min_size: tuple[int, int] | None = None,
    *,
    expected_size: tuple[int, int] | None = None,
    orientation: int = UPRIGHT,
) -> np.ndarray:
    """(height, width, 3) uint8, the pixels of an image file as RGB, without alpha, turned by an EXIF orientation.

    Args:
        path: The file.
        min_size: Height and width that are enough: larger images may be decoded at a fraction; None for the whole.
        expected_size: Height and width in pixels that the annotation states for the whole image.
        orientation: 1 to 8, as in EXIF; the sizes are those after turning. 1 gives the stored pixels: what the file
            itself says does not count, unless it is a TIFF, which PIL turns. Or `AS_STATED`.

    Raises:
        UserError: It is missing, is no image, is truncated or corrupt, or is not of the expected size; names the file.
    """
    if orientation == AS_STATED:
        try:
            return _read_stored(path, min_size, expected_size)
        except OtherSizeError:
            orientation = image_header(path).orientation
            if orientation < TRANSPOSED:
                raise
    stored = _read_stored(
        path, min_size and swapped(min_size, orientation), expected_size and swapped(expected_size, orientation)
    )
    return stored if orientation == UPRIGHT else np.ascontiguousarray(_turned(stored, orientation))


def _read_stored(
    path: Path | str, min_size: tuple[int, int] | None, expected_size: tuple[int, int] | None
) -> np.ndarray:
    with _naming(path):
        data = Path(path).read_bytes()
    if data.startswith(b"\xff\xd8") and (jpeg := _read_jpeg(path, data, min_size, expected_size)) is not None:
        return jpeg
    with _naming(path), Image.open(io.BytesIO(data)) as image:
        _check_size(path, (image.height, image.width), expected_size)
        image.load()
        pixels = np.array(_to_rgb(image))
    return reduced(pixels, min_size) if min_size else pixels


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """A view of an (H, W, 3) image as EXIF 2.32 defines the orientations 2 to 8: mirrored, and by quarters."""
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    return image.transpose(1, 0, 2) if orientation >= TRANSPOSED else image


def image_header(path: Path | str) -> ImageHeader:
    """Size and orientation of an image, from its header alone.

    Raises:
        UserError: It is missing or is no image; names the file.
    """
    with _naming(path), Image.open(path) as image:
        orientation = _orientation(image)
        return ImageHeader(image.height, image.width, orientation if orientation in range(1, 9) else UPRIGHT)


def _orientation(image: Image.Image) -> Any:
    """What EXIF says of it; upright where that cannot be read, as viewers show such an image."""
    # PIL turns a TIFF itself as it reads it, and would read a whole PNG for it; cameras write JPEG and WebP.
    if "exif" not in image.info or image.format == "TIFF":
        return UPRIGHT
    try:
        return image.getexif().get(ORIENTATION_TAG, UPRIGHT)
    except Exception:  # PIL's readers raise whatever the bytes lead them to, in JPEG files alone they keep it
        return UPRIGHT


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    mode = 0
    with suppress(OSError, ValueError):  # whoever opens it says what is wrong
        mode = Path(path).stat().st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode):  # opening a pipe would wait for ever
        raise UserError(f"{path}: cannot be read as an image (it is no plain file). Restore or remove the file.")
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such image. Add it, or take it out of the annotations.") from None
    except Exception as error:  # PIL's readers raise whatever the bytes lead them to
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):  # PIL's message names a buffer in memory
            if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
                formats = ", ".join(IMAGE_SUFFIXES)
                raise UserError(f"{path} is no image, or of a kind that is not read. Give one of {formats}.") from None
            why = "what is in it is no image" if Path(path).stat().st_size else "the file is empty"
        raise UserError(f"{path}: cannot be read as an image ({why}). Restore or remove the file.") from None


def _read_jpeg(
    path: Path | str, data: bytes, min_size: tuple[int, int] | None, expected_size: tuple[int, int] | None
) -> np.ndarray | None:
    """The pixels of a JPEG; None where strict mode rejects a file without data missing, which PIL decodes."""
    try:
        stored = simplejpeg.decode_jpeg_header(data)[:2]
        _check_size(path, stored, expected_size)
        if stored[0] * stored[1] > MAX_PIXELS:
            # Before gigabytes are taken for a header that may be wrong; PIL rejects as many.
            raise UserError(f"{path}: {stored[1]} x {stored[0]} pixels are too many to read. Make it smaller.")
        height, width = min_size or (0, 0)
        # libjpeg's odd factors below 2 save no time.
        factor = 2 if min_size else 1
        return np.asarray(simplejpeg.decode_jpeg(data, min_height=height, min_width=width, min_factor=factor))
    except UserError:
        raise
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise UserError(f"{path}: the JPEG is truncated ({error}). Restore the file.") from None
        return None


def reduced(image: np.ndarray, min_size: tuple[int, int]) -> np.ndarray:
    """An (H, W, 3) uint8 image averaged down by 2, 4 or 8, as far as it stays as large as a height and width."""
    factor = 1
    while factor < 8 and min(image.shape[0] / min_size[0], image.shape[1] / min_size[1]) >= 2 * factor:
        factor *= 2
    return np.array(Image.fromarray(image).reduce(factor)) if factor > 1 else image


def _to_rgb(image: Image.Image) -> Image.Image:
    """An 8-bit RGB image; 16-bit RGB files are already reduced to 8 bits by PIL."""
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise ValueError(f"pixels of mode {image.mode} have no known range: convert them to 8 or 16 bits")
    # 257 = 65535 / 255 maps white to white.
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")


class OtherSizeError(UserError):
    """An image does not have the size that its annotation states."""


def _check_size(path: Path | str, size: tuple[int, int], expected: tuple[int, int] | None) -> None:
    if expected and tuple(size) != tuple(expected):
        turned = " The annotation seems to be made on an image that was turned since."
        raise OtherSizeError(
            f"{path}: the stored image is {size[1]} x {size[0]} pixels, its annotation says {expected[1]} x "
            f"{expected[0]}.{turned if size[::-1] == expected else ''} Correct width and height in the annotation, and "
            "the boxes with them."
        )
