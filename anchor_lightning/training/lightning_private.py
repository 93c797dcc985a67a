"""The private names of Lightning that training depends on; `tests/training/test_lightning_private.py` tests them."""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


def validation_follows(trainer: Trainer) -> bool:
    """Whether a validation is due after the training batch that has just been done; for `on_train_batch_end`."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and bool(trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher))


def is_within_step(trainer: Trainer) -> bool:
    """Whether batches have been accumulated that no optimizer step has used yet."""
    return bool(trainer.fit_loop.epoch_loop._should_accumulate())


def stops_early(trainer: Trainer) -> bool:
    """Whether the training ends with the present batch because a callback asked for it (`should_stop`)."""
    return bool(trainer.should_stop and trainer.fit_loop._can_stop_early)


def start_averages(trainer: Trainer, module: LightningModule) -> None:
    """Starts weight averages from the module's weights; Lightning takes them before those are loaded or computed."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set at run time
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            callback._average_model.module.load_state_dict(module.state_dict())


def mark_validation_due(checkpoint: dict[str, Any]) -> None:
    """Makes a resumed run repeat the validation in which `checkpoint` is written; Lightning would do its rest only."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    progress["total"] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    progress["current"] |= {"ready": 0, "started": 0, "processed": 0, "completed": 0}


def mark_batch_end(checkpoint: dict[str, Any]) -> None:
    """Makes `checkpoint`, written in a validation, one of the end of the batch before: no validation is expected."""
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]):
        counts["completed"] -= 1


def cluster_environment(trainer: Trainer) -> ClusterEnvironment | None:
    """What has started the processes of a run; the public name knows it with several processes only."""
    return trainer._accelerator_connector.cluster_environment
