"""What the README files tell people to type works, and what they point at exists."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from asarm.__main__ import parse as parse_command
from asarm.benchmark.config import parse as parse_benchmark

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDERS = (
    *(
        "asarm",
        "asarm/backbones",
        "asarm/benchmark",
        "asarm/drafting",
        "asarm/evaluation",
        "asarm/infilling",
    ),
    *("asarm/metrics", "asarm/sampling", "asarm/training", "configs", "eval_datasets", "tests"),
)
READMES = {"README.md": README} | {
    f"{folder}/README.md": (ROOT / folder / "README.md").read_text(encoding="utf-8")
    for folder in FOLDERS
}
COMMANDS = sorted(
    {
        line.split("  #")[0].strip()
        for text in READMES.values()
        for block in re.findall(r"```bash\n(.*?)```", text, re.S)
        for line in block.splitlines()
    }
    | {
        command
        for text in READMES.values()
        for command in re.findall(r"`((?:bash|python) [^`\n]+)`", text)
    }
)
# commands whose settings a function reads, without the work that they ask for
PARSERS = {"python -m asarm ": parse_command, "python scripts/benchmark.py": parse_benchmark}
# run whole by other tests, in a tiny setting, and by CI itself
ELSEWHERE = (
    *("python scripts/bundle_demo.py", "python scripts/plot_training.py", "python tests/kills.py"),
    *("python scripts/report.py", "python -m asarm.evaluation.harness"),
    *("bash tests/run.sh", "pip install"),
)
OF_RUNS = ("samples/", "tensorboard/", "checkpoints/")  # folders that a training run makes
EXAMPLES = {
    name: "".join(re.findall(r"```python\n(.*?)```", text, re.S))
    for name, text in READMES.items()
    if "```python" in text
}


def test_there_are_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.slow_but_one
@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_is_known(command):
    """Launchers print the resolved settings instead of working; their files exist."""
    for start, parse in PARSERS.items():
        if command.startswith(start):
            parse(shlex.split(command.removeprefix(start)))
            return
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


@pytest.mark.slow
def test_the_notebook_example_runs():
    (code,) = re.findall(r"<!-- notebook -->\n```python\n(.*?)```", README, re.S)
    assert len(code.strip().splitlines()) <= 18
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "network calls for 4 tokens" in done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_all_examples_of_a_page_run_one_after_another(name):
    words = [sys.executable, "-W", "error", "-c", EXAMPLES[name]]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", READMES)
def test_pictures_links_and_headings_are_there(name):
    for target in re.findall(r"\]\(([^)]+)\)", READMES[name]):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        page = ((ROOT / name).parent / path).resolve()
        assert page.exists(), target
        assert not heading or heading in headings(page.read_text(encoding="utf-8")), target


def headings(text: str) -> set[str]:
    """The anchors that a code host makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_every_page_of_a_folder_is_linked_from_the_readme():
    assert {f"{folder}/README.md" for folder in FOLDERS} <= set(re.findall(r"\]\((.*?)\)", README))


@pytest.mark.parametrize("name", READMES)
def test_files_and_modules_that_a_page_names_exist(name):
    """Modules are named relative to the page's folder, other files from the checkout too."""
    folder = (ROOT / name).parent
    for path in re.findall(r"`([\w./]+(?:\.py|\.sh|\.yaml|/))`", READMES[name]):
        places = (folder / path, ROOT / path, ROOT / "asarm" / path)
        assert path in OF_RUNS or any(place.exists() for place in places), path


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 170
