from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from anchor_lightning.anchors import AnchorShapes
from anchor_lightning.callbacks.anchor_logger import (
    AnchorLogger,
    end_verdict,
    format_table,
    learned_table,
    sample,
    start_verdict,
    usage,
    vanished_text,
)
from anchor_lightning.callbacks.shape_recorder import ShapeRecorder, thin
from anchor_lightning.errors import UserError

SHAPES = torch.tensor([[30.0, 70.0], [100.0, 52.0]])


class Run:
    """A training of one shape a step, as far as a recorder sees it."""

    module: Any = None

    def __init__(self, folder: Path, recorder: ShapeRecorder, first: int = 0) -> None:
        self.folder, self.recorder = folder, recorder
        self.shapes = AnchorShapes(2, SHAPES)
        self.logger = CSVLogger(folder, name="", version="")
        self.trainer: Any = SimpleNamespace(
            fast_dev_run=False, barebones=False, loggers=[self.logger], global_step=first, is_global_zero=True,
            default_root_dir=folder,
        )  # fmt: skip
        recorder.record(self.trainer, self.shapes, lambda: SHAPES, lambda wh: {"sum": float(wh.sum())})

    def steps(self, last: int, batches: int = 1) -> None:
        """Steps up to `last`, each of several batches."""
        while self.trainer.global_step < last:
            for _ in range(batches):
                self.recorder.on_train_batch_start(self.trainer, self.module, None, 0)
            self.shapes.log_wh.data += 0.01
            self.trainer.global_step += 1

    def rows(self) -> list[int]:
        """The steps of `anchors.csv`."""
        with (self.folder / "anchors.csv").open() as file:
            return [int(row["step"]) for row in csv.DictReader(file)]


