"""Lightning's sub-commands, with configurations by name and a run folder that always holds the same files."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any, Final

from jsonargparse import Namespace, set_dumper
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from anchor_lightning import callbacks
from anchor_lightning.callbacks import (
    BestCheckpoint,
    EvaluationFiles,
    RunCheckpoint,
    StepProgressBar,
    ValidationSummary,
)
from anchor_lightning.cli.help import ALL
from anchor_lightning.cli.logger_options import listed, prepare_loggers, run_folders
from anchor_lightning.cli.precision import OPTION, run_precision
from anchor_lightning.cli.results import metrics_text
from anchor_lightning.commands.configs import dump_yaml
from anchor_lightning.commands.reporting import COMMAND, ShortErrors, option_names
from anchor_lightning.data import DetectionDataModule
from anchor_lightning.data.trainer_options import check_place
from anchor_lightning.errors import UserError
from anchor_lightning.task import DetectionTask
from anchor_lightning.training import trainer_checks
from anchor_lightning.training.checkpoint_files import (
    DEFAULT_ROOT,
    PROJECT_KEY,
    check_checkpoint,
    check_weights,
    read_checkpoint,
)
from anchor_lightning.training.launchers import check_launcher, describe, started_by_lightning
from anchor_lightning.training.loggers import FallbackWandbLogger, RunRecord, continue_run, in_order, without_new_runs
from anchor_lightning.training.resume import checkpoint_of, measured_checkpoint

CALLBACKS: Final[dict[str, type]] = {  # section of a configuration -> callback with these options
    "soft_assignment": callbacks.SoftAssignment,
    "clustering": callbacks.ClusteringDecay,
    "anchor_logger": callbacks.AnchorLogger,
    "prediction_pictures": callbacks.PredictionPictures,
    "prediction_writer": callbacks.PredictionWriter,
    "best_checkpoint": BestCheckpoint,  # before the next, so that `last.ckpt` knows it
    "checkpoint": RunCheckpoint,
}
RESUME: Final = "resume"
QUIET: Final[dict[str, dict[str, bool]]] = {  # arguments of the trainer's methods
    "validate": {"verbose": False},  # `metrics_text` is shown instead
    "test": {"verbose": False},
    "predict": {"return_predictions": False},  # nobody takes them; `PredictionWriter` writes them
}
TRAINER_DEFAULTS: Final = {
    "default_root_dir": DEFAULT_ROOT,
    "use_distributed_sampler": False,
    "enable_model_summary": False,  # `_check_early` says the number of parameters
}


class TrainerParser(ShortErrors, LightningArgumentParser):
    """Parser of Lightning's sub-commands."""

    all_options = ALL

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def dump(self, cfg: Namespace, *args: Any, **kwargs: Any) -> str:
        """The configuration as text that every sub-command takes: without the word `resume` of `fit`."""
        cfg = cfg.clone()
        cfg.pop(RESUME, None)
        return str(super().dump(cfg, *args, **kwargs))


