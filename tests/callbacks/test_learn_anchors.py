from __future__ import annotations

import csv
import re
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint, WeightAveraging
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from anchor_lightning import LearnAnchors, anchor_shapes, make_anchors_learnable
from anchor_lightning.errors import UserError
from tests.helpers.clients import STEPS, Client, LateClient, SetupClient, SGDClient, keeps_shapes, loader, trainer
from tests.helpers.launching import REPOSITORY
from tests.helpers.made_detectors import make_detector, predictions_of, same

assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


def fit(
    folder: Path, client: Any, *callbacks: Any, learn: LearnAnchors | None = None, batches: int = STEPS, **options: Any
) -> Any:
    made = trainer(folder, *callbacks, learn or LearnAnchors(), **options)
    made.fit(client, loader(batches))
    return made


def area_of(log_wh: torch.Tensor) -> float:
    return float(log_wh.detach().double().exp().prod(1).sum())


@pytest.mark.parametrize(
    ("make", "kind", "groups"),
    [
        (Client, "retinanet", ["pg1", "anchors"]),
        (Client, "ssd", ["pg1", "anchors"]),
        (SGDClient, "fpn", ["pg1", "pg2", "anchors"]),
    ],
)
def test_somebody_elses_module(tmp_path: Path, make: type[Client], kind: str, groups: list[str]) -> None:
    client, stock = make(kind), make(kind)
    seen: list[Any] = []
    made = fit(tmp_path, client, keeps_shapes(seen, lambda module: anchor_shapes(module.model).wh))
    optimizer = made.optimizers[0]
    own = optimizer.param_groups[-1]
    assert [len(own["params"]), own["name"]] == [1, "anchors"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1] * (len(groups) - 1) + [0.0]
    assert not torch.equal(seen[0], seen[-1]), "the shapes learn"

    assert type(client.model) is type(stock.model) and client.state_dict().keys() == stock.state_dict().keys()
    assert [type(a) for a in client.modules()] == [type(b) for b in stock.modules()]
    assert "configure_optimizers" not in client.__dict__ and "on_load_checkpoint" not in client.__dict__

    run = Path(made.logger.log_dir)
    with (run / "metrics.csv").open() as file:
        columns = next(csv.reader(file))
    rates = {f"lr-{type(optimizer).__name__}/{group}" for group in groups}
    assert {"anchors/0/w", "anchors/1/h", "anchors/lambda"} | rates <= set(columns)
    rows = list(csv.DictReader((run / "anchors.csv").open()))
    assert {row["step"] for row in rows} == {"0", str(STEPS)} and len(rows) == 2 * len(seen[0])
    assert (run / "anchors.png").exists() and (run / "trajectory.png").exists()

    plain = make.load_from_checkpoint(run / "frozen.ckpt", weights_only=True)
    cells = torch.load(run / "cell_anchors.pt", weights_only=True)
    generator = getattr(plain.model, "rpn", plain.model).anchor_generator
    setattr(generator, "_wh_pairs" if kind == "ssd" else "cell_anchors", cells)
    assert same(predictions_of(plain.model), predictions_of(client.model))


@pytest.mark.parametrize(("kind", "levels"), [("retinanet", [6, 6]), ("ssd", [4, 6]), ("c4", [9])])
def test_a_summary_is_printed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, levels: list[int]
) -> None:
    """Every shape with its level, the fit to the boxes that were shown, and where the model is."""
    said: list[str] = []
    for module in ("learn_anchors", "torchvision_export"):
        monkeypatch.setattr(f"anchor_lightning.callbacks.{module}.rank_zero_info", said.append)
    monkeypatch.chdir(tmp_path)
    made = fit(tmp_path, Client(kind))
    table, verdict, where = said
    head, *rows = table.splitlines()[1:]
    assert head.split()[:2] == (["anchor", "level"] if len(levels) > 1 else ["anchor", "initial"])
    assert len(rows) == sum(levels)
    if len(levels) > 1:
        assert [int(row.split()[1]) for row in rows] == [0] * levels[0] + [1] * levels[1]
    initial, learned = torch.tensor([[float(cell) for cell in row.split()[-5:-1]] for row in rows]).split(2, 1)
    assert (initial != learned).any()
    assert re.fullmatch(r"Shapes at the end \(at the start\): BPR \d\.\d{3} \(\d\.\d{3}\) at ratio 4, .*", verdict)
    assert str(Path(made.logger.log_dir) / "frozen.ckpt") in where and "cell_anchors.pt" in where
    said.clear()
    fit(tmp_path, Client(kind), fast_dev_run=True)
    assert len(said) == 3 and "no file" in said[2]


