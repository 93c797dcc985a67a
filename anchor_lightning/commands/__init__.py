"""Sub-commands beside Lightning's own: each is a function whose arguments are its options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import Any, Final

from anchor_lightning.commands.reporting import COMMAND, CommandParser, data_option_names
from anchor_lightning.errors import UserError

COMMANDS: Final[dict[str, str]] = {  # -> module in this package, function; imported when the command runs
    "anchors fit": "anchors.fit",
    "anchors score": "anchors.score",
    "anchors export": "anchors.export",
    "configs": "configs.print_configs",
    "export": "export.export",
    "predict": "predict.predict",
    "sweep": "sweep.sweep",
}
SHOW_ANCHORS: Final = "Show which anchor each box came from, by colour and number."
DETAILS: Final = "Print every shape, and the measures by size and class, too."
FLAG: Final[dict[str, Any]] = {"type": bool, "nargs": "?", "const": True, "default": False}
PASSED_ON: Final = "fit_options"  # Argument of `sweep` that takes the arguments behind `--`
WORDS: Final = "data_words"  # Argument that takes those of the command line that named the data set


def is_command(args: list[str]) -> bool:
    """Whether a command line is one of these; `predict` is only with a `--source`, else it is Lightning's."""
    if args[:1] == ["predict"]:
        return any(arg.partition("=")[0] == "--source" for arg in args)
    return bool(args) and args[0] in {name.split()[0] for name in COMMANDS}


def command_function(name: str) -> Callable[..., Any]:
    """The function of a sub-command; imports what it needs."""
    module, function = COMMANDS[name].split(".")
    return getattr(import_module(f"{__name__}.{module}"), function)  # type: ignore[no-any-return]


def command_options(args: list[str]) -> list[str]:
    """Names of a sub-command's options: its own, then those of the data modules; none if there is no such command."""
    own = list(signature(command_function(name)).parameters) if (name := _split(args)[0]) in COMMANDS else []
    return [*own, *(data_option_names() if "data" in own else [])]


def prepare_command(args: list[str]) -> Callable[[], Any]:
    """A sub-command with its arguments, ready to be called.

    Args:
        args: The command line without the program's name.

    Raises:
        SystemExit: After help, or an option that it does not take.
        UserError: The data set's; or there is no such sub-command of `anchors`.
    """
    name, options = _split(args)
    if name not in COMMANDS:
        group = ",".join(sub.split()[1] for sub in COMMANDS if sub.startswith(f"{args[0]} "))
        what = f"{name!r} is no sub-command" if len(args) > 1 else "a sub-command is missing"
        raise UserError(f"{what}\nusage: {COMMAND} {args[0]} {{{group}}} [options]\nHelp: {COMMAND} {args[0]} --help")
    command = command_function(name)
    passed_on: dict[str, Any] = {}
    if name == "sweep" and "--" in options:
        options, passed_on[PASSED_ON] = options[: options.index("--")], options[options.index("--") + 1 :]
    parser = CommandParser(prog=f"{COMMAND} {name}", description=(command.__doc__ or "").splitlines()[0])
    parameters = signature(command).parameters
    if "data" in parameters:
        from anchor_lightning.commands.sources import add_data_options, data_args, data_words

        if WORDS in parameters:
            passed_on[WORDS] = data_words(options)
        add_data_options(parser, required=parameters["data"].default is Parameter.empty)
        options = data_args(options)
    own = _special_options(name)
    parser.add_function_arguments(command, as_group=False, skip={"data", PASSED_ON, WORDS, *own})
    for option, details in own.items():
        parser.add_argument(f"--{option}", **details)
    arguments = parser.instantiate(parser.parse_args(options)).as_dict()
    arguments.pop("config", None)
    return partial(command, **arguments, **passed_on)


def _special_options(name: str) -> dict[str, dict[str, Any]]:
    """Options that take several values, or need none, which jsonargparse does not make of a function's arguments."""
    if name.startswith("anchors "):
        from anchor_lightning.commands.sources import KNOWN

        if name == "anchors score":
            shapes = {"nargs": "+", "required": True, "help": f"One or several of: {KNOWN}."}
            return {"shapes": shapes, "details": FLAG | {"help": DETAILS}}
        if name == "anchors export":
            return {"shapes": {"type": str, "required": True, "help": f"One of: {KNOWN}."}}
    if name == "predict":
        return {"show_anchors": FLAG | {"help": SHOW_ANCHORS}}
    return {}


def _split(args: list[str]) -> tuple[str, list[str]]:
    """The sub-command's name, of one word or two, and its arguments."""
    words = 1 if args[0] in COMMANDS else 2
    return " ".join(args[:words]), args[words:]
