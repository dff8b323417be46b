"""What starts quickly: which packages the library, and the help of each script, import."""

import subprocess
import sys

import pytest
from test_layers import ROOT, SCRIPTS, modules_loaded_by

# seconds each, or a sizeable part of one
HEAVY = {
    *("torch", "transformers", "datasets", "accelerate", "huggingface_hub", "numpy", "scipy"),
    *("pandas", "pyarrow", "sklearn", "matplotlib", "PIL", "tensorboard", "rouge_score", "nltk"),
}
# all that the library may need from elsewhere, loaded before it
ELSEWHERE = """
import sys
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import XLNetConfig
before = set(sys.modules)
"""
LOADED = "print(*{name.split('.')[0] for name in set(sys.modules) - before})"


def packages_beyond_torch_and_transformers(code: str) -> set[str]:
    """Which packages, the standard library's apart, `code` imports after torch and transformers."""
    done = subprocess.run(
        [sys.executable, "-c", f"{ELSEWHERE}{code}\n{LOADED}"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) - set(sys.stdlib_module_names)


@pytest.mark.slow
def test_the_library_loads_nothing_beside_torch_and_transformers():
    names = ("load", "sample", "log_prob", "infill", "score", "calibrate")
    code = "import asarm; " + ", ".join(f"asarm.{name}" for name in names)
    assert packages_beyond_torch_and_transformers(code) == {"asarm"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_of_a_script_loads_nothing_heavy(script):
    loaded = modules_loaded_by(script, "--help")
    assert loaded and not loaded & HEAVY


@pytest.mark.parametrize("command", ["", "infill", "animate"])
def test_help_of_a_command_loads_nothing_heavy(command):
    loaded = modules_loaded_by("-m", "asarm", *command.split(), "--help")
    assert "asarm" in loaded and not loaded & HEAVY
