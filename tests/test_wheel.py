"""What travels in the wheel and in the source distribution, and is found from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import anchor_lightning

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM = """
from anchor_lightning.cli import main
from anchor_lightning.commands import configs
try:
    main(["anchors", "fit", "--help"])
except SystemExit:
    print("end of help")
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
    (info,) = site.glob("*.dist-info")
    assert f"\nVersion: {anchor_lightning.__version__}\n" in (info / "METADATA").read_text()
    assert "anchor-lightning = anchor_lightning.__main__:run\n" in (info / "entry_points.txt").read_text()
    assert (site / "anchor_lightning" / "py.typed").exists()
    # Every package of the checkout is in the wheel.
    packages = {path.parent.relative_to(REPOSITORY) for path in (REPOSITORY / "anchor_lightning").rglob("__init__.py")}
    assert all((site / package / "__init__.py").exists() for package in packages)
    command, environment = [sys.executable, "-c", PROGRAM], os.environ | {"PYTHONPATH": str(site)}
    said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True, timeout=200)
    shown, said = said.split("end of help\n")
    assert shown.startswith("usage: anchor-lightning anchors fit")
    module, config, *printed = said.splitlines()
    assert module.startswith(str(site)) and config.startswith(str(site)), "not the installed package"
    assert {"  max_steps: 30000", "    init: uniform"} <= set(printed)


def test_the_source_distribution_is_whole(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("anchor_lightning", "benchmarks", "configs", "docs", "notebooks", "tests"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    names = ["setup.cfg", "pyproject.toml", "requirements.txt", "MANIFEST.in", "Makefile", ".pre-commit-config.yaml"]
    for name in (*names, "README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    program = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, timeout=200, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert files <= {name.partition("/")[2] for name in tar.getnames()}


def test_a_console_script_ends_with_status_0() -> None:
    """It passes on what its function returns, and anything but None would be an error."""
    words = ["anchors", "export", "--shapes", "uniform", "--to", "json"]  # a command that returns something
    program = f"import sys; from anchor_lightning.__main__ import run; sys.argv[1:] = {words}; sys.exit(run())"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, capture_output=True)


def test_versions_agree() -> None:
    citation = (REPOSITORY / "CITATION.cff").read_text()
    assert f"\nversion: {anchor_lightning.__version__}\n" in citation
