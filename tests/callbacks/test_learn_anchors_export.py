"""What LearnAnchors writes, taken by `anchors export` with its levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anchor_lightning import LearnAnchors
from anchor_lightning.cli import main
from tests.helpers.clients import STEPS, Client, loader, trainer
from tests.helpers.made_detectors import SIZE

LEVELS = {"retinanet": [6, 6], "ssd": [4, 6], "c4": [9]}


def exported(shapes: Path, to: str = "json") -> str:
    main(["anchors", "export", "--shapes", str(shapes), "--to", to, "--output", "exported"])
    return Path("exported").read_text()


def by_width(levels: list[torch.Tensor]) -> torch.Tensor:
    """The shapes level after level; an export has them by area, of which some are equal."""
    return torch.cat([level[level[:, 0].argsort()] for level in levels])


@pytest.mark.parametrize("kind", LEVELS)
def test_every_file_of_a_training_keeps_its_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The run folder, a checkpoint of the training and the frozen one state the shapes that the model ended with."""
    monkeypatch.chdir(tmp_path)
    client = Client(kind)
    made = trainer(tmp_path, LearnAnchors())
    made.fit(client, loader(STEPS))
    run = Path(made.logger.log_dir)
    generator: Any = getattr(client.model, "rpn", client.model).anchor_generator
    if kind == "ssd":
        expected = [pairs * torch.tensor([SIZE[1], SIZE[0]]) for pairs in generator._wh_pairs]
    else:
        expected = [cells[:, 2:] - cells[:, :2] for cells in generator.cell_anchors]
    for file in (run, next(run.rglob("last.ckpt")), run / "frozen.ckpt"):
        stated = json.loads(exported(file))
        assert stated["per_level"] == LEVELS[kind]
        assert stated["image_size"] == (list(SIZE) if kind == "ssd" else None)
        found = list(torch.tensor(stated["anchors"]).split(stated["per_level"]))
        torch.testing.assert_close(by_width(found), by_width(expected), rtol=1e-4, atol=1e-3)


def test_torchvision_takes_them_on_their_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    client = Client("retinanet")
    made = trainer(tmp_path, LearnAnchors())
    made.fit(client, loader(STEPS))
    names: dict[str, Any] = {}
    exec(exported(Path(made.logger.log_dir) / "frozen.ckpt", "torchvision"), names)
    found, own = names["anchor_generator"].cell_anchors, client.model.anchor_generator.cell_anchors
    assert [len(level) for level in found] == [6, 6]
    ours, theirs = ([cells[:, 2:] - cells[:, :2] for cells in levels] for levels in (own, found))
    torch.testing.assert_close(by_width(theirs), by_width(ours), rtol=1e-4, atol=1e-3)


def test_a_frozen_ssd_without_its_input_and_other_entries_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for cells, said in (([torch.ones(2, 2)], "run folder"), ([torch.ones(2, 3)], "no anchor shapes"), ({}, "type")):
        torch.save({"state_dict": {}, "cell_anchors": cells}, "frozen.ckpt")
        with pytest.raises(SystemExit, match=said):
            exported(tmp_path / "frozen.ckpt")
