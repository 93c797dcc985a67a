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
    sets, runs = load("sets"), load("yolov2").grid()
    assert len(runs) == len(set(runs))
    seeds = Counter((r.set, r.arm, r.start) for r in runs if r.num == 5)
    for name in sets.SETS:
        for arm in ("baseline", "baseline-bn", "opt-soft-clust-bn", "full + fixed shapes"):
            assert seeds[name, arm, "kmeans"] == seeds[name, arm, "uniform"] == 8


@pytest.mark.parametrize("name", ["yolov2", "pyramids"])
def test_what_is_in_the_csv_is_done(name: str, tmp_path: Path):
    run, grid = load("run"), load(name)
    path, first, columns = tmp_path / "a" / "runs.csv", grid.grid()[0], grid.COLUMNS
    assert run.done(path, grid.KEY) == set()
    row = dict.fromkeys(columns, "x") | first._asdict() | {"map": 0.123456789, "by_class": "cat 0.5"}
    run.append(path, columns, row)
    run.append(path, columns, dict.fromkeys(columns, "x") | first._replace(seed=1)._asdict())
    assert run.done(path, grid.KEY) == {tuple(map(str, first)), tuple(map(str, first._replace(seed=1)))}
    header, line, _ = path.read_text().splitlines()
    assert header == ",".join(columns)
    assert ",0.123457," in line


def test_grid_of_pyramids_has_five_seeds_of_every_arm_and_the_main_arms_first():
    pyramids = load("pyramids")
    runs = pyramids.grid()
    kinds = pyramids.DETECTORS
    expected = {
        (name, s, arm): 5
        for name, kind in kinds.items()
        for s in pyramids.SETS
        for arm in kind.arms
        if s == "bccd" or arm not in pyramids.OF_BCCD
    }
    assert Counter((r.detector, r.set, r.arm) for r in runs) == expected
    assert {r.arm for r in runs[: len(kinds) * len(pyramids.SETS) * 5 * 2]} == {"stock", "learned"}


def test_committed_runs_have_the_columns_of_their_grid():
    for name in ("yolov2", "pyramids"):
        grid = load(name)
        path = ROOT / "docs" / "evidence" / grid.CSV
        if path.exists():
            assert path.read_text().splitlines()[0] == ",".join(grid.COLUMNS)


def test_arms_differ_from_the_full_method_in_what_their_names_say():
    sets = load("sets")
    full = sets.arm_options("opt-soft-clust-bn")
    assert (full["class_path"], full["anchors"]) == ("YOLOv2", {"learn": True})
    assert not sets.arm_options("baseline")["detector"]["bn_without_shift"]
    differences = {
        arm: {k for k, v in sets.arm_options(arm).items() if v != full[k]} for arm in (*sets.OVERLAYS, *sets.CHOICES)
    }
    assert differences["opt-soft-clust-bn"] == set()
    assert differences["baseline"] == {"detector", "anchors", "soft_assignment", "clustering"}
    assert differences["baseline-bn"] == {"anchors", "soft_assignment", "clustering"}
    assert differences["full + fixed shapes"] == {"anchors"}
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
        ("a", report.SLOW, "kmeans", 5): rows(0.3, 0.4),
    }
    text = report.tables(table)
    # +10 and +20 points: half of the interval is 12.706 * 7.07 / sqrt(2). No small boxes.
    assert "| a | kmeans | 1e-3 | +20.0 ± 0.0 (2) | +0.0 ± 0.0 (2) |" in text
    assert "| a | kmeans | 1e-2 | +15.0 ± 63.5 (2) | +0.0 ± 0.0 (2) |  | +0.0 ± 0.0 (2) | +0.0" in text
    assert "- a, kmeans, 1e-2: red cell +15.0 ± 63.5, car +0.0 ± 0.0." in text
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


@pytest.fixture
def made_set(tmp_path: Path, request: pytest.FixtureRequest):
    """A devkit and weights of the backbone in `tmp_path`; gives a `RealSet` of it."""
    import timm

    for logger in map(logging.getLogger, ("lightning.pytorch", "anchor_lightning")):
        request.addfinalizer(partial(logger.setLevel, logger.level))  # which a run raises
    sets = load("sets")
    torch.manual_seed(0)
    torch.save(timm.create_model(sets.BACKBONE).state_dict(), tmp_path / "weights.pth")
    make_voc(tmp_path / "devkit")
    options = {"years": [2012], "test_split": "val"}
    return partial(sets.RealSet, sets.VOCDataModule, "devkit", options, 64, 2, 2, precision="32-true")


