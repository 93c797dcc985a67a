"""The command line: Lightning's, with configurations by name and a run folder that always holds the same files."""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from pathlib import Path
from typing import Any, Final

from jsonargparse import DefaultHelpFormatter, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anchor_lightning import callbacks
from anchor_lightning.commands import command_options, is_command, run_command, summary
from anchor_lightning.commands.configs import named_configs
from anchor_lightning.commands.reporting import PROGRAM, TrainerParser, message_of, option_names
from anchor_lightning.commands.sources import data_paths
from anchor_lightning.data import DetectionDataModule
from anchor_lightning.errors import UserError
from anchor_lightning.task import DetectionTask
from anchor_lightning.training.checkpoint_files import (
    DEFAULT_ROOT,
    PROJECT_KEY,
    check_checkpoint,
    check_weights,
    find_checkpoint,
    read_checkpoint,
)
from anchor_lightning.training.launchers import check_launcher, describe, started_by_lightning
from anchor_lightning.training.loggers import RunRecord, WandbLogger, continue_run
from anchor_lightning.training.resume import checkpoint_of

KNOWN_WARNINGS: Final = (
    r".*isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning 2.6 on recent versions of torch
    r".*is not supported by the model summary",  # the size in MB, not the training
    r".*custom batch sampler `EvalBatchSampler`",  # it returns every index once, which is what is asked for
    r".*The dirpath has changed",  # a resumed run has a folder of its own
    r".*module\(s\) in eval mode at the start of training",  # the norms of a backbone that is frozen
)

CALLBACKS: Final[dict[str, type]] = {  # section of a configuration -> callback with these options
    "soft_assignment": callbacks.SoftAssignment,
    "clustering": callbacks.ClusteringDecay,
    "anchor_logger": callbacks.AnchorLogger,
    "prediction_pictures": callbacks.PredictionPictures,
    "prediction_writer": callbacks.PredictionWriter,
    "checkpoint": callbacks.Checkpoint,
}


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the list of sub-commands."""


class AnchorLightningCLI(LightningCLI):
    """LightningCLI with our callbacks, the data module's classes linked to the model, and a CSV logger always first."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the callbacks' options and the links."""
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("data.image_size", "model.image_size", compute_fn=list, apply_on="instantiate")

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--resume",
                action="store_true",
                help="Go on from the newest run of this configuration; where there is none, start afresh.",
            )
        return parser

    def _parse_ckpt_path(self) -> None:
        # Lightning lets the checkpoint's hyper-parameters silently win; here the configuration counts.
        if not (subcommand := self.config.get("subcommand")):
            return
        config = self.config[subcommand]
        root = config.trainer.default_root_dir
        if subcommand != "fit":
            config.ckpt_path = config.ckpt_path and str(find_checkpoint(config.ckpt_path, root))
            return
        text = self._parser(subcommand).dump(config, skip_none=False)
        resume = config.pop("resume")  # config.yaml is to repeat this run, and serves the other sub-commands as well
        folders = [Path(folder) for folder in (root, config.checkpoint.dirpath) if folder]
        path = checkpoint_of(config.ckpt_path, resume, folders, text)
        config.ckpt_path = path and str(path)
        if sys.argv[1:2] == [subcommand]:
            # The processes that DDP starts with these arguments must not choose for themselves.
            sys.argv[:] = [arg for arg in sys.argv if arg != "--resume"]
            sys.argv += [f"--ckpt_path={path}"] if path else []

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(str(error), argument="seed_everything") from None

    def before_instantiate_classes(self) -> None:
        """Puts what the loggers write where the run folders are, unless an option says otherwise."""
        trainer = self._get(self.config, "trainer")
        loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        for logger in loggers:
            if isinstance(logger, Namespace) and logger.init_args.get("save_dir") == DEFAULT_ROOT:
                logger.init_args.save_dir = trainer.default_root_dir

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with a CSV logger first: its folder is the run's, and holds the config and the checkpoints."""
        trainer = self._get(self.config_init, "trainer")
        given = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
        loggers = [logger for logger in given if isinstance(logger, Logger)]
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.check()
        if not any(isinstance(logger, CSVLogger) for logger in loggers):
            loggers.append(CSVLogger(trainer.default_root_dir, name=""))
        if self.subcommand == "fit" and (checkpoint := self._get(self.config, "ckpt_path")):
            continue_run(loggers, checkpoint)
        loggers.sort(key=lambda logger: not isinstance(logger, CSVLogger))
        try:
            return super().instantiate_trainer(logger=loggers, **kwargs)
        except MisconfigurationException as error:  # trainer options that do not go together, or with the machine
            raise UserError(str(error)) from error

    def _is_done(self) -> bool:
        """Whether the checkpoint to go on from has all steps already: a requeued job may have ended."""
        if not (checkpoint := self._get(self.config, "ckpt_path")):
            return False
        content = read_checkpoint(checkpoint)
        step, steps = content.get("global_step", 0), self.trainer.max_steps
        if not 0 <= steps <= step:
            return False
        rank_zero_info(f"Nothing is left to train: {checkpoint} has {step} steps, trainer.max_steps is {steps}.")
        if content[PROJECT_KEY].get("validation_due"):
            rank_zero_info("Its last validation was cut short, and is done now.")
            self.trainer.validate(self.model, datamodule=self.datamodule, ckpt_path=checkpoint)
        return True

    @rank_zero_only
    def _check_early(self, subcommand: str) -> None:
        """Checks what the run needs before a logger makes a folder for it; rank 0 starts or ends the others."""
        if subcommand == "fit" and self.trainer.precision == "16-true":
            raise UserError(
                "16-true trains float16 weights without loss scaling, so that small gradients vanish unseen; use "
                "16-mixed, which scales, or bf16-mixed",
                "precision",
            )
        if checkpoint := self._get(self.config, "ckpt_path"):
            content = read_checkpoint(checkpoint)
            check_checkpoint(content, self.model.must_match)
            check_weights(checkpoint, content, self.model.state_dict(), resume=subcommand == "fit")
        in_use: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]  # set at run time
        for callback in in_use if subcommand == "fit" else ():
            if isinstance(callback, callbacks.SoftAssignment):
                callback.check(self.model)
        self.datamodule.trainer = self.trainer
        self.datamodule.prepare_data()
        self.datamodule.setup(subcommand)
        if not checkpoint:
            self.model.check_start(self.datamodule)
        if subcommand == "fit":
            rank_zero_info(describe(self.trainer, self.datamodule.batch_size))

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            check_launcher(self.trainer)
            self._check_early(subcommand)
            if subcommand == "fit" and self._is_done():
                return
            super()._run_subcommand(subcommand)
        finally:
            for logger in self.trainer.loggers:
                # The next run of this process is a run of its own; one that never began need not be ended.
                if isinstance(logger, LightningWandbLogger) and logger._experiment is not None:
                    logger.experiment.finish()


