"""Which checkpoint a training goes on from: the newest one, or the newest one of the same configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from lightning.pytorch.utilities import rank_zero_info

from anchor_lightning.checkpoint_files import NEWEST, OURS, find_checkpoint, newest_checkpoints, read_checkpoint

DECISIVE: Final = ("seed_everything", "model", "data", "soft_assignment", "clustering")
"""Parts of a configuration that make a training what it is; the rest says where and how long."""
INDIFFERENT: Final = ("data.num_workers", "data.val_image_size", "data.val_split", "data.test_split")
"""Options in these parts that training does not depend on."""


def checkpoint_of(given: str | Path | None, resume: bool, root: str | Path, config: str) -> Path | None:
    """The checkpoint that `fit` goes on from; None to start afresh, which is said.

    Args:
        given: `--ckpt_path`: a file, `last`, or None.
        resume: `--resume`: the newest run of the same configuration, if there is one.
        root: Where the run folders lie.
        config: This run's whole configuration, as YAML.

    Raises:
        ValueError: A file that was named does not exist, or all checkpoints of a run are damaged.
    """
    if given is not None and given != NEWEST:
        return find_checkpoint(given)
    if given is None and not resume:
        return None
    differing = ""
    for path in newest_checkpoints(Path(root)):
        if given == NEWEST:
            return path
        theirs = read_checkpoint(path)[OURS].get("config")
        difference = next(differences(theirs, config), "") if theirs else "it does not say with which configuration"
        if not difference:
            rank_zero_info(f"--resume: the run goes on from {path}.")
            return path
        differing = differing or f" The newest, {path}, is of another run: {difference}. --ckpt_path takes it anyway."
    asked = "--resume" if given is None else "--ckpt_path last"
    rank_zero_info(f"{asked}: no checkpoint to go on from under {root}; the training starts afresh.{differing}")
    return None


def differences(theirs: str, ours: str) -> Iterator[str]:
    """The decisive options that two configurations, as YAML, both have and set differently, with both values."""
    flat = [flatten({part: config.get(part) for part in DECISIVE}) for config in map(yaml.safe_load, (theirs, ours))]
    for name in flat[0].keys() & flat[1].keys() - set(INDIFFERENT):
        if flat[0][name] != flat[1][name]:
            yield f"{name} is {flat[0][name]} there and {flat[1][name]} here"


def flatten(config: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by their dotted names; `init_args` is left out of these."""
    if not isinstance(config, Mapping) or not config:
        return {name: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        inner = name if key == "init_args" else f"{name}.{key}".lstrip(".")
        flat |= flatten(value, inner)
    return flat
