"""The task in Lightning's real loop, on the synthetic set, small."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateFinder, LearningRateMonitor, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger

from anchor_lightning import DetectionTask
from anchor_lightning.callbacks import ClusteringDecay, SoftAssignment
from anchor_lightning.data import SyntheticDataModule
from anchor_lightning.detectors import SSD, YOLOv2
from anchor_lightning.fitting import kmeans_shapes
from anchor_lightning.structures import DetectionBatch, Detections, DetectorOutput
from tests.helpers.tiny_training import AtBatchStart, make_data, make_task, make_trainer


def rates_seen() -> AtBatchStart:
    return AtBatchStart(lambda trainer, task, batch: trainer.optimizers[0].param_groups[0]["lr"])


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a training of one step with learning rate 1e-3, from k-means."""
    folder = tmp_path_factory.mktemp("trained")
    trainer = make_trainer(folder, max_steps=1)
    trainer.fit(make_task(anchors={"init": "kmeans"}), datamodule=make_data())
    trainer.save_checkpoint(folder / "one.ckpt")
    return folder / "one.ckpt"


def test_parameter_groups(tmp_path: Path) -> None:
    """Their options, and the rates of every step as Lightning's own monitor sees them."""
    task = make_task(anchors={"init": "uniform", "lr_mult": 2.0}, learning_rate={0: 1e-3, 1: 2e-3, 3: 5e-4})
    logger = CSVLogger(tmp_path)
    trainer = make_trainer(tmp_path, logger=logger, callbacks=[LearningRateMonitor("step")], log_every_n_steps=1)
    trainer.fit(task, datamodule=make_data())
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    assert groups["anchors"]["params"] == [task.shapes.log_wh]
    assert groups["anchors"]["weight_decay"] == groups["network_no_decay"]["weight_decay"] == 0
    assert groups["network"]["weight_decay"] == 5e-4
    assert all(p.dim() == 4 for p in groups["network"]["params"]), "only convolutions' weights are decayed"
    assert all(p.dim() == 1 for p in groups["network_no_decay"]["params"])
    assert sum(len(g["params"]) for g in groups.values()) == len(list(task.parameters()))
    assert groups["network"]["momentum"] == 0.9
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["lr-SGD/anchors"]]
    for name, factor in (("network", 1e-3), ("network_no_decay", 1e-3), ("anchors", 2e-3)):
        assert [float(row[f"lr-SGD/{name}"]) / factor for row in rows] == pytest.approx([1, 2, 2, 0.5])


def test_schedules_follow_global_step(tmp_path: Path) -> None:
    """With two batches a step they count steps, not batches."""
    values = AtBatchStart(lambda trainer, task, _: (task.temperature, task.clustering_weight, task.distance))
    callbacks = [SoftAssignment(start=2.0, steps=4, distance="l2"), ClusteringDecay(start=1.0, steps=2), values]
    trainer = make_trainer(tmp_path, max_steps=6, accumulate_grad_batches=2, callbacks=callbacks)
    trainer.fit(make_task(), datamodule=make_data())
    steps = [(2.0, 1.0, "l2"), (1.5, 0.5, "l2"), (1.0, 0.0, "l2"), (0.5, 0.0, "l2"), *[(0.0, 0.0, "iou")] * 2]
    assert values.seen == [step for step in steps for _ in range(2)]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_shapes_and_boxes_are_float32_under_low_precision(tmp_path: Path, precision: Any) -> None:
    """301 pixels are 300 in bfloat16: Lightning rounds whatever float tensors it finds in a batch."""
    task = make_task(learning_rate=1e-5)
    boxes = AtBatchStart(lambda trainer, task, batch: [batch.boxes_xyxy, batch.original_sizes])
    make_trainer(tmp_path, precision=precision, callbacks=[boxes]).fit(task, datamodule=make_data())
    moved = (task.shapes.wh / task.shapes.initial_wh).log().abs()
    assert task.shapes.log_wh.dtype == torch.float32
    # One bfloat16 step at log 96 is 0.03: had the shapes been rounded, they would have moved by that or not at all.
    assert 0 < float(moved.max()) < 0.01
    batch = next(iter(make_data().train_dataloader()))
    torch.testing.assert_close(boxes.seen[0], [batch.boxes_xyxy, batch.original_sizes], rtol=0, atol=0)


def test_a_checkpoint_of_a_fused_optimizer_is_taken_up_as_this_run_has_it(tmp_path: Path, one_step: Path) -> None:
    content = torch.load(one_step, weights_only=True)
    for group in content["optimizer_states"][0]["param_groups"]:
        group["fused"] = True
    torch.save(content, tmp_path / "gpu.ckpt")
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(make_task(), datamodule=make_data(), ckpt_path=tmp_path / "gpu.ckpt")
    assert [group["fused"] for group in trainer.optimizers[0].param_groups] == [None] * 5


