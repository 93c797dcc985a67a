"""What was learned, written so that it loads without this package: torchvision checkpoints and their anchors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from anchor_lightning.detectors.torchvision.generators import LearnableAnchors
from anchor_lightning.training.run_folder import run_folder

CELLS: Final = "cell_anchors"
"""Entry of a checkpoint that holds the anchors of a frozen detector, level by level; its state dict has none."""
TRAINING_ONLY: Final = ("optimizer_states", "lr_schedulers", "callbacks")


def generator_prefix(detector: nn.Module) -> str:
    """Name of the anchor generator within a torchvision detector."""
    return "rpn.anchor_generator" if hasattr(detector, "rpn") else "anchor_generator"


def cells_of(detector: nn.Module) -> list[Tensor]:
    """The anchors of a frozen detector, level by level: `cell_anchors`, or `_wh_pairs` of SSD."""
    generator = detector.get_submodule(generator_prefix(detector))
    return [cells.detach().cpu().clone() for cells in getattr(generator, _attribute(generator))]


def set_cells(detector: nn.Module, cells: list[Tensor]) -> None:
    """Gives a frozen detector the anchors that `cells_of` read."""
    generator: Any = detector.get_submodule(generator_prefix(detector))
    setattr(generator, _attribute(generator), list(cells))


def write_frozen_checkpoints(trainer: Trainer, name: str, detector: nn.Module, learned: nn.Module) -> None:
    """Writes `frozen.ckpt` and `cell_anchors.pt`, and those of the best checkpoint; says how to load them.

    Every rank is to call it.

    Args:
        trainer: Whose module holds the detector.
        name: Of the detector within the module.
        detector: The frozen detector.
        learned: Its learnable generator of before.
    """
    folder = trainer.strategy.broadcast(run_folder(trainer) if trainer.is_global_zero else None)
    if folder is None:
        return
    trainer.save_checkpoint(folder / "frozen.ckpt", weights_only=True)
    if not trainer.is_global_zero:
        return
    checkpoint = torch.load(folder / "frozen.ckpt", map_location="cpu", weights_only=False)
    _write(folder, "", checkpoint, cells_of(detector))
    prefix = ".".join(filter(None, (name, generator_prefix(detector))))
    if (best := _best_checkpoint(trainer)) is not None:
        _write_best(folder, best, prefix, learned)
    attribute = _attribute(detector.get_submodule(generator_prefix(detector)))
    rank_zero_info(
        f"{type(detector).__name__} of torchvision with the learned anchors: "
        f"module = {type(trainer.lightning_module).__name__}.load_from_checkpoint('{folder / 'frozen.ckpt'}'); "
        f"module.{prefix}.{attribute} = torch.load('{folder / 'cell_anchors.pt'}')"
    )


def _best_checkpoint(trainer: Trainer) -> Path | None:
    """The best checkpoint by a metric, if this training has written it.

    A resumed one takes the path from the checkpoint that it was given, and what lies there is loaded with code and all.
    """
    callback = trainer.checkpoint_callback
    folder, best = getattr(callback, "dirpath", None), Path(getattr(callback, "best_model_path", "") or ".")
    is_own = folder is not None and best.is_file() and best.is_relative_to(folder)
    return best if is_own and getattr(callback, "monitor", None) else None


def _write_best(folder: Path, best: Path, prefix: str, learned: nn.Module) -> None:
    checkpoint = torch.load(best, map_location="cpu", weights_only=False)
    weights = checkpoint["state_dict"]
    own = {key: weights.pop(key) for key in list(weights) if key.startswith(f"{prefix}.")}
    if not own:
        return
    twin = copy.deepcopy(learned).cpu()
    twin.load_state_dict({key.removeprefix(f"{prefix}."): value for key, value in own.items()})
    assert isinstance(twin, LearnableAnchors)
    frozen = twin.to_torchvision()
    _write(folder, "-best", checkpoint, getattr(frozen, _attribute(frozen)))


def _write(folder: Path, suffix: str, checkpoint: dict[str, Any], cells: list[Tensor]) -> None:
    checkpoint = {key: value for key, value in checkpoint.items() if key not in TRAINING_ONLY} | {CELLS: cells}
    torch.save(checkpoint, folder / f"frozen{suffix}.ckpt")
    torch.save(cells, folder / f"cell_anchors{suffix}.pt")


def _attribute(generator: nn.Module) -> str:
    return "_wh_pairs" if hasattr(generator, "_wh_pairs") else "cell_anchors"
