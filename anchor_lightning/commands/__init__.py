"""Sub-commands beside Lightning's own: each is a function whose arguments are its options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from jsonargparse import ArgumentParser

from anchor_lightning.commands.export import export

COMMANDS: Final[dict[str, Callable[..., Any]]] = {"export": export}


def summary() -> str:
    """A line a command, for the help of the whole program."""
    lines = [f"  {name:<10}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(["further sub-commands (each with --help):", *lines])


def run_command(words: list[str]) -> Any:
    """Runs the sub-command that the first word names with the others as its options.

    Args:
        words: The command line without the program's name.
    """
    name, *options = words
    command = COMMANDS[name]
    parser = ArgumentParser(prog=f"anchor_lightning {name}", description=(command.__doc__ or "").splitlines()[0])
    parser.add_function_arguments(command, as_group=False)
    return command(**parser.parse_args(options).as_dict())
