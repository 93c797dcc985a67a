"""Where anchor shapes come from on the command line (`--shapes`), and how their text is written."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from anchor_lightning.anchors.initialization import NAMED_GRID_UNITS, initial_shapes
from anchor_lightning.detectors.yolov2.darknet_cfg import read_anchors
from anchor_lightning.fitting.formats import AnchorSet, read_json
from anchor_lightning.training.checkpoint_files import anchor_wh_of, read_checkpoint

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
        return _checked(given, _pairs(given), "the command line")
    path = Path(given)
    if path.is_dir():
        return _from_run(path)
    if not path.is_file():
        raise ValueError(f"--shapes: there is no {given}; give {KNOWN}")
    if path.suffix == ".cfg":
        return _checked(given, _from_cfg(path), given)
    if path.suffix == ".json":
        try:
            return read_json(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise ValueError(f"--shapes: {path}: {error}") from None
    return _from_checkpoint(path)


def check_output(path: Path) -> str:
    """Refuses a file that cannot be written, before any work is done for it; leaves nothing behind.

    Returns:
        What to say once it is written: `Wrote` and its path, or `Replaced` where there is a file now.

    Raises:
        ValueError: It cannot be written, or is no plain file; names it.
    """
    try:
        replaces = path.exists()
        if replaces and not path.is_file():
            reason = "it is a folder" if path.is_dir() else "it is no plain file"
            raise ValueError(f"--output: {path} cannot be written ({reason}); give the path of a file")
        folder = next((parent for parent in path.parents if parent.exists()), Path())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None
    return f"{'Replaced' if replaces else 'Wrote'} {path}"


def write_text(path: Path, text: str) -> str:
    """Writes a text file at once: whatever goes wrong, what stood there before still stands, or nothing does.

    Returns:
        As `check_output`.

    Raises:
        ValueError: It cannot be written; names it.
    """
    done = check_output(path)
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
        raise _unwritable(path, error) from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return done


def _unwritable(path: Path, error: OSError) -> ValueError:
    reason = error.strerror or error
    return ValueError(f"--output: {path} cannot be written ({reason}); give a file in a folder that you may write to")


def _checked(given: str, wh: Tensor, source: str, image_size: tuple[int, int] | None = None) -> AnchorSet:
    try:
        return AnchorSet(wh, source=source, image_size=image_size)
    except ValueError as error:
        raise ValueError(f"--shapes: {given}: {error}") from None


def _from_cfg(path: Path) -> Tensor:
    try:
        return read_anchors(path)
    except ValueError as error:
        raise ValueError(f"--shapes: {error}") from None


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
    return _checked(str(folder), torch.tensor([shapes[a] for a in sorted(shapes)]), f"{folder}, step {last}")


def _from_checkpoint(path: Path) -> AnchorSet:
    try:
        content = read_checkpoint(path, "shapes")
    except ValueError as error:
        raise ValueError(f"{error}; give {KNOWN}") from None
    size = content.get("anchor_lightning", {}).get("image_size")
    source = f"{path}, step {content.get('global_step', '?')}"
    wh = anchor_wh_of(content)
    return _checked(str(path), wh, source, None if size is None else (size[0], size[-1]))
