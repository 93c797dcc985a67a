"""The configurations travel in the wheel and are found from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = """
from anchor_lightning.cli import main
from anchor_lightning.commands import configs
print(configs.__file__, configs.find_config("coco.yaml"), sep="\\n")
main(["fit", "--config", "voc.yaml", "--config", "init/uniform.yaml", "--print_config"])
"""


def test_installed_wheel_knows_the_configurations(tmp_path: Path) -> None:
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    source.mkdir()  # building leaves files behind
    for name in ("anchor_lightning", "configs"):
        shutil.copytree(REPOSITORY / name, source / name)
    for name in ("setup.cfg", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    # Offline: the build backend is the one that the tests' environment has.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel"]
    build = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True, timeout=200)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Every package of the checkout is in the wheel.
    packages = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "anchor_lightning").rglob("__init__.py")}
    assert all((site / package / "__init__.py").exists() for package in packages)
    command, environment = [sys.executable, "-c", PROGRAM], os.environ | {"PYTHONPATH": str(site)}
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True, timeout=200)
    module, config, *printed = said.splitlines()
    assert module.startswith(str(site)) and config.startswith(str(site)), "not the installed package"
    assert {"  max_steps: 30000", "    init: uniform"} <= set(printed)
