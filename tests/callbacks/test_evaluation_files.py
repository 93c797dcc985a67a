"""What `fit`, `validate` and `test` say and leave of single classes, through the command line."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from anchor_lightning.callbacks.progress import classes_text
from anchor_lightning.cli import main
from tests.helpers.tiny_training import SYNTHETIC

FILES = {"pr_curves.png", "pr_curves.csv", "confusion_matrix.png", "confusion_matrix.json"}


@pytest.mark.usefixtures("elsewhere")
def test_from_training_to_test(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level("INFO")
    args = [*SYNTHETIC, "--anchor_logger.animation", "false", "--prediction_pictures.num_images", "0"]
    main(["fit", *args])
    assert Path("runs/version_0/checkpoints/best_val_map_50.ckpt").is_file()
    assert "    AP at IoU 0.5: " in caplog.text
    header = Path("runs/version_0/metrics.csv").read_text().splitlines()[0]
    assert "val/map_50" in header and "val/ap_50/" not in header
    assert not FILES & {path.name for path in Path("runs/version_0").iterdir()}
    for number, command in enumerate(("validate", "test"), start=1):
        caplog.clear()
        cli = main([command, *args, "--ckpt_path", "best"])
        best = "runs/version_0/checkpoints/best_val_map_50.ckpt"
        assert cli.config[command].ckpt_path == best and f"best: {best}, val/map_50 " in caplog.text
        assert "class" in capsys.readouterr().out
        folder = Path(f"runs/version_{number}")
        assert {path.name for path in folder.iterdir()} >= FILES
        names = cli.model.class_names
        content = json.loads((folder / "confusion_matrix.json").read_text())
        assert (content["score_threshold"], content["iou_threshold"]) == (0.3, 0.5)
        assert content["classes"] == [*names, "background"] and len(content["boxes"]) == len(names) + 1
        split = "val" if command == "validate" else "test"
        truth = cli.datamodule.ground_truth(split)
        counts = [sum(int((each.labels == label).sum()) for each in truth) for label in range(len(names))]
        assert [sum(row) for row in content["boxes"][:-1]] == counts
        with (folder / "pr_curves.csv").open() as file:
            rows = list(csv.DictReader(file))
        for name in {row["class"] for row in rows}:
            precisions = [float(row["precision"]) for row in rows if row["class"] == name]
            expected = float(cli.trainer.callback_metrics[f"{split}/ap_50/{name}"])
            assert len(precisions) == 101 and sum(precisions) / 101 == pytest.approx(expected, abs=1e-5)


def test_a_line_of_classes_by_hand() -> None:
    assert classes_text({"cat": 0.5, "dog": math.nan}) == "AP at IoU 0.5: cat 0.5000, dog -"
    many = {f"c{place}": place / 30 for place in range(29, -1, -1)} | {"none": math.nan}
    said = classes_text(many)
    assert said.startswith("AP at IoU 0.5, the lowest 10 of 30 classes: c0 0.0000, c1 0.0333,")
    assert said.endswith("c9 0.3000")
