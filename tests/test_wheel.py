"""The wheel: built without a network, installed into an environment without the checkout, and drawn with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import smalti

ROOT = Path(__file__).parent.parent
LARGEST_WHEEL = 96_000_000
# Without what could lead back to this checkout.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

pytestmark = pytest.mark.slow


def run(command: list[str | Path], folder: Path) -> str:
    """Run a command and return what it prints; fail with its errors."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build the wheel and the sdist from a copy of the package; return their paths."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("smalti", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "golden")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", dist], source)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment that has Smalti's dependencies but not this checkout."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=True)
    variables = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", "venv", variables))
    run([sys.executable, "-m", "pip", "--python", python(home), *INSTALL, built[0]], home)
    # A path that a .pth file names is searched after the environment's own, and its .pth files, one of which leads to
    # the checkout, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home


INSTALL = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]


def python(home: Path) -> Path:
    return home / "bin" / "python"


def test_wheel_holds_the_package_and_its_models_only(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    assert wheel.name == f"smalti-{smalti.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size <= LARGEST_WHEEL
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"smalti", f"smalti-{smalti.__version__}.dist-info"}
    models = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "smalti" / "models").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"smalti/py.typed", *models} <= set(names)


def test_sdist_holds_what_builds_the_wheel(built: tuple[Path, Path]) -> None:
    _, sdist = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "smalti/py.typed", "smalti/models/scenes/config.json"}
    assert wanted <= names


def test_installed_wheel_draws(installed: Path, tmp_path: Path) -> None:
    where = run([python(installed), "-c", "import smalti; print(smalti.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(installed)
    command = ["generate", "a red circle", "-o", "circle.png", "--seed", "0", "--steps", "4"]
    run([installed / "bin" / "smalti", *command], tmp_path)
    with Image.open(tmp_path / "circle.png") as image:
        assert image.size == (256, 256)
    version = run([installed / "bin" / "smalti", "--version"], tmp_path)
    assert smalti.__version__ in version
