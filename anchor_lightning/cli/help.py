"""Help with examples, a text file a command, and what else is answered from the words alone."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from anchor_lightning import __version__
from anchor_lightning.commands import COMMANDS
from anchor_lightning.commands.reporting import COMMAND, PROGRAM
from anchor_lightning.errors import UserError

TEXTS: Final = Path(__file__).parent / "texts"
HELP: Final = ("--help", "-h")
ALL: Final = "--help-all"
TRAINER_COMMANDS: Final = ("fit", "validate", "test", "predict")  # Lightning's


def answer(words: list[str]) -> str | None:
    """The help or version that a command line asks for, None if it asks for something else.

    Args:
        words: The command line without the program's name; what stands behind `--` belongs to another command.
    """
    if not words:
        return None
    if words[0] == "--version":
        return version_line()
    if words[0] in (*HELP, ALL):
        return help_text("program")
    own = words[: words.index("--")] if "--" in words else words
    names = [name for name in (" ".join(own[:2]), own[0]) if name in command_names()]
    return help_text(names[0]) if names and any(word in own for word in HELP) else None


def help_text(name: str) -> str:
    """The help of a command, `anchors fit` say, or of the `program`: at most 40 lines."""
    return (TEXTS / f"{name.replace(' ', '_')}.txt").read_text(encoding="utf-8").rstrip()


def command_names() -> list[str]:
    """Names of all commands, those of a group (`anchors fit`) and the group's own included."""
    names = [*TRAINER_COMMANDS, *COMMANDS]
    return list(dict.fromkeys([*names, *(name.split()[0] for name in names)]))


def check_words(words: list[str]) -> None:
    """Raises a `UserError` where the first word is no sub-command; options in its place are the parser's matter."""
    first = words[0] if words else ""
    known = list(dict.fromkeys(name.split()[0] for name in command_names()))
    if first.startswith("-") or first in known:
        return
    what = f"{first} is not a sub-command" if first else "a sub-command is missing"
    nearest = get_close_matches(first, known, n=1)
    hint = f"Did you mean {nearest[0]}?" if nearest else f"Sub-commands: {', '.join(known)}"
    raise UserError(f"{what}\n{hint}\nHelp: {COMMAND} --help")


def for_parser(words: list[str]) -> list[str]:
    """The words with `--help-all` as the parsers know it, `--help`."""
    return [HELP[0] if word == ALL else word for word in words]


def version_line() -> str:
    """The version of this package and of what a report of an error must name."""
    others = []
    for name in ("torch", "lightning"):
        try:
            others.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            others.append(f"no {name}")
    return f"{PROGRAM} {__version__} (Python {sys.version.split()[0]}, {', '.join(others)})"
