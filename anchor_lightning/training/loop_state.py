"""Lightning's own batch counters in a checkpoint, made to agree with the number of optimizer steps done."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


def validation_due(trainer: Trainer, validated: int) -> bool:
    """Whether the run is to validate after the batch that it has just done, and has not.

    Args:
        trainer: Of the run.
        validated: Batches done when the last validation was complete.
    """
    fetcher = trainer.fit_loop._data_fetcher
    if fetcher is None or batches_done(trainer) == validated:
        return False
    return bool(trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher))


def batches_done(trainer: Trainer) -> int:
    """Training batches begun so far, over all epochs."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.ready)


def restore_position(checkpoint: dict[str, Any], accumulation: int, validate: bool = False) -> None:
    """Moves Lightning's batch counters in a checkpoint to where the run goes on: after the last optimizer step.

    `TrainBatchSampler` starts with the batch after that step, whatever the killed run had seen of the next one. Left to
    itself, Lightning would count what it had seen as well, end the epoch early and validate early, and it would pass
    over a validation that was cut short. To be called from `LightningModule.on_load_checkpoint`; changes nothing where
    the checkpoint was written between two steps and no validation is missing.

    Args:
        checkpoint: A Lightning checkpoint that is about to be restored; changed in place.
        accumulation: Batches per optimizer step.
        validate: Whether a validation after that step is missing (`validation_due` when the checkpoint was written).
    """
    loops = checkpoint["loops"]["fit_loop"]
    progress = loops["epoch_loop.batch_progress"]
    current = progress["current"]
    # Within `on_train_batch_end` the batch is done and not yet counted as completed.
    uncounted = int(current["ready"] == current["processed"] == current["completed"] + 1)
    done = current["completed"] + uncounted
    cut_short = current["ready"] > done
    step_was_done = progress["is_last_batch"] and not cut_short
    surplus = 0 if step_was_done else done % accumulation
    if cut_short or surplus:
        progress["is_last_batch"] = False
        for counts in (progress["total"], current):
            # As if written at the end of the step's last batch; at the start of an epoch there is none.
            last = counts["completed"] + uncounted - surplus
            counts.update(ready=last, started=last, processed=last, completed=last - (done > surplus))
    elif validate:
        for counts in (progress["total"], current):
            last = counts["completed"] + uncounted
            counts.update(ready=last, started=last, processed=last, completed=last)
        # As if a validation had been cut short in its first batch, which Lightning then begins with.
        validation = loops["epoch_loop.val_loop.batch_progress"]
        validation["current"] |= {"ready": 0, "started": 0, "processed": 0, "completed": 0}
        validation["total"] |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
