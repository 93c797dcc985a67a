"""Text files of data sets: lists and names in UTF-8, VOC's XML without entities."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from anchor_lightning.errors import UserError


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; `Path.exists` raises for a name that no file can have."""
    return os.path.exists(path)  # noqa: PTH110


def distinct_names(names: list[str], where: str | None = None) -> list[str]:
    """The names of classes as given.

    Raises:
        UserError: There is none, or one comes twice: results could not tell them apart. Names `where` they stand, the
            argument `class_names` if not given.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        problem = f"{twice[0]!r} comes {names.count(twice[0])} times" if twice else "is empty"
        message = f"{problem}; give every class a name of its own."
        raise UserError(message, "class_names") if where is None else UserError(f"{where}: {message}")
    return names


def read_text(file: Path, default: str | None = None) -> str:
    """The text of a file in UTF-8, without the mark that some editors put first; `default` if there is no file.

    Raises:
        UserError: It cannot be read, or is not UTF-8; names it.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is no text in UTF-8 ({error.reason}, byte {error.start}). Convert it.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        if isinstance(error, FileNotFoundError) and default is not None:
            return default
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{file}: cannot be read ({why}). Restore or remove the file.") from None


def parse_voc_xml(file: Path) -> Element:
    """The root element of an annotation file.

    Raises:
        UserError: The file is missing, is no XML, or declares a document type, which VOC files never do: entities
            are declared there, and can be made to fill all memory or to read other files.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from None

    def reject(*_: object) -> None:
        raise UserError(f"{file}: declares a document type or entities, which is not allowed. Remove the declaration.")

    tree, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    # Called before anything of the declaration counts, whatever the file's encoding.
    parser.StartDoctypeDeclHandler = reject
    try:
        parser.Parse(data, True)
    except UserError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise UserError(f"{file}: is no XML ({error}). Restore or remove the file.") from None
    root = tree.close()
    if root.tag != "annotation":
        raise UserError(f"{file}: the root element is <{root.tag}>, not <annotation>. Is it a VOC annotation?")
    return root
