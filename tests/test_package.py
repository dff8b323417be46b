"""What `pip install .` brings: the library, a command, its version, the presets."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

import asarm

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the checkout, as pip builds it."""
    pytest.importorskip("setuptools", reason="setuptools, which builds packages, is not installed")
    checkout, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    for name in ("asarm", "configs"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "wheel", str(checkout), "-w", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out)
    if "No module named pip" in done.stderr:
        pytest.skip("pip is not installed")
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def text(wheel, ending: str) -> str:
    (name,) = (name for name in wheel.namelist() if name.endswith(ending))
    return wheel.read(name).decode()


def test_the_version_is_that_of_the_library(wheel):
    assert re.fullmatch(r"\d+\.\d+\.\d+", asarm.__version__)
    assert f"\nVersion: {asarm.__version__}\n" in text(wheel, "METADATA")


def test_it_brings_the_command(wheel):
    assert text(wheel, "entry_points.txt").split() == [
        *("[console_scripts]", "asarm", "=", "asarm.__main__:main")
    ]
    assert callable(import_module("asarm.__main__").main)


def test_it_brings_the_demo_and_every_module(wheel):
    names = wheel.namelist()
    modules = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("asarm/**/*.py")}
    assert modules <= set(names)
    assert "asarm/demo/model.safetensors" in names
    assert "asarm/smollm2/adapter_model.safetensors" in names
    assert not [name for name in names if name.startswith(("tests", "scripts", "configs"))]
    pages = [name for name in names if name.endswith("README.md")]
    # the models' cards; the pages of folders are for readers of a checkout
    assert sorted(pages) == ["asarm/demo/README.md", "asarm/smollm2/README.md"]


def test_the_readme_installs_from_the_checkout():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install '.[harness]'" in readme
    assert not re.findall(r"pip install [\"']?asarm", readme)
