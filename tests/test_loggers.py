from __future__ import annotations

from pathlib import Path

import pytest

from anchor_lightning.loggers import WandbLogger, has_key


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_without_a_key_it_is_offline_and_says_so_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level("INFO"):
        logger = WandbLogger(save_dir=str(tmp_path))
    assert logger._offline
    said = [record.getMessage() for record in caplog.records if "W&B" in record.getMessage()]
    assert len(said) == 1 and "offline" in said[0] and "\n" not in said[0]


def test_keys_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key(), "a key for another server is none"
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert has_key() and not WandbLogger(save_dir=str(tmp_path))._offline


def test_a_broken_netrc_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine")
    assert not has_key()
