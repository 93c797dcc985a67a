"""The error of invalid input: what the user can correct, as opposed to what is wrong in this package."""

from __future__ import annotations

from operator import index
from typing import Any, get_args


class UserError(ValueError):
    """Invalid input that the user can correct; the command line reports it as one message, others with their traceback.

    Args:
        message: What is wrong, where (file, line, field), and what to do.
        argument: Name of the argument to correct where one is at fault; dotted within another (`anchors.num`).
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message if argument is None else f"{argument}: {message}")
        self.message, self.argument = message, argument

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str | None]]:
        return type(self), (self.message, self.argument)


class NonFiniteOutputError(UserError):
    """A network whose output is not finite: its weights are broken."""


def check_choice(value: object, literal: Any, argument: str) -> None:
    """Raises a `UserError` of `argument` for a value that is none of a `Literal`'s."""
    if value not in (known := get_args(literal)):
        raise UserError(f"{value} is not known; give {' or '.join(map(str, known))}", argument)


def whole_number(value: Any, argument: str) -> int:
    """An int, also of numpy's integers; raises a `UserError` of `argument` for what is no whole number."""
    try:
        return index(value)
    except TypeError:
        raise UserError(f"{value!r}; give a whole number", argument) from None
