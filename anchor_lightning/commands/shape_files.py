"""Where anchor shapes come from on the command line (`--shapes`), and how their text is written."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from anchor_lightning.anchors.export import AnchorSet, read_json
from anchor_lightning.anchors.init import NAMED_GRID_UNITS, initial_shapes
from anchor_lightning.detectors.yolov2.cfg import read_anchors

KNOWN: Final = (
    "a checkpoint (.ckpt), a run folder, an anchors.json of ours, a darknet .cfg, pairs as in '[[10,13],[33,23]]', or "
    f"one of {', '.join(NAMED_GRID_UNITS)}"
)


def read_shapes(given: str) -> AnchorSet:
    """The shapes that one value of `--shapes` stands for.

    Args:
        given: A checkpoint of this project, a run folder (the last step of its `anchors.csv`), a JSON file of `anchors
            fit`, a darknet `.cfg`, a name (`yolov2-voc`, `yolov2-coco`, `uniform`), or a list of pairs in pixels.

    Raises:
        ValueError: It is none of these, or cannot be read; says why.
    """
    if given in NAMED_GRID_UNITS:
        named = initial_shapes(given)
        assert named is not None
        return AnchorSet(named, source=given)
    if given.lstrip().startswith("["):
        return AnchorSet(_pairs(given), source="the command line")
    path = Path(given)
    if path.is_dir():
        return _from_run(path)
    if not path.is_file():
        raise ValueError(f"--shapes: there is no {given}; give {KNOWN}")
    if path.suffix == ".cfg":
        return AnchorSet(read_anchors(path), source=str(path))
    if path.suffix == ".json":
        try:
            return read_json(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise ValueError(f"--shapes: {path}: {error}") from None
    return _from_checkpoint(path)


def write_text(path: Path, text: str) -> None:
    """Writes a text file at once: whatever goes wrong, what stood there before still stands, or nothing does.

    Raises:
        ValueError: It cannot be written; names it.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        part = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        # mkstemp's files are their user's alone; this one gets what the umask leaves any file.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    except OSError as error:
        raise ValueError(f"--output: {path} cannot be written ({error.strerror or error})") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _pairs(given: str) -> Tensor:
    try:
        wh = torch.tensor(json.loads(given), dtype=torch.float32)
    except (ValueError, TypeError):
        wh = torch.empty(0)
    if wh.ndim != 2 or wh.shape[1] != 2 or len(wh) == 0:
        raise ValueError(f"--shapes: {given} is no list of pairs in pixels, as '[[10, 13], [33, 23]]' is")
    return wh


def _from_run(folder: Path) -> AnchorSet:
    file = folder / "anchors.csv"
    try:
        with file.open(newline="") as lines:
            rows = [(int(r["step"]), int(r["anchor"]), float(r["w"]), float(r["h"])) for r in csv.DictReader(lines)]
    except OSError as error:
        raise ValueError(f"--shapes: {file} cannot be read ({error.strerror}); give the folder of a run") from None
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"--shapes: {file} is not the anchors.csv of a run (step, anchor, w, h)") from None
    if not rows:
        raise ValueError(f"--shapes: {file} has no shapes yet")
    last = rows[-1][0]
    # A step may be written twice, by a run and by the one that goes on from it: the later row counts.
    shapes = {anchor: (w, h) for step, anchor, w, h in rows if step == last}
    return AnchorSet(torch.tensor([shapes[a] for a in sorted(shapes)]), source=f"{folder}, step {last}")


def _from_checkpoint(path: Path) -> AnchorSet:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = str(error).splitlines()[0]
        raise ValueError(f"--shapes: {path} cannot be read as a checkpoint ({reason}); give {KNOWN}") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    log_wh = state.get("shapes.log_wh") if isinstance(state, dict) else None
    if not isinstance(log_wh, Tensor):
        raise ValueError(f"--shapes: {path} holds no anchor shapes (shapes.log_wh): it is not one of this project")
    size = content.get("anchor_lightning", {}).get("image_size")
    source = f"{path}, step {content.get('global_step', '?')}"
    return AnchorSet(log_wh.float().exp(), source=source, image_size=None if size is None else (size[0], size[-1]))