class AnchorLightningCLI(LightningCLI):
    """LightningCLI with our callbacks, the data module's classes linked to the model, and a CSV logger always first."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the callbacks' options and the links."""
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments("checkpoint.dirpath", "best_checkpoint.dirpath")
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("data.image_size", "model.image_size", compute_fn=list, apply_on="instantiate")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without the arguments that only one of them would take: a configuration serves them all."""
        return {name: skipped | set(QUIET.get(name, ())) for name, skipped in LightningCLI.subcommands().items()}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        return super()._prepare_subcommand_kwargs(subcommand) | QUIET.get(subcommand, {})

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                f"--{RESUME}",
                action="store_true",
                help="Go on from the newest run of this configuration; where there is none, start afresh.",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Notes whether the precision is given beside the configuration files, too."""
        words = sys.argv[1:] if args is None else args
        self._precision_is_given = not isinstance(words, list) or OPTION in {word.partition("=")[0] for word in words}
        super().parse_arguments(parser, args)

    def _parse_ckpt_path(self) -> None:
        # Lightning lets the checkpoint's hyper-parameters silently win; here the configuration counts.
        if not (subcommand := self.config.get("subcommand")):
            return
        config = self.config[subcommand]
        folders = run_folders(config)
        if subcommand != "fit":
            path = measured_checkpoint(config.ckpt_path, folders)
            config.ckpt_path = path and str(path)
            self._choose_precision(config.trainer, None)
            return
        text = self._parser(subcommand).dump(config, skip_unset=False)
        resume = config.pop(RESUME)  # config.yaml is to repeat this run, and serves the other sub-commands as well
        path = checkpoint_of(config.ckpt_path, resume, folders, text, self._precision_is_given)
        config.ckpt_path = path and str(path)
        self._choose_precision(config.trainer, path)
        if sys.argv[1:2] == [subcommand]:
            # The processes that DDP starts with these arguments must not choose for themselves.
            sys.argv[:] = [arg for arg in sys.argv if arg != "--resume"]
            sys.argv += [f"--ckpt_path={path}"] if path else []

    def _choose_precision(self, trainer: Namespace, checkpoint: Path | None) -> None:
        given = trainer.accelerator, trainer.precision, self._precision_is_given
        trainer.precision = run_precision(*given, checkpoint)

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise UserError(str(error), argument="seed_everything") from None

    def before_instantiate_classes(self) -> None:
        """Chooses our W&B logger, and puts what the loggers write where the run folders are, unless told otherwise."""
        prepare_loggers(self._get(self.config, "trainer"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with a CSV logger first: its folder is the run's, and holds the config and the checkpoints."""
        trainer = self._get(self.config_init, "trainer")
        loggers = [logger for logger in listed(trainer.logger) if isinstance(logger, Logger)]
        for logger in loggers:
            if isinstance(logger, FallbackWandbLogger):
                logger.check()
        if not trainer.barebones and not any(isinstance(logger, CSVLogger) for logger in loggers):
            loggers.append(CSVLogger(trainer.default_root_dir, name=""))
        if checkpoint := self._get(self.config, "ckpt_path"):
            continue_run(loggers, checkpoint)
        if self.subcommand != "fit":
            loggers = without_new_runs(loggers)
        try:
            return super().instantiate_trainer(logger=in_order(loggers) or False, **kwargs)
        # Options that do not go together, or with the machine, or with the packages that there are.
        except (MisconfigurationException, ValueError, ImportError) as error:
            raise UserError(str(error)) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if config["barebones"] or config["enable_checkpointing"] is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
            if self.subcommand == "fit":
                rank_zero_info("No checkpoint is written, so the run cannot be resumed.")
        callbacks = [*callbacks, ValidationSummary(), EvaluationFiles()]
        if self.subcommand == "fit" and not config["barebones"] and not _has(LearningRateMonitor, config["callbacks"]):
            callbacks.append(LearningRateMonitor("step"))
        if config["benchmark"] is None:
            config["benchmark"] = not config["deterministic"]  # all images of a run have one size
        if config["barebones"]:
            self.save_config_callback = None  # there is no run folder
        elif config["enable_progress_bar"] is not False and not _has(ProgressBar, config["callbacks"]):
            callbacks.append(StepProgressBar())
        return super()._instantiate_trainer(config, callbacks)

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
        trainer: Any = self.trainer  # which has options that are set at run time
        if checkpoint := self._get(self.config, "ckpt_path"):
            content = read_checkpoint(checkpoint)
            check_checkpoint(content, self.model.must_match)
            check_weights(checkpoint, content, self.model.state_dict(), resume=subcommand == "fit")
        elif subcommand != "fit" and not (self.model.detector.is_trained or trainer.fast_dev_run):
            raise UserError(
                f"is not given, and {subcommand} would show what random weights find; give FILE, last or best "
                "(or, for YOLOv2 and YOLOv3, darknet's file of a whole network as model.detector.weights)",
                "ckpt_path",
            )
        for callback in trainer.callbacks if subcommand == "fit" else ():
            if isinstance(callback, callbacks.SoftAssignment):
                callback.check(self.model)
        self.datamodule.trainer = self.trainer
        self.datamodule.prepare_data()
        self.datamodule.setup(subcommand)
        if checkpoint and subcommand == "fit":
            trainer_checks.check_whole_step(content)
            trainer_checks.check_averaging(content, self.trainer)
            check_place(content.get(type(self.datamodule).__qualname__, {}), self.datamodule.state_dict())
        elif checkpoint:
            trainer_checks.say_other_size(content, self.datamodule.val_image_size)
        else:
            self.model.check_start(self.datamodule)
        if subcommand == "fit":
            total = sum(parameter.numel() for parameter in self.model.parameters())
            rank_zero_info(
                f"{type(self.model.detector).__name__}: {total:,} parameters, on {self.trainer.strategy.root_device}"
            )
            rank_zero_info(describe(self.trainer, self.datamodule.batch_size))

    @rank_zero_only
    def _show_metrics(self) -> None:
        print(metrics_text(self.trainer.callback_metrics))

    after_validate = after_test = _show_metrics

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            check_launcher(self.trainer)
            trainer_checks.check_callbacks(self.trainer)
            if subcommand == "fit":
                trainer_checks.check_precision(self.trainer)
            self._check_early(subcommand)
            if subcommand == "fit" and self._is_done():
                return
            super()._run_subcommand(subcommand)
        finally:
            for logger in self.trainer.loggers:
                # The next run of this process is a run of its own; one that never began need not be ended.
                if isinstance(logger, LightningWandbLogger) and logger._experiment is not None:
                    logger.experiment.finish()


def _has(kind: type[Callback], given: list[Callback] | Callback | None) -> bool:
    return any(isinstance(callback, kind) for callback in listed(given))


def all_options() -> list[str]:
    """Names of the options of Lightning's sub-commands."""
    return ["ckpt_path", RESUME, *option_names({"model": DetectionTask, "trainer": Trainer} | CALLBACKS)]


def run_trainer(args: ArgsType = None) -> AnchorLightningCLI:
    """Runs one of Lightning's sub-commands with these arguments, else those of `sys.argv`.

    Raises:
        SystemExit: After help, an option that it does not take, or SIGTERM.
        UserError: Data, options, weights or a checkpoint are invalid.
    """
    set_dumper("yaml", dump_yaml)
    try:
        return AnchorLightningCLI(
            DetectionTask,
            DetectionDataModule,
            subclass_mode_data=True,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=RunRecord,
            save_config_kwargs={"overwrite": True},
            parser_class=TrainerParser,
            parser_kwargs={"prog": COMMAND},
            args=args,
        )
    except SIGTERMException:
        # Lightning ends with 0, as if the training had been finished. So does here a process that it has started: else
        # it would kill the first one, which may still be saving.
        raise SystemExit(0 if started_by_lightning() else 128 + signal.SIGTERM) from None
