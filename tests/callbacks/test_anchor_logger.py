from __future__ import annotations

from pathlib import Path

import pytest
import torch

from anchor_lightning.callbacks import AnchorLogger, ClusteringDecay, SoftAssignment
from anchor_lightning.callbacks.anchor_logger import append_rows, format_table, shape_table, thin
from anchor_lightning.callbacks.prediction_writer import coco_results
from anchor_lightning.structures import Detections

INITIAL = torch.tensor([[160.0, 160.0], [160.0, 160.0]])
LEARNED = torch.tensor([[30.0, 70.0], [100.0, 52.0]])


def test_table_by_hand() -> None:
    modes = torch.tensor([[100.0, 50.0], [30.0, 70.0]])
    columns, rows = shape_table(INITIAL, LEARNED, torch.tensor([0.25, 0.75]), modes)
    assert columns[-3:] == ["nearest mode w", "nearest mode h", "IoU with it"]
    assert rows[0] == [0, 160.0, 160.0, 30.0, 70.0, 0.25, 30.0, 70.0, 1.0]
    assert rows[1] == [1, 160.0, 160.0, 100.0, 52.0, 0.75, 100.0, 50.0, round(50 / 52, 3)]
    text = format_table(columns, rows)
    assert text.startswith("Anchors in pixels of the network input:") and len(set(map(len, text.splitlines()[1:]))) == 1


def test_rows_are_appended(tmp_path: Path) -> None:
    append_rows(tmp_path / "anchors.csv", 0, INITIAL)
    append_rows(tmp_path / "anchors.csv", 50, LEARNED)
    lines = (tmp_path / "anchors.csv").read_text().splitlines()
    assert lines[0] == "step,anchor,w,h" and lines[1] == "0,0,160.0000,160.0000"
    assert lines[-1] == "50,1,100.0000,52.0000" and len(lines) == 5


def test_history_is_thinned_evenly_and_survives_a_checkpoint(tmp_path: Path) -> None:
    history: dict[int, list[list[float]]] = {}
    for step in range(0, 100_000, 10):
        history = thin(history | {step: [[float(step), 1.0]]}, 100)
    steps = torch.tensor(list(history))
    assert 25 <= len(steps) <= 100 and steps[0] == 0 and steps[-1] == 99_990
    assert int(steps.diff().max()) <= 4000, "the beginning is as fine as the end"
    logger = AnchorLogger()
    logger._history = history
    torch.save(logger.state_dict(), tmp_path / "state.pt")
    resumed = AnchorLogger()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed._history == history


def test_coco_results_by_hand() -> None:
    found = Detections(
        torch.tensor([[1.0, 2.0, 11.0, 22.0]]), torch.tensor([0.5]), torch.tensor([1]), torch.tensor([0])
    )
    expected = {"image_id": 7, "category_id": 17, "bbox": [1.0, 2.0, 10.0, 20.0], "score": 0.5}
    assert coco_results(7, found, [3, 17]) == [expected]


@pytest.mark.parametrize(
    "make",
    [
        lambda: AnchorLogger(every_n_steps=0),
        lambda: SoftAssignment(start=-1.0),
        lambda: SoftAssignment(steps=-1),
        lambda: ClusteringDecay(start=-1.0),
        lambda: ClusteringDecay(steps=-5),
    ],
)
def test_refuses_bad_options(make) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()
