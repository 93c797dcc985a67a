"""The command line. Help, version and names are answered before Lightning is imported, which takes seconds."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from anchor_lightning.cli.help import answer, check_words, for_parser
from anchor_lightning.cli.messages import quiet_messages
from anchor_lightning.commands import command_options, is_command, prepare_command
from anchor_lightning.commands.configs import named_configs
from anchor_lightning.commands.reporting import PROGRAM, message_of

BROKEN_PIPE = 128 + 13  # the status of a program that SIGPIPE ends: what was read from it is not wanted any more


def main(args: Any = None, is_program: bool = False) -> Any:
    """Runs a sub-command with these arguments, else those of `sys.argv`, and returns its result, or Lightning's CLI.

    Args:
        args: Words as on the command line; or a dict or Namespace of options, as Lightning's CLI takes them.
        is_program: Whether the process is there for this alone: then garbage is not looked for during the imports, nor
            later among what they have made, which takes a third of the time of a short command.

    Raises:
        SystemExit: After help and version; with a message of one or several lines for what the user can correct.
    """
    if is_program:
        gc.disable()
    try:
        try:
            return _run(args, is_program)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `anchor-lightning anchors score ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more
        raise SystemExit(BROKEN_PIPE) from None


def _run(args: Any, is_program: bool) -> Any:
    options: Callable[[], list[str]] = partial(list, ["data"])  # its path is read before the other options
    try:
        words = sys.argv[1:] if args is None else args
        if isinstance(words, list):
            if (text := answer(words)) is not None:
                print(text)
                raise SystemExit(0)
            check_words(words)
            words = named_configs(for_parser(words))
            if not is_command(words):  # a command replaces the paths of its data itself
                from anchor_lightning.commands.sources import data_paths

                words = data_paths(words)
            if args is None:
                sys.argv[1:] = words  # in place: DDP starts its other processes with the same
        if isinstance(words, list) and is_command(words):
            options = partial(command_options, words)
            run = prepare_command(words)
        else:
            from anchor_lightning.cli import trainer

            options = trainer.all_options
            run = partial(trainer.run_trainer, None if args is None else words)
        if is_program:
            gc.freeze()
            gc.enable()
        quiet_messages()  # after Lightning's import, which sets its own format of warnings
        return run()
    except Exception as error:
        if (text := message_of(error, options)) is None:
            raise
        raise SystemExit(f"{PROGRAM}: error: {text}") from None
