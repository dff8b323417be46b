"""Imports only go downwards, only to what is declared, and what `--help` needs loads no torch."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))

# A module imports modules of lower layers only; a package (a key without its modules) is one layer,
# in which no modules import one another in a circle.
LAYERS = {
    "asarm.checks": 0,
    "asarm.order": 0,
    "asarm.text": 0,
    "asarm.utf8": 0,
    "asarm.kernels": 0,
    "asarm.sandbox": 0,
    "asarm.codec": 1,
    "asarm.rows": 1,
    "asarm.distribution": 1,
    "asarm.drafting.head": 1,
    "asarm.drafting.files": 2,
    "asarm.inputs": 2,
    "asarm.drafting.drafters": 2,
    "asarm.backbones": 3,
    "asarm.fetch": 3,
    "asarm.drafting.checked": 3,
    "asarm.loading": 4,
    "asarm.density": 4,
    "asarm.sampling": 5,
    "asarm.presets": 5,
    "asarm.lock": 5,
    "asarm.objective": 6,
    "asarm.schedule": 6,
    "asarm.corpus": 6,
    "asarm.cli": 6,
    "asarm.run": 6,
    "asarm.data": 7,
    "asarm.drafting.objective": 7,
    "asarm.infilling": 7,
    "asarm.display": 7,
    "asarm.fingerprint": 8,
    "asarm.metrics": 9,
    "asarm.training": 10,
    "asarm.evaluation": 10,
    "asarm.benchmark": 11,
    "asarm.command": 11,
    "asarm": 12,
    "asarm.__main__": 12,
    "asarm.drafting": 12,
}
DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow"}  # where the module has another name
# by transformers, datasets and accelerate, which cannot do without
BROUGHT_ALONG = {"huggingface-hub", "pyyaml", "fsspec", "psutil", "pyarrow"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted((ROOT / "asarm").rglob("*.py"))}


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, wherever in it; `from asarm import x` may name one."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base


def layer_key(module: str) -> str:
    """The longest key of LAYERS that holds the module: `asarm` holds nothing but itself."""
    keys = [k for k in LAYERS if module == k or (k != "asarm" and module.startswith(k + "."))]
    assert keys, f"{module} is in no layer: list it in LAYERS"
    return max(keys, key=len)


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_downwards(module):
    here = layer_key(module)
    for imported in imports(MODULES[module]):
        if imported.split(".")[0] != "asarm" or layer_key(imported) == here:
            continue
        there = layer_key(imported)
        assert LAYERS[there] < LAYERS[here], f"{module} imports {imported}, which is no lower"


def test_no_modules_import_one_another_in_a_circle():
    graph = {module: {*imports(path)} & {*MODULES} - {module} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # a CycleError names the modules of a circle


@pytest.mark.parametrize("path", [*MODULES.values(), *SCRIPTS], ids=lambda path: path.stem)
def test_nothing_imports_scripts(path):
    names = {script.stem for script in SCRIPTS} | {"scripts"}
    assert not {name.split(".")[0] for name in imports(path)} & names


def test_every_imported_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    needs = [*project["dependencies"], *(n for e in extras if e != "test" for n in extras[e])]
    declared = {re.split(r"[^\w-]", need)[0].lower() for need in needs}
    roots = {i.split(".")[0] for p in [*MODULES.values(), *SCRIPTS] for i in imports(p)}
    roots -= set(sys.stdlib_module_names) | {"asarm"}
    used = {DISTRIBUTIONS.get(root, root).replace("_", "-") for root in roots}
    assert used <= declared | BROUGHT_ALONG


def modules_loaded_by(*arguments: str | Path) -> set[str]:
    """What a Python process with these arguments imported, top-level names only."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in lines}


def test_the_package_and_its_configs_load_no_torch():
    configs = [name for name in MODULES if name.endswith(".config")]
    assert configs
    loaded = modules_loaded_by("-c", f"import asarm, {', '.join(configs)}")
    assert "asarm" in loaded
    assert not loaded & {"torch", "transformers", "datasets"}
