"""Sub-commands beside Lightning's own: each is a function whose arguments are its options."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, Final

from anchor_lightning.commands import anchors
from anchor_lightning.commands.data_options import add_data_options, data_args
from anchor_lightning.commands.export import export
from anchor_lightning.commands.predict import predict
from anchor_lightning.commands.reporting import PROGRAM, CommandParser
from anchor_lightning.commands.shape_files import KNOWN
from anchor_lightning.commands.sweep import sweep
from anchor_lightning.errors import UserError

COMMANDS: Final[dict[str, Callable[..., Any]]] = {
    "anchors fit": anchors.fit,
    "anchors score": anchors.score,
    "anchors export": anchors.export,
    "export": export,
    "predict": predict,
    "sweep": sweep,
}
OPTIONS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "anchors score": {"shapes": {"nargs": "+", "required": True, "help": f"One or several of: {KNOWN}."}},
    "predict": {
        "show_anchors": {
            **{"type": bool, "nargs": "?", "const": True, "default": False},
            "help": "Show which anchor each box came from, by colour and number.",
        }
    },
}
"""Options that take several values, or need none, which jsonargparse does not make of a function's arguments."""
PASSED_ON: Final = "fit_options"
"""Argument of `sweep` that takes the arguments behind `--`."""


def is_command(args: list[str]) -> bool:
    """Whether a command line is one of these; `predict` is only with a `--source`, else it is Lightning's."""
    if args[:1] == ["predict"]:
        return any(arg.partition("=")[0] == "--source" for arg in args)
    return bool(args) and args[0] in {name.split()[0] for name in COMMANDS}


def summary() -> str:
    """A line a command, for the help of the whole program."""
    lines = [f"  {name:<16}{_first_line(command)}" for name, command in COMMANDS.items()]
    return "\n".join(["further sub-commands (each with --help):", *lines])


def run_command(args: list[str]) -> Any:
    """Runs a sub-command.

    Args:
        args: The command line without the program's name.

    Raises:
        SystemExit: There is no such sub-command of `anchors`; lists those that there are. Also after `--help`.
        UserError: The command's, with the option's name before the message.
    """
    group = [name for name in COMMANDS if name.split()[0] == args[0] and name != args[0]]
    name, options = (" ".join(args[:2]), args[2:]) if group else (args[0], args[1:])
    if name not in COMMANDS:
        usage = f"usage: {PROGRAM} {args[0]} {{{','.join(sub.split()[1] for sub in group)}}} [options]\n\n"
        usage += "\n".join(f"  {sub:<16}{_first_line(COMMANDS[sub])}" for sub in group)
        if args[1:2] not in (["--help"], ["-h"]):
            raise SystemExit(f"{PROGRAM}: error: {name!r} is no sub-command\n\n{usage}")
        print(f"{usage}\n\nEach has a --help of its own.")
        raise SystemExit(0)
    command = COMMANDS[name]
    arguments: dict[str, Any] = {}
    if command is sweep and "--" in options:
        options, arguments[PASSED_ON] = options[: options.index("--")], options[options.index("--") + 1 :]
    parser = CommandParser(prog=f"{PROGRAM} {name}", description=_first_line(command))
    if "data" in signature(command).parameters:
        add_data_options(parser)
        options = data_args(options)
    own = OPTIONS.get(name, {})
    parser.add_function_arguments(command, as_group=False, skip={"data", PASSED_ON, *own})
    for option, details in own.items():
        parser.add_argument(f"--{option}", **details)
    arguments |= parser.instantiate_classes(parser.parse_args(options)).as_dict()
    arguments.pop("config", None)
    try:
        return command(**arguments)
    except UserError as error:
        if error.argument not in signature(command).parameters:
            raise
        raise UserError(f"--{error.argument}: {error.message}") from None


def _first_line(command: Callable[..., Any]) -> str:
    return (command.__doc__ or "").splitlines()[0]