def test_soft_shared_and_bounded(tmp_path: Path) -> None:
    """T falls as asked, and the shapes of both levels grow by the same factors."""
    client, seen = Client(), list[Any]()
    before = [cells[:, 2:] - cells[:, :2] for cells in client.model.anchor_generator.cell_anchors]

    def note(trainer: Any, module: Any, *_: Any) -> None:
        shapes: Any = anchor_shapes(module.model)
        seen.append((shapes.temperature, shapes.distance, shapes.bound_octaves))

    learn = LearnAnchors(soft_start=1.0, soft_steps=4, share_levels=True, bound_octaves=2.0)
    fit(tmp_path, client, LambdaCallback(on_train_batch_end=note), learn=learn)
    assert seen == [(T, "l2", 2) for T in (1, 0.75, 0.5, 0.25)] + [(0, "iou", 2)] * 2
    after = [cells[:, 2:] - cells[:, :2] for cells in client.model.anchor_generator.cell_anchors]
    fine, coarse = (now / start for now, start in zip(after, before, strict=True))
    assert (fine != 1).any(1).all()
    torch.testing.assert_close(fine, coarse)


def test_what_the_module_itself_has_said_of_its_shapes_stays(tmp_path: Path) -> None:
    """Bounds hold in the files, too, though the last step went beyond them."""
    client = Client()
    make_anchors_learnable(client.model).constrain(bound_octaves=0.0, share_levels=True)
    # Three of six steps: the schedule's last ones hardly move anything.
    run = Path(fit(tmp_path, client, learn=LearnAnchors(lr_mult=30), max_steps=3).logger.log_dir)
    last = torch.load(run / "checkpoints" / "last.ckpt")["state_dict"]["model.anchor_generator.shapes.log_wh"].exp()
    rows = torch.tensor([[float(row["w"]), float(row["h"])] for row in csv.DictReader((run / "anchors.csv").open())])
    first, listed = rows.split(12)
    assert (listed - first).abs().amin(1).max() > 1, "they have moved"
    cells = torch.cat(torch.load(run / "cell_anchors.pt"))
    for wh in (last, listed, cells[:, 2:] - cells[:, :2]):
        scales = wh.prod(1).sqrt().split(6)
        for level, smallest, largest in zip(scales, (16, 32), (24, 48), strict=True):
            assert smallest - 0.3 < level.min() and level.max() < largest + 0.3


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("retinanet", {}),
        ("retinanet", {"share_levels": True, "soft_start": 1.0, "soft_steps": 5}),
        ("fpn", {"share_levels": True, "bound_octaves": 0.02}),
        ("ssd", {"bound_octaves": 0.02, "soft_start": 1.0, "soft_steps": 5}),
    ],
    ids=["retinanet", "shared, soft", "fpn, shared, bounded", "ssd, bounded, soft"],
)
def test_stopped_and_resumed_is_uninterrupted(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    # One batch an epoch and LambdaLR: Lightning itself repeats batches of longer ones, and rounds under OneCycleLR.
    options = {"lr_mult": 5} | options
    whole, broken, resumed = SGDClient(kind), SGDClient(kind, fails_at=4), SGDClient(kind)
    made = fit(tmp_path, whole, learn=LearnAnchors(**options), batches=1)
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, broken, ModelCheckpoint(save_last=True), learn=LearnAnchors(**options), batches=1)
    assert predictions_of(broken.model) and "configure_optimizers" not in broken.__dict__
    assert not broken.model.transform._forward_hooks
    last = next((tmp_path / "lightning_logs" / "version_1").rglob("last.ckpt"))

    learn = LearnAnchors(**options)
    again = trainer(tmp_path, learn)
    again.fit(resumed, loader(1), ckpt_path=str(last))
    assert_equal(whole.state_dict(), resumed.state_dict())
    assert same(predictions_of(whole.model), predictions_of(resumed.model))
    assert_equal(*(torch.load(Path(run.logger.log_dir) / "cell_anchors.pt") for run in (made, again)))
    assert next(iter(learn.state_dict()["steps"])) == 0, "the history goes on"

    with pytest.raises(RuntimeError, match=r"Unexpected key.*log_wh"):
        Client.load_from_checkpoint(last)
    with pytest.raises(UserError, match="LearnAnchors"):
        frozen = Path(again.logger.log_dir) / "frozen.ckpt"
        trainer(tmp_path, LearnAnchors()).fit(Client(kind), loader(), ckpt_path=frozen)


