"""Weights & Biases without account and network; what is logged offline is read back from W&B's own file."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from wandb.proto import wandb_internal_pb2

from anchor_lightning.cli import main
from anchor_lightning.training import loggers
from anchor_lightning.training.loggers import RUN_ID, WandbLogger, can_connect, continue_run, has_key, run_id_of
from tests.test_cli import SYNTHETIC

BLOCK, HEADER, PART_HEADER = 32768, 7, 7  # bytes of the log format that W&B's file has from LevelDB


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


class Answers(BaseHTTPRequestHandler):
    """Says 503 to who asks for /down, else 404."""

    def do_HEAD(self) -> None:
        self.send_error(503 if self.path.endswith("/down") else 404)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """The address of a server that answers."""
    with HTTPServer(("127.0.0.1", 0), Answers) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: a header, then blocks of parts (checksum, length, kind, bytes)."""
    data, position, record = path.read_bytes(), HEADER, b""
    while position + PART_HEADER <= len(data):
        if (left := BLOCK - position % BLOCK) < PART_HEADER:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        position += PART_HEADER + length
        if position > len(data):  # cut short
            return
        record += data[position - length : position]
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def whole(path: Path) -> list[Any]:
    """The records of the file of a finished run; W&B's own process may still be writing it."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = list(records(path))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end")


def items(entries: Any) -> dict[str, Any]:
    """Keys (nested ones joined by dots) and values."""
    return {entry.key or ".".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}


def test_without_a_key_it_is_offline_and_says_so_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        logger = WandbLogger(save_dir=str(tmp_path))
    assert logger._offline
    said = [record.getMessage() for record in caplog.records if "W&B" in record.getMessage()]
    assert len(said) == 1 and "offline" in said[0] and "\n" not in said[0]


def test_keys_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", server)
    assert not has_key(), "a key for another server is none"
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert has_key() and not WandbLogger(save_dir=str(tmp_path))._offline


def test_a_broken_netrc_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine")
    assert not has_key()


def test_a_key_without_a_network_is_offline_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closed: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    monkeypatch.setenv("WANDB_BASE_URL", closed)
    start = time.monotonic()
    with caplog.at_level("INFO"):
        logger = WandbLogger(save_dir=str(tmp_path), log_model=True)
    assert logger._offline and time.monotonic() - start < 5
    said = [record.getMessage() for record in caplog.records if "W&B" in record.getMessage()]
    assert len(said) == 1 and closed in said[0] and "offline" in said[0] and "\n" not in said[0]


def test_a_mode_of_the_users_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    assert not WandbLogger(save_dir=str(tmp_path))._offline, "without a key"
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    monkeypatch.setenv("WANDB_BASE_URL", closed)
    assert not WandbLogger(save_dir=str(tmp_path))._offline, "without a network"


def test_connections(monkeypatch: pytest.MonkeyPatch, server: str, silent: str, closed: str) -> None:
    assert can_connect(server) and not can_connect(closed)
    assert not can_connect(silent, 0.3) and not can_connect(f"{server}/down")
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setattr("urllib.request.proxy_bypass_environment", lambda host, proxies=None: False)
    assert can_connect("http://no.such.host.invalid"), "the proxy looks the name up"
    monkeypatch.setenv("http_proxy", closed)
    assert not can_connect(server), "the proxy is the only way"
    for nonsense in ("", "nonsense", "http://[", "http://host:port", "https://" + 70 * "a"):
        assert not can_connect(nonsense, 1.0)


def test_a_name_server_that_does_not_answer_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        time.sleep(3)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", hang)
    start = time.monotonic()
    assert not can_connect("https://api.wandb.ai", 0.2)
    assert time.monotonic() - start < 2


def test_a_checkpoint_without_a_run_continues_none(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "plain.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"nothing")
    logger = WandbLogger(save_dir=str(tmp_path))
    for name in ("plain.ckpt", "broken.ckpt", "missing.ckpt"):
        assert run_id_of(tmp_path / name) is None
        continue_run([logger], tmp_path / name)
    assert logger._wandb_init["id"] is None


def test_an_id_of_ones_own_and_never_win(tmp_path: Path) -> None:
    torch.save({RUN_ID: "abc"}, tmp_path / "run.ckpt")
    continued, own, never = (
        WandbLogger(save_dir=str(tmp_path), **options) for options in ({}, {"id": "mine"}, {"resume": "never"})
    )
    continue_run([continued, own, never], tmp_path / "run.ckpt")
    assert [logger._wandb_init["id"] for logger in (continued, own, never)] == ["abc", "mine", None]
    assert continued.version == "abc"


def test_what_is_logged_offline_can_be_read_back_and_resuming_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["anchor_lightning"])
    words = [*SYNTHETIC, "--config", "logger/wandb.yaml", "--prediction_pictures.num_images", "2"]
    words += ["--prediction_pictures.score_threshold", "0", "--anchor_logger.every_n_steps", "1"]
    main(["fit", *words])
    (first,) = (tmp_path / "runs" / "wandb").glob("offline-run-*")
    run_id = first.name.split("-")[-1]
    (file,) = first.glob("*.wandb")
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    history = []
    for record in whole(file):
        config |= items(record.config.update)
        summary |= items(record.summary.update)
        history += [items(record.history.item)] if record.history.item else []

    assert config["width"] == 0.1 and config["anchors"]["init"] == "identical" and config["num_classes"] == 4
    assert config["data"]["class_path"].endswith("SyntheticDataModule")
    assert config["data"]["init_args"]["num_train"] == 6
    assert config["soft_assignment"]["schedule"] == "geometric" and config["clustering"]["steps"] == 200
    assert config["trainer"]["max_steps"] == 2 and "logger" not in config["trainer"]
    assert summary["paper/title"] == "Anchor Box Optimization for Object Detection"
    assert {"paper/authors", "paper/venue", "paper/arxiv"} <= summary.keys()
    assert summary["anchors/table._type"] == "table-file" and summary["anchors/table.nrows"] == 5
    assert summary["anchors/animation._type"] == "videos"

    def logged(key: str) -> list[dict[str, Any]]:
        return [row for row in history if key in row or f"{key}._type" in row]

    assert [row["trainer/global_step"] for row in logged("anchors/0/w")] == [0, 1, 2]
    assert [row["trainer/global_step"] for row in logged("anchors/figure")] == [0, 2]
    assert logged("anchors/trajectory") and logged("anchors/usage_0") and logged("train/loss")
    (row,) = logged("val/predictions")
    assert row["trainer/global_step"] == 2 and row["val/predictions.count"] == 2
    assert row["val/predictions.width"] == row["val/predictions.height"] == 224, "the stored images"
    assert all((first / "files" / name).is_file() for name in row["val/predictions.filenames"])
    for boxes in row["val/predictions.all_boxes"]:
        found, ground_truths = (
            json.loads((first / "files" / boxes[group]["path"]).read_text())["box_data"]
            for group in ("predictions", "ground_truth")
        )
        assert ground_truths and all(box["domain"] == "pixel" for box in found + ground_truths)
        assert all(0 <= box["scores"]["score"] <= 1 for box in found)

    with caplog.at_level("INFO"):
        main(["fit", *words, "--trainer.max_steps", "4", "--ckpt_path", "last"])
    assert f"continues the run {run_id}" in caplog.text
    names = [folder.name for folder in (tmp_path / "runs" / "wandb").glob("offline-run-*")]
    assert len(names) <= 2 and all(name.endswith(run_id) for name in names), "one run to W&B"
    folders = [tmp_path / "runs" / f"version_{n}" for n in (0, 1)]
    assert [run_id_of(folder / "checkpoints" / "last.ckpt") for folder in folders] == [run_id, run_id]
    assert all((folder / "anchors.gif").exists() for folder in folders)


def test_the_public_server_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loggers.base_url() == "https://api.wandb.ai"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert loggers.base_url() == "https://wandb.example.org"
