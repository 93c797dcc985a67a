"""The anchor shapes: one parameter, owned here and handed to everybody else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from anchor_lightning.errors import UserError


class AnchorShapes(nn.Module):
    """A anchor shapes as learnable logarithms (§3.2: ŝ = log s), float32 always: in bfloat16 a step rounds to nothing.

    Args:
        num: Number of shapes A >= 1.
        wh: (A, 2) in pixels of the network input; None if `set_initial` or `load_state_dict` will give them.
        learn: False freezes the shapes.
        num_per_level: Number of shapes of each level of the head, the smallest stride first; one level if not given.

    Attributes:
        log_wh: (A, 2) float32 parameter, log of pixels of the network input.
        initial_log_wh: (A, 2) float32 buffer, where training started.
        num_per_level: Number of shapes of each level of the head; their sum is A.
        pending: Whether the shapes still wait for their initial values.
    """

    log_wh: nn.Parameter
    initial_log_wh: Tensor

    def __init__(
        self, num: int, wh: Tensor | None = None, *, learn: bool = True, num_per_level: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.pending = wh is None
        self.num_per_level = list(num_per_level) or [num]
        self.log_wh = nn.Parameter(torch.zeros(num, 2, dtype=torch.float32), requires_grad=learn)
        self.register_buffer("initial_log_wh", torch.zeros(num, 2, dtype=torch.float32))
        if wh is not None:
            self.set_initial(wh)

    @property
    def wh(self) -> Tensor:
        """(A, 2) widths and heights in pixels of the network input, without gradient."""
        return self.log_wh.detach().exp()

    @property
    def initial_wh(self) -> Tensor:
        """(A, 2) widths and heights that training started from, in pixels of the network input."""
        return self.initial_log_wh.exp()

    @torch.no_grad()
    def set_initial(self, wh: Tensor) -> None:
        """Starts the shapes at `wh`, (A, 2) in pixels of the network input.

        Raises:
            UserError: The count differs from A, or a side is not a positive finite number.
        """
        if wh.shape != self.log_wh.shape:
            raise UserError(f"expected {tuple(self.log_wh.shape)} widths and heights, got {tuple(wh.shape)}")
        check_positive(wh)
        self.log_wh.copy_(wh.log())
        self.initial_log_wh.copy_(self.log_wh)
        self.pending = False

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(keep_float32, recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if f"{prefix}log_wh" in state_dict:  # weights of a backbone alone bring no shapes
            self.pending = False


def check_positive(wh: Tensor, argument: str | None = None) -> None:
    """Raises a `UserError` of `argument` for the first of the shapes (A, 2) whose sides are not positive and finite."""
    for index, (w, h) in enumerate(wh.tolist()):
        if not (0 < w < math.inf and 0 < h < math.inf):
            raise UserError(
                f"shape {index} is {w:g} x {h:g}; widths and heights are pixels of the network input and must be "
                "positive and finite",
                argument,
            )
