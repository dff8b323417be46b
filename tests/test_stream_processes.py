"""Reading processes: the same blocks as without them, ended with their training process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_stream import DEMO, ROOT, blocks_of, inline, through_a_file, write

from asarm.data import DataUnavailable
from asarm.data.workers import ProcessWorker


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for_end(pid: int, seconds: float = 20) -> bool:
    for _ in range(int(seconds * 20)):
        if not is_running(pid):
            return True
        time.sleep(0.05)
    return False


def pids(blocks) -> list[int]:
    workers = [supply.worker for supply in blocks.supplies]
    assert all(isinstance(worker, ProcessWorker) for worker in workers)
    return [worker.process.pid for worker in workers]


@pytest.mark.slow_but_one
@pytest.mark.parametrize("layout", ["jsonl x1", "parquet x3"])
@pytest.mark.parametrize(("processes", "workers"), [(1, 1), (1, 3), (2, 2)])
def test_processes_give_what_readers_in_turns_give(tmp_path, layout, processes, workers):
    paths = write(tmp_path, layout)
    for process in range(processes):
        where = {"process": process, "processes": processes, "workers": workers}
        expected = inline(blocks_of(paths, **where))
        blocks = blocks_of(paths, **where)
        for _ in range(3):
            for _ in range(11):
                here, there = blocks.next_batch(range(4)), expected.next_batch(range(4))
                assert here.names == there.names
                assert torch.equal(here.input_ids, there.input_ids)
            state, old = through_a_file(blocks.state_dict()), pids(blocks)
            blocks.close()
            assert all(wait_for_end(pid) for pid in old)
            blocks = blocks_of(paths, **where)
            blocks.load_state_dict(state)
        blocks.close()


def test_a_reader_that_dies_is_an_error_and_the_place_is_kept(tmp_path):
    paths = write(tmp_path, "jsonl x3")
    expected = inline(blocks_of(paths, workers=2))
    blocks = blocks_of(paths, workers=2)
    for _ in range(5):
        blocks.next_batch(range(4)), expected.next_batch(range(4))
    os.kill(pids(blocks)[1], signal.SIGKILL)
    with pytest.raises(DataUnavailable, match=r"reader 2 of 2 .* died \(exit code -9\)"):
        for _ in range(1000):  # what it sent before is still given
            batch = blocks.next_batch(range(4))
            assert torch.equal(batch.input_ids, expected.next_batch(range(4)).input_ids)
    for _ in range(5):  # a new reader takes its place
        batch = blocks.next_batch(range(4))
        assert torch.equal(batch.input_ids, expected.next_batch(range(4)).input_ids)
    blocks.close()


def test_signals_of_the_job_leave_readers_alone(tmp_path):
    blocks = blocks_of(write(tmp_path, "jsonl x3"), workers=2)
    blocks.next_batch(range(4))
    for pid in pids(blocks):
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(pid, number)
    for _ in range(40):
        blocks.next_batch(range(4))
    blocks.close()


TRAINING = """
import sys, time
sys.path.insert(0, {tests!r})
from test_stream import blocks_of
if __name__ == "__main__":
    blocks = blocks_of({paths!r}, workers=2)
    blocks.next_batch(range(4))
    print(*[supply.worker.process.pid for supply in blocks.supplies], flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_readers_end_when_the_training_process_is_killed(tmp_path):
    script = tmp_path / "training.py"
    paths = write(tmp_path, "jsonl x3")
    script.write_text(TRAINING.format(tests=str(ROOT / "tests"), paths=paths), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as training:
        line = training.stdout.readline()
        readers = [int(pid) for pid in line.split()]
        assert len(readers) == 2 and all(map(is_running, readers))
        training.kill()
    assert all(wait_for_end(pid) for pid in readers)


def test_a_reader_says_what_is_wrong_with_the_data(tmp_path):
    paths = write(tmp_path, "jsonl x3")
    blocks = blocks_of(paths, workers=1)
    assert len(DEMO) == 8192
    Path(paths[2]).write_text('{"text": "cut off', encoding="utf-8")
    with pytest.raises((RuntimeError, ValueError), match="(?i)json"):
        for _ in range(1000):
            blocks.next_batch(range(4))
    blocks.close()
