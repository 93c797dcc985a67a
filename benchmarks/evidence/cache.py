"""Features of a frozen backbone, computed once for a few augmented variants of every image."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sets import BACKBONE, RealSet
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.utils.data import Dataset

from anchor_lightning.data import DetectionDataModule
from anchor_lightning.data.dataset import DetectionLoader, Sample, collate
from anchor_lightning.data.network_input import network_input
from anchor_lightning.data.sampler import SampleKey
from anchor_lightning.detectors.backbones import Backbone
from anchor_lightning.detectors.base import Detector
from anchor_lightning.detectors.torchvision.base import TorchvisionDetector
from anchor_lightning.structures import DetectionBatch

CELL = 32  # pixels of the coarse stride; a cell's features are laid out over its pixels, so that images keep their size


def pack(features: Sequence[Tensor]) -> Tensor:
    """(B, K, H, W) from the features at strides up to 32, so that boxes and images still have one scale.

    K is the number of channels that the features of a cell need: 1 for each 1,024 of them.
    """
    height = features[-1].shape[-2]
    channels = torch.cat([pixel_unshuffle(f, f.shape[-2] // height) for f in features], dim=1)
    missing = -channels.shape[1] % (CELL * CELL)
    return pixel_shuffle(torch.nn.functional.pad(channels, (0, 0, 0, 0, 0, missing)), CELL)


class PackedFeatures(Backbone):
    """In the place of a backbone: gives back the features that `pack` took.

    Args:
        strides: Of the features, the smallest first, the last 32.
        channels: Of the features at each stride.
    """

    def __init__(self, strides: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.factors, self.channels = [CELL // stride for stride in strides], tuple(channels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Backbone.forward`, of packed features instead of images."""
        sizes = [factor**2 * channels for factor, channels in zip(self.factors, self.channels, strict=True)]
        parts = pixel_unshuffle(images, CELL)[:, : sum(sizes)].split(sizes, dim=1)
        return tuple(pixel_shuffle(part, factor) for part, factor in zip(parts, self.factors, strict=True))

    def stages(self) -> list[list[torch.nn.Parameter]]:
        """None."""
        return []


class NamedFeatures(torch.nn.Module):
    """In the place of the `body` of a torchvision detector's pyramid: features by name."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The features as the pyramid takes them."""
        return {str(place): features for place, features in enumerate(self.backbone(images))}


def read_features(detector: Detector, strides: Sequence[int]) -> None:
    """Puts `PackedFeatures` in the place of a detector's backbone of timm, in place."""
    named: Any = detector
    if isinstance(detector, TorchvisionDetector):
        packed = PackedFeatures(strides, detector._classifier[0].channels)
        named.model.backbone.body, named._classifier = NamedFeatures(packed), (packed,)
        # The mean and the deviation are in the features.
        named.model.transform.image_mean, named.model.transform.image_std = [0.0], [1.0]
        named.model.to(memory_format=torch.contiguous_format)  # GroupNorm in bfloat16 is ten times as fast
    else:
        named.network.backbone = PackedFeatures(strides, named.network.backbone.channels)
    named.backbone_weights = None  # they are in the features


class FeatureDataset(Dataset[Sample]):
    """The samples of a split with packed features for images; a variant is a function of seed, epoch and index."""

    def __init__(self, folder: Path, split: str, seed: int) -> None:
        meta = np.load(folder / f"{split}.npz")
        self.meta = {name: meta[name] for name in meta.files}
        self.features = np.load(folder / f"{split}.npy", mmap_mode="r")  # (V, N, K, H, W) float16
        self.seed, self.bad_images = seed, list[int]()

    def __getitem__(self, key: SampleKey) -> Sample:
        num_variants, num_images = self.features.shape[:2]
        draw = np.random.SeedSequence([self.seed, key.epoch, key.index]).generate_state(1)[0]
        variant = int(draw) % num_variants
        place = variant * num_images + key.index
        span = slice(*self.meta["starts"][place : place + 2])
        size = tuple(self.meta["sizes"][key.index].tolist())
        image_id = int(self.meta["ids"][key.index])
        colour = np.zeros(3, dtype=np.float32)
        features = np.asarray(self.features[variant, key.index])
        return Sample(features, self.meta["boxes"][span], self.meta["labels"][span], image_id, size, colour)


def collate_features(samples: Sequence[Sample]) -> DetectionBatch:
    """As `collate`, of packed features."""
    batch = collate([sample._replace(image=np.zeros((1, 1, 3), dtype=np.uint8)) for sample in samples])
    batch.images = torch.from_numpy(np.stack([sample.image for sample in samples])).float()
    return batch


@torch.no_grad()
def build(module: DetectionDataModule, backbone: Backbone, folder: Path, num_variants: int) -> None:
    """Computes the features of test images and of variants of the training images, unless they lie in the folder."""
    backbone.eval().to(memory_format=torch.channels_last)
    folder.mkdir(parents=True, exist_ok=True)
    for split, num in (("train", num_variants), ("test", 1)):
        if (folder / f"{split}.npz").exists():
            continue
        records = module.records(split)  # type: ignore[arg-type]
        dataset = module._make_dataset(records, training=split == "train")
        height, width = module.image_size
        probe = pack(backbone(torch.zeros(1, 3, height, width)))
        temporary = folder / f"{split}.{os.getpid()}.npy"
        shape = (num, len(records), *probe.shape[1:])
        features = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float16, shape=shape)
        boxes, labels, counts, ids, sizes = [], [], [0], [], []
        for variant in range(num):
            for start in range(0, len(records), 16):
                indices = range(start, min(start + 16, len(records)))
                samples = [dataset[SampleKey(index, variant, module.image_size)] for index in indices]
                batch = collate(samples)
                images = network_input(batch.images, batch.colour if split == "train" else None)
                packed = pack(backbone(images))
                features[variant, start : start + 16] = packed.numpy().astype(np.float16)
                boxes += [sample.boxes_xyxy for sample in samples]
                labels += [sample.labels for sample in samples]
                counts += [len(sample.labels) for sample in samples]
                if variant == 0:
                    ids += [sample.image_id for sample in samples]
                    sizes += [sample.original_size for sample in samples]
                print(f"\r{folder.name} {split}: {variant * len(records) + start}", end="", flush=True)
        features.flush()
        temporary.rename(folder / f"{split}.npy")
        columns: dict[str, Any] = {"boxes": np.concatenate(boxes), "labels": np.concatenate(labels)}
        np.savez(folder / f"{split}.npz", starts=np.cumsum(counts), ids=ids, sizes=sizes, **columns)
        print()


def feature_folder(cache: Path, name: str, real: RealSet, weights: str) -> Path:
    """Where the features of a set lie that a file of weights gives."""
    strides = ".".join(map(str, real.strides))
    crc = zlib.crc32(Path(weights).read_bytes())
    return cache / f"{name}-{BACKBONE}-{real.image_size}-{strides}-{crc:08x}"


def with_features(module: DetectionDataModule, folder: Path) -> DetectionDataModule:
    """The data module with loaders of packed features."""

    class FeatureModule(type(module)):  # type: ignore[misc]
        def _loader(self, split: str, batch_sampler: Any, training: bool) -> Any:
            dataset = FeatureDataset(folder, "train" if training else split, self.data_seed)
            return DetectionLoader(dataset, batch_sampler=batch_sampler, collate_fn=collate_features)

        def on_after_batch_transfer(self, batch: DetectionBatch, dataloader_idx: int) -> DetectionBatch:
            return batch

    module.__class__ = FeatureModule
    return module
