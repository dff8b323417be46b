"""The launchers, in throw-away checkouts whose path has a blank in it."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAUNCHERS = sorted(ROOT.glob("_run_*.sh"))
SHELL_FILES = [
    *LAUNCHERS,
    *sorted(ROOT.glob("scripts/*.sh")),
    ROOT / "tests/run.sh",
    ROOT / ".ci/run",
]
SCRIPTS = {  # what each launcher runs
    "_run_training.sh": "train.py",
    "_run_speculative_decoding.sh": "speculative_decoding.py",
    "_run_nlp_infill_eval.sh": "infill_nlp.py",
    "_run_code_infill_eval.sh": "infill_code.py",
}
EVALUATIONS = [path for path in LAUNCHERS if SCRIPTS[path.name] != "train.py"]
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
    for name in ["scripts", "asarm", "tests"]:
        (root / name).mkdir(parents=True)
    for path in [*LAUNCHERS, *ROOT.glob("scripts/*.sh")]:
        shutil.copy(path, root / path.relative_to(ROOT))
    (root / "asarm/__init__.py").touch()
    for name in SCRIPTS.values():
        (root / "scripts" / name).write_text(STUB)
    text = PYPROJECT.format(dependencies=list(dependencies))
    (root / "pyproject.toml").write_text(text)
    (root / "requirements.txt").write_text("# nothing\n")
    (root / "tests/requirements.txt").write_text("-r ../requirements.txt\n")
    return root


def bash(*arguments, cwd="/", active=sys.prefix, **extra) -> subprocess.CompletedProcess:
    """Run bash with little but this Python on PATH, in the environment `active` if any."""
    path = os.pathsep.join([extra.pop("first", ""), str(Path(sys.executable).parent), os.defpath])
    env = {"PATH": path.strip(os.pathsep), "HOME": str(cwd), "PIP_NO_INDEX": "1"}
    env |= {"CUDA_VISIBLE_DEVICES": "", **extra}
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


def commands(folder: Path, **texts: str) -> str:
    """A folder of stub commands for PATH."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, text in texts.items():
        path = folder / "bin" / name.replace("_", "-")
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    return str(folder / "bin")


# --- the launchers ---


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_shell_files_parse(path):
    assert bash("-n", path).stderr == ""


@pytest.mark.slow_but_one
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
    says = "exit 1\n" if scontrol == "fails" else f"cat <<'END'\n{text}END\n"
    known = {"first": commands(tmp_path, scontrol=says), "SLURM_JOB_ID": "7"}
    if "file" not in scontrol:
        lost = bash(spool / "slurm_script", **known)
        assert lost.returncode == 2
        assert "is no checkout of asarm" in lost.stderr.splitlines()[-1]
        known["SLURM_SUBMIT_DIR"] = str(root)
    done = bash(spool / "slurm_script", "--k", "3", **known)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{sys.prefix}|{root}/asarm/__init__.py|--k|3\n"


# --- training: processes, nodes, signals ---

LAUNCH_STUB = "import os, sys\nprint('launch.py', os.environ['OMP_NUM_THREADS'], *sys.argv[1:])\n"
GPUS = 'for i in $(seq {}); do echo "GPU $i: Stub (UUID: GPU-$i)"; done'


