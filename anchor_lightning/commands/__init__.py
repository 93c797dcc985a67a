"""Sub-commands beside Lightning's own: each is a function whose arguments are its options."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Final

from jsonargparse import ArgumentParser

from anchor_lightning.commands.anchors import ANCHORS
from anchor_lightning.commands.data_options import run_group
from anchor_lightning.commands.export import export
from anchor_lightning.commands.predict import predict
from anchor_lightning.commands.sweep import sweep

COMMANDS: Final[dict[str, Callable[..., Any]]] = {"export": export, "predict": predict, "sweep": sweep}
GROUPS: Final[dict[str, dict[str, Callable[..., Any]]]] = {"anchors": ANCHORS}
"""Commands that have sub-commands."""

PASSED_ON: Final = "fit_options"
"""Argument of `sweep` that takes the words behind `--`."""


def is_ours(words: list[str]) -> bool:
    """Whether a command line is one of these; `predict` is only with a `--source`, else it is Lightning's."""
    if words[:1] == ["predict"]:
        return any(word.partition("=")[0] == "--source" for word in words)
    return bool(words) and (words[0] in COMMANDS or words[0] in GROUPS)


def summary() -> str:
    """A line a command, for the help of the whole program."""
    lines = [f"  {name:<10}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    lines += [f"  {name:<10}Has sub-commands of its own: {', '.join(group)}." for name, group in GROUPS.items()]
    return "\n".join(["further sub-commands (each with --help):", *lines])


def run_command(words: list[str]) -> Any:
    """Runs the sub-command that the first word names with the others as its options.

    Args:
        words: The command line without the program's name.
    """
    name, *options = words
    if name in GROUPS:
        return run_group(name, GROUPS[name], options)
    command = COMMANDS[name]
    parser = ArgumentParser(prog=f"anchor_lightning {name}", description=(command.__doc__ or "").splitlines()[0])
    parser.add_function_arguments(command, as_group=False, skip={PASSED_ON})
    arguments: dict[str, Any] = {}
    if "--" in options:
        if command is not sweep:
            raise ValueError(f"{name} passes no options on: take the -- out")
        options, arguments[PASSED_ON] = options[: options.index("--")], options[options.index("--") + 1 :]
    return command(**parser.parse_args(_flags(command, options)).as_dict(), **arguments)


def _flags(command: Callable[..., Any], options: list[str]) -> list[str]:
    """The options with `--flag` alone as `--flag=true`, where the flag's default is false."""
    flags = {f"--{name}" for name, option in signature(command).parameters.items() if option.default is False}
    following = [*options[1:], "--"]
    return [
        f"{word}=true" if word in flags and after.startswith("-") else word
        for word, after in zip(options, following, strict=True)
    ]
