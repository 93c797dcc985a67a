"""Text files: what is no UTF-8, and XML that declares anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from anchor_lightning.data.formats.text import exists, parse_voc_xml, read_text
from anchor_lightning.errors import UserError

BOMB = (
    '<?xml version="1.0"{}?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]><annotation>&j;</annotation>"
)


def test_text_without_its_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffé\n".encode())
    assert read_text(tmp_path / "a.txt") == "é\n"


def test_what_is_no_utf8_names_itself(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 ol\xe9")
    with pytest.raises(UserError, match=r"a\.txt: .*byte 3"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"b\.txt: .*No such file"):
        read_text(tmp_path / "b.txt")
    assert read_text(tmp_path / "b.txt", default="") == ""


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    assert exists(tmp_path) and not exists(tmp_path / "x")
    assert not exists(tmp_path / ("x" * 5000)) and not exists(tmp_path / "a\0b")


@pytest.mark.parametrize("encoding", ["", "utf-8", "utf-16", "iso-8859-1"])
def test_entities_are_never_expanded(tmp_path: Path, encoding: str) -> None:
    declared = f' encoding="{encoding}"' if encoding else ""
    (tmp_path / "a.xml").write_bytes(BOMB.format(declared).encode(encoding or "utf-8"))
    with pytest.raises(UserError, match=r"a\.xml: .*entities"):
        parse_voc_xml(tmp_path / "a.xml")


def test_files_elsewhere_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    text = f'<!DOCTYPE x [<!ENTITY f SYSTEM "{(tmp_path / "secret").as_uri()}">]><annotation>&f;</annotation>'
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match="entities"):
        parse_voc_xml(tmp_path / "a.xml")


def test_a_document_type_in_a_comment_declares_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<annotation><!-- <!DOCTYPE x> --><a>1 &lt; 2</a>tail</annotation>")
    root = parse_voc_xml(tmp_path / "a.xml")
    assert root.findtext("a") == "1 < 2" and [child.tag for child in root] == ["a"]
