"""Checkpoint files: found by name, read without running code that lies in them, compared with what continues them."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from anchor_lightning.errors import UserError
from anchor_lightning.messages import info, warn

DEFAULT_ROOT: Final = "runs"  # where the run folders lie, unless `trainer.default_root_dir` says otherwise
NEWEST: Final = "last"
BEST: Final = "best"
BEST_PREFIX: Final = "best_"  # begins the name of the file with a run's best validation
PROJECT_KEY: Final = "anchor_lightning"  # key of a checkpoint that holds what Lightning does not know of
WITHIN_STEP: Final = "within_step"  # under `PROJECT_KEY`: saved between the accumulated batches of a step
FORMAT: Final = 3  # version of what lies under `PROJECT_KEY`
CELLS: Final = (
    "cell_anchors"  # entry of a checkpoint: the anchors of a frozen detector by level, which its state dict lacks
)


def find_checkpoint(given: str | Path, *folders: str | Path) -> Path:
    """The file that `ckpt_path` names.

    Args:
        given: A path; `last` for the newest run's last one; `best` for the best of that run, which is said
            with its metric.
        folders: Where run folders lie; `runs` if not given.

    Raises:
        UserError: There is no such file.
    """
    if given not in (NEWEST, BEST):
        if not Path(given).is_file():
            raise UserError(f"there is no file {given}", "ckpt_path")
        return Path(given)
    roots = [Path(folder) for folder in folders or (DEFAULT_ROOT,)]
    if (newest := next(newest_checkpoints(roots), None)) is None:
        raise UserError(f"{given}: no checkpoints/last.ckpt under {' or '.join(map(str, roots))}", "ckpt_path")
    return newest if given == NEWEST else _best_of(newest)


def _best_of(newest: Path) -> Path:
    """The best checkpoint of the run, or of the one that it went on from, as its newest one says."""
    for state in _monitors(newest):
        if (path := recorded_best(state, newest)) is None:
            best = state["best_model_path"]
            raise UserError(f"{BEST}: {best}, of the run of {newest}, is not there any more", "ckpt_path")
        if reason := damage(path):
            raise UserError(f"{BEST}: {path} is damaged ({reason}); give {NEWEST}", "ckpt_path")
        info(f"{BEST}: {path}{_score_text(path, state['monitor'])}")
        return path
    if "callbacks" not in _load(newest):
        raise UserError(
            f"{BEST}: {newest} holds weights alone (checkpoint.save_weights_only) and does not say which the best is; "
            f"give the path of {BEST_PREFIX}*.ckpt in its folder",
            "ckpt_path",
        )
    raise UserError(
        f"{BEST}: the newest run, that of {newest}, has none: nothing was validated before that checkpoint, or "
        f"best_checkpoint.monitor is null; give {NEWEST}",
        "ckpt_path",
    )


def _monitors(path: Path) -> list[dict[str, Any]]:
    """What the callbacks that keep best checkpoints say of themselves, ours before those of the user."""
    states = _load(path).get("callbacks", {})
    of_ours = sorted(states, key=lambda name: not str(name).startswith("BestCheckpoint"))
    found = (states[name] for name in of_ours)
    return [each for each in found if isinstance(each, dict) and each.get("monitor") and each.get("best_model_path")]


def recorded_best(state: Mapping[str, Any], checkpoint: Path) -> Path | None:
    """The file of the best validation that a callback's state names; None if it is gone.

    Beside the checkpoint first, as a run folder may have been moved. Elsewhere it must hold the recorded score: another
    run may have a folder of the same name by now.

    Args:
        state: Of a `ModelCheckpoint` that monitors a metric.
        checkpoint: The file that holds the state.
    """
    best = Path(state["best_model_path"])
    if (beside := checkpoint.with_name(best.name)).is_file():
        return beside
    if not best.is_file() or damage(best) or state.get("best_model_score") is None:
        return None
    is_same = math.isclose(_score(best, state["monitor"]), float(state["best_model_score"]))
    return best if is_same else None


def _score(best: Path, monitor: str) -> float:
    """The value of a best checkpoint, from the file itself, as it may be newer than what names it."""
    scores = (state.get("current_score") for state in _monitors(best) if state["monitor"] == monitor)
    return next((float(score) for score in scores if score is not None), math.nan)


def _score_text(best: Path, monitor: str) -> str:
    return f", {monitor} {_score(best, monitor):.4f} after step {_load(best).get('global_step', 0):,}"


def newest_checkpoints(folders: Sequence[Path], strict: bool = True) -> Iterator[Path]:
    """The newest undamaged checkpoint of each run, and what SLURM's requeueing wrote, the newest first.

    A run's best checkpoint counts where there is no other.

    Args:
        folders: Where run folders lie, at any depth; or one that holds a `last.ckpt` itself.
        strict: Whether a run that has damaged ones only is an error, rather than passed over with a warning.

    Raises:
        UserError: All checkpoints of a run are damaged.
    """
    holders = {path.absolute(): path for folder in folders for path in _checkpoint_folders(folder)}
    runs = [_by_age(path.glob("*.ckpt")) for path in holders.values()]
    requeued = [[path] for folder in folders for path in requeue_checkpoints(folder)]
    for files in sorted(filter(None, [*runs, *requeued]), key=lambda files: _age(files[0]), reverse=True):
        damaged = ""
        for path in sorted(files, key=lambda path: path.name.startswith(BEST_PREFIX)):
            if not (reason := damage(path)):
                if damaged:
                    warn(f"{damaged}; the one before it is taken: {path}")
                yield path
                break
            damaged = damaged or f"{path} is damaged ({reason})"
        else:
            if strict and files not in requeued:
                raise UserError(
                    f"{damaged}, and there is no other checkpoint of that run; remove it and start afresh, or give the "
                    "path of another one",
                    "ckpt_path",
                )
            warn(f"{damaged} and is passed over.")


def _checkpoint_folders(folder: Path) -> list[Path]:
    own = [folder] if (folder / "last.ckpt").is_file() else []  # `checkpoint.dirpath`
    return [*own, *folder.rglob("checkpoints")]


def requeue_checkpoints(folder: Path) -> list[Path]:
    """What Lightning has written into a folder when SLURM asked for it, the newest first."""
    return _by_age(folder.glob("hpc_ckpt_*.ckpt"))


def _by_age(paths: Iterable[Path]) -> list[Path]:
    # A numbered file and `last.ckpt` may be one file: then the name that users know comes first.
    files = [path for path in paths if path.is_file()]
    return sorted(files, key=lambda path: (_age(path), path.name == "last.ckpt"), reverse=True)


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns


def _load(path: str | Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, every byte read and compared with its checksum; empty if nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            if name := archive.testzip():
                return f"{name} has changed"
        _load(path)
    except Exception as error:  # both raise whatever the bytes lead them to
        return str(error).split(". ")[0].split("\n")[0] or type(error).__name__
    return ""


def read_checkpoint(path: str | Path, argument: str = "ckpt_path", frozen: bool = False) -> dict[str, Any]:
    """The content of a checkpoint of this project, tensors mapped from the file; `argument` names it in messages.

    With `frozen` also one whose anchors are frozen, as `LearnAnchors` writes it.

    Raises:
        UserError: The file is missing, is not a checkpoint, or is not one of this project and version.
    """
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise UserError(f"the file {path} cannot be read ({error.strerror})", argument) from None
    try:
        content = _load(path)
    except Exception:  # torch.load raises whatever the bytes lead it to, and its reasons are about bytes
        raise UserError(
            f"{path} is not a checkpoint that can be read: it is cut off, or of another kind of file, or holds "
            "objects other than tensors and plain values, which are not loaded",
            argument,
        ) from None
    _check_origin(content, str(path), argument, frozen)
    return dict(content)


def _check_origin(content: Any, name: str, argument: str, frozen: bool = False) -> None:
    parts = content if isinstance(content, dict) else {}
    types = {"state_dict": dict, "hyper_parameters": dict, "global_step": int, PROJECT_KEY: dict, CELLS: list}
    wrong = [key for key, kind in types.items() if key in parts and not isinstance(parts[key], kind)]
    reason = ""
    if wrong:
        reason = f"its {wrong[0]} is of another type"
    elif getattr(_log_wh(parts), "ndim", 0) != 2 and not (frozen and _are_cells(parts.get(CELLS))):
        reason = "it holds no anchor shapes (log_wh)"
    elif (found := parts.get(PROJECT_KEY, {}).get("format", FORMAT)) != FORMAT:
        reason = f"it is of format {found}, and this version of anchor_lightning reads format {FORMAT}"
    if reason:
        raise UserError(f"{name} is not a checkpoint of this project: {reason}", argument)


def anchor_wh_of(checkpoint: Mapping[str, Any]) -> Tensor:
    """(A, 2) float32 width and height of a checkpoint's shapes, in pixels of the network input."""
    log_wh: Tensor = _log_wh(checkpoint)
    return log_wh.float().exp()


