"""Watches that the loss stays finite, without making an accelerator wait for it at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from anchor_lightning.structures import DetectionBatch


class NonFiniteLossError(FloatingPointError):
    """A loss that is not finite.

    Args:
        step: The optimizer step.
        terms: What the loss is the sum of.
        image_ids: (B,) the images of the batch.

    Attributes:
        image_ids: The same, as numbers.
    """

    def __init__(self, step: int, terms: Mapping[str, Tensor], image_ids: Tensor) -> None:
        values = ", ".join(f"{name} {float(term):.4g}" for name, term in terms.items())
        self.image_ids: list[int] = image_ids.tolist()
        super().__init__(f"The loss is not finite at step {step}: {values}.")


class FiniteLoss:
    """The verdict on all losses since `reset`.

    On an accelerator reading the loss makes the host wait, so it is read when it is logged anyway; in between the
    verdict stays on the device, and whoever is about to write something asks `is_broken`.

    Attributes:
        shown: The loss that was read last, for a progress bar.
    """

    def __init__(self) -> None:
        self._verdict: Tensor | None = None
        self._unread: list[tuple[int, Mapping[str, Tensor], Tensor]] = []
        self.shown = float("nan")

    def reset(self) -> None:
        """Forgets the losses so far."""
        self._verdict, self._unread = None, []

    def update(self, loss: Tensor, terms: Mapping[str, Tensor], batch: DetectionBatch, step: int, every: int) -> None:
        """Takes the loss of a step.

        Args:
            loss: Scalar, without gradient.
            terms: What it is the sum of, for the message.
            batch: What it was computed on.
            step: Optimizer step.
            every: The loss is read at multiples of this: 1 where reading costs nothing.

        Raises:
            NonFiniteLossError: See `read`.
        """
        finite = loss.isfinite()
        self._verdict = finite if self._verdict is None else self._verdict & finite
        self._unread.append((step, terms, batch.image_ids))
        if step % every == 0:
            self.shown = float(loss)
            self.read()

    def read(self) -> None:
        """Reads the verdict.

        Raises:
            NonFiniteLossError: A loss since the last reading was not finite; the first one is told: after it the
                weights are spoilt, and the images of later batches say nothing.
        """
        unread, self._unread = self._unread, []
        if unread and self.is_broken():
            bad = (entry for entry in unread if not all(term.isfinite() for term in entry[1].values()))
            raise NonFiniteLossError(*next(bad, unread[-1]))

    def is_broken(self) -> bool:
        """Whether any loss was not finite; waits for the device."""
        return self._verdict is not None and not self._verdict

    def reason(self, state: Mapping[str, Any]) -> str:
        """Why nothing is to be written: a loss, or weights of this state dict, that were not finite; else empty."""
        broken = [
            name
            for name, value in state.items()
            if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all()
        ]
        if broken:
            return f"{len(broken)} weights ({broken[0]}, ...) are not finite"
        return "The loss is not finite" if self.is_broken() else ""
