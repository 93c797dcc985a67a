"""`LearnAnchors` on two processes."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from tests.helpers.launching import REPOSITORY, run_all

assert_equal = partial(torch.testing.assert_close, rtol=0, atol=0)


def test_two_processes_hold_the_same_shapes(tmp_path: Path) -> None:
    script = REPOSITORY / "tests" / "helpers" / "clients.py"
    ((code, output),) = run_all(tmp_path, [sys.executable, str(script), str(tmp_path)], seconds=280)
    assert code == 0, output
    for index, name in enumerate(["retinanet", "retinanet-shared", "fpn-shared", "ssd"]):
        one, two = (torch.load(tmp_path / f"{name}.rank{rank}.pt") for rank in (0, 1))
        assert_equal(one, two)
        assert (one["shapes"].diff(dim=0) != 0).flatten(1).any(1).all(), "they learn in every step"
        if "shared" in name:
            factors = (one["shapes"] / one["shapes"][0]).unflatten(1, (2, -1))
            torch.testing.assert_close(factors[:, 0], factors[:, 1])
        assert (tmp_path / "lightning_logs" / f"version_{index}" / "frozen.ckpt").exists()
