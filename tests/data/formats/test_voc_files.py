"""VOC's files: nothing leaves the folder, nothing with another checksum is unpacked, no entity is expanded."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from torchvision.datasets.voc import DATASET_YEAR_DICT

from anchor_lightning.data import VOCDataModule
from anchor_lightning.data.formats.voc_files import fetch_voc, parse_voc_xml, unpack
from anchor_lightning.errors import UserError


def archive(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """A tar of (name, type, link target); files hold `hello`."""
    with tarfile.open(path, "w") as tar:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 5 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"hello"))
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serves the folder of the test on this machine; its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def published(monkeypatch: pytest.MonkeyPatch, server: str, file: Path, md5: str | None = None) -> None:
    """Makes a file here the archive of VOC 2012."""
    md5 = md5 or hashlib.md5(file.read_bytes()).hexdigest()
    entry = {"url": f"{server}/{file.name}", "filename": "fetched.tar", "md5": md5}
    monkeypatch.setitem(DATASET_YEAR_DICT, "2012", entry)


@pytest.mark.parametrize(
    "evil",
    [
        ("../evil", tarfile.REGTYPE, ""),
        ("a/../../evil", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "../evil"),
        ("link", tarfile.SYMTYPE, "/etc"),
        ("link", tarfile.LNKTYPE, "../../evil"),
        ("pipe", tarfile.FIFOTYPE, ""),
        ("device", tarfile.CHRTYPE, ""),
    ],
    ids=lambda member: f"{member[0]} {member[2]}",
)
def test_a_member_that_leaves_the_folder(tmp_path: Path, evil: tuple[str, bytes, str]) -> None:
    file = archive(tmp_path / "x.tar", ("good.txt", tarfile.REGTYPE, ""), evil)
    inside = tmp_path / "deep" / "inside"
    inside.mkdir(parents=True)
    with pytest.raises(UserError, match=rf"x\.tar: .*'{evil[0]}'"):
        unpack(file, inside)
    assert not list(inside.iterdir()), "not even what comes before it"
    assert not list(tmp_path.rglob("evil"))


def test_a_good_archive_is_unpacked(tmp_path: Path) -> None:
    members = [("a", tarfile.DIRTYPE, ""), ("a/b.txt", tarfile.REGTYPE, ""), ("a/c.txt", tarfile.SYMTYPE, "b.txt")]
    unpack(archive(tmp_path / "x.tar", *members), tmp_path)
    assert (tmp_path / "a" / "c.txt").read_bytes() == b"hello"
    (tmp_path / "x.tar").write_bytes(b"hello")
    with pytest.raises(UserError, match=r"x\.tar: "):
        unpack(tmp_path / "x.tar", tmp_path)


def test_the_checksum_is_compared_before_anything_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    file = archive(tmp_path / "x.tar", ("VOCdevkit/VOC2012/x.txt", tarfile.REGTYPE, ""))
    published(monkeypatch, server, file, "0" * 32)
    with pytest.raises(UserError, match=r"download: .*x\.tar .*damaged.*fetched\.tar"):
        fetch_voc(tmp_path / "root", 2012, test=False)
    assert not (tmp_path / "root" / "VOCdevkit").exists()
    published(monkeypatch, server, file)
    fetch_voc(tmp_path / "root", 2012, test=False)
    assert (tmp_path / "root" / "VOCdevkit" / "VOC2012" / "x.txt").is_file()


def test_through_the_data_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    published(monkeypatch, server, archive(tmp_path / "x.tar", ("../evil", tarfile.REGTYPE, "")))
    module = VOCDataModule(root=str(tmp_path / "VOCdevkit"), years=[2012], download=True)
    with pytest.raises(UserError, match=r"fetched\.tar: .*'\.\./evil'"):
        module.prepare_data()
    monkeypatch.setitem(DATASET_YEAR_DICT["2012"], "url", f"{server}/nowhere.tar")
    (tmp_path / "fetched.tar").unlink()
    with pytest.raises(UserError, match=r"download: .*nowhere\.tar"):
        module.prepare_data()
    with pytest.raises(UserError, match="years: VOC 2031"):
        VOCDataModule(root=str(tmp_path), years=[2031], download=True).prepare_data()


def test_a_document_type_in_a_comment_declares_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<annotation><!-- <!DOCTYPE x> --><a>1 &lt; 2</a>tail</annotation>")
    root = parse_voc_xml(tmp_path / "a.xml")
    assert root.findtext("a") == "1 < 2" and [child.tag for child in root] == ["a"]
