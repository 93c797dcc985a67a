"""`python -m anchor_lightning`, the same as the command `anchor-lightning`."""

import signal
import sys

from anchor_lightning.cli import main
from anchor_lightning.commands.reporting import PROGRAM


def run() -> None:
    """Runs the command line; without its result, which a console script would print as an error."""
    try:
        main(is_program=True)
    except KeyboardInterrupt:  # not of a training: Lightning ends that one, and it is saved
        print(f"\n{PROGRAM}: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    run()
