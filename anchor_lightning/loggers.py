"""Weights & Biases without an account: offline unless there is a key."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_info


class WandbLogger(LightningWandbLogger):
    """Lightning's W&B logger, which runs offline and says so in one line when there is no key.

    Args:
        project: W&B project.
        name: Name of the run; W&B makes one up if not given.
        save_dir: Folder that gets W&B's own `wandb/` folder; the command line sets `trainer.default_root_dir`.
        offline: Log to files only; `wandb sync` uploads them later.
        log_model: Whether checkpoints are uploaded.
        kwargs: Passed on to `wandb.init`.
    """

    def __init__(
        self,
        project: str = "anchor-lightning",
        name: str | None = None,
        save_dir: str = "runs",
        offline: bool = False,
        log_model: bool = False,
        **kwargs: Any,
    ) -> None:
        if not offline and os.environ.get("WANDB_MODE") is None and not has_key():
            offline = True
            rank_zero_info(
                "No W&B key: the run is logged offline (to upload: `wandb login` or WANDB_API_KEY, then `wandb sync`)."
            )
        folder = Path(save_dir).absolute()  # W&B falls back to a temporary folder where this one does not exist
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(project=project, name=name, save_dir=folder, offline=offline, log_model=log_model, **kwargs)
        self._wandb_init.pop("anonymous", None)  # Lightning sets it; W&B warns that it has no effect any more


def has_key() -> bool:
    """Whether W&B would find a key: in WANDB_API_KEY or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