@pytest.mark.parametrize(("frozen", "pretrained"), [("all", True), (0, True), (0, False)])
def test_a_run_from_features_and_from_images(
    frozen: str | int, pretrained: bool, tmp_path: Path, made_set, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps on made images: features of a frozen backbone, one that is trained, and one from random weights."""
    run, grid = load("run"), load("yolov2")
    monkeypatch.setitem(grid.SETS, "voc12", made_set(frozen, pretrained=pretrained))
    runs = [grid.Run("voc12", arm, "kmeans", 0, 3) for arm in ("baseline", "opt-soft-clust-bn")]
    places = (tmp_path, str(tmp_path / "weights.pth"), tmp_path / "cache")
    run.prepare("yolov2", runs, *places, 1)
    for each in runs:
        row = run.train("yolov2", each, *places, {})
        assert set(row) | {"commit"} == set(grid.COLUMNS)
        assert row["steps"] == 2 and 0 <= row["map_50"] <= 1 and 0 < row["mean_best_iou"] <= 1
        assert (row["shapes"] == row["initial_shapes"]) == (each.arm == "baseline")
    assert (tmp_path / "cache").exists() == (frozen == "all")


def numbers_of(shapes: str) -> list[float]:
    return [float(side) for shape in shapes.replace("|", " ").split() for side in shape.split("x")]


@pytest.mark.parametrize(("detector", "rate"), [("retinanet", 0.05), ("yolov3", 0.005)])
def test_a_run_of_a_pyramid_from_features_is_that_from_images(
    detector: str, rate: float, tmp_path: Path, made_set, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one epoch the first variant of each image is what a run from images sees."""
    run, grid = load("run"), load("pyramids")
    monkeypatch.setitem(grid.SETS, "voc12", made_set("all", strides=grid.STRIDES, variants=1))
    each, recipe = (
        grid.Run(detector, "voc12", "learned", 0),
        {"steps": 2, "learning_rate": rate, "warm_up": 0, "lr_mult": 20},
    )
    places = (tmp_path, str(tmp_path / "weights.pth"), tmp_path / "cache")
    run.prepare("pyramids", [each], *places, 1)
    features = run.train("pyramids", each, *places, recipe)
    images = grid.train(each, *places[:2], None, recipe)
    assert set(features) | {"commit"} == set(grid.COLUMNS)
    assert features["initial_shapes"] == images["initial_shapes"] != features["shapes"]
    assert numbers_of(features["shapes"]) == pytest.approx(numbers_of(images["shapes"]), rel=2e-3, abs=0.1)
    assert features["ar_300"] == pytest.approx(images["ar_300"], abs=0.1)
    assert features["by_class"].startswith("cat ") or features["by_class"].startswith("dog ")


@pytest.mark.parametrize("arm", ["stock", "learned-old"])
def test_faster_rcnn_runs_from_features(arm: str, tmp_path: Path, made_set, monkeypatch: pytest.MonkeyPatch) -> None:
    run, grid = load("run"), load("pyramids")
    monkeypatch.setitem(grid.SETS, "voc12", made_set("all", strides=grid.STRIDES, variants=1))
    each, places = grid.Run("faster_rcnn", "voc12", arm, 0), (tmp_path, str(tmp_path / "weights.pth"), tmp_path / "c")
    run.prepare("pyramids", [each], *places, 1)
    row = run.train("pyramids", each, *places, {"steps": 2, "lr_mult": 100})
    assert [len(level.split()) for level in row["initial_shapes"].split("|")] == [3, 3, 3, 3]
    assert (row["shapes"] == row["initial_shapes"]) == (arm == "stock")
    assert 0 < row["recall_iou50_50"] <= row["recall_iou50_1000"] <= 1


def test_report_of_pyramids_by_hand(tmp_path: Path) -> None:
    run, grid, report = load("run"), load("pyramids"), load("report_pyramids")
    path = tmp_path / "pyramids.csv"
    same = {"initial_shapes": "1.0x2.0 | 3.0x4.0", "shapes": "1.0x2.0 | 5.0x6.0", "commit": "a"}
    # AP@.5, recall at 50, AP of red and of white, by seed.
    values = {
        "stock": [(0.5, 0.3, 0.6, 0.4), (0.6, 0.4, 0.6, 0.5)],
        "learned": [(0.6, 0.4, 0.7, 0.2), (0.8, 0.4, 0.7, 0.1)],
        "kmeans": [(0.5, 0.3, 0.6, 0.4)],
    }
    for arm, rows in values.items():
        for seed, (ap, recall, red, white) in enumerate(rows):
            row = dict.fromkeys(grid.COLUMNS, 0.5) | grid.Run("retinanet", "bccd", arm, seed)._asdict() | same
            row |= {"map_50_frequent": ap, "ar_50": recall, "by_class": f"red cell {red}; white {white}"}
            run.append(path, grid.COLUMNS, row)
    table = report.read(path)
    text = report.tables(table)
    # AP@.5 +10 and +20: half of the interval is 12.706 * 7.07 / sqrt(2); recall +10 and 0; white -20 and -40, where
    # stock's seeds are 10 points apart; red +10 and +10.
    assert "| bccd | learned less stock | +15.0 ± 63.5 (2) | +0.0 ± 0.0 (2) | +5.0 ± 63.5 (2) |" in text
    assert "| white -30.0 ± 127.1 (2) | 10.0 | white | none |" in text
    assert "| bccd | kmeans less stock | +0.0 (1) |" in text and "| red cell +0.0 (1) | 0.0 | none | none |" in text
    assert "| bccd | stock | 55.0 ± 63.5 (2) |" in text
    assert "| bccd | learned | 1.0x2.0 / 3.0x4.0 | 1.0x2.0 / 5.0x6.0 |" in text
    red = report.class_changes(table["retinanet", "bccd", "learned"], table["retinanet", "bccd", "stock"])[1]
    assert (red.name, red.is_lost) == ("red cell", False)
    # -30 and -32 points: half of the interval is 12.706 * 1.41 / sqrt(2).
    assert report.ClassChange("white", [-0.30, -0.32], 0.5).is_lower
    report.forest(table, tmp_path / "forest.png")
    assert (tmp_path / "forest.png").stat().st_size > 10_000
