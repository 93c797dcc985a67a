"""The configurations travel in the wheel and are found from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_installed_wheel_knows_the_configurations(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # Offline: the build backend is the one that the tests' environment has.
    wheels, source = tmp_path / "wheels", tmp_path / "source"
    source.mkdir()  # building leaves files behind
    for name in ("anchor_lightning", "configs"):
        shutil.copytree(REPOSITORY / name, source / name)
    for name in ("setup.cfg", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True, timeout=200)
    (wheel,) = wheels.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)], check=True, timeout=100
    )
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    words = ["fit", "--config", "voc.yaml", "--config", "init/uniform.yaml", "--print_config"]
    run = subprocess.run(
        [sys.executable, "-m", "anchor_lightning", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    assert "max_steps: 30000" in run.stdout and "init: uniform" in run.stdout
    where = "import anchor_lightning.commands.configs as named; print(named.__file__, named.find_config('coco.yaml'))"
    run = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.count(str(site)) == 2, f"not the installed package: {run.stdout}"
    # Every package of the checkout is in the wheel.
    packages = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "anchor_lightning").rglob("__init__.py")}
    assert all((site / package / "__init__.py").exists() for package in packages)
