"""The evidence's command: its grid, how it goes on after a stop, its arms and the norm over positives."""

import importlib
import logging
import math
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.helpers.made_data import make_voc

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def evidence(monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "evidence"))


def load(name):
    return importlib.import_module(name)


def test_grid_has_eight_seeds_of_the_main_arms_and_no_run_twice():
    sets, runs = load("sets"), load("run").grid()
    assert len(runs) == len(set(runs))
    seeds = Counter((r.set, r.arm, r.start) for r in runs if r.num == 5)
    for name in sets.SETS:
        for arm in ("baseline", "baseline-bn", "opt-soft-clust-bn"):
            assert seeds[name, arm, "kmeans"] == seeds[name, arm, "uniform"] == 8


def test_what_is_in_the_csv_is_done(tmp_path: Path):
    run = load("run")
    path, first = tmp_path / "a" / "runs.csv", run.grid()[0]
    assert run.done(path) == set()
    run.append(path, dict.fromkeys(run.COLUMNS, "x") | first._asdict() | {"map": 0.123456789, "by_class": "cat 0.5"})
    run.append(path, dict.fromkeys(run.COLUMNS, "x") | first._replace(seed=1)._asdict())
    assert run.done(path) == {tuple(map(str, first)), tuple(map(str, first._replace(seed=1)))}
    header, line, _ = path.read_text().splitlines()
    assert header == ",".join(run.COLUMNS)
    assert ",0.123457," in line


def test_arms_differ_from_the_full_method_in_what_their_names_say():
    sets = load("sets")
    full = sets.arm_options("opt-soft-clust-bn")
    assert (full["class_path"], full["learn"]) == ("YOLOv2", True)
    assert not sets.arm_options("baseline")["detector"]["bn_without_shift"]
    differences = {
        arm: {k for k, v in sets.arm_options(arm).items() if v != full[k]} for arm in (*sets.OVERLAYS, *sets.CHOICES)
    }
    assert differences["opt-soft-clust-bn"] == set()
    assert differences["baseline"] == {"detector", "learn", "soft_assignment", "clustering"}
    assert differences["baseline-bn"] == {"learn", "soft_assignment", "clustering"}
    assert differences["full + fixed shapes"] == {"learn"}
    assert differences["full + T auto"] == differences["full + T geometric"] == {"soft_assignment"}
    assert differences["full + γ 0.3"] == {"detector"}
    assert differences["full + norm over positives"] == {"class_path"}


