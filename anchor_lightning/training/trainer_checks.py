"""What a run of the command line cannot honour of Lightning's trainer, and what a training cannot go on from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.utilities import rank_zero_warn

from anchor_lightning.errors import UserError
from anchor_lightning.training.checkpoint_files import PROJECT_KEY, WITHIN_STEP

AVERAGED: Final = "current_model_state"  # key of the raw weights where `state_dict` holds averaged ones

REFUSED: Final[dict[type[Callback], str]] = {
    BatchSizeFinder: (
        "would train with a batch size that config.yaml does not have, so that the run could be neither repeated nor "
        "resumed; give data.batch_size"
    ),
    LearningRateFinder: (
        "would train with a rate that config.yaml does not have, and search again when the run is resumed; search in "
        "Python (lightning.pytorch.tuner.Tuner) and give model.learning_rate"
    ),
    StochasticWeightAveraging: (
        "sets one learning rate for all parameters, the shapes included, and leaves what it has averaged out of "
        "last.ckpt; WeightAveraging averages the weights of all steps, EMAWeightAveraging mostly the last ones"
    ),
}


def check_callbacks(trainer: Trainer) -> None:
    """Raises a `UserError` for a callback that would change the run without its configuration saying so.

    Warns of one that does nothing.
    """
    for callback in _callbacks(trainer):
        if type(callback) is Checkpoint:
            rank_zero_warn(
                "trainer.callbacks: Checkpoint is Lightning's base class and saves nothing; the checkpoints are those "
                "of --checkpoint.every_n_train_steps and so on, and ModelCheckpoint saves others as well."
            )
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                raise UserError(f"{type(callback).__name__} {reason}", argument="trainer.callbacks")


def check_precision(trainer: Trainer) -> None:
    """Raises a `UserError` for a precision in which a training loses its small gradients."""
    if trainer.precision == "16-true":
        raise UserError(
            "16-true has float16 weights and gradients and does not scale the loss, so that small gradients become 0; "
            "give 16-mixed, bf16-mixed or bf16-true",
            argument="precision",
        )


def check_whole_step(checkpoint: Mapping[str, Any]) -> None:
    """Raises a `UserError` for a training that would go on from between the accumulated batches of a step."""
    if checkpoint.get(PROJECT_KEY, {}).get(WITHIN_STEP):
        raise UserError(
            "the checkpoint was saved between the batches of one optimizer step, whose gradients it does not hold: it "
            "can be measured and used, but no training goes on from it; give last",
            argument="ckpt_path",
        )


def check_averaging(checkpoint: Mapping[str, Any], trainer: Trainer) -> None:
    """Raises a `UserError` for a training without weight averaging that would go on from averaged weights."""
    if AVERAGED in checkpoint and not any(isinstance(each, WeightAveraging) for each in _callbacks(trainer)):
        raise UserError(
            "the checkpoint is of a training with weight averaging, and its weights are the averaged ones; give the "
            "callback with which it was made (trainer.callbacks in config.yaml of its run)",
            argument="ckpt_path",
        )


def say_other_size(checkpoint: Mapping[str, Any], image_size: Sequence[int]) -> None:
    """Warns where a checkpoint is measured at another size of the network input than in its training.

    Args:
        checkpoint: Its content.
        image_size: Height and width of the network input in pixels.
    """
    there, here = checkpoint.get(PROJECT_KEY, {}).get("image_size"), list(image_size)
    if there and list(there) != here:
        rank_zero_warn(
            f"In its training the checkpoint was validated at {there[0]} x {there[1]} pixels (height x width), "
            f"here it is run at {here[0]} x {here[1]} (data.val_image_size)."
        )


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set at run time
    return callbacks
