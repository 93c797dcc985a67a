"""The plain values that a Python file assigns to names, read from its syntax; nothing of the file is run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

OPERATORS: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
LARGEST: Final = 1e6  # of the numbers that are reckoned with: a power of a large one would take for ever


@dataclass(frozen=True)
class Computed:
    """Stands for a value that only running the file would give."""

    line: int


@dataclass(frozen=True)
class PythonValues:
    """What a file assigns at its top level.

    Attributes:
        values: Name -> its last value: numbers, text, lists (of tuples, too), dicts, `Computed`; a name that is defined
            elsewhere is its own text, as in `type=AnchorGenerator`.
        changed: Name -> the first line that does something else with it than assign it.
    """

    values: dict[str, Any]
    changed: dict[str, int]


def python_values(text: str) -> PythonValues:
    """Reads the assignments of a Python text.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: It is no Python, or is nested too deeply.
    """
    found = PythonValues({}, {})
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Assign) and all(isinstance(target, ast.Name) for target in statement.targets):
            value = _value(statement.value, found.values)
            for target in statement.targets:
                assert isinstance(target, ast.Name)
                found.values[target.id] = value
                found.changed.pop(target.id, None)
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name):
                    found.changed.setdefault(node.id, statement.lineno)
    return found


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return names.get(node.id, node.id)
        case ast.List() | ast.Tuple():
            return [_value(item, names) for item in node.elts]
        case ast.Dict() if all(isinstance(key, ast.Constant) for key in node.keys):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            return {key: _value(value, names) for key, value in zip(keys, node.values, strict=True)}
        case ast.Call(func=ast.Name(id="dict"), args=[]) if all(keyword.arg for keyword in node.keywords):
            return {keyword.arg: _value(keyword.value, names) for keyword in node.keywords}
        case ast.UnaryOp(op=ast.USub()):
            value = _value(node.operand, names)
            return -value if isinstance(value, int | float) else Computed(node.lineno)
        case ast.BinOp():
            return _reckoned(node, names)
    return Computed(node.lineno)


def _reckoned(node: ast.BinOp, names: Mapping[str, Any]) -> Any:
    left, right = _value(node.left, names), _value(node.right, names)
    if all(isinstance(side, int | float) and abs(side) < LARGEST for side in (left, right)):
        is_small = not isinstance(node.op, ast.Pow) or abs(right) <= 32
        if type(node.op) in OPERATORS and is_small:
            try:
                result = OPERATORS[type(node.op)](left, right)
            except ArithmeticError:
                return Computed(node.lineno)
            return result if isinstance(result, int | float) else Computed(node.lineno)  # (-8) ** 0.5 is complex
    return Computed(node.lineno)
