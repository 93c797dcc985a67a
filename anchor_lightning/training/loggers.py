"""Weights & Biases without an account or a network: offline unless there is a key and the server answers."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import jsonargparse
import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import PROJECT_KEY, read_checkpoint
from anchor_lightning.training.files import run_folder

PAPER: Final = {
    "paper/title": "Anchor Box Optimization for Object Detection",
    "paper/authors": "Yuanyi Zhong, Jianfeng Wang, Jian Peng, Lei Zhang",
    "paper/venue": "WACV 2020",
    "paper/arxiv": "https://arxiv.org/abs/1812.00469",
}
BEST: Final = ("val/map", "val/map_50", "val/map_voc", "val/map_voc07")
RUN_ID: Final = "wandb_run_id"  # key of a checkpoint that holds the id of its W&B run


class FallbackWandbLogger(LightningWandbLogger):
    """Lightning's W&B logger, offline (which it says in a line) without a key or a way to the server.

    WANDB_MODE wins over both. `fit --ckpt_path` continues the run whose id the checkpoint carries, unless given
    `resume: never` or an `id`; offline it writes a second folder with that id, which `wandb sync` joins.

    Args:
        project: W&B project; WANDB_PROJECT if not given, and `anchor-lightning` without either.
        name: Name of the run; W&B makes one up if not given.
        save_dir: Folder that gets W&B's own `wandb/` folder; the command line sets `trainer.default_root_dir`.
        offline: Log to files only; `wandb sync` uploads them later.
        log_model: Whether checkpoints are uploaded; never when offline.
        kwargs: Passed on to `wandb.init`.
    """

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        save_dir: str = "runs",
        offline: bool = False,
        log_model: bool = False,
        **kwargs: Any,
    ) -> None:
        is_first = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # Lightning sets it on the function
        self._rejection: UserError | None = None
        if is_first and not offline and os.environ.get("WANDB_MODE") is None:
            try:
                reason = why_offline()
            except UserError as error:  # kept for `check`: jsonargparse loses what is raised while a list is made
                self._rejection, reason = error, None
            if reason:
                offline = True
                rank_zero_info(reason)
        if offline:
            # Lightning would set WANDB_MODE, which W&B reads once and the next logger would take for the user's.
            kwargs["mode"] = "offline"
        if os.environ.get("WANDB_QUIET") is None:
            kwargs.setdefault("settings", {"quiet": True})  # else its own summary of 20 lines follows the results
        project = project or os.environ.get("WANDB_PROJECT") or "anchor-lightning"
        log_model, folder = log_model and not offline, Path(save_dir).absolute()
        super().__init__(project=project, name=name, save_dir=folder, log_model=log_model, **kwargs)
        self._wandb_init.pop("anonymous", None)  # Lightning sets it; W&B warns that it has no effect any more

    def check(self) -> None:
        """Raises the `UserError` of a setting that W&B rejects (WANDB_BASE_URL, say)."""
        if self._rejection is not None:
            raise self._rejection

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, started on first use; a `UserError` where W&B does not start it."""
        self.check()
        if self._experiment is None and self.save_dir is not None:
            # W&B falls back to a temporary folder where this one does not exist.
            Path(self.save_dir).mkdir(parents=True, exist_ok=True)
        is_new = self._experiment is None
        with wandb_errors_for_users():
            run = super().experiment
        if is_new and hasattr(run, "define_metric"):
            for name in BEST:  # the summary keeps the best beside the last
                run.define_metric(name, step_metric="trainer/global_step", step_sync=True, summary="max,last")
        return run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Adds hyper-parameters to the run's config, and the paper to its summary."""
        super().log_hyperparams(params)
        self.experiment.summary.update(PAPER)


