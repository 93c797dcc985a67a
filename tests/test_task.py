"""The task in Lightning's real loop, on the synthetic set, small."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import LearningRateFinder, LearningRateMonitor, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger

from anchor_lightning import DetectionTask
from anchor_lightning.callbacks import Checkpoint, ClusteringDecay, SoftAssignment
from anchor_lightning.data import SyntheticDataModule
from anchor_lightning.detectors import SSD, YOLOv2
from anchor_lightning.structures import DetectionBatch, Detections, DetectorOutput
from anchor_lightning.training.non_finite import NonFiniteLoss, NonFiniteLossError

SMALL_YOLO = partial(YOLOv2, width=0.1, prior_images=0)
SMALL = {"detector": SMALL_YOLO, "learning_rate": {0: 1e-3}}


def make_data(**options: Any) -> SyntheticDataModule:
    return SyntheticDataModule(
        **{"num_train": 16, "num_val": 4, "batch_size": 4, "image_size": 64, "num_workers": 0, "seed": 0} | options
    )


def make_task(kind: type[DetectionTask] = DetectionTask, **options: Any) -> DetectionTask:
    seed_everything(0, verbose=False)
    return kind(num_classes=4, **SMALL | options)


def make_trainer(tmp_path: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_steps": 4,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "use_distributed_sampler": False,
        "default_root_dir": tmp_path,
        "check_val_every_n_epoch": None,
        "val_check_interval": 4,
    }
    return Trainer(**defaults | options)


class Recorder(Callback):
    """Keeps what the task held at every step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_before_zero_grad(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        self.rows.append(
            {
                "temperature": pl_module.temperature,
                "lambda": pl_module.clustering_weight,
                "distance": pl_module.distance,
            }
            | rates
        )


def test_parameter_groups(tmp_path: Path) -> None:
    task = make_task(anchors={"init": "uniform", "lr_mult": 3.0}, learning_rate={0: 0.1, 2: 0.01})
    recorder = Recorder()
    trainer = make_trainer(tmp_path, callbacks=[recorder])
    trainer.fit(task, datamodule=make_data())
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    assert groups["anchors"]["params"] == [task.shapes.log_wh]
    assert groups["anchors"]["weight_decay"] == groups["network_no_decay"]["weight_decay"] == 0
    assert groups["network"]["weight_decay"] == 5e-4
    assert all(p.dim() == 4 for p in groups["network"]["params"]), "only convolutions' weights are decayed"
    assert all(p.dim() == 1 for p in groups["network_no_decay"]["params"])
    assert sum(len(g["params"]) for g in groups.values()) == len(list(task.parameters()))
    by_step = [(row["network"], row["network_no_decay"], row["anchors"]) for row in recorder.rows[-2:]]
    assert by_step == [(0.01, 0.01, pytest.approx(0.03))] * 2
    assert groups["network"]["momentum"] == 0.9


def test_schedules_follow_global_step(tmp_path: Path) -> None:
    recorder = Recorder()
    callbacks = [SoftAssignment(start=2.0, steps=4, distance="l2"), ClusteringDecay(start=1.0, steps=2), recorder]
    # With two batches a step the schedules must count steps, not batches.
    trainer = make_trainer(tmp_path, max_steps=6, accumulate_grad_batches=2, callbacks=callbacks)
    trainer.fit(make_task(anchors={"init": "uniform"}), datamodule=make_data())
    seen = {(row["temperature"], row["lambda"], row["distance"]) for row in recorder.rows}
    assert seen == {(2.0, 1.0, "l2"), (1.5, 0.5, "l2"), (1.0, 0.0, "l2"), (0.5, 0.0, "l2"), (0.0, 0.0, "iou")}


def test_auto_temperature_is_critical(tmp_path: Path) -> None:
    from anchor_lightning.anchors import critical_temperature

    data, recorder = make_data(), Recorder()
    callbacks = [SoftAssignment(start="auto", steps=4), recorder]
    make_trainer(tmp_path, callbacks=callbacks, max_steps=1).fit(
        make_task(anchors={"init": "uniform"}), datamodule=data
    )
    assert recorder.rows[-1]["temperature"] == pytest.approx(critical_temperature(data.train_box_shapes()))


def test_shapes_move_or_stay(tmp_path: Path) -> None:
    for learn in (True, False):
        task = make_task(anchors={"init": "uniform", "learn": learn})
        start = task.shapes.wh.clone()
        make_trainer(tmp_path).fit(task, datamodule=make_data())
        assert torch.equal(task.shapes.wh, start) == (not learn)
        torch.testing.assert_close(task.shapes.initial_wh, start)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_shapes_are_float32_and_move_under_low_precision(tmp_path: Path, precision: Any) -> None:
    task = make_task(anchors={"init": "uniform"}, learning_rate={0: 1e-5})
    start = task.shapes.wh.clone()
    make_trainer(tmp_path, precision=precision).fit(task, datamodule=make_data())
    moved = (task.shapes.wh / start).log().abs()
    assert task.shapes.log_wh.dtype == torch.float32
    # One bfloat16 step at log 96 is 0.03: had the shapes been rounded, they would have moved by that or not at all.
    assert 0 < float(moved.max()) < 0.01


def test_kmeans_once_and_never_with_a_checkpoint(tmp_path: Path) -> None:
    from anchor_lightning.fitting import kmeans_shapes

    data = make_data()
    task = make_task()
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(task, datamodule=data)
    expected = kmeans_shapes(data.train_box_shapes(), 5)
    torch.testing.assert_close(task.shapes.initial_wh, expected)
    trainer.save_checkpoint(tmp_path / "one.ckpt")

    class NoBoxes(SyntheticDataModule):
        def train_box_shapes(self, augmented: bool = False) -> torch.Tensor:
            raise AssertionError("k-means was run although a checkpoint was given")

    resumed = make_task()
    data = NoBoxes(num_train=16, num_val=4, batch_size=4, image_size=64, num_workers=0, seed=0)
    make_trainer(tmp_path, max_steps=2).fit(resumed, datamodule=data, ckpt_path=tmp_path / "one.ckpt")
    torch.testing.assert_close(resumed.shapes.initial_wh, expected)


def test_clipping_never_touches_the_shapes(tmp_path: Path) -> None:
    class Gradients(Callback):
        norms: tuple[float, float] = (0.0, 0.0)

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            network = torch.stack([p.grad.norm() for p in pl_module.detector.network.parameters()]).norm()
            self.norms = (float(network), float(pl_module.shapes.log_wh.grad.norm()))

    norms = []
    for clip in (None, 1e-3):
        gradients = Gradients()
        trainer = make_trainer(tmp_path, max_steps=1, gradient_clip_val=clip, callbacks=[gradients])
        trainer.fit(make_task(anchors={"init": "uniform"}), datamodule=make_data())
        norms.append(gradients.norms)
    assert norms[0][0] > 0.1 and norms[1][0] == pytest.approx(1e-3, rel=1e-2)
    assert norms[0][1] == norms[1][1] > 1e-3


def test_without_any_box(tmp_path: Path) -> None:
    """A batch without boxes trains: the loss is finite and the shapes get a gradient of 0, not none."""
    task = make_task(anchors={"init": "uniform"})

    class NoBoxes(SyntheticDataModule):
        def on_after_batch_transfer(self, batch: DetectionBatch, dataloader_idx: int) -> DetectionBatch:
            batch = super().on_after_batch_transfer(batch, dataloader_idx)
            batch.mask = torch.zeros_like(batch.mask)
            batch.boxes_xyxy = torch.zeros_like(batch.boxes_xyxy)
            batch.labels = torch.full_like(batch.labels, -1)
            return batch

    data = NoBoxes(num_train=16, num_val=4, batch_size=4, image_size=64, num_workers=0, seed=0)
    start = task.shapes.wh.clone()
    callbacks = [SoftAssignment(steps=10), ClusteringDecay(steps=10)]
    make_trainer(tmp_path, callbacks=callbacks).fit(task, datamodule=data)
    assert torch.equal(task.shapes.wh, start)
    assert task.shapes.log_wh.grad is not None and not task.shapes.log_wh.grad.any()


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: DetectionBatch, batch_idx: int) -> None:
            if trainer.global_step == 3:
                batch.images.fill_(float("nan"))

    trainer = make_trainer(
        tmp_path,
        callbacks=[Poison(), Checkpoint(every_n_train_steps=2, dirpath=str(tmp_path / "ckpt"))],
        enable_checkpointing=True,
    )
    with pytest.raises(FloatingPointError, match=r"step 3: loss_xy nan.*images: train-0.*last checkpoint.*last\.ckpt"):
        trainer.fit(make_task(anchors={"init": "uniform"}), datamodule=make_data())
    saved = torch.load(tmp_path / "ckpt" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2
    assert all(value.isfinite().all() for value in saved["state_dict"].values() if value.is_floating_point())
    with pytest.raises(FloatingPointError, match="nothing was written"):
        trainer.save_checkpoint(tmp_path / "spoilt.ckpt")
    assert not (tmp_path / "spoilt.ckpt").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 7}, r"num_classes: .*4, .*7"),
        ({"detector": partial(YOLOv2, width=0.2)}, r"detector\.width: .* 0\.1, .* 0\.2"),
        ({"detector": partial(SMALL_YOLO, bn_without_shift=False)}, r"detector\.bn_without_shift: .*True.*False"),
        ({"detector": partial(SSD, backbone="small"), "anchors": {"init": "model"}}, r"detector: .*YOLOv2, .*SSD"),
        ({"anchors": {"init": "identical", "num": 3}}, r"anchors\.num: .* 5, .* 3"),
    ],
)
def test_refuses_a_checkpoint_that_does_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    task = make_task(anchors={"init": "uniform"})
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(task, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    other = DetectionTask(**{"num_classes": 4, "anchors": {"init": "uniform"}} | SMALL | options)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path).fit(other, datamodule=make_data(), ckpt_path=tmp_path / "one.ckpt")


