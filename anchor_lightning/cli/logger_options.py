"""The loggers of a trainer's configuration, before they are made."""

from __future__ import annotations

from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, Final

from jsonargparse import Namespace, dict_to_namespace
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger

from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import DEFAULT_ROOT
from anchor_lightning.training.loggers import FallbackWandbLogger

TENSORBOARD: Final = "lightning.pytorch.loggers.TensorBoardLogger"
WANDB: Final = "lightning.pytorch.loggers.WandbLogger"


def listed(value: Any) -> list[Any]:
    """A value of the trainer's that may be one or several, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def prepare_loggers(trainer: Namespace) -> None:
    """Chooses our W&B logger, and puts what the loggers write where the run folders are, unless told otherwise.

    Raises:
        UserError: A logger needs a package that is not installed.
    """
    for logger in _logger_configs(trainer):
        if logger.class_path == WANDB:
            _take_our_wandb_logger(logger)
        if logger.class_path == TENSORBOARD and not any(map(find_spec, ("tensorboard", "tensorboardX"))):
            raise UserError("TensorBoardLogger needs a package: pip install tensorboard", "trainer.logger")
        if logger.get("init_args.save_dir") == DEFAULT_ROOT:  # a class may have no `init_args`
            logger.init_args.save_dir = trainer.default_root_dir


def _logger_configs(trainer: Namespace) -> list[Namespace]:
    return [logger for logger in listed(trainer.logger) if isinstance(logger, Namespace)]


def run_folders(config: Namespace) -> list[Path]:
    """Where runs of these options lie: a CSV logger of the user's own may put them elsewhere, as `dirpath` does."""
    places = [
        (logger.get("init_args.save_dir"), logger.get("init_args.name")) for logger in _logger_configs(config.trainer)
    ]
    own = [Path(folder, name or "") for folder, name in places if folder]
    given = [config.trainer.default_root_dir, config.checkpoint.dirpath]
    return list(dict.fromkeys([*(Path(folder) for folder in given if folder), *own]))


def _take_our_wandb_logger(logger: Namespace) -> None:
    """Puts our logger in the place of Lightning's own, which is the one that the short name finds, with its options."""
    import wandb  # a second, which no other command has to wait for

    known = signature(wandb.init).parameters | signature(LightningWandbLogger).parameters
    given = {name: value for name, value in logger.init_args.items() if value != known[name].default}
    logger.class_path = f"{FallbackWandbLogger.__module__}.{FallbackWandbLogger.__name__}"
    logger.init_args = dict_to_namespace({"save_dir": DEFAULT_ROOT} | given)
