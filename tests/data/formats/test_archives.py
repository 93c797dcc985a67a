"""VOC's archives: nothing leaves the folder, nothing with another checksum is unpacked."""

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

from anchor_lightning.data.formats import archives
from anchor_lightning.data.formats.archives import fetch_voc, unpack
from anchor_lightning.data.formats.voc import VOCDataModule
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
    entry = {
        "url": f"{server}/{file.name}",
        "filename": "fetched.tar",
        "md5": md5 or hashlib.md5(file.read_bytes()).hexdigest(),
        "base_dir": "VOCdevkit/VOC2012",
    }
    monkeypatch.setitem(archives.DATASET_YEAR_DICT, "2012", entry)


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


@pytest.mark.parametrize("content", [b"", b"hello", bytes(5000)])
def test_what_is_no_archive_names_itself(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content[:-1])
    if content == bytes(5000):  # tar takes zeros for an archive without members
        return unpack(tmp_path / "x.tar", tmp_path)
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
    monkeypatch.setitem(archives.DATASET_YEAR_DICT["2012"], "url", f"{server}/nowhere.tar")
    (tmp_path / "fetched.tar").unlink()
    with pytest.raises(UserError, match=r"download: .*nowhere\.tar"):
        module.prepare_data()
    with pytest.raises(UserError, match="years: VOC 2031"):
        VOCDataModule(root=str(tmp_path), years=[2031], download=True).prepare_data()
