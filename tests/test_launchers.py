"""scripts/env.sh and the launchers, in throw-away checkouts whose path has a blank in it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LAUNCHERS = sorted(ROOT.glob("_run_*.sh"))
SHELL_FILES = [*LAUNCHERS, ROOT / "scripts/env.sh", ROOT / "tests/run.sh", ROOT / ".ci/run"]
FORBIDDEN = r"\s(--(account|partition|time|gpu|gres)|-[AptG])"
STUB = "import sys, asarm\nprint(sys.prefix, asarm.__file__, *sys.argv[1:], sep='|')\n"

PYPROJECT = """[project]
requires-python = ">=3.11,<3.14"
dependencies = {dependencies}
optional-dependencies = {{ test = ["no-such-test-tool"] }}
"""


def checkout(folder: Path, *dependencies: str) -> Path:
    """A checkout with our shell files, a stub of each script, and an empty package."""
    root = folder / "check out"
    for name in ["scripts", "asarm"]:
        (root / name).mkdir(parents=True)
    for path in [*LAUNCHERS, ROOT / "scripts/env.sh"]:
        shutil.copy(path, root / path.relative_to(ROOT))
    (root / "asarm/__init__.py").touch()
    for name in ["speculative_decoding.py", "train.py"]:
        (root / "scripts" / name).write_text(STUB)
    text = PYPROJECT.format(dependencies=list(dependencies))
    (root / "pyproject.toml").write_text(text)
    (root / "requirements.txt").write_text("# nothing\n")
    return root


def bash(*arguments, cwd="/", active=sys.prefix, **extra) -> subprocess.CompletedProcess:
    """Run bash with little but this Python on PATH, in the environment `active` if any."""
    path = os.pathsep.join([extra.pop("first", ""), str(Path(sys.executable).parent), os.defpath])
    env = {"PATH": path.strip(os.pathsep), "HOME": str(cwd), "PIP_NO_INDEX": "1", **extra}
    if active:
        env["VIRTUAL_ENV"] = str(active)
    command = ["bash", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)


def run_stub(root: Path, *arguments, **options) -> tuple[str, str, list[str]]:
    """Run a launcher on the stub: the environment and the asarm that it used, and its arguments."""
    done = bash(root / "_run_training.sh", *arguments, **options)
    assert done.returncode == 0, done.stderr
    prefix, package, *rest = done.stdout.rstrip("\n").split("|")
    return prefix, package, rest


# --- the environment ---


def test_active_environment_is_used_where_it_satisfies_the_ranges(tmp_path):
    root = checkout(tmp_path, "pytest>=1", "no-such-thing; python_version < '3'")
    prefix, package, arguments = run_stub(root, "--k", "a b", "test", cwd=tmp_path)
    assert prefix == sys.prefix
    assert package == str(root / "asarm/__init__.py")
    assert arguments == ["--k", "a b", "test"]
    assert not (root / ".venv").exists()


def test_conda_environment_is_used_too(tmp_path):
    root = checkout(tmp_path, "pytest>=1")
    prefix, _, _ = run_stub(root, active=None, CONDA_PREFIX=sys.prefix)
    assert prefix == sys.prefix
    assert not (root / ".venv").exists()


@pytest.mark.parametrize(
    ("dependency", "says"),
    [
        ("no-such-thing>=2", "no-such-thing>=2 wanted, it has none"),
        ("pytest>=999", rf"pytest>=999 wanted, it has {re.escape(pytest.__version__)}"),
        ("has-extra[more]", "no-such-thing; extra == .more. wanted, it has none"),
    ],
)
def test_unmet_requirement_is_named_in_one_line_and_venv_is_used(tmp_path, dependency, says):
    root = checkout(tmp_path, "has-extra", "pytest>=1", dependency)
    ready_venv(root)
    installed = tmp_path / "has_extra-1.0.dist-info/METADATA"
    installed.parent.mkdir()
    installed.write_text(
        "Metadata-Version: 2.1\nName: has-extra\nVersion: 1.0\nProvides-Extra: more\n"
        'Requires-Dist: no-such-thing; extra == "more"\n'
    )
    done = bash(root / "_run_training.sh", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0
    assert re.fullmatch(rf"asarm: not using the environment {sys.prefix}: {says}.*\n", done.stderr)
    assert done.stdout.startswith(f"{root}/.venv|")


def ready_venv(root: Path) -> None:
    """A .venv as a finished install leaves it, without the seconds that pip takes."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / ".venv"], check=True)
    shutil.copy(root / "requirements.txt", root / ".venv/requirements.txt")


def test_only_the_tests_ask_for_the_test_tools(tmp_path):
    root = checkout(tmp_path)
    ready_venv(root)
    source = 'source "$0/scripts/env.sh"'
    assert bash("-euc", source, root).stderr == ""
    assert "no-such-test-tool wanted" in bash("-euc", f"{source} test", root).stderr


