"""Files that are written whole or not at all: under another name in their folder first, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anchor_lightning.errors import UserError


@contextmanager
def atomic_files(*paths: Path) -> Iterator[list[Path]]:
    """Files that appear under their names all together when the block ends well; else all stays as it was.

    Args:
        paths: The files; missing folders are made, files that are there are replaced.

    Yields:
        A path to write to for each, in the same folder and with the same suffix.

    Raises:
        UserError: The files or their folders cannot be written; names the folder and the reason.
    """
    partial = [path.with_name(f".partial-{os.getpid()}-{path.name}") for path in paths]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():  # would stop the renaming halfway
                raise FileExistsError(f"{path} is {'a folder' if path.is_dir() else 'no plain file'}")
        try:
            yield partial
            for written, path in zip(partial, paths, strict=True):
                written.replace(path)
        finally:
            for path in partial:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{paths[0].parent} cannot be written to ({error}); choose another folder") from None