def test_best_checkpoint_brings_its_own_anchors(tmp_path: Path) -> None:
    client = Client()
    best = ModelCheckpoint(monitor="loss_anchor_clustering", mode="min", every_n_train_steps=1, save_top_k=-1)
    made = trainer(tmp_path, LearnAnchors(), ModelCheckpoint(dirpath=tmp_path / "regular"), best)
    made.fit(client, loader())
    at_end = client.area()
    early = next(path for path in Path(best.dirpath).iterdir() if "step=2" in path.name)
    saved = torch.load(early)["state_dict"]["model.anchor_generator.shapes.log_wh"]
    for _ in range(2):
        of_early = made.test(client, loader(), ckpt_path=early, verbose=False)[0]["area"]
        assert of_early == pytest.approx(area_of(saved), rel=1e-5) and of_early != at_end
        assert type(client.model.anchor_generator) is AnchorGenerator and type(client.model.head) is RetinaNetHead
    new = trainer(tmp_path, LearnAnchors())
    assert new.test(Client(), loader(), ckpt_path=early, verbose=False)[0]["area"] == of_early
    run = Path(made.logger.log_dir)
    frozen = new.test(Client(), loader(), ckpt_path=run / "frozen.ckpt", verbose=False)[0]["area"]
    assert frozen == pytest.approx(at_end, rel=1e-6)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        trainer(tmp_path).test(Client(), loader(), ckpt_path=early, verbose=False)

    kept = torch.load(best.best_model_path)["state_dict"]["model.anchor_generator.shapes.log_wh"]
    cells = torch.cat(torch.load(run / "cell_anchors-best.pt"))
    torch.testing.assert_close(cells[:, 2:] - cells[:, :2], kept.exp())
    Client.load_from_checkpoint(run / "frozen-best.ckpt")
    made.save_checkpoint(tmp_path / "after.ckpt")
    assert new.test(Client(), loader(), ckpt_path=tmp_path / "after.ckpt", verbose=False)[0]["area"] == of_early
    stock = torch.load(tmp_path / "after.ckpt")
    torch.save({key: value for key, value in stock.items() if key != "cell_anchors"}, tmp_path / "stock.ckpt")
    with pytest.raises(UserError, match="no anchors"):
        new.test(client, loader(), ckpt_path=tmp_path / "stock.ckpt", verbose=False)


def test_a_second_fit_goes_on_from_the_first(tmp_path: Path) -> None:
    """Also where the weights have been averaged."""
    client, learn = Client(), LearnAnchors("identical")
    trainer(tmp_path, learn, WeightAveraging()).fit(client, loader())
    assert type(client.model.anchor_generator) is AnchorGenerator
    learned = client.area()
    seen: list[float] = []
    fit(tmp_path, client, keeps_shapes(seen, lambda m: area_of(anchor_shapes(m.model).log_wh)), learn=learn)
    assert seen[0] == pytest.approx(learned, rel=1e-5)


