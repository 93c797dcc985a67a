"""Takes a trained detector out of this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from anchor_lightning.data.checks import parse_image_size
from anchor_lightning.detectors.onnx_file import OPSET, require_onnx
from anchor_lightning.detectors.torchvision import onnx_export as torchvision_onnx
from anchor_lightning.detectors.torchvision.base import TorchvisionDetector
from anchor_lightning.detectors.yolo import onnx_export as yolo_onnx
from anchor_lightning.detectors.yolo.darknet_weights import write_weights
from anchor_lightning.detectors.yolo.detector import YOLO
from anchor_lightning.detectors.yolo.postprocess import MAX_DETECTIONS
from anchor_lightning.errors import UserError
from anchor_lightning.fitting.formats import DARKNET_RESIZES
from anchor_lightning.task import DetectionTask
from anchor_lightning.training.checkpoint_files import find_checkpoint, read_checkpoint
from anchor_lightning.training.files import atomic_files, run_folder_of_checkpoint

SUFFIXES: Final = {"darknet": (".cfg", ".weights", ".names"), "onnx": (".onnx",)}


def export(
    ckpt_path: str,
    format: Literal["darknet", "onnx"] = "darknet",
    output: str | None = None,
    image_size: int | list[int] | None = None,
    nms: bool | None = None,
) -> list[Path]:
    """Writes a checkpoint in the format of another tool.

    Args:
        ckpt_path: Checkpoint of a run of this project; `last` for that of the newest run under `runs`,
            `best` for the best validation of that run.
        format: `darknet`: `.cfg`, `.weights` and `.names` of YOLOv2 or YOLOv3, which C darknet and OpenCV run.
            `onnx`: `.onnx` of any detector for onnxruntime and others, with any number of images a batch
            (torchvision's detectors: with one); the file states its inputs and outputs.
        output: Path of the files, with or without a suffix of the format; `export/` and the detector's name in small
            letters in the checkpoint's run folder if not given.
        image_size: Side, or height and width, of the network input in pixels; that of the validation if not given.
        nms: Of `onnx`: true ends in final boxes, scores and labels (the default), false, of YOLOv2 and YOLOv3 alone,
            in all boxes and scores before the suppression.

    Returns:
        The files written, all of them or none.

    Raises:
        UserError: The checkpoint cannot be read or is not one of this project, the format has no such option, its
            packages are not installed, or the files cannot be written.
    """
    if format == "onnx":
        require_onnx()
    elif nms is not None:
        raise UserError("darknet's files never hold the suppression; leave it out, or take --format onnx", "nms")
    checkpoint = find_checkpoint(ckpt_path)
    task, details = load_task(checkpoint)
    kind = type(task.detector).__name__
    size = network_size(image_size, details)
    stem = Path(output) if output else run_folder_of_checkpoint(checkpoint) / "export" / kind.lower()
    if stem.suffix in SUFFIXES[format]:
        stem = stem.with_suffix("")
    # Other names may hold dots: with_suffix would cut them.
    files = [stem.with_name(stem.name + suffix) for suffix in SUFFIXES[format]]
    if format == "onnx":
        _write_onnx(task, files[0], size, nms is not False, checkpoint.name)
    else:
        _write_darknet(task, files, size, details.get("images_seen", 0))
    print("\n".join(f"Wrote {path}" for path in files))
    return files


def _write_darknet(task: DetectionTask, files: list[Path], size: tuple[int, int], images_seen: int) -> None:
    detector, kind = task.detector, type(task.detector).__name__
    if not isinstance(detector, YOLO):
        raise UserError(f"darknet runs YOLOv2 and YOLOv3, and the checkpoint holds a {kind}; take onnx", "format")
    if detector.backbone != detector.darknet_backbone:
        raise UserError(f"a .cfg of {kind} cannot hold the backbone {detector.backbone}; take onnx", "format")
    detector.network.fold()
    comment = f"{kind} with learned anchors, written by anchor_lightning"
    text = detector.darknet_cfg(size, task.hparams["score_threshold"], comment)
    with atomic_files(*files) as (cfg, weights, names):
        write_weights(weights, detector.network, images_seen + int(detector.images_before))
        cfg.write_text(text, encoding="utf-8")
        names.write_text("".join(f"{name}\n" for name in task.class_names), encoding="utf-8")
    listed = ", ".join(f"{w:.1f} x {h:.1f}" for w, h in task.shapes.wh.tolist())
    print(f"Anchors in pixels of the network input: {listed}{detector.cfg_remark}.")
    print(f"{DARKNET_RESIZES} At most {MAX_DETECTIONS} boxes an image are kept here, all there.")


def _write_onnx(task: DetectionTask, file: Path, size: tuple[int, int], nms: bool, source: str) -> None:
    detector, kind = task.detector, type(task.detector).__name__
    metadata = {"class_names": task.class_names, "source": f"{source}, exported by anchor_lightning"}
    threshold = task.hparams["score_threshold"]
    if isinstance(detector, YOLO):
        batch, model = "any batch", yolo_onnx.onnx_model(detector, size, nms, threshold, metadata)
    elif not isinstance(detector, TorchvisionDetector):
        raise UserError(f"there is no export of a {kind}", "ckpt_path")
    elif nms:
        batch, model = "a batch of one", torchvision_onnx.onnx_model(detector, size, threshold, metadata)
    else:
        raise UserError(f"{kind} of torchvision always ends in its suppression; leave it out", "nms")
    with atomic_files(file) as (path,):
        path.write_bytes(model)
    outputs = f"boxes, scores and labels after NMS, scores above {threshold}" if nms else "all boxes and scores, no NMS"
    print(f"ONNX opset {OPSET}, {batch} of {size[0]} x {size[1]} (height x width) images; {outputs}.")


def network_size(image_size: int | list[int] | None, details: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the network input in pixels: as asked for, or else those of the checkpoint's validation.

    Args:
        image_size: The option, one int or [height, width].
        details: Of the checkpoint, see `load_task`; without an image size in it, which is said, 416 x 416 is taken.

    Raises:
        UserError: A side is no multiple of 32.
    """
    if image_size is None and (image_size := details.get("image_size")) is None:
        print("The checkpoint states no image size: taking 416 x 416. Give --image_size if it was trained at another.")
        image_size = 416
    return parse_image_size(image_size)


def load_task(ckpt_path: str | Path) -> tuple[DetectionTask, dict[str, Any]]:
    """The task of a checkpoint, in evaluation mode on the CPU, and what the checkpoint says of its run.

    Raises:
        UserError: The file is missing, is no checkpoint, or is not one of this project.
    """
    details = read_checkpoint(ckpt_path).get("anchor_lightning", {})
    try:
        task = DetectionTask.load_from_checkpoint(ckpt_path, map_location="cpu", weights_only=True)
    except (KeyError, TypeError, RuntimeError) as error:  # options or weights that this project's task does not have
        reason = str(error).splitlines()[0]
        raise UserError(f"{ckpt_path} does not fit this version of the project ({reason})", "ckpt_path") from None
    return task.eval(), details
