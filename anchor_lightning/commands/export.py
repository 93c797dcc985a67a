"""Takes a trained detector out of this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from anchor_lightning.detectors.yolov2.cfg import cfg_text
from anchor_lightning.detectors.yolov2.weights import write_weights
from anchor_lightning.task import DetectionTask

DEFAULT_IMAGE_SIZE = (416, 416)


def export(
    ckpt_path: str,
    format: Literal["darknet"] = "darknet",
    output: str | None = None,
    image_size: int | list[int] | None = None,
) -> list[Path]:
    """Writes a checkpoint in the format of another tool.

    Args:
        ckpt_path: Checkpoint of a run of this project.
        format: `darknet`: `.cfg`, `.weights` and `.names`, which C darknet and OpenCV run.
        output: Path of the files without their suffix; `export/yolov2` in the checkpoint's run folder if not given.
        image_size: Side, or height and width, of the network input in pixels; that of the validation if not given.

    Returns:
        The files written.

    Raises:
        ValueError: The checkpoint cannot be read or is not one of this project.
    """
    task, details = load_task(ckpt_path)
    stem = Path(output) if output else run_folder_of(Path(ckpt_path)) / "export" / "yolov2"
    stem.parent.mkdir(parents=True, exist_ok=True)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[-1])
    else:
        size = tuple(details.get("image_size", DEFAULT_IMAGE_SIZE))
    if any(side < 1 or side % task.detector.stride for side in size):
        raise ValueError(f"--image_size: {size}; height and width must be multiples of {task.detector.stride}")
    files = _export_darknet(task, stem, size, details.get("images_seen", 0))
    print("\n".join(f"Wrote {path}" for path in files))
    return files


def _export_darknet(task: DetectionTask, stem: Path, size: tuple[int, int], images_seen: int) -> list[Path]:
    task.detector.fold()
    # Names may hold dots: with_suffix would cut them.
    cfg, weights, names = (stem.with_name(stem.name + suffix) for suffix in (".cfg", ".weights", ".names"))
    text = cfg_text(
        task.shapes.wh,
        task.hparams["num_classes"],
        size,
        task.hparams["width"],
        task.hparams["score_threshold"],
        comment="YOLOv2 with learned anchors, written by anchor_lightning",
    )
    write_weights(weights, task.detector, images_seen)
    cfg.write_text(text)
    names.write_text("".join(f"{name}\n" for name in task.class_names))
    shapes = ", ".join(f"{w:.1f} x {h:.1f}" for w, h in task.shapes.wh.tolist())
    print(f"Anchors in pixels of the network input: {shapes}; the .cfg has them in grid units (pixels / 32).")
    return [cfg, weights, names]


def load_task(ckpt_path: str | Path) -> tuple[DetectionTask, dict[str, Any]]:
    """The task of a checkpoint, in evaluation mode on the CPU, and what the checkpoint says of its run.

    Raises:
        ValueError: The file is missing, is no checkpoint, or is not one of this project.
    """
    path = Path(ckpt_path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"--ckpt_path: there is no file {path}") from None
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = str(error).splitlines()[0]
        raise ValueError(f"--ckpt_path: {path} cannot be read as a checkpoint ({reason})") from None
    if not isinstance(checkpoint, dict) or "shapes.log_wh" not in checkpoint.get("state_dict", {}):
        raise ValueError(f"--ckpt_path: {path} holds no anchor shapes (shapes.log_wh): it is not one of this project")
    task = DetectionTask.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return task.eval(), dict(checkpoint.get("anchor_lightning", {}))


def run_folder_of(ckpt_path: Path) -> Path:
    """The run folder of a checkpoint, which lies in its `checkpoints/`; else the folder that it lies in."""
    return ckpt_path.parent.parent if ckpt_path.parent.name == "checkpoints" else ckpt_path.parent
