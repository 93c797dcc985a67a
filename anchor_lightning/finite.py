"""Watches that the loss stays finite, without making an accelerator wait for it at every step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from anchor_lightning.structures import DetectionBatch


class FiniteLoss:
    """The verdict on all losses since `reset`.

    On an accelerator reading the loss makes the host wait, so it is read when it is logged anyway; in between the
    verdict stays on the device, and whoever is about to write something asks `is_broken`.

    Attributes:
        shown: The loss that was read last, for a progress bar.
    """

    def __init__(self) -> None:
        self._verdict: Tensor | None = None
        self.shown = float("nan")

    def reset(self) -> None:
        """Forgets the losses so far."""
        self._verdict = None

    def update(self, loss: Tensor, terms: Mapping[str, Tensor], batch: DetectionBatch, step: int, every: int) -> None:
        """Takes the loss of a step.

        Args:
            loss: Scalar, without gradient.
            terms: What it is the sum of, for the message.
            batch: What it was computed on.
            step: Optimizer step.
            every: On an accelerator the loss is read at multiples of this.

        Raises:
            FloatingPointError: A loss that was read is not finite; names its terms and the images.
        """
        finite = loss.isfinite()
        self._verdict = finite if self._verdict is None else self._verdict & finite
        if loss.device.type != "cpu" and step % every:
            return
        self.shown = float(loss)
        if not self._verdict:
            values = ", ".join(f"{name} {float(term):.4g}" for name, term in terms.items())
            raise FloatingPointError(
                f"The loss is not finite at step {step}: {values} (images {batch.image_ids.tolist()}). Lower "
                "model.learning_rate, or look at the images."
            )

    def is_broken(self) -> bool:
        """Whether any loss was not finite; waits for the device."""
        return self._verdict is not None and not self._verdict
