"""What the README tells people to type works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "asarm").rglob("README.md")) if page.parent.name != "demo"),
]
README = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
COMMANDS = sorted(
    {
        line.split("  #")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", README, re.S)
        for line in block.splitlines()
    }
    | set(re.findall(r"`((?:bash|python) [^`\n]+)`", README))
)
# run whole by other tests, in a tiny setting, and by CI itself
ELSEWHERE = (
    *("python scripts/benchmark.py", "python scripts/bundle_demo.py", "bash tests/run.sh"),
    *("python scripts/plot_training.py", "python tests/kills.py", "python scripts/report.py"),
    "python scripts/gap_lengths.py",
    *("python -m asarm", "pip install"),
)


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_is_known(command):
    """Launchers print the resolved settings instead of working; their files exist."""
    if command.startswith(ELSEWHERE):
        path = shlex.split(command)[1]
        assert path.startswith("-") or path == "install" or (ROOT / path).exists()
        return
    words = shlex.split(command)
    if "--help" not in words:
        words.append("--print_config")
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "output_dir" in done.stdout


def test_the_notebook_example_runs():
    (code,) = re.findall(r"<!-- notebook -->\n```python\n(.*?)```", README, re.S)
    assert len(code.strip().splitlines()) <= 18
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "network calls for 4 tokens" in done.stdout


def test_pictures_are_there():
    """And whatever else the pages link to."""
    for page in PAGES:
        for path in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / path).exists(), f"{page}: {path}"
