"""What all ONNX exports share: the packages they need, and how a model states what it is."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Mapping
from typing import Any, Final

from anchor_lightning.errors import UserError

OPSET: Final = 18


def require_onnx(*others: str) -> Any:
    """The `onnx` package.

    Args:
        others: Packages that are needed beside it and what torch's exporter needs.

    Raises:
        UserError: One of them is not installed, or cannot be imported.
    """
    needed = ("onnx", "onnxscript", *others)
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UserError(f"ONNX needs {' and '.join(missing)}: run pip install {' '.join(missing)}")
    for name in (*needed, "onnx.checker", "onnx.helper", "onnx.parser"):
        try:
            importlib.import_module(name)
        except ImportError as error:  # of another version of Python or numpy, or without a library that it loads
            raise UserError(f"{name} is installed and cannot be imported ({error}): install it anew") from None
    return importlib.import_module("onnx")


def serialised(onnx: Any, model: Any, text: str, values: Mapping[str, object]) -> bytes:
    """The bytes of a model after onnx has checked it.

    Args:
        onnx: The package.
        model: A `ModelProto`; changed.
        text: Its documentation: inputs and outputs.
        values: Its metadata, as JSON where a value is no string.
    """
    # The exporter notes where in whose files every node comes from.
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        del part.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    model.producer_name, model.producer_version, model.doc_string = "anchor_lightning", "", text
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())
