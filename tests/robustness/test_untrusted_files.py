"""No call in the package runs code that a file holds, or hands a user's string to a shell."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "anchor_lightning"
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("os.system", "os.popen", "eval", "exec", "ElementTree.parse", "ElementTree.fromstring", "shutil.unpack_archive"),
}
OWN_FILES = {"torchvision_export.py": 2}
"""Calls of `torch.load(weights_only=False)`: on what the same training has written a moment before."""


def calls(tree: ast.AST) -> Iterator[tuple[str, dict[str, object]]]:
    """Name and constant keyword arguments of every call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            constants = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
            yield ast.unparse(node.func), constants


def test_no_file_is_unpickled_and_no_shell_is_called() -> None:
    loads: Counter[tuple[str, object]] = Counter()
    for file in sorted(PACKAGE.rglob("*.py")):
        for name, keywords in calls(ast.parse(file.read_text(encoding="utf-8"))):
            assert name not in FORBIDDEN and "shell" not in keywords, f"{file}: {name}"
            if name == "torch.load" or name.endswith("load_from_checkpoint"):
                loads[file.name, keywords.get("weights_only")] += 1
    trusted = {name: count for (name, safe), count in loads.items() if safe is not True}
    assert trusted == OWN_FILES and sum(loads.values()) > 4