@pytest.mark.slow_but_one
@pytest.mark.parametrize(
    ("gpus", "environment", "processes"),
    [
        (0, {}, 1),
        (1, {}, 1),
        (4, {}, 4),
        (4, {"CUDA_VISIBLE_DEVICES": "2,3"}, 2),
        (4, {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2,GPU-3"}, 3),
        (2, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 2),
        (4, {"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 1),
        (4, {"CUDA_VISIBLE_DEVICES": ""}, 1),
        (0, {"CUDA_VISIBLE_DEVICES": "0,1"}, 1),
        (0, {"ASARM_NUM_PROCESSES": "2"}, 2),
        (4, {"ASARM_NUM_PROCESSES": "1"}, 1),
        (4, {"ASARM_NUM_PROCESSES": "03"}, 3),
    ],
)
def test_one_process_a_gpu(tmp_path, gpus, environment, processes):
    done = on_gpus(tmp_path, gpus, "--k", "a b", **environment)
    assert done.returncode == 0, done.stderr
    scripts = tmp_path / "check out/scripts"
    if processes == 1:
        assert done.stdout.endswith("|--k|a b\n")
    else:
        assert done.stdout.split(" ", 2)[2] == (
            f"--multi_gpu --num_machines 1 --num_processes {processes} --gpu_ids all "
            "--mixed_precision no --dynamo_backend no --machine_rank 0 --main_process_port 0 "
            f"{scripts}/train.py --k a b\n"
        )


def on_gpus(
    folder: Path, gpus: int, *arguments, launcher="_run_training.sh", **environment
) -> subprocess.CompletedProcess:
    """Run a launcher on a machine with so many GPUs."""
    root = checkout(folder)
    (root / "scripts/launch.py").write_text(LAUNCH_STUB)
    unless_given = "" if "CUDA_VISIBLE_DEVICES" in environment else "unset CUDA_VISIBLE_DEVICES; "
    first = commands(folder, nvidia_smi=GPUS.format(gpus))
    command = f'{unless_given}exec bash "$0" "$@"'
    return bash("-c", command, root / launcher, *arguments, first=first, **environment)


@pytest.mark.slow_but_one
@pytest.mark.parametrize("launcher", EVALUATIONS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("gpus", "environment", "processes"),
    [
        (0, {}, 1),
        (2, {}, 2),
        (0, {"ASARM_NUM_PROCESSES": "3"}, 3),
        (4, {"ASARM_NUM_PROCESSES": "1"}, 1),
        # a job on two nodes: an evaluation stays on the first, its array tasks share the work
        (2, {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[7-8]"}, 2),
    ],
)
def test_evaluations_take_one_process_a_gpu(tmp_path, launcher, gpus, environment, processes):
    name = {"launcher": launcher.name}
    done = on_gpus(tmp_path, gpus, "--k", "a b", "", **name, **environment)
    assert done.returncode == 0, done.stderr
    script = tmp_path / "check out/scripts" / SCRIPTS[launcher.name]
    if processes == 1:
        assert done.stdout == f"{sys.prefix}|{tmp_path}/check out/asarm/__init__.py|--k|a b|\n"
    else:
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
        assert done.stdout == (
            f"launch.py {threads} --multi_gpu --num_machines 1 --num_processes {processes} "
            "--gpu_ids all --mixed_precision no --dynamo_backend no --machine_rank 0 "
            f"--main_process_port 0 {script} --k a b \n"
        )


@pytest.mark.parametrize("launcher", EVALUATIONS, ids=lambda path: path.name)
def test_evaluations_end_with_the_scripts_own_code_and_one_line_of_errors(tmp_path, launcher):
    done = on_gpus(tmp_path, 0, launcher=launcher.name, ASARM_NUM_PROCESSES="two")
    assert done.returncode == 2
    assert done.stderr == (
        "error: ASARM_NUM_PROCESSES is 'two'; expected the number of processes on each node\n"
    )
    script = tmp_path / "check out/scripts" / SCRIPTS[launcher.name]
    script.write_text("import sys\nprint(sys.argv[1:])\nsys.exit(3)\n")
    done = bash(tmp_path / "check out" / launcher.name, "--help")
    assert (done.returncode, done.stdout) == (3, "['--help']\n")


def test_number_of_processes_that_is_none_is_one_line(tmp_path):
    done = on_gpus(tmp_path, 0, ASARM_NUM_PROCESSES="two")
    assert done.returncode == 2
    assert done.stderr == (
        "error: ASARM_NUM_PROCESSES is 'two'; expected the number of processes on each node\n"
    )


def test_help_takes_one_process(tmp_path):
    assert on_gpus(tmp_path, 4, "--help").stdout.endswith("|--help\n")


def test_cores_are_shared_out_unless_the_user_has_done_it(tmp_path):
    nproc = {"first": commands(tmp_path, nproc="echo 12", nvidia_smi=GPUS.format(4))}
    root = checkout(tmp_path)
    (root / "scripts/launch.py").write_text(LAUNCH_STUB)
    two = {"ASARM_NUM_PROCESSES": "5"}
    done = bash(root / "_run_training.sh", **nproc, **two)
    assert done.stdout.startswith("launch.py 2 --multi_gpu")
    done = bash(root / "_run_training.sh", **nproc, **two, OMP_NUM_THREADS="7")
    assert done.stdout.startswith("launch.py 7 --multi_gpu")


SLURM = {
    "scontrol": """echo "scontrol $*" >>"$CALLS"
if [[ $1 == show ]]; then [[ $*  == "show hostnames n[7-8]" ]] && printf 'n7\\nn8\\n'; fi""",
    # what srun does: the options, then the command on each node
    "srun": """echo "srun $*" >>"$CALLS"
while [[ $1 == -* ]]; do if [[ $1 == *=* ]]; then shift; else shift 2; fi; done
for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done""",
}


def test_two_nodes_get_a_launcher_each_that_meet_at_the_first(tmp_path):
    environment = {
        **{"SLURM_JOB_ID": "150042", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[7-8]"},
        **{"CALLS": str(tmp_path / "calls"), "CUDA_VISIBLE_DEVICES": "0,1,2,3"},
    }
    commands(tmp_path, **SLURM)
    done = on_gpus(tmp_path, 4, "--k", "a b", **environment)
    assert done.returncode == 0, done.stderr
    scripts = tmp_path / "check out/scripts"
    assert [line.split(" ", 2)[2] for line in done.stdout.splitlines()] == [
        f"--machine_rank {rank} --multi_gpu --num_machines 2 --num_processes 8 --gpu_ids all "
        "--mixed_precision no --dynamo_backend no --main_process_ip n7 --main_process_port 15042 "
        f"{scripts}/train.py --k a b"
        for rank in range(2)
    ]
    shown, srun = (tmp_path / "calls").read_text().splitlines()
    assert shown == "scontrol show hostnames n[7-8]"
    assert srun.startswith("srun --nodes 2 --ntasks 2 --ntasks-per-node 1 ")
    assert not re.search(FORBIDDEN, srun[: srun.index(" bash ")])


# a training that notes what it is asked, and ends as it is told once it has been asked
TRAINING = """import os, signal, sys, time
asked = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda n, _: asked.append(signal.Signals(n).name))
print("ready", flush=True)
wanted, code = int(sys.argv[1]), int(sys.argv[2])
while len(asked) < wanted:
    time.sleep(0.01)
time.sleep(0.2)
print(*asked, flush=True)
sys.exit(code)
"""


@pytest.mark.slow_but_one
@pytest.mark.parametrize(
    ("signals", "code", "requeued"),
    [
        (["USR1"], 75, True),
        (["USR1"], 0, False),
        (["USR1"], 2, False),
        (["TERM"], 75, False),
        (["USR1", "TERM"], 75, False),
        (["USR1", "USR1"], 75, True),
        ([], 75, False),
        ([], 1, False),
    ],
)
def test_job_is_requeued_where_its_time_ran_out(tmp_path, signals, code, requeued):
    root = checkout(tmp_path)
    (root / "scripts/train.py").write_text(TRAINING)
    calls = tmp_path / "calls"
    env = {
        **{"PATH": os.pathsep.join([commands(tmp_path, **SLURM), os.environ["PATH"]])},
        **{"VIRTUAL_ENV": sys.prefix, "SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": ""},
        **{"CALLS": str(calls), "ASARM_NUM_PROCESSES": "1"},
    }
    command = ["bash", root / "_run_training.sh", str(len(signals)), str(code)]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **streams) as job:
        assert job.stdout.readline() == "ready\n"
        for name in signals:
            job.send_signal(getattr(signal, f"SIG{name}"))
            time.sleep(0.1)  # one at a time
        said = job.stdout.read()
    assert said.splitlines()[0].split() == [f"SIG{name}" for name in signals]
    assert job.returncode == code
    asked = calls.read_text().splitlines() if calls.exists() else []
    assert asked == (["scontrol requeue 7"] if requeued else [])
    assert ("requeueing job 7" in said) == requeued


def test_signal_before_anybody_listens_requeues_too(tmp_path):
    root = checkout(tmp_path)
    (root / "scripts/train.py").write_text(
        "import os, signal, time\nos.kill(os.getppid(), signal.SIGUSR1)\ntime.sleep(60)\n"
    )
    calls = tmp_path / "calls"
    done = bash(
        "-c",
        'exec bash "$0" </dev/null',
        root / "_run_training.sh",
        first=commands(tmp_path, **SLURM),
        SLURM_JOB_ID="7",
        CALLS=str(calls),
    )
    assert done.returncode == 75
    assert calls.read_text() == "scontrol requeue 7\n"


def test_exit_code_of_several_processes():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from launch import outcome
    finally:
        sys.path.pop(0)
    assert outcome([75, 75], signal.SIGUSR1) == outcome([1, 75], 0) == 75
    assert outcome([75, 2, 1], 0) == 2
    assert outcome([-signal.SIGTERM] * 2, signal.SIGTERM) == 75
    assert outcome([-signal.SIGKILL], signal.SIGTERM) == outcome([-signal.SIGSEGV], 0) == 1
