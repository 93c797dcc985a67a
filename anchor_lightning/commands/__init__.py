"""Sub-commands beside Lightning's own: each is a function whose arguments are its options."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, Final

from anchor_lightning.commands import anchors
from anchor_lightning.commands.export import export
from anchor_lightning.commands.predict import predict
from anchor_lightning.commands.reporting import PROGRAM, CommandParser, option_names
from anchor_lightning.commands.sources import KNOWN, add_data_options, data_args, data_words
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
SHOW_ANCHORS: Final = "Show which anchor each box came from, by colour and number."
DETAILS: Final = "Print every shape, and the measures by size and class, too."
FLAG: Final[dict[str, Any]] = {"type": bool, "nargs": "?", "const": True, "default": False}
OPTIONS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "anchors score": {
        "shapes": {"nargs": "+", "required": True, "help": f"One or several of: {KNOWN}."},
        "details": FLAG | {"help": DETAILS},
    },
    "anchors export": {"shapes": {"type": str, "required": True, "help": f"One of: {KNOWN}."}},
    "predict": {"show_anchors": FLAG | {"help": SHOW_ANCHORS}},
}
"""Options that take several values, or need none, which jsonargparse does not make of a function's arguments."""
PASSED_ON: Final = "fit_options"  # Argument of `sweep` that takes the arguments behind `--`
WORDS: Final = "data_words"  # Argument that takes those of the command line that named the data set


def is_command(args: list[str]) -> bool:
    """Whether a command line is one of these; `predict` is only with a `--source`, else it is Lightning's."""
    if args[:1] == ["predict"]:
        return any(arg.partition("=")[0] == "--source" for arg in args)
    return bool(args) and args[0] in {name.split()[0] for name in COMMANDS}


def summary() -> str:
    """A line a command, for the help of the whole program."""
    return f"further sub-commands (each with --help):\n{_list_of(COMMANDS)}"


def command_options(args: list[str]) -> list[str]:
    """Names of a sub-command's options: its own, then those of the data modules; none if there is no such command."""
    own = list(signature(COMMANDS[name]).parameters) if (name := _split(args)[0]) in COMMANDS else []
    return [*own, *(option for option in option_names({}) if "data" in own and option.startswith("data."))]


def run_command(args: list[str]) -> Any:
    """Runs a sub-command.

    Args:
        args: The command line without the program's name.

    Raises:
        SystemExit: After `--help`, or an option that it does not take.
        UserError: The command's; or there is no such sub-command of `anchors`.
    """
    name, options = _split(args)
    if name not in COMMANDS:
        group = {sub.split()[1]: command for sub, command in COMMANDS.items() if sub.startswith(f"{args[0]} ")}
        usage = f"usage: {PROGRAM} {args[0]} {{{','.join(group)}}} [options]\n\n{_list_of(group)}"
        if args[1:2] not in (["--help"], ["-h"]):
            raise UserError(f"{name!r} is no sub-command\n\n{usage}")
        print(f"{usage}\n\nEach has a --help of its own.")
        raise SystemExit(0)
    command = COMMANDS[name]
    arguments: dict[str, Any] = {}
    if command is sweep and "--" in options:
        options, arguments[PASSED_ON] = options[: options.index("--")], options[options.index("--") + 1 :]
    parser = CommandParser(prog=f"{PROGRAM} {name}", description=_first_line(command))
    parameters = signature(command).parameters
    if WORDS in parameters:
        arguments[WORDS] = data_words(options)
    if "data" in parameters:
        add_data_options(parser, required=parameters["data"].default is Parameter.empty)
        options = data_args(options)
    own = OPTIONS.get(name, {})
    parser.add_function_arguments(command, as_group=False, skip={"data", PASSED_ON, WORDS, *own})
    for option, details in own.items():
        parser.add_argument(f"--{option}", **details)
    arguments |= parser.instantiate_classes(parser.parse_args(options)).as_dict()
    arguments.pop("config", None)
    return command(**arguments)


def _split(args: list[str]) -> tuple[str, list[str]]:
    """The sub-command's name, of one word or two, and its arguments."""
    words = 1 if args[0] in COMMANDS else 2
    return " ".join(args[:words]), args[words:]


def _list_of(commands: dict[str, Callable[..., Any]]) -> str:
    return "\n".join(f"  {name:<16}{_first_line(command)}" for name, command in commands.items())


def _first_line(command: Callable[..., Any]) -> str:
    return (command.__doc__ or "").splitlines()[0]
