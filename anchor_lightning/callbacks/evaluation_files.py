"""What `validate` and `test` leave beside their numbers: precision by recall and the confusion matrix."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, Final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from anchor_lightning.metrics.coco import RECALLS
from anchor_lightning.metrics.evaluation import EvaluationDetails
from anchor_lightning.training.files import atomic_files, run_folder
from anchor_lightning.visualization.anchor_plots import save_figure
from anchor_lightning.visualization.evaluation_plots import BACKGROUND, confusion_figure, precision_recall_figure

FILES: Final = ("pr_curves.png", "pr_curves.csv", "confusion_matrix.png", "confusion_matrix.json")


class EvaluationFiles(Callback):
    """Files in the run folder after `validate` and `test`.

    `pr_curves.png` and `.csv`: COCO's precision at 101 levels of recall, of each class at IoU 0.5.
    `confusion_matrix.png` and `.json`: numbers of boxes, see `DetectionConfusionMatrix`.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files, but not in a training."""
        if trainer.state.fn != "fit":
            self._write(trainer, pl_module, "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: Trainer, task: Any, split: str) -> None:
        details: EvaluationDetails | None = task.evaluation_details
        folder = run_folder(trainer) if trainer.is_global_zero else None
        if details is None or folder is None:
            return
        names, at_iou = task.class_names, f"IoU {details.iou_threshold:g}"
        curves = precision_recall_figure(
            RECALLS, details.precision_50, names, f"Precision and recall at IoU 0.5, {split} split"
        )
        title = f"Boxes of the {split} split: score {details.score_threshold:g} or more, {at_iou} or more"
        matrix = confusion_figure(details.confusion, names, title)
        with atomic_files(*(folder / name for name in FILES)) as (curves_png, curves_csv, matrix_png, matrix_json):
            save_figure(curves, curves_png)
            _write_curves(curves_csv, names, details)
            save_figure(matrix, matrix_png)
            content = {
                "score_threshold": details.score_threshold,
                "iou_threshold": details.iou_threshold,
                "rows": "ground truth",
                "columns": "detected",
                "classes": [*names, BACKGROUND],
                "boxes": details.confusion.tolist(),
            }
            matrix_json.write_text(json.dumps(content, indent=1) + "\n")
        rank_zero_info(f"Wrote {', '.join(FILES)} to {folder}")


def _write_curves(path: Path, class_names: list[str], details: EvaluationDetails) -> None:
    """A row for each class with ground truth and level of recall; no score where the recall is not reached."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("class", "recall", "precision", "score"))
        for name, precision, scores in zip(class_names, details.precision_50, details.scores_50, strict=True):
            for recall, value, score in zip(RECALLS, precision, scores, strict=True):
                if not math.isnan(value):
                    writer.writerow((name, f"{recall:.2f}", f"{value:.6g}", f"{score:.6g}" if value else ""))