def test_rows_and_figures_when_they_are_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, drawn = Run(tmp_path, ShapeRecorder(2, 3)), []
    monkeypatch.setattr(ShapeRecorder, "draw", lambda _, trainer: drawn.append(trainer.global_step))
    run.steps(3, batches=2)
    assert run.rows() == [0, 0, 2, 2] and not drawn
    run.steps(4, batches=2)
    run.recorder.on_train_end(run.trainer, run.module)
    run.recorder.on_train_end(run.trainer, run.module)
    assert run.rows() == [0, 0, 2, 2, 4, 4], "the last once"
    assert drawn == [3, 4, 4]
    late = Run(tmp_path / "late", ShapeRecorder(2), first=3)
    late.steps(6)
    assert late.rows() == [3, 3, 4, 4], "the first step of a run is always due"
    monkeypatch.undo()
    run.recorder.draw(run.trainer)
    assert (tmp_path / "anchors.png").exists() and (tmp_path / "trajectory.png").exists()
    lines = (tmp_path / "anchors.csv").read_text().splitlines()
    assert lines[:2] == ["step,anchor,w,h", "0,0,30.0000,70.0000"] and lines[-1].startswith("4,1,104.08")
    run.logger.save()
    with (tmp_path / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert [float(row["anchors/1/w"]) for row in logged] == pytest.approx(
        [100 * 1.01005**step for step in (0, 2, 4)], rel=1e-4
    )
    assert float(logged[0]["sum"]) == pytest.approx(252)


def test_a_resumed_run_has_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint stands at the start of a step, after its row was written, or at the end, before."""
    monkeypatch.setattr(ShapeRecorder, "draw", lambda *_: None)
    whole = Run(tmp_path / "whole", ShapeRecorder(1))
    whole.steps(6)
    whole.recorder.on_train_end(whole.trainer, whole.module)
    for with_row in (True, False):
        first = Run(tmp_path / f"{with_row}1", ShapeRecorder(1))
        first.steps(3)
        if with_row:
            first.recorder.on_train_batch_start(first.trainer, first.module, None, 0)
        recorder = ShapeRecorder(1)
        recorder.load_state_dict(first.recorder.state_dict())
        second = Run(tmp_path / f"{with_row}2", recorder, first=3)
        second.shapes.load_state_dict(first.shapes.state_dict())
        second.steps(6)
        second.recorder.on_train_end(second.trainer, second.module)
        assert (second.folder / "anchors.csv").read_text() == (whole.folder / "anchors.csv").read_text()


def test_a_record_of_an_earlier_run_is_replaced_and_another_file_kept(tmp_path: Path) -> None:
    for _ in range(2):
        run = Run(tmp_path, ShapeRecorder(1))
        run.steps(2)
    assert run.rows() == [0, 0, 1, 1]
    (tmp_path / "anchors.csv").write_text("mine")
    with pytest.raises(UserError, match=r"anchors\.csv"):
        Run(tmp_path, ShapeRecorder(1))
    assert (tmp_path / "anchors.csv").read_text() == "mine"


def test_history_is_thinned_evenly_and_survives_a_checkpoint(tmp_path: Path) -> None:
    history: dict[int, list[list[float]]] = {}
    for step in range(0, 100_000, 10):
        history = thin(history | {step: [[float(step), 1.0]]}, 100)
    steps = torch.tensor(list(history))
    assert 25 <= len(steps) <= 100 and steps[0] == 0 and steps[-1] == 99_990
    assert int(steps.diff().max()) <= 4000, "the beginning is as fine as the end"
    recorder, resumed = ShapeRecorder(1), ShapeRecorder(1)
    recorder.history = history
    torch.save(recorder.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.history == history


@pytest.mark.parametrize("option", ["every_n_steps", "figure_every_n_steps"])
def test_steps_must_be_positive(option: str) -> None:
    with pytest.raises(UserError, match=option):
        AnchorLogger(**{option: 0})


def test_table_by_hand() -> None:
    modes = torch.tensor([[100.0, 50.0], [30.0, 70.0]])
    columns, rows = learned_table(torch.full((2, 2), 160.0), SHAPES, torch.tensor([0.25, 0.75]), [2], modes)
    assert columns[-3:] == ["nearest mode w", "nearest mode h", "IoU with it"]
    assert rows[0] == [0, 160.0, 160.0, 30.0, 70.0, 0.25, 30.0, 70.0, 1.0]
    assert rows[1] == [1, 160.0, 160.0, 100.0, 52.0, 0.75, 100.0, 50.0, round(50 / 52, 3)]
    lines = format_table(columns, rows).splitlines()
    assert "pixels" in lines[0] and len({len(line) for line in lines[1:]}) == 1
    assert lines[2].split() == ["0", "160.0", "160.0", "30.0", "70.0", "25.0%", "30.0", "70.0", "1.0"]
    columns, rows = learned_table(SHAPES, SHAPES, torch.tensor([0.25, 0.75]), [1, 1])
    assert columns[:2] == ["anchor", "level"] and rows[1] == [1, 1, 100.0, 52.0, 100.0, 52.0, 0.75]
    assert format_table(columns, rows).splitlines()[3].split() == ["1", "1", *["100.0", "52.0"] * 2, "75.0%"]


def test_the_fit_is_logged_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each box counts alike: three are as a shape, one is half of the other; augmented, that one alone is left."""
    monkeypatch.setattr(ShapeRecorder, "draw", lambda *_: None)
    boxes, shown = torch.tensor([[30.0, 70.0]] * 3 + [[100.0, 26.0]]), {}
    module = SimpleNamespace(
        temperature=0.5, clustering_weight=0.25, log=lambda key, value, **_: shown.update({key: value})
    )
    module.data = SimpleNamespace(train_box_shapes=lambda augmented=False: boxes[3 * augmented :])
    run = Run(tmp_path, AnchorLogger())
    module.shapes = run.shapes
    module.anchor_frame = {"image_size": [64, 96], "resize": "stretch"}
    run.recorder.on_train_start(run.trainer, module)
    run.recorder.on_train_batch_start(run.trainer, module, None, 0)
    run.logger.save()
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    expected = {"temperature": 0.5, "lambda": 0.25, "usage_0": 0.75, "usage_1": 0.25}
    expected |= {"mean_best_iou": (3 + 0.5) / 4, "mean_best_iou_augmented": 0.5}
    assert {name: float(row[f"anchors/{name}"]) for name in expected} == pytest.approx(expected, abs=1e-6)
    assert shown == {"anchors/mean_best_iou": pytest.approx(0.875)}
    assert usage(boxes[:0], SHAPES).tolist() == [0.0, 0.0]


def test_a_large_set_is_sampled_and_always_the_same() -> None:
    boxes = torch.arange(120_000.0).view(-1, 2)
    assert torch.equal(sample(boxes), sample(boxes)) and len(sample(boxes)) == 50_000
    assert len(sample(boxes).unique(dim=0)) == 50_000
    assert torch.equal(sample(boxes[:10]), boxes[:10])


def test_the_verdict_on_the_shapes_at_the_start_by_hand() -> None:
    boxes = torch.tensor([[10.0, 10.0], [20.0, 10.0], [10.0, 20.0], [100.0, 100.0]])
    # IoU with 10 x 10: 1, 0.5, 0.5, 0.01; ratios 1, 2, 2, 10.
    said = start_verdict(boxes, torch.tensor([[10.0, 10.0]]), learned=False)
    assert "BPR 0.750 at ratio 4, 0.750 at IoU 0.5, mean best IoU 0.502: a poor fit" in said
    assert said.endswith("fit them: model.anchors.init kmeans, or anchors fit.")
    assert start_verdict(boxes, torch.tensor([[10.0, 10.0]]), learned=True).endswith("they are learned from here on.")
    good = start_verdict(boxes, boxes[[0, 1, 2, 3]], learned=True)
    assert good == "Shapes at the start: BPR 1.000 at ratio 4, 1.000 at IoU 0.5, mean best IoU 1.000: a good fit."


def test_the_verdict_on_the_shapes_at_the_end_by_hand() -> None:
    boxes = torch.tensor([[10.0, 10.0], [20.0, 10.0], [10.0, 20.0], [100.0, 100.0]])
    said = end_verdict(boxes, torch.tensor([[10.0, 10.0]]), torch.tensor([[100.0, 100.0]]))
    # IoU with 100 x 100: 0.01, 0.02, 0.02, 1; ratios 10, 10, 10, 1.
    assert said == (
        "Shapes at the end (at the start): BPR 0.250 (0.750) at ratio 4, 0.250 (0.750) at IoU 0.5, "
        "mean best IoU 0.263 (0.502)."
    )


def test_shapes_smaller_than_a_pixel_are_named() -> None:
    assert vanished_text(torch.tensor([[1.0, 1.0], [300.0, 8.0]])) == ""
    assert "which fit no box: 0, 2. " in vanished_text(torch.tensor([[0.5, 9.0], [9.0, 9.0], [9.0, 0.0]]))
