"""`python -m anchor_lightning`, the same as the command `anchor-lightning`."""

from anchor_lightning.cli import main

if __name__ == "__main__":
    main()
