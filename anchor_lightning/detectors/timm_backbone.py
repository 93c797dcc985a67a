"""Any network of timm with features at the strides of a detector as a backbone (the extra `timm`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from anchor_lightning.detectors.backbones import Backbone
from anchor_lightning.errors import UserError

PRETRAINED: Final = "pretrained"  # value of `backbone_weights` for timm's own download
TRIAL_SIDE: Final = 64  # pixels of the image that is tried when a network is built


class TimmBackbone(Backbone):
    """A network of timm as a backbone, which takes images in [0, 1]: its mean and deviation are applied inside.

    Args:
        name: Of timm, such as `tf_efficientnet_lite0`, with or without the tag of its weights.
        needed: Strides of the features that are asked for, the smallest first.
        others: Which other backbones the detector has, a sentence for the message that there is no such network.

    Attributes:
        network: timm's own module, which gives a list of features.
        places: Index in that list of the features at each of the strides.

    Raises:
        UserError: timm is not installed, knows no such network, or the network has no features at these strides for
            images of any size.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        name: str,
        needed: Sequence[int] = (16, 32),
        others: str = "Without a name the backbone is darknet's own",
    ) -> None:
        super().__init__()
        self.name = name
        self.network: Any = _create(name, others=others)
        strides, channels = self.network.feature_info.reduction(), self.network.feature_info.channels()
        if not set(needed) <= set(strides):
            wanted = " and ".join([", ".join(map(str, needed[:-1])), str(needed[-1])])
            raise UserError(f"{name} has features at strides {strides}, not at {wanted}", argument="backbone")
        # A network may have several features at a stride: the last is the deepest.
        self.places = [len(strides) - 1 - strides[::-1].index(stride) for stride in needed]
        self.channels = tuple(int(channels[place]) for place in self.places)
        config = self.network.pretrained_cfg
        for buffer, value in (("mean", config["mean"]), ("deviation", config["std"])):
            self.register_buffer(buffer, torch.tensor(value)[:, None, None])
        self._stages = self._find_stages()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Backbone.forward`."""
        features = self.network((images - self.mean) / self.deviation)
        return tuple(features[place] for place in self.places)

    def stages(self) -> list[list[nn.Parameter]]:
        """See `Backbone.stages`; one a feature map of timm."""
        return self._stages

    def check(self) -> None:
        """See `Backbone.check`: torch's conversion to SyncBatchNorm drops the activations in timm's batch norms."""
        if any(type(module) is nn.SyncBatchNorm and hasattr(module, "act") for module in self.network.modules()):
            raise UserError(f"it would drop the activations of {self.name}; set it to false", "sync_batchnorm")

    def load(self, weights: str) -> str:
        """Loads weights of image classification in place, and returns a sentence on them.

        Args:
            weights: A state dict under timm's names (`.pth`, `.safetensors`), or `pretrained` for timm's own.

        Raises:
            UserError: They cannot be read or downloaded, fit in part only, are another network's, or are not finite.
        """
        state = _create(self.name, {}).state_dict() if weights == PRETRAINED else self._read(weights)
        if wrong := [key for key, value in state.items() if not value.isfinite().all()]:
            raise UserError(
                f"{weights} holds numbers that are not finite, in {wrong[0]} for one; the file is damaged. "
                "Fetch it again.",
                argument="backbone_weights",
            )
        self.network.load_state_dict(state)
        return f"The backbone {self.name} starts from {weights}."

    def _read(self, weights: str) -> dict[str, Tensor]:
        """A file's weights under the names of the network of features."""
        from timm.models import load_state_dict

        path = Path(weights)
        if not path.is_file():
            raise UserError(f"there is no file {weights}; or give {PRETRAINED}", argument="backbone_weights")
        if (other := _named_architecture(path)) not in (None, _architecture(self.name)):
            raise UserError(
                f"{weights} is of {other} by its name, not of {self.name}; rename it if that is wrong",
                argument="backbone_weights",
            )
        try:
            given = dict(load_state_dict(weights, weights_only=True))
        except Exception:  # torch.load and safetensors raise whatever the bytes lead them to
            raise UserError(f"{weights} is no file of weights that can be read", argument="backbone_weights") from None
        # timm renames tensors, and passes over those that are missing. Read with other numbers in the file as well: a
        # tensor that is the same both times does not come from it.
        other_given = {key: value + 1 if torch.is_tensor(value) else value for key, value in given.items()}
        state, changed = (_create(self.name, {"state_dict": each}).state_dict() for each in (given, other_given))
        floats = [key for key, value in state.items() if value.is_floating_point()]
        if missing := [key for key in floats if torch.equal(state[key], changed[key])]:
            raise UserError(
                f"{weights} holds {self.name} in part only: {len(missing)} of {len(floats)} tensors are missing, "
                f"{missing[0]} for one",
                argument="backbone_weights",
            )
        return dict(state)

    def _find_stages(self) -> list[list[nn.Parameter]]:
        """The parameters that each feature map is the first to depend on; also a trial of the whole network."""
        image = torch.zeros(1, 3, TRIAL_SIDE, TRIAL_SIDE)
        stages: list[list[nn.Parameter]] = []
        seen: set[nn.Parameter] = set()
        try:
            self.eval()
            with torch.enable_grad():
                features = self.network(image)
            for place, channels in zip(self.places, self.channels, strict=True):
                side = TRIAL_SIDE // self.network.feature_info.reduction()[place]
                assert features[place].shape == (1, channels, side, side)
        except Exception:
            raise UserError(
                f"{self.name} does not give (B, C, H, W) features of images of any size", argument="backbone"
            ) from None
        parameters = list(self.network.parameters())
        used = sum(features[place].sum() for place in self.places)
        needed = torch.autograd.grad(used, parameters, retain_graph=True, allow_unused=True)
        for feature in features:
            gradients = torch.autograd.grad(feature.sum(), parameters, retain_graph=True, allow_unused=True)
            stage = [p for p, g in zip(parameters, gradients, strict=True) if g is not None and p not in seen]
            seen.update(stage)
            stages.append(stage)
        for parameter, gradient in zip(parameters, needed, strict=True):
            if gradient is None:  # data parallelism would wait for its gradient
                parameter.requires_grad_(False)
        self.train()
        return stages


def _create(name: str, overlay: dict[str, Any] | None = None, others: str = "") -> Any:
    """A network of timm that gives features; with weights if there is an overlay, those it holds or else timm's own."""
    try:
        import timm
    except ImportError:
        raise UserError(f"{name} needs the package timm (pip install timm). {others}", argument="backbone") from None
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them."
        raise UserError(f"timm knows no {name}; {hint} {others}", argument="backbone")
    logging.getLogger("timm.models._builder").setLevel(logging.ERROR)  # what it drops is checked in `_read`
    try:
        if overlay is None:
            return timm.create_model(name, features_only=True)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return timm.create_model(name, pretrained=True, features_only=True, pretrained_cfg_overlay=overlay or None)
    except Exception as error:  # of timm, its hub, the network and the file system
        reason = " ".join(str(error).split())[:300]
        if overlay is None:
            raise UserError(f"{name} cannot give features ({reason})", argument="backbone") from None
        what = f"the weights do not fit {name}" if overlay else f"{name} cannot be downloaded; give a file"
        raise UserError(f"{what} ({reason})", argument="backbone_weights") from None


def _architecture(name: str) -> str:
    """The name of a network without the tag of its weights."""
    return name.partition(".")[0]


def _named_architecture(path: Path) -> str | None:
    """The network that a file is of by its name (`resnet18-f37072fd.pth`), or by a hub's `config.json` beside it."""
    import timm

    config = path.with_name("config.json")
    if config.is_file():
        try:
            named = json.loads(config.read_text(encoding="utf-8"))["architecture"]
            return str(named)
        except (ValueError, KeyError, TypeError, OSError):
            pass
    stem = path.name.lower().replace("-", "_")
    known = [name for name in timm.list_models() if stem.startswith(name) and not stem[len(name) :][:1].isalnum()]
    return max(known, key=len, default=None)
