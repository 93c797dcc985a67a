"""Weights & Biases without an account or a network: offline unless there is a key and the server answers."""

from __future__ import annotations

import netrc
import os
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from threading import Thread
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, build_opener

import torch
import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from anchor_lightning.training.checkpoint_files import OURS

PAPER: Final = {
    "paper/title": "Anchor Box Optimization for Object Detection",
    "paper/authors": "Yuanyi Zhong, Jianfeng Wang, Jian Peng, Lei Zhang",
    "paper/venue": "WACV 2020",
    "paper/arxiv": "https://arxiv.org/abs/1812.00469",
}
"""What every run's summary says of the method."""
RUN_ID: Final = "wandb_run_id"
"""Key of a checkpoint that holds the id of the W&B run it was written by."""
RECORDED: Final = ("seed_everything", "data", "soft_assignment", "clustering", "trainer")
"""Parts of the configuration that W&B is told, beside the model's hyper-parameters, which Lightning tells it."""
CONNECT_SECONDS: Final = 3.0


class WandbLogger(LightningWandbLogger):
    """Lightning's W&B logger, which runs offline and says so in one line when there is no key or no way to the server.

    A WANDB_MODE in the environment wins over both. `fit --ckpt_path` continues the run that wrote the checkpoint: it
    carries the run's id (`resume: never` or an `id` of your own starts another one). Offline, nothing can be continued:
    the resumed training writes a second folder with the same id, and `wandb sync` uploads both into one run.

    Args:
        project: W&B project.
        name: Name of the run; W&B makes one up if not given.
        save_dir: Folder that gets W&B's own `wandb/` folder; the command line sets `trainer.default_root_dir`.
        offline: Log to files only; `wandb sync` uploads them later.
        log_model: Whether checkpoints are uploaded; never when offline.
        kwargs: Passed on to `wandb.init`.
    """

    def __init__(
        self,
        project: str = "anchor-lightning",
        name: str | None = None,
        save_dir: str = "runs",
        offline: bool = False,
        log_model: bool = False,
        **kwargs: Any,
    ) -> None:
        if not offline and os.environ.get("WANDB_MODE") is None and (reason := why_offline()):
            offline = True
            rank_zero_info(reason)
        log_model = log_model and not offline
        folder = Path(save_dir).absolute()
        super().__init__(project=project, name=name, save_dir=folder, offline=offline, log_model=log_model, **kwargs)
        self._wandb_init.pop("anonymous", None)  # Lightning sets it; W&B warns that it has no effect any more

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started on first use."""
        if self._experiment is None and self.save_dir is not None:
            # W&B falls back to a temporary folder where this one does not exist.
            Path(self.save_dir).mkdir(parents=True, exist_ok=True)
        return super().experiment

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Adds hyper-parameters to the run's config, and the paper to its summary."""
        super().log_hyperparams(params)
        self.experiment.summary.update(PAPER)


class RunRecord(SaveConfigCallback):
    """Saves `config.yaml`, tells W&B the configuration, and keeps both it and the W&B run's id in the checkpoints."""

    @cached_property
    def _text(self) -> str:
        return str(self.parser.dump(self.config, skip_none=False))

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Adds the parts of the configuration that are no hyper-parameters of the model to the run's config."""
        # Through the parser's own text, which turns paths and classes into plain types.
        config = yaml.safe_load(self.parser.dump(self.config))
        recorded = {part: config[part] for part in RECORDED if part in config}
        for part in ("logger", "callbacks"):
            recorded.get("trainer", {}).pop(part, None)
        for logger in trainer.loggers:
            if isinstance(logger, LightningWandbLogger):
                logger.log_hyperparams(recorded)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration, which `--resume` compares, and the id of the W&B run."""
        ours = checkpoint.setdefault(OURS, {})
        ours["config"] = self._text
        for logger in trainer.loggers:
            if isinstance(logger, LightningWandbLogger) and logger.version is not None:
                checkpoint[RUN_ID] = str(logger.version)


def continue_run(loggers: Sequence[Logger], checkpoint: str | Path) -> None:
    """Makes W&B loggers that have not logged yet continue the run that wrote a checkpoint.

    Nothing is done where an id or `resume: never` was given, or the checkpoint was written without W&B.
    """
    for logger in loggers:
        if isinstance(logger, LightningWandbLogger):
            options = logger._wandb_init
            if options["id"] is None and options["resume"] != "never" and (run_id := run_id_of(checkpoint)):
                logger._id = options["id"] = run_id
                rank_zero_info(f"W&B: this continues the run {run_id}.")


def run_id_of(checkpoint: str | Path) -> str | None:
    """The id of the W&B run that wrote a checkpoint; None if it has none or cannot be read."""
    try:
        # Mapped: the weights, hundreds of megabytes, are not read for it.
        run_id = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True).get(RUN_ID)
    except (OSError, RuntimeError, UnpicklingError, AttributeError):
        return None  # the trainer is about to read it, and says what is wrong with it
    return run_id if isinstance(run_id, str) else None


def why_offline() -> str | None:
    """A line that says why W&B cannot be used online: no key, or no way to its server; None if it can."""
    if not has_key():
        return "No W&B key: the run is logged offline (to upload: `wandb login` or WANDB_API_KEY, then `wandb sync`)."
    if not can_connect(base_url()):
        return f"W&B at {base_url()} cannot be reached: the run is logged offline (to upload: `wandb sync`)."
    return None


def base_url() -> str:
    """The W&B server, from WANDB_BASE_URL or its public one."""
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def can_connect(url: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Whether a server answers, through the proxy that the environment names for it if there is one.

    W&B itself waits a minute and a half before it gives up.

    Args:
        url: `http://` or `https://` address.
        seconds: How long to wait, looking up the name included.
    """
    connected: list[bool] = []

    def connect() -> None:
        with suppress(OSError, ValueError, HTTPException):  # ValueError: an address that is none
            try:
                # A server that takes connections may still never answer, or have failed; W&B would wait for minutes.
                build_opener().open(Request(url, method="HEAD"), timeout=seconds).close()
            except HTTPError as error:
                connected.extend([True] * (error.code < 500))
            else:
                connected.append(True)

    # In a thread: a name server that does not answer holds up the look-up for much longer than any timeout given here.
    thread = Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(connected)


def has_key() -> bool:
    """Whether W&B would find a key: in WANDB_API_KEY or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(base_url()).hostname or ""
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