@pytest.mark.parametrize("python", ["absent", "broken"])
def test_active_environment_without_a_working_python_is_passed_over(tmp_path, python):
    root = checkout(tmp_path)
    ready_venv(root)
    active = tmp_path / "stale"
    (active / "bin").mkdir(parents=True)
    if python == "broken":
        (active / "bin/python").write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
        (active / "bin/python").chmod(0o755)
    prefix, _, _ = run_stub(root, active=active)
    assert prefix == str(root / ".venv")


def test_venv_is_made_once_by_one_of_two_jobs_and_redone_after_an_interruption(tmp_path):
    root = checkout(tmp_path)
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: bash(root / "_run_training.sh", active=None), range(2)))
    assert [done.returncode for done in both] == [0, 0]
    assert sum("making" in done.stderr for done in both) == 1
    assert all(done.stdout.startswith(f"{root}/.venv|") for done in both)

    again = bash(root / "_run_training.sh", active=None)
    assert again.stderr == ""

    # a requirement that cannot be had: one clear line at the end, and nothing taken for finished
    (root / "requirements.txt").write_text("no-such-thing==1\n")
    failed = bash(root / "_run_training.sh", active=None)
    assert failed.returncode == 2
    assert "requirements.txt has changed: updating" in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("asarm: pip could not install")
    assert failed.stdout == ""

    # that install was broken off: it starts anew, from an empty folder
    (root / "requirements.txt").write_text("# nothing again\n")
    (root / ".venv/leftover").touch()
    redone = bash(root / "_run_training.sh", active=root / ".venv")
    assert redone.returncode == 0
    assert "making" in redone.stderr
    assert not (root / ".venv/leftover").exists()


def test_no_python_of_the_range_is_one_clear_line(tmp_path):
    root = checkout(tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ["dirname", "readlink", "sed", "cmp", "flock", "rm", "cp"]:
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    done = subprocess.run(
        [shutil.which("bash"), root / "_run_training.sh"],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "asarm: no Python 3.11 to 3.13 with venv and pip on PATH "
        "(tried python3 python3.13 python3.12 python3.11): install one\n"
    )


def test_requirements_are_pins_within_the_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [Requirement(r) for r in project["dependencies"]]
    ranges += [Requirement(r) for r in project["optional-dependencies"]["test"]]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = {p.name: p for line in lines if line and line[0] != "#" for p in [Requirement(line)]}
    for wanted in ranges:
        (exact,) = pins[wanted.name].specifier
        assert exact.operator == "=="
        assert exact.version in wanted.specifier
        assert pins[wanted.name].extras == wanted.extras


# --- the launchers ---


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_shell_files_parse(path):
    assert bash("-n", path).stderr == ""


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda path: path.name)
def test_help_from_another_directory(launcher, tmp_path):
    done = bash(launcher, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=lambda path: path.name)
def test_sbatch_lines_name_no_account_partition_time_or_gpu(launcher):
    options = [line for line in launcher.read_text().splitlines() if line.startswith("#SBATCH")]
    assert options
    assert not [line for line in options if re.search(FORBIDDEN, line)]


def test_launchers_find_the_checkout_in_the_same_words():
    assert len(LAUNCHERS) >= 2
    texts = [path.read_text() for path in LAUNCHERS]
    parts = {text[text.index("set -euo") : text.index("exec ")] for text in texts}
    assert len(parts) == 1


def test_launcher_works_through_a_symbolic_link(tmp_path):
    root = checkout(tmp_path)
    (tmp_path / "link.sh").symlink_to(root / "_run_training.sh")
    done = bash(tmp_path / "link.sh")
    assert done.stdout.rstrip().split("|")[1] == f"{root}/asarm/__init__.py"


SHOWN = """JobId=7 JobName=asarm-train
   Command={command}
   WorkDir=/nowhere
"""


@pytest.mark.parametrize(
    "scontrol", ["names the file", "names each task's file", "names a wrapper", "fails"]
)
def test_spooled_copy_finds_the_checkout(tmp_path, scontrol):
    root = checkout(tmp_path)
    spool = tmp_path / "spool/job00007"
    spool.mkdir(parents=True)
    shutil.copy(root / "_run_training.sh", spool / "slurm_script")
    command = f"{root}/_run_training.sh --config /else/_run_x.sh" if "file" in scontrol else "bash"
    text = SHOWN.format(command=command) * (3 if "each" in scontrol else 1)
    stub = tmp_path / "bin/scontrol"
    stub.parent.mkdir()
    says = "exit 1\n" if scontrol == "fails" else f"cat <<'END'\n{text}END\n"
    stub.write_text(f"#!/bin/sh\n{says}")
    stub.chmod(0o755)

    known = {"first": str(stub.parent), "SLURM_JOB_ID": "7"}
    if "file" not in scontrol:
        lost = bash(spool / "slurm_script", **known)
        assert lost.returncode == 2
        assert "is no checkout of asarm" in lost.stderr.splitlines()[-1]
        known["SLURM_SUBMIT_DIR"] = str(root)
    done = bash(spool / "slurm_script", "--k", "3", **known)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sys.prefix}|{root}/asarm/__init__.py|--k|3\n"