class RunRecord(SaveConfigCallback):
    """Saves `config.yaml`, and gives the configuration to W&B and, with the W&B run's id, to the checkpoints.

    The checkpoint that the run began with is no part of it: the configuration repeats the run, and measures others.
    """

    def __init__(self, parser: LightningArgumentParser, config: jsonargparse.Namespace, **kwargs: Any) -> None:
        super().__init__(parser, config.clone(), **kwargs)
        self.config.ckpt_path = None

    @cached_property
    def _text(self) -> str:
        return str(self.parser.dump(self.config, skip_unset=False))

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Adds the parts of the configuration that are no hyper-parameters of the model to the run's config."""
        # Through the parser's own text, which turns paths and classes into plain types.
        config = yaml.safe_load(self.parser.dump(self.config))
        recorded = {k: config[k] for k in ("seed_everything", "data", "soft_assignment", "clustering") if k in config}
        if (folder := run_folder(trainer)) is not None:
            recorded["run"] = {"folder": str(folder), "name": folder.name}
        recorded["trainer"] = {k: v for k, v in config["trainer"].items() if k not in ("logger", "callbacks")}
        for logger in _wandb_loggers(trainer.loggers):
            logger.log_hyperparams(recorded)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the configuration, which `--resume` compares, and the id of the W&B run."""
        checkpoint.setdefault(PROJECT_KEY, {})["config"] = self._text
        for logger in _wandb_loggers(trainer.loggers):
            if logger.version is not None:
                checkpoint[RUN_ID] = str(logger.version)


def continue_run(loggers: Sequence[Logger], checkpoint: str | Path) -> None:
    """Makes W&B loggers without an id, or `resume: never`, of their own continue the run that wrote a checkpoint.

    Raises:
        UserError: The checkpoint cannot be read.
    """
    for logger in _wandb_loggers(loggers):
        run_id, options = read_checkpoint(checkpoint).get(RUN_ID), logger._wandb_init
        if run_id and options["id"] is None and options["resume"] != "never":
            logger._id = options["id"] = run_id
            rank_zero_info(f"W&B: this continues the run {run_id}.")


def without_new_runs(loggers: Sequence[Logger]) -> list[Logger]:
    """The loggers without those of W&B that would start a run: a measurement belongs to the run of its checkpoint."""
    kept = [each for each in loggers if not isinstance(each, LightningWandbLogger) or each._wandb_init["id"]]
    if len(kept) < len(loggers):
        rank_zero_info("W&B: the checkpoint is of no run of W&B's, so nothing is logged there.")
    return kept


def in_order(loggers: Sequence[Logger]) -> list[Logger]:
    """CSV loggers first, whose folder is the run's; TensorBoard's without a version of their own get the run's."""
    ordered = sorted(loggers, key=lambda logger: not isinstance(logger, CSVLogger))
    for logger in ordered[1:]:
        if isinstance(logger, TensorBoardLogger) and logger._version is None:
            logger._version = ordered[0].version
    return ordered


def why_offline() -> str | None:
    """A line that says why W&B cannot be used online, as soon as it says so itself (WANDB_HTTP_TIMEOUT); else None."""
    import wandb  # a second, which no other command has to wait for

    if wandb.run is not None:  # the user's own, which the logger joins
        return None
    with wandb_errors_for_users():
        try:
            if wandb.login(prompt=False):
                return None
        except wandb.errors.AuthenticationError as error:
            reason = str(error).splitlines()[0]
            return f"W&B cannot be used ({reason}): the run is logged offline (to upload: `wandb sync`)."
    return "No W&B key: the run is logged offline (to upload: `wandb login` or WANDB_API_KEY, then `wandb sync`)."


@contextmanager
def wandb_errors_for_users() -> Iterator[None]:
    """Context in which W&B's own errors, and those of its settings, become a `UserError`."""
    from wandb.errors import Error

    try:
        yield
    except (Error, ValueError) as error:  # pydantic's, of an environment variable or an option, is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"W&B rejected the run: {reason}; see WANDB_MODE, WANDB_BASE_URL, `wandb login`, or train without it"
        ) from error


def _wandb_loggers(loggers: Sequence[Logger]) -> list[LightningWandbLogger]:
    return [logger for logger in loggers if isinstance(logger, LightningWandbLogger)]