def test_rate_multiplier_of_this_run_holds_under_a_schedule_that_sets_the_rate(tmp_path: Path) -> None:
    """Also in a run that goes on from a checkpoint of another multiplier."""
    fit(tmp_path, Client(), ModelCheckpoint(dirpath=tmp_path, save_last=True), max_steps=1)
    moves = []
    for lr_mult in (1.0, 8.0):
        seen: list[Any] = []
        keep = keeps_shapes(seen, lambda module: anchor_shapes(module.model).log_wh.detach().clone())
        made = trainer(tmp_path, keep, LearnAnchors(lr_mult=lr_mult), max_steps=3)
        made.fit(Client(), loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
        moves.append(seen[1] - seen[0])
        assert made.optimizers[0].param_groups[0]["lr"] == made.optimizers[0].param_groups[1]["lr"]
    torch.testing.assert_close(moves[1], 8 * moves[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("make", [LateClient, SetupClient])
def test_late_detector_accumulation_and_bf16(tmp_path: Path, make: type[LateClient]) -> None:
    client, seen = make(), []
    read = attrgetter("clustering_weight", "log_wh.dtype")
    keep = keeps_shapes(seen, lambda module: read(anchor_shapes(module.model)))
    options: dict[str, Any] = {"max_steps": 3, "accumulate_grad_batches": 2, "precision": "bf16-mixed"}
    made = trainer(tmp_path, LearnAnchors(clustering_steps=4, every_n_steps=1), keep, **options)
    made.fit(client, loader())
    # λ is that of the step that begins, not a step late, and holds while batches accumulate.
    assert [weight for weight, _ in seen] == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5] and seen[0][1] == torch.float32
    with (Path(made.logger.log_dir) / "metrics.csv").open() as file:
        weights = [float(row["anchors/lambda"]) for row in csv.DictReader(file) if row["anchors/lambda"]]
    assert weights == [1.0, 0.75, 0.5, 0.25]
    assert anchor_shapes(client.model) is None and client.area() != Client().area(), "learned and frozen"


def test_what_cannot_work_raises_an_error_for_the_user(tmp_path: Path) -> None:
    nothing = Client()
    nothing.model = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="Client holds no"):
        fit(tmp_path, nothing)
    twins = Client()
    twins.teacher = make_detector("retinanet")
    with pytest.raises(UserError, match=r"detector: .*model, teacher"):
        fit(tmp_path, twins)
    fit(tmp_path, twins, learn=LearnAnchors(detector="model"), max_steps=1)
    with pytest.raises(UserError, match="student"):
        fit(tmp_path, Client(), learn=LearnAnchors(detector="student"))
    with pytest.raises(UserError, match="boxes_wh"):
        fit(tmp_path, Client(), learn=LearnAnchors("kmeans"))
    with pytest.raises(UserError, match="WeightAveraging"):
        fit(tmp_path, Client(), WeightAveraging())
    with pytest.raises(UserError, match="ddp"):
        LearnAnchors().setup(trainer(tmp_path, strategy="ddp_spawn"), Client(), "fit")
    with pytest.raises(UserError, match="share_levels"):
        fit(tmp_path, Client("c4"), learn=LearnAnchors(share_levels=True))
    numbers = ("every_n_steps", "lr_mult", "clustering_start", "clustering_steps", "soft_start", "soft_steps")
    for option in (*numbers, "bound_octaves"):
        with pytest.raises(UserError, match=option):
            LearnAnchors(**{option: -1})


def test_the_same_classes_of_the_other_package_raise_it_too() -> None:
    other = pytest.importorskip("pytorch_lightning")
    learn, options = LearnAnchors(), {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    swa = other.callbacks.StochasticWeightAveraging(swa_lrs=0.1)
    with pytest.raises(UserError, match="put LearnAnchors before StochasticWeightAveraging"):
        learn.setup(other.Trainer(callbacks=[swa, learn], **options), Client(), "fit")
    with pytest.raises(UserError, match="spawn"):
        learn.setup(other.Trainer(callbacks=[learn], strategy="ddp_spawn", **options), Client(), "fit")


def test_the_document_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The others are torchgeo's and deepforest's, which have tests where these are installed.
    own_loop, callback, loading, *_ = re.findall(
        r"```python\n(.*?)```", (REPOSITORY / "docs/your_detector.md").read_text(), flags=re.DOTALL
    )
    given: dict[str, Any] = {"loader": loader(2), "model": make_detector("fpn"), "num_epochs": 1}
    exec(own_loop, given)
    model = make_detector("fpn", seed=1)
    model.load_state_dict(torch.load("model.pt"))
    model.rpn.anchor_generator.cell_anchors = torch.load("cell_anchors.pt")
    assert same(predictions_of(model), predictions_of(given["model"]))

    given |= {"module": (client := Client()), "Module": Client, "options": {"max_steps": 2, "accelerator": "cpu"}}
    exec(callback, given)
    exec(loading, given)
    assert same(predictions_of(given["module"].model), predictions_of(client.model))