def test_statistics_over_positives_by_hand():
    norm = load("variants").PositivesNorm(4, scale_init=3.0)
    offsets = torch.zeros(1, 4, 1, 3)
    offsets[0, 0, 0] = torch.tensor([1.0, 5.0, 100.0])  # Δw of the first anchor, the last cell without a box
    norm.delta = torch.zeros(1, 2, 1, 3)
    norm.delta[0, 0, 0] = torch.tensor([1.5, 0.5, 0.0])
    out = norm(offsets)
    mean, variance = (1.5 * 1 + 0.5 * 5) / 2, (1.5 * 1 + 0.5 * 9) / 2  # 2 and 3
    expected = [3 * (x - mean) / math.sqrt(variance + norm.eps) for x in (1, 5, 100)]
    assert out[0, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert norm.running_mean.tolist() == pytest.approx([0.2, 0, 0, 0])
    # The second anchor has no box: running statistics (0 and 1 at first), which stay.
    assert norm.running_var.tolist() == pytest.approx([1 + 0.1 * (variance - 1), 0.9, 1, 1])


def test_interval_and_pairs():
    report = load("report")
    assert report.paired({0: 3.0, 1: 5.0, 4: 1.0}, {1: 1.0, 0: 2.0, 7: 0.0}) == [1.0, 4.0]
    mean, half = report.mean_interval([1.0, 2.0, 3.0])
    assert (mean, half) == pytest.approx((2.0, 4.303 * 1 / math.sqrt(3)))


def test_what_learning_adds_and_the_spread_by_hand():
    report = load("report")
    sizes = {"map": "0.2", "map_50_small": "nan", "map_50_medium": "0.1", "map_50_large": "0.3", "bpr": "1"}

    def rows(*scores):
        return {
            seed: {"map_50_frequent": str(s), "by_class": f"red cell {s}; car 0.5", "mean_best_iou": "0.5", **sizes}
            for seed, s in enumerate(scores)
        }

    table = {
        ("a", report.FIXED, "kmeans", 5): rows(0.1, 0.2),
        ("a", report.FULL, "kmeans", 5): rows(0.2, 0.4),
        ("a", report.FULL, "uniform", 5): rows(0.3, 0.3),
    }
    text = report.tables(table)
    # +10 and +20 points: half of the interval is 12.706 * 7.07 / sqrt(2). No small boxes.
    assert "| a | kmeans | +15.0 ± 63.5 (2) | +0.0 ± 0.0 (2) |  | +0.0 ± 0.0 (2) | +0.0" in text
    assert "- a, kmeans: red cell +15.0 ± 63.5, car +0.0 ± 0.0." in text
    assert f"| a | {report.FULL} | kmeans, uniform | 10.0 ± 0.0 (2) |" in text
    assert "nan" not in text


def test_ladder_and_numbers_of_shapes_by_hand():
    report = load("report")

    def rows(*scores):
        return {seed: {"map_50_frequent": str(score)} for seed, score in enumerate(scores)}

    first, second, third, fourth, last = report.LADDER
    table = {
        ("a", first, "kmeans", 5): rows(0.1, 0.2, 0.9),  # the third seed is not there for all
        ("a", second, "kmeans", 5): rows(0.2, 0.3),
        ("a", third, "kmeans", 5): rows(0.2, 0.3),
        ("a", fourth, "kmeans", 5): rows(0.1, 0.2),
        ("a", last, "kmeans", 5): rows(0.4, 0.5),
        ("a", first, "kmeans", 3): rows(0.1, 0.1),
        ("a", last, "kmeans", 3): rows(0.2, 0.2),
    }
    steps = ["+10.0 ± 0.0 (2)", "+0.0 ± 0.0 (2)", "-10.0 ± 0.0 (2)", "+30.0 ± 0.0 (2)"]
    # Half of the interval of 10 and 20 points is 12.706 * 7.07 / sqrt(2).
    assert report.ladder(table)[-1] == "| a | kmeans | 15.0 ± 63.5 (2) | " + " | ".join(steps) + " |"
    assert report.numbers_of_shapes(table)[-2:] == [
        "| a | kmeans | baseline | 3: 10.0 ± 0.0 (2), 5: 15.0 ± 63.5 (2) | 3: +10.0 ± 0.0 (2), 5: +30.0 ± 0.0 (2) |",
        f"| a | kmeans | {last} | 3: 20.0 ± 0.0 (2), 5: 45.0 ± 63.5 (2) |  |",
    ]


@pytest.mark.parametrize("frozen", ["all", 0])
def test_a_run_from_features_and_from_images(
    frozen: str | int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Two steps on made images, with the features of a frozen backbone and with one that is trained."""
    import timm

    for logger in map(logging.getLogger, ("lightning.pytorch", "anchor_lightning")):
        request.addfinalizer(partial(logger.setLevel, logger.level))  # which a run raises
    run, sets = load("run"), load("sets")
    torch.manual_seed(0)
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model(sets.BACKBONE).state_dict(), weights)
    make_voc(tmp_path / "devkit")
    options = {"years": [2012], "test_split": "val"}
    tiny = sets.RealSet(sets.VOCDataModule, "devkit", options, 64, 2, 2, frozen, "32-true")
    monkeypatch.setitem(sets.SETS, "voc12", tiny)
    runs = [run.Run("voc12", arm, "kmeans", 0, 3) for arm in ("baseline", "opt-soft-clust-bn")]
    run.prepare(runs, tmp_path, str(weights), tmp_path / "cache", 1)
    for each in runs:
        row = run.train(each, tmp_path, str(weights), tmp_path / "cache", {})
        assert row["steps"] == 2 and 0 <= row["map_50"] <= 1 and 0 < row["mean_best_iou"] <= 1
        assert (row["shapes"] == row["initial_shapes"]) == (each.arm == "baseline")
    assert (tmp_path / "cache").exists() == (frozen == "all")