def _are_cells(cells: Any) -> bool:
    """Whether these are (A, 4) or (A, 2) tensors, one a level."""
    return bool(cells) and all(getattr(level, "ndim", 0) == 2 and level.shape[1] in (2, 4) for level in cells)


def _log_wh(checkpoint: Mapping[str, Any]) -> Any:
    state = checkpoint.get("state_dict", {})
    return next((value for name, value in state.items() if str(name).endswith("log_wh")), None)


def check_checkpoint(checkpoint: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises a `UserError` for a checkpoint of another project, or made with other options than `expected`."""
    _check_origin(checkpoint, "the file", "ckpt_path")
    saved = checkpoint.get(PROJECT_KEY, {}).get("must_match", {})
    for name in sorted(expected.keys() | saved.keys(), key=lambda name: name != "detector"):
        if saved.get(name) != expected.get(name):
            raise UserError(
                f"the checkpoint was made with {saved.get(name)}, this run has {expected.get(name)}; give the "
                "configuration that it was made with (config.yaml in its run folder), or another checkpoint",
                name,
            )


def check_weights(path: str | Path, checkpoint: Mapping[str, Any], own: Mapping[str, Any], resume: bool) -> None:
    """Raises a `UserError` for a checkpoint, from `path`, whose weights do not fit a network or are not finite.

    Args:
        path: The file, for the messages.
        checkpoint: As `read_checkpoint` returns it.
        own: The network's state dict.
        resume: Whether it must hold the optimizer's state and the place in the loops, too.
    """
    theirs = checkpoint["state_dict"]
    own = {name: value for name, value in own.items() if isinstance(value, Tensor)}  # a module may keep a dict there
    if wrong := [name for name, value in own.items() if getattr(theirs.get(name), "shape", None) != value.shape]:
        raise UserError(
            f"{path}: {len(wrong)} of the network's {len(own)} weights are missing in it or of another shape, "
            f"{wrong[0]} for one; it is damaged, or of another version of this project",
            "ckpt_path",
        )
    if wrong := [name for name in own if not theirs[name].isfinite().all()]:
        raise UserError(f"{path} holds numbers that are not finite, in {wrong[0]} for one; take another", "ckpt_path")
    needed = ("optimizer_states", "loops", "pytorch-lightning_version") if resume else ()
    if missing := [part for part in needed if not checkpoint.get(part)]:
        raise UserError(f"{path} lacks {missing[0]!r}; a training cannot go on from it", "ckpt_path")
