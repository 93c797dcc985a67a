"""Writes what was learned so that it loads without this package: stock checkpoints, and their anchors beside them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from anchor_lightning.detectors.torchvision.generators import LearnableAnchors

CELLS: Final = "cell_anchors"
"""The entry of a stock checkpoint that holds the anchors, which its state dict does not; a level's each."""
TRAINING_ONLY: Final = ("optimizer_states", "lr_schedulers", "callbacks")


def generator_prefix(detector: nn.Module) -> str:
    """Name of the anchor generator within a torchvision detector."""
    return "rpn.anchor_generator" if hasattr(detector, "rpn") else "anchor_generator"


def cells_of(detector: nn.Module) -> list[Tensor]:
    """The anchors of a stock detector, level by level: `cell_anchors`, or `_wh_pairs` of SSD."""
    generator = detector.get_submodule(generator_prefix(detector))
    return [cells.detach().cpu().clone() for cells in getattr(generator, _attribute(generator))]


def set_cells(detector: nn.Module, cells: list[Tensor]) -> None:
    """Gives a stock detector the anchors that `cells_of` read."""
    generator: Any = detector.get_submodule(generator_prefix(detector))
    setattr(generator, _attribute(generator), list(cells))


def write_stock_checkpoints(
    trainer: Trainer, name: str, detector: nn.Module, learned: nn.Module, folder: Path | None
) -> None:
    """Writes `frozen.ckpt` and `cell_anchors.pt`, and those of the best checkpoint; says how to load them.

    Every rank is to call it.

    Args:
        trainer: Whose module holds the detector.
        name: Of the detector within the module.
        detector: The stock detector.
        learned: Its learnable generator of before.
        folder: The run's, as rank 0 sees it; None writes nothing.
    """
    folder = trainer.strategy.broadcast(folder)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    trainer.save_checkpoint(folder / "frozen.ckpt", weights_only=True)
    if not trainer.is_global_zero:
        return
    checkpoint: dict[str, Any] = torch.load(folder / "frozen.ckpt", map_location="cpu", weights_only=False)
    _write(folder, "", checkpoint, cells_of(detector))
    prefix = ".".join(filter(None, (name, generator_prefix(detector))))
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if getattr(trainer.checkpoint_callback, "monitor", None) and _is_own(trainer, best):
        _write_best(folder, Path(best), prefix, learned)
    stock = detector.get_submodule(generator_prefix(detector))
    rank_zero_info(
        f"Stock {type(detector).__name__} with the learned anchors: "
        f"module = {type(trainer.lightning_module).__name__}.load_from_checkpoint('{folder / 'frozen.ckpt'}'); "
        f"module.{prefix}.{_attribute(stock)} = torch.load('{folder / 'cell_anchors.pt'}')"
    )


def _is_own(trainer: Trainer, best: str) -> bool:
    """Whether the best checkpoint is one that this training has written.

    A resumed one takes the path from the checkpoint that it was given, and what lies there is loaded with code and all.
    """
    written = getattr(trainer.checkpoint_callback, "dirpath", None)
    return bool(best) and Path(best).is_file() and written is not None and Path(best).is_relative_to(written)


def _write_best(folder: Path, best: Path, prefix: str, learned: nn.Module) -> None:
    """Turns the best checkpoint of the training into a stock one."""
    checkpoint = torch.load(best, map_location="cpu", weights_only=False)
    weights = checkpoint["state_dict"]
    mine = {key: weights.pop(key) for key in list(weights) if key.startswith(f"{prefix}.")}
    if not mine:
        return
    twin = copy.deepcopy(learned).cpu()
    twin.load_state_dict({key.removeprefix(f"{prefix}."): value for key, value in mine.items()})
    assert isinstance(twin, LearnableAnchors)
    stock = twin.stock()
    _write(folder, "-best", checkpoint, getattr(stock, _attribute(stock)))


def _write(folder: Path, suffix: str, checkpoint: dict[str, Any], cells: list[Tensor]) -> None:
    checkpoint = {key: value for key, value in checkpoint.items() if key not in TRAINING_ONLY} | {CELLS: cells}
    torch.save(checkpoint, folder / f"frozen{suffix}.ckpt")
    torch.save(cells, folder / f"cell_anchors{suffix}.pt")


def _attribute(generator: nn.Module) -> str:
    return "_wh_pairs" if hasattr(generator, "_wh_pairs") else "cell_anchors"
