"""Files of other tools, opened with care."""

from __future__ import annotations

from pathlib import Path

from anchor_lightning.errors import UserError


def read_plain_file(path: Path, what: str, num_bytes: int = -1) -> bytes:
    """The bytes of a file, or the first of them.

    Raises:
        UserError: It cannot be read, or is a named pipe or a folder; names it and `what` to give.
    """
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
            raise OSError(0, "it is no plain file")
        with path.open("rb") as file:
            return file.read(num_bytes)
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        raise UserError(
            f"{path}: cannot be read ({getattr(error, 'strerror', error)}). Give the path of a {what}."
        ) from None
