"""The training command, whole, stopped by signals: it leaves a checkpoint and goes on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asarm.lock import RunLock
from asarm.training.checkpoint import Checkpoints

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
STOPPED, STEPS = 75, 200
SENTENCE = "the ship left port at dawn and no one on the quay saw where it went"
TINY = [
    *("--length=32", "--d_model=32", "--n_layer=1", "--n_head=2", "--d_inner=32"),
    *("--global_batch_size=4", "--batch_size=2", "--bf16=false", "--learning_rate=1e-3"),
    *("--eval_sequences=2", "--eval_num_decodes=0", "--eval_steps=1000", "--save_steps=1000"),
    *("--log_steps=1", "--trackers=[]", f"--max_steps={STEPS}"),
]


class Training:
    """A run's folder, and the command that begins it and goes on with it."""

    def __init__(self, folder: Path, *command: str, **environment: str):
        self.folder = folder / "run"
        text = folder / "text.txt"
        words = random.Random(0)
        text.write_text(
            "\n\n".join(" ".join(words.choices(SENTENCE.split(), k=40)) for _ in range(300))
        )
        data = [f"--dataset={text}", f"--cache_dir={folder / 'cache'}"]
        self.command = [*command, *TINY, *data, f"--output_dir={self.folder}"]
        self.environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.environment |= environment

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def interrupt(self, act: Callable[[subprocess.Popen], None]) -> tuple[int, str]:
        """Start, act when steps have been made; exit code and output."""
        before = self.steps()
        process = self.start()
        try:
            while self.steps()[-1:] <= before[-1:] and process.poll() is None:
                time.sleep(0.02)
            act(process)
            output = "".join(process.communicate(timeout=120))
        finally:
            process.kill()
        return process.returncode, output

    def finish(self) -> tuple[int, str]:
        process = self.start()
        output = "".join(process.communicate(timeout=200))
        return process.returncode, output

    def steps(self) -> list[int]:
        """The steps whose losses are on record."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(True) if path.exists() else []
        return [json.loads(line)["step"] for line in lines if line.endswith("\n")]

    def checkpoint(self) -> int | None:
        return Checkpoints(self.folder / "checkpoints", keep=2).newest_whole()


def test_signals_leave_a_checkpoint_from_which_the_same_command_goes_on(tmp_path):
    training = Training(tmp_path, sys.executable, str(ROOT / "scripts/train.py"))
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        code, output = training.interrupt(lambda process, n=number: process.send_signal(n))
        assert code == STOPPED, output
        assert f"({number.name})" in output
        assert training.steps()[-1] == training.checkpoint() < STEPS
    code, output = training.finish()
    assert code == 0, output
    assert training.steps() == list(range(1, STEPS + 1))


def test_two_processes_are_stopped_once_and_together(tmp_path):
    launcher = ("bash", str(ROOT / "_run_training.sh"))
    training = Training(tmp_path, *launcher, ASARM_NUM_PROCESSES="2", CUDA_VISIBLE_DEVICES="")

    # nobody is left behind a launcher that is killed
    code, _ = training.interrupt(lambda process: process.kill())
    assert code == -signal.SIGKILL
    with RunLock(training.folder):
        # what a user can put right is said once
        code, output = training.finish()
    assert (code, output.count("\n")) == (2, 1) and "is in use" in output

    # Ctrl-C in a terminal goes to the whole group
    code, output = training.interrupt(lambda process: os.killpg(process.pid, signal.SIGINT))
    assert code == STOPPED, output
    assert output.count("stopped after step") == 1 and "Traceback" not in output
    assert training.steps()[-1] == training.checkpoint()
