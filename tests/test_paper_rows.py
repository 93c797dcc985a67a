"""Every row of the paper's tables, composed of shipped configurations, runs two real steps and a validation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from anchor_lightning.cli import main
from tests.made_data import make_brainwash, make_coco, make_voc

BASELINE = "ablation/baseline.yaml"
ABLATION = [BASELINE, *(f"ablation/opt{name}.yaml" for name in ("", "-soft", "-soft-clust", "-soft-clust-bn"))]
ROWS: list[tuple[str, str, list[str]]] = [
    # Table 1: three initialisations at 416, k-means at 544 as well, baseline and learned.
    *(("table 1", "voc", [f"init/{init}.yaml"]) for init in ("identical", "uniform", "kmeans-voc")),
    *(("table 1", "voc", [f"init/{init}.yaml", BASELINE]) for init in ("identical", "uniform", "kmeans-voc")),
    ("table 1", "voc", ["init/kmeans-voc.yaml", "size/544.yaml"]),
    ("table 1", "voc", ["init/kmeans-voc.yaml", "size/544.yaml", BASELINE]),
    # Tables 2 and 3: the same trainings, measured on val and on test-dev.
    *(("tables 2, 3", "coco", [f"init/{init}.yaml"]) for init in ("identical", "uniform", "kmeans-coco")),
    *(("tables 2, 3", "coco", [f"init/{init}.yaml", BASELINE]) for init in ("uniform", "kmeans-coco")),
    # Table 5: the baseline with anchors from COCO, too.
    *(("table 5", "brainwash", [f"init/{init}.yaml"]) for init in ("identical", "uniform", "kmeans")),
    *(("table 5", "brainwash", [f"init/{init}.yaml", BASELINE]) for init in ("kmeans-coco", "uniform", "kmeans")),
    # Table 6: VOC from k-means, Brainwash from uniform.
    *(("table 6", "voc", ["init/kmeans-voc.yaml", row]) for row in ABLATION),
    *(("table 6", "brainwash", ["init/uniform.yaml", row]) for row in ABLATION),
]
SMALL = [
    *("--config", "logger/csv.yaml", "--config", "trainer/cpu.yaml", "--model.width", "0.1", "--data.image_size", "64"),
    *("--data.batch_size", "2", "--data.num_workers", "0", "--trainer.max_steps", "2", "--trainer.val_check_interval"),
    *("2", "--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0"),
    *("--trainer.enable_model_summary", "false", "--model.score_threshold", "0.01"),
]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    makers = {"voc": make_voc, "coco": make_coco, "brainwash": make_brainwash}
    return {name: make(folder / name) for name, make in makers.items()}


@pytest.mark.parametrize(("table", "data", "overlays"), ROWS, ids=[f"{t}: {d} " + " + ".join(o) for t, d, o in ROWS])
def test_row(
    table: str,
    data: str,
    overlays: list[str],
    roots: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["anchor_lightning"])
    words = [word for overlay in overlays for word in ("--config", overlay)]
    cli = main(["fit", "--config", f"{data}.yaml", *words, *SMALL, "--data.root", str(roots[data])])
    assert cli.trainer.global_step == 2
    assert "val/map_50" in cli.trainer.callback_metrics
    shapes, learned = cli.model.shapes, BASELINE not in overlays
    assert shapes.log_wh.requires_grad == learned
    if learned:
        assert not torch.equal(shapes.wh, shapes.initial_wh), "the shapes have moved"
    else:
        torch.testing.assert_close(shapes.wh, shapes.initial_wh)
    full = learned and ("ablation" not in "".join(overlays) or overlays[-1].endswith("-bn.yaml"))
    assert (cli.model.detector.head.norm is not None) == full
