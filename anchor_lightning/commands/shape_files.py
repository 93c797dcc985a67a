"""Where anchor shapes come from on the command line (`--shapes`), and the check of where their text goes."""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from anchor_lightning.anchors.initialization import NAMED_GRID_UNITS, initial_shapes
from anchor_lightning.detectors.yolov2.darknet_cfg import read_anchors
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import AnchorSet, read_json
from anchor_lightning.training.checkpoint_files import anchor_wh_of, read_checkpoint

KNOWN: Final = (
    "a checkpoint (.ckpt), a run folder (the last step of its anchors.csv), a JSON file of `anchors fit`, a darknet "
    f".cfg, pairs in pixels as in '[[10,13],[33,23]]', or one of {', '.join(NAMED_GRID_UNITS)}"
)


def read_shapes(given: str) -> AnchorSet:
    """The shapes that one value of `--shapes` stands for.

    Args:
        given: See `KNOWN`.

    Raises:
        UserError: It is none of these, or cannot be read; says why.
    """
    try:
        return _read(given)
    except (OSError, ValueError) as error:
        reason = error.message if isinstance(error, UserError) else str(error)
        raise UserError(f"--shapes: {reason if given in reason else f'{given}: {reason}'}") from None


def check_output(path: Path) -> str:
    """Raises an error for a file that cannot be written, before any work is done for it; leaves nothing behind.

    Returns:
        What to say once it is written: `Wrote` and its path, or `Replaced` where there is a file now.

    Raises:
        UserError: It cannot be written, or is no plain file; names it.
    """
    try:
        if path.exists() and not path.is_file():
            raise FileExistsError("it is a folder" if path.is_dir() else "it is no plain file")
        with tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())):
            return f"{'Replaced' if path.exists() else 'Wrote'} {path}"
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"--output: {path} cannot be written ({reason}); give a file in a folder of yours") from None


def _read(given: str) -> AnchorSet:
    path = Path(given)
    if given in NAMED_GRID_UNITS:
        named = initial_shapes(given)
        assert named is not None
        return AnchorSet(named, source=given)
    if given.lstrip().startswith("["):
        return AnchorSet(_pairs(given), source="the command line")
    if path.is_dir():
        return _from_run(path)
    if not path.is_file():
        raise UserError(f"there is no {given}; give {KNOWN}")
    if path.suffix == ".cfg":
        return AnchorSet(read_anchors(path), source=given)
    if path.suffix == ".json":
        return read_json(path.read_text(encoding="utf-8"))
    return _from_checkpoint(path)


def _pairs(given: str) -> Tensor:
    try:
        wh = torch.tensor(json.loads(given), dtype=torch.float32)
    except (ValueError, TypeError):
        wh = torch.empty(0)
    if wh.ndim != 2 or wh.shape[1] != 2 or len(wh) == 0:
        raise UserError(f"{given} is no list of pairs in pixels, as '[[10, 13], [33, 23]]' is")
    return wh


def _from_run(folder: Path) -> AnchorSet:
    file = folder / "anchors.csv"
    try:
        with file.open(newline="") as lines:
            rows = [(int(r["step"]), int(r["anchor"]), float(r["w"]), float(r["h"])) for r in csv.DictReader(lines)]
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); give the folder of a run") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{file} is not the anchors.csv of a run (step, anchor, w, h)") from None
    if not rows:
        raise UserError(f"{file} has no shapes yet")
    last = rows[-1][0]
    # A step may be written twice, by a run and by the one that goes on from it: the later row counts.
    shapes = {anchor: (w, h) for step, anchor, w, h in rows if step == last}
    return AnchorSet(torch.tensor([shapes[a] for a in sorted(shapes)]), source=f"{folder}, step {last}")


def _from_checkpoint(path: Path) -> AnchorSet:
    try:
        content = read_checkpoint(path, "shapes")
    except UserError as error:
        raise UserError(f"{error.message}; give {KNOWN}", argument="shapes") from None
    size = content.get("anchor_lightning", {}).get("image_size")
    source = f"{path}, step {content.get('global_step', '?')}"
    image_size = None if size is None else (size[0], size[-1])
    return AnchorSet(anchor_wh_of(content), source=source, image_size=image_size)
