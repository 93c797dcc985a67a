"""The directions of imports within the package, as `setup.cfg` states them."""

from __future__ import annotations

from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports


def test_contracts_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[1])
    status = lint_imports(no_cache=True, show_timings=False)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out
