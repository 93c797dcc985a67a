"""Weights & Biases without account and network; what is logged offline is read back from W&B's own file."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import wandb
from lightning.pytorch.loggers import CSVLogger
from wandb.proto import wandb_internal_pb2

from anchor_lightning.cli import main
from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import read_checkpoint
from anchor_lightning.training.loggers import RUN_ID, FallbackWandbLogger, continue_run, without_new_runs
from tests.helpers.launching import run
from tests.helpers.tiny_training import SYNTHETIC

BLOCK, HEADER, PART_HEADER = 32768, 7, 7  # bytes of the log format that W&B's file has from LevelDB
KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(Path("~/.cache").expanduser()))  # matplotlib's fonts take half a minute
    monkeypatch.setenv("HOME", str(tmp_path))


class Server(BaseHTTPRequestHandler):
    """W&B as far as a login asks it: it knows every key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        viewer = {"id": "1", "username": "me", "entity": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        answer = json.dumps({"data": {"viewer": viewer}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Host and port of a server that answers."""
    with HTTPServer(("127.0.0.1", 0), Server) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{listening.server_port}"
        listening.shutdown()


@pytest.fixture
def silent() -> Iterator[str]:
    """Host and port of a server that accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


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


def make_logger() -> None:
    del os.environ["WANDB_MODE"]
    logger = FallbackWandbLogger(save_dir="runs", log_model=True)
    print("mode:", logger._wandb_init.get("mode"), flush=True)
    logger.check()


def test_offline_unless_there_is_a_key_and_the_server_answers(tmp_path: Path, server: str, silent: str) -> None:
    (tmp_path / ".netrc").write_text(f"machine {server}\n  login user\n  password {KEY}\n")  # as W&B writes it
    cases = {
        "no key": {},
        "key in netrc": {"WANDB_BASE_URL": f"http://{server}"},
        "no answer": {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://{silent}", "WANDB_HTTP_TIMEOUT": "1"},
        "bad key": {"WANDB_API_KEY": "0123"},
        "bad address": {"WANDB_BASE_URL": "nonsense"},
    }
    # W&B keeps the settings that a process begins with.
    ended = run(tmp_path / "run", [], *cases.values(), program=make_logger)
    outputs = {name: said for name, (_, said) in zip(cases, ended, strict=True)}
    assert "mode: None" in outputs["key in netrc"]
    for name, word in {"no key": "wandb login", "no answer": silent, "bad key": "WANDB_API_KEY"}.items():
        assert "mode: offline" in outputs[name]
        (line,) = (line for line in outputs[name].splitlines() if "W&B" in line)
        assert word in line and "offline" in line
    last = outputs["bad address"].splitlines()[-1]
    assert "UserError" in last and "WANDB_BASE_URL" in last


def test_a_mode_of_the_users_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    assert "mode" not in FallbackWandbLogger(save_dir=str(tmp_path))._wandb_init, "without a key"


def test_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    for empty in (monkeypatch.delenv, lambda name, raising: monkeypatch.setenv(name, "")):
        empty("WANDB_PROJECT", raising=False)
        assert FallbackWandbLogger(offline=True).name == "anchor-lightning"
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    assert FallbackWandbLogger(offline=True).name == "mine"
    assert FallbackWandbLogger("given", offline=True).name == "given"


def test_a_run_that_wandb_rejects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(**_: object) -> None:
        raise wandb.errors.CommError("no such project")

    monkeypatch.setattr(wandb, "init", reject)
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(UserError, match="no such project"):
        FallbackWandbLogger(save_dir=str(tmp_path)).log_metrics({"loss": 1.0})


def test_which_run_is_continued(tmp_path: Path) -> None:
    content = {"state_dict": {"log_wh": torch.zeros(5, 2)}}
    for name, run_id in (("with", {RUN_ID: "abc"}), ("without", {})):
        torch.save(content | run_id, tmp_path / f"{name}.ckpt")
    given: list[dict[str, Any]] = [{}, {"id": "mine"}, {"resume": "never"}]
    loggers = [FallbackWandbLogger(save_dir=str(tmp_path), **options) for options in given]
    for name, first in (("without", None), ("with", "abc")):
        continue_run(loggers, tmp_path / f"{name}.ckpt")
        assert [logger._wandb_init["id"] for logger in loggers] == [first, "mine", None]
    assert loggers[0].version == "abc"
    with pytest.raises(UserError, match="missing"):
        continue_run([FallbackWandbLogger(save_dir=str(tmp_path))], tmp_path / "missing.ckpt")


def test_a_measurement_starts_no_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"log_wh": torch.zeros(5, 2)}, RUN_ID: "abc"}, tmp_path / "a.ckpt")
    new, continued = (FallbackWandbLogger(save_dir=str(tmp_path)) for _ in range(2))
    continue_run([continued], tmp_path / "a.ckpt")
    csv_logger = CSVLogger(str(tmp_path))
    assert without_new_runs([csv_logger, new, continued]) == [csv_logger, continued]


def best_of(name: str, file: Path) -> set[str]:
    """What the summary keeps of a metric."""
    metrics = [record.metric for record in whole(file) if record.metric.name == name]
    return {kind for kind in ("max", "last") for metric in metrics if getattr(metric.summary, kind)}


@pytest.mark.usefixtures("elsewhere")
def test_what_is_logged_offline_can_be_read_back_and_resuming_continues_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_MODE")
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

    assert config["detector"]["init_args"]["width"] == 0.1 and config["anchors"]["init"] == "identical"
    assert config["num_classes"] == 4 and config["data"]["init_args"]["num_train"] == 6
    assert config["soft_assignment"]["schedule"] == "geometric" and config["clustering"]["steps"] == 200
    assert config["trainer"]["max_steps"] == 2 and "logger" not in config["trainer"]
    assert {"paper/title", "paper/authors", "paper/venue", "paper/arxiv"} <= summary.keys()
    assert summary["anchors/table._type"] == "table-file" and summary["anchors/table.nrows"] == 5
    assert summary["anchors/animation._type"] == "videos"
    assert config["run"] == {"folder": str(Path("runs", "version_0")), "name": "version_0"}
    assert any(key.startswith("anchors/chart") for key in summary), "one chart of all shapes"
    learned = (first / "files" / "anchors.json").read_text()
    assert learned == (tmp_path / "runs" / "version_0" / "anchors.json").read_text(), "with all digits"
    assert {"max", "last"} <= best_of("val/map_50", file), "the summary keeps the best"

    def logged(key: str) -> list[dict[str, Any]]:
        return [row for row in history if key in row or f"{key}._type" in row]

    assert [row["trainer/global_step"] for row in logged("anchors/0/w")] == [0, 1, 2]
    assert [row["trainer/global_step"] for row in logged("anchors/figure")] == [0, 2]
    assert logged("anchors/trajectory") and logged("anchors/usage_0") and logged("train/loss")
    assert any(key.startswith("lr-SGD") for row in history for key in row), "the learning rate"
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
        main(["validate", *words, "--ckpt_path", "last"])
    assert f"continues the run {run_id}" in caplog.text, "a measurement belongs to the run of its checkpoint"
    caplog.clear()
    with caplog.at_level("INFO"):
        main(["fit", *words, "--trainer.max_steps", "4", "--ckpt_path", "last"])
    assert f"continues the run {run_id}" in caplog.text
    names = [folder.name for folder in (tmp_path / "runs" / "wandb").glob("offline-run-*")]
    assert len(names) <= 3 and all(f"-{run_id}" in name for name in names), "one run to W&B"
    folders = [tmp_path / "runs" / f"version_{n}" for n in (0, 2)]  # that of `validate` lies between
    assert [read_checkpoint(folder / "checkpoints" / "last.ckpt")[RUN_ID] for folder in folders] == [run_id, run_id]
    assert all((folder / "anchors.gif").exists() for folder in folders)


def test_wandb_says_little_unless_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own summary is longer than the table of results that it follows."""
    assert FallbackWandbLogger(offline=True)._wandb_init["settings"] == {"quiet": True}
    assert FallbackWandbLogger(offline=True, settings={"silent": True})._wandb_init["settings"] == {"silent": True}
    monkeypatch.setenv("WANDB_QUIET", "false")
    assert "settings" not in FallbackWandbLogger(offline=True)._wandb_init
