"""`python -m anchor_lightning`, the same as the command `anchor-lightning`."""

from anchor_lightning.cli import main


def run() -> None:
    """Runs the command line; without its result, which a console script would print as an error."""
    main(is_program=True)


if __name__ == "__main__":
    run()
