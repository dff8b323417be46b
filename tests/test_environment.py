"""scripts/env.sh: which Python a job gets and how .venv is made, in throw-away checkouts."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_launchers import ROOT, bash, checkout, run_stub


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


@pytest.mark.slow
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


def wheel(folder: Path, name: str) -> str:
    """A folder for pip to find an empty module in, as version 1."""
    records = {
        f"{name}.py": "",
        f"{name}-1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{name}-1.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        f"{name}-1.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as archive:
        for path, text in records.items():
            archive.writestr(path, text)
    return str(folder)


@pytest.mark.slow
def test_tools_of_the_tests_are_added_to_the_same_venv_when_they_are_asked_for(tmp_path):
    root = checkout(tmp_path)
    tools = root / "tests/requirements.txt"
    tools.write_text("-r ../requirements.txt\nlaboratory==1\n")
    how = {"active": None, "PIP_FIND_LINKS": wheel(tmp_path, "laboratory")}

    def job(*words):
        call = ["-euc", 'root=$0; source "$0/scripts/env.sh" "$@"; python -c "import laboratory"']
        return bash(*call, root, *words, **how)

    with ThreadPoolExecutor() as pool:  # a job and the tests start together
        run, tests = pool.map(lambda words: job(*words), [[], ["test"]])
    assert tests.returncode == 0, tests.stderr
    assert (run.stderr + tests.stderr).count("asarm: making") == 1
    assert tests.stderr.count("asarm: adding tests/requirements.txt") == 1
    (root / ".venv/leftover").touch()
    assert job().stderr == job("test").stderr == ""

    # another version is wanted and cannot be had: one clear line, and jobs go on as they did
    tools.write_text("-r ../requirements.txt\nlaboratory==2\n")
    failed = job("test")
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith(
        f"asarm: pip could not install tests/requirements.txt into {root}/.venv"
    )
    assert job().stderr == ""

    # jobs that change the versions below leave it to the tests to try again
    tools.write_text("-r ../requirements.txt\nlaboratory==1\n")
    assert "adding" in job("test").stderr
    (root / "requirements.txt").write_text("# others\n")
    changed, again = job(), job("test")
    assert "adding" not in changed.stderr and "adding" in again.stderr
    assert (root / ".venv/leftover").exists()


@pytest.mark.slow
def test_jobs_get_none_of_the_tools_of_the_tests(tmp_path):
    root = checkout(tmp_path)
    (root / "tests/requirements.txt").write_text("no-such-thing==1\n")
    done = bash(root / "_run_training.sh", active=None)
    assert done.returncode == 0 and "adding" not in done.stderr
    assert (root / ".venv/requirements.txt").exists()
    assert not (root / ".venv/tests").exists()


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root writes anywhere"
)
@pytest.mark.parametrize("words", [[], ["test"]], ids=["job", "tests"])
def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, words):
    root = checkout(tmp_path)
    if words:
        ready_venv(root)
    call = ["bash", "-euc", 'source "$0/scripts/env.sh" "$@"', root, *words]
    # without the right of root to write anywhere
    dropped = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    root.chmod(0o555)
    try:
        env = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "HOME": "/"}
        done = subprocess.run([*dropped, *call], env=env, capture_output=True, text=True)
    finally:
        root.chmod(0o755)
    assert done.returncode == 2
    assert done.stderr.startswith(f"asarm: cannot make or update {root}/.venv: you may not write")
    assert done.stderr.count("\n") == 1


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


def pins(file: str) -> dict[str, Requirement]:
    lines = (ROOT / file).read_text().splitlines()
    return {
        p.name: p for line in lines if line and line[0] not in "#-" for p in [Requirement(line)]
    }


def test_requirements_are_pins_within_the_ranges_and_those_of_tests_stand_apart():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime, tests = pins("requirements.txt"), pins("tests/requirements.txt")
    assert not runtime.keys() & tests.keys()
    extra = project["optional-dependencies"]["test"]
    for ranges, exact in ((project["dependencies"], runtime), (extra, tests)):
        for wanted in map(Requirement, ranges):
            pin = exact[wanted.name]
            (version,) = pin.specifier
            assert version.operator == "==" and version.version in wanted.specifier
            assert pin.extras == wanted.extras
    # the tests are tried with the versions of the jobs
    assert "-r ../requirements.txt" in (ROOT / "tests/requirements.txt").read_text().splitlines()
