"""What each of two processes of test_many_processes.py does: command lines, one after the other, read from a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from anchor_lightning.cli import main

if __name__ == "__main__":
    for args in json.loads(Path(sys.argv[1]).read_text()):
        main(args)