def test_kmeans_once_and_never_with_a_checkpoint(tmp_path: Path, one_step: Path) -> None:
    expected = kmeans_shapes(make_data().train_box_shapes(), 5)
    torch.testing.assert_close(DetectionTask.load_from_checkpoint(one_step).shapes.initial_wh, expected)

    class NoBoxes(SyntheticDataModule):
        def train_box_shapes(self, augmented: bool = False) -> torch.Tensor:
            raise AssertionError("k-means was run although a checkpoint was given")

    resumed = make_task(anchors={"init": "kmeans"})
    make_trainer(tmp_path, max_steps=2).fit(resumed, datamodule=make_data(NoBoxes), ckpt_path=one_step)
    torch.testing.assert_close(resumed.shapes.initial_wh, expected)


def test_clipping_never_touches_the_shapes(tmp_path: Path) -> None:
    class Gradients(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            network = torch.stack([p.grad.norm() for p in pl_module.detector.network.parameters()]).norm()
            norms.append((float(network), float(pl_module.shapes.log_wh.grad.norm())))

    norms: list[tuple[float, float]] = []
    for clip in (None, 1e-3):
        trainer = make_trainer(tmp_path, max_steps=1, gradient_clip_val=clip, callbacks=[Gradients()])
        trainer.fit(make_task(), datamodule=make_data())
    assert norms[0][0] > 0.1 and norms[1][0] == pytest.approx(1e-3, rel=1e-2)
    assert norms[0][1] == norms[1][1] > 1e-3


def test_without_any_box(tmp_path: Path) -> None:
    """A batch without boxes trains: the loss is finite and the shapes get a gradient of 0, not none."""

    def remove_boxes(trainer: Trainer, task: DetectionTask, batch: DetectionBatch) -> None:
        batch.mask.zero_()
        batch.boxes_xyxy.zero_()
        batch.labels.fill_(-1)

    task = make_task()
    callbacks = [SoftAssignment(steps=10), ClusteringDecay(steps=10), AtBatchStart(remove_boxes)]
    make_trainer(tmp_path, callbacks=callbacks).fit(task, datamodule=make_data())
    assert torch.equal(task.shapes.wh, task.shapes.initial_wh)
    assert task.shapes.log_wh.grad is not None and not task.shapes.log_wh.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 7}, r"num_classes: .*4, .*7"),
        ({"detector": partial(YOLOv2, width=0.2)}, r"detector\.width: .* 0\.1, .* 0\.2"),
        ({"detector": partial(YOLOv2, width=0.1, bn_without_shift=False)}, r"bn_without_shift: .*True.*False"),
        ({"detector": partial(SSD, backbone="small"), "anchors": {"init": "model"}}, r"detector: .*YOLOv2, .*SSD"),
        ({"anchors": {"init": "identical", "num": 3}}, r"anchors\.num: .* 5, .* 3"),
    ],
)
def test_refuses_a_checkpoint_that_does_not_fit(one_step: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**options).on_load_checkpoint(torch.load(one_step, weights_only=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": {5: 0.1}}, "from step 0 on"),
        ({"num_classes": 0}, "must be 1 or more"),
        ({"detector": "YOLOv2"}, "detector: 'YOLOv2'"),
        ({"detector": {"class_path": "torch.nn.Linear"}}, "torch.nn.Linear is not a Detector"),
        ({"detector": {"class_path": "anchor_lightning.detectors.YOLOv9"}}, "no such class"),
    ],
)
def test_refuses_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**options)


