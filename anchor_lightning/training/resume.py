"""Which checkpoint a run loads: a training the newest one, or the newest one of the same configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_info

from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import (
    NEWEST,
    PROJECT_KEY,
    find_checkpoint,
    newest_checkpoints,
    read_checkpoint,
    requeue_checkpoints,
)

DECISIVE: Final = ("seed_everything", "model", "data", "soft_assignment", "clustering", "trainer")
INDIFFERENT: Final = (  # options in the decisive parts that training does not depend on
    r"data\.(num_workers|val_image_size|val_split|test_split)"
    r"|trainer\.(?!(accumulate_grad_batches|precision|gradient_clip_val|gradient_clip_algorithm|limit_train_batches"
    r"|overfit_batches)$).*"
)
# A run keeps the precision that it has on a processor without bf16 instructions, where its configuration files have the
# other.
FALLBACK: Final = ("trainer.precision", "32-true", "bf16-mixed")


def checkpoint_of(
    given: str | Path | None, resume: bool, folders: Sequence[Path], config: str, precision_is_given: bool = False
) -> Path | None:
    """The checkpoint that `fit` goes on from; None to start afresh, which is said.

    Args:
        given: A file, `last`, `best`, or None.
        resume: Whether to take the newest run of the same configuration; where there is none, what was given.
        folders: Where the run folders lie; the first is the trainer's `default_root_dir`.
        config: This run's whole configuration, as YAML.
        precision_is_given: Whether its precision stands on the command line: then a run in another one is another run.

    Raises:
        UserError: The file does not exist, a run's checkpoints are damaged, or SLURM's requeueing left another run's.
    """
    differing = ""
    for path in newest_checkpoints(folders, strict=not resume) if resume or given == NEWEST else ():
        if not resume:
            return path
        if not (difference := _difference(path, config, precision_is_given)):
            rank_zero_info(f"resume: the run goes on from {path}.")
            return path
        differing = differing or f" The newest, {path}, is of another run: {difference}. As ckpt_path it is taken."
    if given is not None and given != NEWEST:
        return find_checkpoint(given, *folders)
    # Lightning takes the newest by itself, whatever run it is of.
    if SLURMEnvironment.detect() and (requeued := requeue_checkpoints(folders[0])):
        if difference := _difference(requeued[0], config, precision_is_given):
            raise UserError(
                f"in a job of SLURM's, Lightning goes on from {requeued[0]}, which is of another run: {difference}; "
                "move it away, or give another folder",
                "default_root_dir",
            )
        return requeued[0]
    if resume or given:
        asked = "resume" if resume else "ckpt_path last"
        places = " or ".join(map(str, folders))
        nothing = f"no checkpoint to go on from under {places}; the training starts afresh"
        rank_zero_info(f"{asked}: {nothing}.{differing}")
    return None


def measured_checkpoint(given: str | Path | None, folders: Sequence[Path]) -> Path | None:
    """The checkpoint that `validate`, `test` and `predict` load; None where none is given: weights may be.

    Args:
        given: A file, `last`, `best`, or None.
        folders: Where the run folders lie; the first is the trainer's `default_root_dir`.

    Raises:
        UserError: The file does not exist; or none is given, and SLURM's requeueing left one.
    """
    if given is not None:
        return find_checkpoint(given, *folders)
    # Lightning takes the newest by itself, also where darknet's weights are to be measured.
    if SLURMEnvironment.detect() and (requeued := requeue_checkpoints(folders[0])):
        raise UserError(
            f"is not given, and in a job of SLURM's Lightning would load {requeued[0]}; give FILE, last or best, or "
            "move that file away",
            "ckpt_path",
        )
    return None


def _difference(path: Path, config: str, precision_is_given: bool) -> str:
    """The first decisive option in which a checkpoint's run differs, with both values; else empty."""
    try:
        theirs = _config_of(path)
    except UserError as error:
        return error.message
    if not theirs:
        return "it does not say with which configuration"
    configs = map(yaml.safe_load, (theirs, config))
    there, here = (_flatten({part: whole.get(part) for part in DECISIVE}) for whole in configs)
    for name in sorted(there.keys() | here.keys()):
        values = there.get(name, "unset"), here.get(name, "unset")
        falls_back = (name, *values) == FALLBACK and not precision_is_given
        if not re.fullmatch(INDIFFERENT, name) and values[0] != values[1] and not falls_back:
            return f"{name} is {values[0]} there and {values[1]} here"
    return ""


def precision_of(path: Path) -> str | None:
    """The trainer's precision in the run of a checkpoint; None where the checkpoint does not say it."""
    config = yaml.safe_load(_config_of(path) or "{}")
    return (config.get("trainer") or {}).get("precision")


def _config_of(path: Path) -> str | None:
    config: str | None = read_checkpoint(path).get(PROJECT_KEY, {}).get("config")
    return config


def _flatten(config: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted names; a mapping by numbers (rates by step) is a leaf."""
    if not isinstance(config, Mapping) or not config or not all(isinstance(key, str) for key in config):
        return {name: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, name if key == "init_args" else f"{name}.{key}".lstrip("."))
    return flat
