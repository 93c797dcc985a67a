from __future__ import annotations

import os
from pathlib import Path

import pytest

from anchor_lightning.errors import UserError
from anchor_lightning.training.files import atomic_files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_appear_together_in_a_new_folder_with_the_usual_permissions(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "er"
    with atomic_files(folder / "a.png", folder / "b.json") as (a, b):
        a.write_text("1")
        b.write_text("2")
        assert {a.parent, b.parent} == {folder} and (a.suffix, b.suffix) == (".png", ".json")
        assert not {"a.png", "b.json"} & set(names(folder))
    assert names(folder) == ["a.png", "b.json"] and (folder / "b.json").read_text() == "2"
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / "a.png").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_name_may_be_as_long_as_the_file_system_takes_it(tmp_path: Path) -> None:
    longest = "x" * 251 + ".png"
    with atomic_files(tmp_path / longest, tmp_path / ("x" * 250 + ".png")) as (a, b):
        a.write_text("1")
        b.write_text("2")
    assert (tmp_path / longest).read_text() == "1" and len(names(tmp_path)) == 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(28, "No space left on device"), UserError), (KeyError("a bug"), KeyError), (KeyboardInterrupt(), None)],
    ids=["disk", "bug", "Ctrl-C"],
)
def test_whatever_goes_wrong_leaves_what_was_there(
    tmp_path: Path, error: BaseException, raised: type[BaseException] | None
) -> None:
    (tmp_path / "a").write_text("before")
    with (
        pytest.raises(raised or KeyboardInterrupt) as caught,
        atomic_files(tmp_path / "a", tmp_path / "b") as (a, b),
    ):
        a.write_text("after")
        b.write_text("half")
        raise error
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "before"
    assert raised is not UserError or (str(tmp_path) in str(caught.value) and "No space" in str(caught.value))


def test_what_cannot_be_a_file_is_named_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (tmp_path / "file" / "a", "file"),
        (tmp_path / "folder", "folder"),
        (tmp_path / "pipe", "plain"),
    ):
        with pytest.raises(UserError, match=reason), atomic_files(tmp_path / "good", path):
            pytest.fail("the block ran")
    assert names(tmp_path) == ["file", "folder", "pipe"]