def test_evaluates_in_pixels_of_the_stored_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that answers the ground truth scores 1, on images stretched by different factors in x and y."""
    task, data = make_task(), make_data(val_image_size=[64, 160], batch_size=1)
    ground_truths = iter(data.ground_truth("val"))

    def perfect(images: torch.Tensor, threshold: float) -> DetectorOutput:
        ground_truth = next(ground_truths)
        boxes = torch.from_numpy(ground_truth.boxes_xyxy).float() * torch.tensor([160, 64, 160, 64]) / 224
        labels = torch.from_numpy(ground_truth.labels)
        return DetectorOutput([Detections(boxes, torch.ones(len(labels)), labels, torch.zeros_like(labels))])

    monkeypatch.setattr(task.detector, "detect", perfect)
    (metrics,) = make_trainer(tmp_path, limit_val_batches=None).validate(task, datamodule=data, verbose=False)
    assert [metrics[f"val/{name}"] for name in ("map", "map_50", "map_voc")] == pytest.approx([1] * 3)


def test_options_of_this_run_win_over_the_checkpoints(tmp_path: Path, one_step: Path) -> None:
    task = make_task(anchors={"init": "uniform", "lr_mult": 7.0}, momentum=0.5, weight_decay=0.1)
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit(task, datamodule=make_data(), ckpt_path=one_step)
    groups = {group["name"]: group for group in trainer.optimizers[0].param_groups}
    assert groups["anchors"]["lr"] == pytest.approx(7e-3) and groups["anchors"]["weight_decay"] == 0
    assert all(group["momentum"] == 0.5 for group in groups.values())
    assert groups["network"]["weight_decay"] == 0.1 and groups["network_no_decay"]["weight_decay"] == 0


def test_options_of_this_run_win_with_a_scheduler_of_the_users_own(tmp_path: Path, one_step: Path) -> None:
    class Own(DetectionTask):
        def configure_optimizers(self) -> Any:
            options: Any = super().configure_optimizers()
            return options | {"lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(options["optimizer"], 0.5)}

    momenta = AtBatchStart(lambda trainer, task, _: trainer.optimizers[0].param_groups[0]["momentum"])
    checkpoint = torch.load(one_step, weights_only=True)
    checkpoint["lr_schedulers"] = [
        torch.optim.lr_scheduler.ExponentialLR(torch.optim.SGD([torch.zeros(1)]), 0.5).state_dict()
    ]
    torch.save(checkpoint, tmp_path / "own.ckpt")
    trainer = make_trainer(tmp_path, max_steps=2, callbacks=[momenta])
    trainer.fit(make_task(Own, momentum=0.5), datamodule=make_data(), ckpt_path=tmp_path / "own.ckpt")
    assert momenta.seen == [0.5]


def test_needs_a_data_module(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data module"):
        make_trainer(tmp_path).fit(make_task(anchors={"init": "kmeans"}), make_data().train_dataloader())


def test_stochastic_weight_averaging_sets_the_rates(tmp_path: Path) -> None:
    rates = rates_seen()
    swa = StochasticWeightAveraging(swa_lrs=0.5e-4, swa_epoch_start=1, annealing_epochs=1)
    trainer = make_trainer(tmp_path, max_steps=-1, max_epochs=4, callbacks=[swa, rates])
    trainer.fit(make_task(), datamodule=make_data(num_train=8))
    assert rates.seen[0] == 1e-3 and rates.seen[-1] == pytest.approx(0.5e-4)


def test_learning_rate_finder_scales_the_schedule(tmp_path: Path) -> None:
    rates = rates_seen()
    finder = LearningRateFinder(num_training_steps=24, min_lr=1e-5, max_lr=1e-2, early_stop_threshold=None)
    # Shapes from k-means, which must come before the search.
    task = make_task(anchors={"init": "kmeans"}, learning_rate={0: 1e-3, 2: 1e-2})
    trainer = make_trainer(tmp_path, callbacks=[finder, rates], limit_val_batches=1)
    trainer.fit(task, datamodule=make_data())
    found = finder.optimal_lr.suggestion()
    assert task.lr == pytest.approx(found)
    assert rates.seen[-4:] == pytest.approx([found / 10, found / 10, found, found]), "the warm-up keeps its share"


def test_a_scheduler_of_the_users_own(tmp_path: Path) -> None:
    class Own(DetectionTask):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self._parameter_groups(), lr=1e-3)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] = 1e-3
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    rates = rates_seen()
    make_trainer(tmp_path, callbacks=[rates]).fit(make_task(Own), datamodule=make_data())
    assert rates.seen == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4])


def test_an_optimizer_of_the_users_own(tmp_path: Path) -> None:
    class Own(DetectionTask):
        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.1)

    decays = AtBatchStart(lambda trainer, task, _: [g["weight_decay"] for g in trainer.optimizers[0].param_groups])
    task = make_task(Own, anchors={"init": "kmeans"})
    make_trainer(tmp_path, callbacks=[decays]).fit(task, datamodule=make_data())
    assert decays.seen[-1] == [0.1], "the options of SGD are not put into it"
    assert not torch.equal(task.shapes.wh, task.shapes.initial_wh)


def test_called_with_images_it_gives_the_detections_of_each(one_step: Path) -> None:
    task = DetectionTask.load_from_checkpoint(one_step, map_location="cpu").eval()
    with torch.no_grad():
        found = task(torch.rand(3, 3, 64, 96))
    assert len(found) == 3 and all(each.boxes_xyxy.shape == (len(each.scores), 4) for each in found)
