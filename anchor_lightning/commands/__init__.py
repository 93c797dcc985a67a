"""Sub-commands beside Lightning's own: each is a function whose arguments are its options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from inspect import signature
from typing import Any, Final

from anchor_lightning.commands.reporting import COMMAND, CommandParser, option_names
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
PASSED_ON: Final = "fit_options"  # Argument of `sweep` that takes the arguments behind `--`


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
    return [*own, *(option for option in option_names({}) if "data" in own and option.startswith("data."))]


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
    if "data" in signature(command).parameters:
        from anchor_lightning.commands.sources import add_data_options, data_args

        add_data_options(parser)
        options = data_args(options)
    own = _special_options(name)
    parser.add_function_arguments(command, as_group=False, skip={"data", PASSED_ON, *own})
    for option, details in own.items():
        parser.add_argument(f"--{option}", **details)
    arguments = parser.instantiate(parser.parse_args(options)).as_dict()
    arguments.pop("config", None)
    return partial(command, **arguments, **passed_on)


def _special_options(name: str) -> dict[str, dict[str, Any]]:
    """Options that take several values, or need none, which jsonargparse does not make of a function's arguments."""
    if name == "anchors score":
        from anchor_lightning.commands.sources import KNOWN

        return {"shapes": {"nargs": "+", "required": True, "help": f"One or several of: {KNOWN}."}}
    if name == "predict":
        details = {"type": bool, "nargs": "?", "const": True, "default": False, "help": SHOW_ANCHORS}
        return {"show_anchors": details}
    return {}


def _split(args: list[str]) -> tuple[str, list[str]]:
    """The sub-command's name, of one word or two, and its arguments."""
    words = 1 if args[0] in COMMANDS else 2
    return " ".join(args[:words]), args[words:]