def _named(args: list[str]) -> list[str]:
    """Arguments with configurations by name, and data sets by path, replaced by what they stand for."""
    args = named_configs(args)
    return args if is_command(args) else data_paths(args)  # a command replaces the paths itself


def main(args: ArgsType = None) -> Any:
    """Runs a sub-command with these arguments, else those of `sys.argv`, and returns its result, or the CLI."""
    for message in KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message)
    own_options: list[str] = []
    try:
        if args is None:
            sys.argv[1:] = _named(sys.argv[1:])  # in place: DDP starts its other processes with the same
        elif isinstance(args, list):
            args = _named(args)
        given = sys.argv[1:] if args is None else args
        if isinstance(given, list) and is_command(given):
            own_options = command_options(given)
            return run_command(given)
        return AnchorLightningCLI(
            DetectionTask,
            DetectionDataModule,
            subclass_mode_data=True,
            trainer_defaults={"default_root_dir": DEFAULT_ROOT, "use_distributed_sampler": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=RunRecord,
            save_config_kwargs={"overwrite": True},
            parser_class=TrainerParser,
            parser_kwargs={"prog": PROGRAM, "epilog": summary(), "formatter_class": HelpFormatter},
            args=args,
        )
    except SIGTERMException:
        # Lightning ends with 0, as if the training had been finished. So does here a process that it has started: else
        # it would kill the first one, which may still be saving.
        raise SystemExit(0 if started_by_lightning() else 128 + signal.SIGTERM) from None
    except Exception as error:
        options = own_options or [
            "ckpt_path",
            "resume",
            *option_names({"model": DetectionTask, "trainer": Trainer} | CALLBACKS),
        ]
        if (text := message_of(error, options)) is None:
            raise
        raise SystemExit(f"{PROGRAM}: error: {text}") from None
