"""The directions of imports within the package, as `setup.cfg` states them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_contracts_hold() -> None:
    # In a process of its own: import-linter disables the loggers of the process, whose messages other tests look for.
    code = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True, show_timings=False))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
