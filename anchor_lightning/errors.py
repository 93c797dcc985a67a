"""The error of invalid input: what the user can correct, as opposed to what is wrong in this package."""

from __future__ import annotations


class UserError(ValueError):
    """Invalid input: an argument, a file or a data set that the user can correct.

    The command line reports it as one message and names the option that `argument` belongs to. Every other exception
    keeps its traceback.

    Args:
        message: What is wrong, where (file, line, field), and what to do.
        argument: Name of the argument to correct, as the class or function that raises calls it; dotted within another
            argument (`anchors.num`). None where no single argument is at fault.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message if argument is None else f"{argument}: {message}")
        self.message = message
        self.argument = argument

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str | None]]:
        return type(self), (self.message, self.argument)


class NonFiniteOutputError(UserError):
    """A network whose output is not finite: its weights are broken."""