def test_refuses_a_foreign_checkpoint() -> None:
    with pytest.raises(ValueError, match="of this project"):
        make_task(anchors={"init": "uniform"}).on_load_checkpoint({"state_dict": {"weight": torch.zeros(1)}})


def test_checkpoint_is_plain_and_loads_by_itself(tmp_path: Path) -> None:
    task = make_task(anchors={"init": "uniform"})
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(task, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    torch.load(tmp_path / "one.ckpt", weights_only=True)
    loaded = DetectionTask.load_from_checkpoint(tmp_path / "one.ckpt")
    torch.testing.assert_close(loaded.shapes.wh, task.shapes.wh.cpu())
    assert loaded.hparams["learning_rate"] == {0: 1e-3} and not loaded.shapes.pending


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": {5: 0.1}}, "from step 0 on"),
        ({"num_classes": 0}, "must be 1 or more"),
        ({"detector": partial(YOLOv2, width=-1)}, "width: -1"),
        ({"detector": "YOLOv2"}, "detector: 'YOLOv2'"),
        ({"detector": {"class_path": "torch.nn.Linear"}}, "torch.nn.Linear is not a Detector"),
        ({"detector": {"class_path": "anchor_lightning.detectors.YOLOv9"}}, "no such class"),
        ({"anchors": {"inti": 1}}, "unknown inti"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectionTask(**{"num_classes": 4, "anchors": {"init": "uniform"}} | options)


def test_evaluates_in_pixels_of_the_stored_image(tmp_path: Path) -> None:
    """A network that answers the ground truth scores 1, on images stretched by different factors in x and y."""
    task = make_task(anchors={"init": "uniform"})
    data = make_data(val_image_size=[64, 160])
    ground_truths = {ground_truth.image_id: ground_truth for ground_truth in data.ground_truth("val")}

    def perfect(images: Any, threshold: float) -> DetectorOutput:

        found = []
        for image_id in current.image_ids.tolist():
            ground_truth = ground_truths[image_id]
            boxes = torch.from_numpy(ground_truth.boxes_xyxy).float() * torch.tensor([160, 64, 160, 64]) / 224
            labels = torch.from_numpy(ground_truth.labels)
            found.append(Detections(boxes, torch.ones(len(labels)), labels, torch.zeros_like(labels)))
        return DetectorOutput(found)

    original = task.detect

    def detect(batch: DetectionBatch) -> Any:
        nonlocal current
        current = batch
        return original(batch)

    current: Any = None
    task.detect = detect  # type: ignore[method-assign]
    task.detector.detect = perfect  # type: ignore[method-assign]
    trainer = make_trainer(tmp_path, limit_val_batches=None)
    (metrics,) = trainer.validate(task, datamodule=data, verbose=False)
    assert metrics["val/map_50"] == pytest.approx(1) and metrics["val/map_voc"] == pytest.approx(1)
    assert metrics["val/map"] == pytest.approx(1)


def test_same_seed_same_run(tmp_path: Path) -> None:
    """Whatever the number of workers."""
    ends = []
    for num_workers in (0, 2):
        task = make_task(anchors={"init": "uniform"})
        make_trainer(tmp_path).fit(task, datamodule=make_data(num_workers=num_workers))
        ends.append(task.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_run_is_the_uninterrupted_one(tmp_path: Path, accumulation: int) -> None:
    def callbacks() -> list[Callback]:
        return [SoftAssignment(steps=6), ClusteringDecay(steps=6)]

    options = {"accumulate_grad_batches": accumulation}
    whole = make_task(anchors={"init": "identical"})
    make_trainer(tmp_path, max_steps=6, callbacks=callbacks(), **options).fit(whole, datamodule=make_data())
    first = make_task(anchors={"init": "identical"})
    trainer = make_trainer(tmp_path, max_steps=3, callbacks=callbacks(), **options)
    trainer.fit(first, datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    second = make_task(anchors={"init": "identical"})
    trainer = make_trainer(tmp_path, max_steps=6, callbacks=callbacks(), **options)
    trainer.fit(second, datamodule=make_data(), ckpt_path=tmp_path / "three.ckpt")
    expected, result = whole.state_dict(), second.state_dict()
    assert all(torch.equal(expected[name], result[name]) for name in expected)


def test_half_precision_leaves_the_boxes_alone(tmp_path: Path) -> None:
    """301 pixels are 300 in bfloat16: Lightning rounds whatever float tensors it finds in a batch."""

    class Boxes(Callback):
        seen: list[torch.Tensor]

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: DetectionBatch, batch_idx: int) -> None:
            self.seen = [batch.boxes_xyxy, batch.original_sizes]

    boxes = Boxes()
    data = make_data()
    trainer = make_trainer(tmp_path, precision="bf16-true", max_steps=1, callbacks=[boxes])
    trainer.fit(make_task(anchors={"init": "uniform"}), datamodule=data)
    expected = next(iter(make_data().train_dataloader()))
    assert torch.equal(boxes.seen[0], expected.boxes_xyxy) and boxes.seen[0].dtype == torch.float32
    assert torch.equal(boxes.seen[1], expected.original_sizes)


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    """A step with a finite loss can still break them; the next loss would tell, but a checkpoint may come first."""
    task = make_task(anchors={"init": "uniform"}, learning_rate={0: 1e-3, 2: 1e37})
    checkpoint = Checkpoint(every_n_train_steps=1, dirpath=str(tmp_path / "ckpt"))
    trainer = make_trainer(tmp_path, callbacks=[checkpoint], enable_checkpointing=True)
    with pytest.raises(FloatingPointError, match="not finite; nothing was written"):
        trainer.fit(task, datamodule=make_data())
    saved = torch.load(tmp_path / "ckpt" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in saved["state_dict"].values() if value.is_floating_point())


def test_options_of_this_run_win_over_the_checkpoints(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(make_task(anchors={"init": "uniform"}), datamodule=make_data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    task = make_task(anchors={"init": "uniform", "lr_mult": 7.0}, momentum=0.5, weight_decay=0.1)
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(task, datamodule=make_data(), ckpt_path=tmp_path / "one.ckpt")
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    assert groups["anchors"]["lr"] == pytest.approx(7e-3) and groups["anchors"]["weight_decay"] == 0
    assert all(group["momentum"] == 0.5 for group in groups.values())
    assert groups["network"]["weight_decay"] == 0.1 and groups["network_no_decay"]["weight_decay"] == 0


def test_needs_a_data_module(tmp_path: Path) -> None:
    loader = make_data().train_dataloader()
    with pytest.raises(ValueError, match="data module"):
        make_trainer(tmp_path).fit(make_task(), loader)


def test_a_second_fit_starts_clean(tmp_path: Path) -> None:
    """A loss that was not read in the first fit does not end the second one."""
    task, guard = make_task(anchors={"init": "uniform"}), NonFiniteLoss()
    guard._unread = [(0, {"loss_xy": torch.tensor(float("nan"))}, torch.tensor([1]))]
    task.configure_callbacks = lambda: [guard]  # type: ignore[method-assign]
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.fit(task, datamodule=make_data())
    assert trainer.global_step == 1


@pytest.mark.parametrize("every", [1, 4])
def test_the_first_loss_that_is_not_finite_is_reported(every: int) -> None:
    """Read at every step or at every fourth: step and images are those of the first one."""
    guard = NonFiniteLoss()
    data = SimpleNamespace(image_names=lambda split, ids: [f"image-{i}" for i in ids])
    trainer: Any = SimpleNamespace(global_step=0, log_every_n_steps=every, datamodule=data, checkpoint_callback=None)
    module: Any = SimpleNamespace(device=torch.device("meta"), log=lambda *args, **kwargs: None)
    with pytest.raises(NonFiniteLossError, match=r"step 3: loss_xy nan.*image-3\.") as caught:
        for step in range(9):
            loss = torch.tensor(1.0 if step < 3 else float("nan"))
            batch: Any = DetectionBatch(*[torch.full((1,), step)] * 7)
            trainer.global_step = step
            guard.on_train_batch_start(trainer, module, batch, 0)
            trainer.global_step = step + 1  # the optimizer has stepped
            guard.on_train_batch_end(trainer, module, {"loss": loss, "terms": {"loss_xy": loss}}, batch, 0)
    assert step == (3 if every == 1 else 4), "read at multiples of every"
    assert isinstance(caught.value, FloatingPointError)


class Schedulers(Callback):
    """Keeps the rates of every step, as a monitor sees them."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_learning_rate_monitor_sees_the_rates(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    callbacks = [LearningRateMonitor("step")]
    trainer = make_trainer(tmp_path, logger=logger, callbacks=callbacks, log_every_n_steps=1)
    rates = {0: 1e-3, 1: 2e-3, 3: 5e-4}
    trainer.fit(make_task(anchors={"init": "uniform", "lr_mult": 2.0}, learning_rate=rates), datamodule=make_data())
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["lr-SGD/anchors"]]
    assert [float(row["lr-SGD/network"]) for row in rows] == pytest.approx([1e-3, 2e-3, 2e-3, 5e-4])
    assert [float(row["lr-SGD/anchors"]) for row in rows] == pytest.approx([2e-3, 4e-3, 4e-3, 1e-3])


def test_stochastic_weight_averaging_sets_the_rates(tmp_path: Path) -> None:
    seen = Schedulers()
    swa = StochasticWeightAveraging(swa_lrs=0.5e-4, swa_epoch_start=1, annealing_epochs=1)
    trainer = make_trainer(tmp_path, max_steps=-1, max_epochs=4, callbacks=[swa, seen])
    trainer.fit(make_task(anchors={"init": "uniform"}), datamodule=make_data())
    assert seen.rates[0] == 1e-3 and seen.rates[-1] == pytest.approx(0.5e-4)


def test_learning_rate_finder_scales_the_schedule(tmp_path: Path) -> None:
    seen = Schedulers()
    finder = LearningRateFinder(num_training_steps=24, min_lr=1e-5, max_lr=1e-2, early_stop_threshold=None)
    task = make_task(learning_rate={0: 1e-3, 2: 1e-2})  # shapes from k-means, which must come before the search
    trainer = make_trainer(tmp_path, callbacks=[finder, seen], limit_val_batches=1)
    trainer.fit(task, datamodule=make_data())
    found = finder.optimal_lr.suggestion()
    assert task.lr == pytest.approx(found)
    assert seen.rates[-4:] == pytest.approx([found / 10, found / 10, found, found]), "the warm-up keeps its share"


def test_a_scheduler_of_the_users_own(tmp_path: Path) -> None:
    class Own(DetectionTask):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self._parameter_groups(), lr=1e-3)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] = 1e-3
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    seen = Schedulers()
    make_trainer(tmp_path, callbacks=[seen]).fit(make_task(Own, anchors={"init": "uniform"}), datamodule=make_data())
    assert seen.rates == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4])


def test_one_rate_is_enough(tmp_path: Path) -> None:
    seen = Schedulers()
    task = make_task(anchors={"init": "uniform"}, learning_rate=2e-3)
    make_trainer(tmp_path, callbacks=[seen]).fit(task, datamodule=make_data())
    assert seen.rates == [2e-3] * 4
