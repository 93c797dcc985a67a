"""What was learned, written so that it loads without this package: torchvision checkpoints and their anchors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from anchor_lightning.callbacks.lightning_classes import is_lightning
from anchor_lightning.training.checkpoint_files import CELLS, PROJECT_KEY
from anchor_lightning.training.files import run_folder


def generator_of(detector: nn.Module) -> Any:
    """The anchor generator of a torchvision detector."""
    return getattr(detector, "rpn", detector).anchor_generator


def generator_name(name: str, detector: nn.Module) -> str:
    """Name of the anchor generator within a module that has the detector under `name`."""
    return ".".join(filter(None, (name, "rpn" * hasattr(detector, "rpn"), "anchor_generator")))


def cells_of(generator: Any) -> list[Tensor]:
    """The anchors of torchvision's generator, level by level: `cell_anchors`, or `_wh_pairs` of SSD."""
    return [cells.detach().cpu().clone() for cells in getattr(generator, _attribute(generator))]


def set_cells(generator: Any, cells: list[Tensor]) -> None:
    """Gives torchvision's generator the anchors that `cells_of` read."""
    setattr(generator, _attribute(generator), list(cells))


def frame_of(detector: nn.Module) -> dict[str, Any]:
    """Height and width of the network input, `image_size`, where the detector has one for all images, as SSD has."""
    size = detector.get_submodule("transform").fixed_size
    return {} if size is None else {"image_size": (int(size[1]), int(size[0]))}  # type: ignore[index]


def state_frame(checkpoint: dict[str, Any], detector: nn.Module) -> None:
    """Adds to a checkpoint, in plain types, what the anchors of a detector are for: `per_level`, and see `frame_of`."""
    frame = {name: list(size) for name, size in frame_of(detector).items()}
    frame["per_level"] = [len(level) for level in cells_of(generator_of(detector))]
    checkpoint.setdefault(PROJECT_KEY, {}).setdefault("anchors", frame)


def write_frozen_checkpoints(trainer: Trainer, name: str, detector: nn.Module, learned: Any) -> None:
    """Writes `frozen.ckpt` and `cell_anchors.pt`, and those of the best checkpoint; to be called on every rank.

    Args:
        trainer: Whose module holds the frozen `detector` under `name`.
        name: Of the detector.
        detector: Frozen.
        learned: Its learnable generator of before.
    """
    folder = trainer.strategy.broadcast(run_folder(trainer) if trainer.is_global_zero else None)
    if folder is None:
        rank_zero_info(
            f"{type(detector).__name__} in the module has the learned anchors; no file of it is written with "
            "fast_dev_run or barebones."
        )
        return
    path, prefix = folder / "frozen.ckpt", generator_name(name, detector)
    trainer.save_checkpoint(path, weights_only=True)
    if not trainer.is_global_zero:
        return
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    state_frame(checkpoint, detector)  # of a checkpoint of weights alone Lightning asks no callback
    _write(folder, "", checkpoint, cells_of(generator_of(detector)))
    if (best := _best_checkpoint(trainer)) is not None:
        checkpoint = torch.load(best, map_location="cpu", weights_only=False)
        weights = checkpoint["state_dict"]
        own = {key: weights.pop(key) for key in list(weights) if key.startswith(f"{prefix}.")}
        twin = copy.deepcopy(learned).cpu()
        twin.load_state_dict({key.removeprefix(f"{prefix}."): value for key, value in own.items()})
        _write(folder, "-best", checkpoint, cells_of(twin.to_torchvision()))
    rank_zero_info(
        f"{type(detector).__name__} of torchvision with the learned anchors: "
        f"module = {type(trainer.lightning_module).__name__}.load_from_checkpoint('{path}'); "
        f"module.{prefix}.{_attribute(generator_of(detector))} = torch.load('{folder / 'cell_anchors.pt'}')"
    )


def _best_checkpoint(trainer: Trainer) -> Path | None:
    """The best checkpoint by a metric, if this training has written it: it is loaded with code and all."""
    callback: Any
    for callback in trainer.checkpoint_callbacks:
        if is_lightning(callback, "ModelCheckpoint") and callback.monitor and callback.dirpath:
            best = Path(callback.best_model_path)  # a resumed one has taken the path from a checkpoint
            if best.is_file() and best.is_relative_to(callback.dirpath):
                return best
    return None


def _write(folder: Path, suffix: str, checkpoint: dict[str, Any], cells: list[Tensor]) -> None:
    for of_training in ("optimizer_states", "lr_schedulers", "callbacks"):
        checkpoint.pop(of_training, None)
    torch.save(checkpoint | {CELLS: cells}, folder / f"frozen{suffix}.ckpt")
    torch.save(cells, folder / f"cell_anchors{suffix}.pt")


def _attribute(generator: Any) -> str:
    return "_wh_pairs" if hasattr(generator, "_wh_pairs") else "cell_anchors"
