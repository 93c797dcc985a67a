"""Checks of a checkpoint before a run loads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import OURS


def check_checkpoint(checkpoint: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises an error for a checkpoint that was made with other options than those it must match.

    Args:
        checkpoint: As Lightning loads it.
        expected: By name of the argument, what this run has.

    Raises:
        UserError: One differs; names both values.
    """
    saved = checkpoint.get(OURS, {}).get("must_match")
    if saved is None:
        raise UserError("The checkpoint does not say what it was made with: it is not one of this project.")
    for name in sorted(expected.keys() | saved.keys(), key=lambda name: name != "detector"):
        if saved.get(name) != expected.get(name):
            raise UserError(
                f"the checkpoint was made with {saved.get(name)}, this run has {expected.get(name)}; give the "
                "configuration that it was made with (config.yaml in its run folder), or another checkpoint",
                argument=name,
            )


def check_weights(path: str | Path, checkpoint: Mapping[str, Any], own: Mapping[str, Any], resume: bool) -> None:
    """Refuses a checkpoint whose weights a network cannot take, or that a training cannot go on from.

    Args:
        path: The file, for the messages.
        checkpoint: As `read_checkpoint` returns it.
        own: The network's state dict.
        resume: Whether a training is to go on from it: with the optimizer's state and the place in the loops.

    Raises:
        ValueError: A weight is missing, of another shape or not finite; or what a resumed training needs is missing.
    """
    theirs = checkpoint["state_dict"]
    own = {name: value for name, value in own.items() if isinstance(value, Tensor)}  # a module may keep a dict there
    wrong = [name for name, value in own.items() if getattr(theirs.get(name), "shape", None) != value.shape]
    if wrong:
        raise ValueError(
            f"--ckpt_path: {path}: {len(wrong)} of the network's {len(own)} weights are missing in it or of another "
            f"shape, {wrong[0]} for one; it is damaged, or of another version of this project."
        )
    if wrong := [name for name in own if not theirs[name].isfinite().all()]:
        raise ValueError(
            f"--ckpt_path: {path}: holds numbers that are not finite, in {wrong[0]} for one. Take another."
        )
    if not resume:
        return
    if "optimizer_states" not in checkpoint:
        raise ValueError(f"--ckpt_path: {path} holds weights only; a training cannot go on from it")
    for part in ("optimizer_states", "loops", "pytorch-lightning_version"):
        if not checkpoint.get(part):
            raise ValueError(f"--ckpt_path: {path} lacks {part!r}; a training cannot go on from it")
