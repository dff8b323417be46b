"""Items split over processes and tasks: each once, merged in order, whoever is killed when."""

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kills import free_port

from asarm.evaluation.items import Ledger, Shard, array_task, begin_run, prepare_run
from asarm.run import STARTS, Run

NAME = "samples.jsonl"


@dataclass
class Settings:
    seed: int = 0
    output_dir: str = "runs"
    overwrite: bool = False


def item(record):
    return record["item"]


def record(number, by="anyone"):
    return {"item": number, "by": by, "text": "é\n\u2028"}


def ledger(folder, shard=None):
    return Ledger(Run(folder), NAME, item, shard)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# --- shards ---


@given(st.integers(0, 40), st.integers(1, 6), st.integers(1, 6))
def test_every_batch_is_in_one_share(num_batches, tasks, processes):
    batches = list(range(num_batches))
    shards = [Shard(t, tasks, p, processes) for t in range(tasks) for p in range(processes)]
    parts = [shard.of(batches) for shard in shards]
    assert sorted(batch for part in parts for batch in part) == batches
    assert all(part == sorted(part) for part in parts)
    assert max(map(len, parts)) <= math.ceil(math.ceil(num_batches / tasks) / processes)
    assert [shard.is_first for shard in shards] == [shard.process == 0 for shard in shards]
    assert {shard.is_whole for shard in shards} == {len(shards) == 1}


def test_a_process_alone_has_everything():
    assert Shard().of("abc") == list("abc")
    assert Shard().is_first and Shard().is_whole


def slurm(number, first, last, count):
    names = ("ID", "MIN", "MAX", "COUNT")
    values = map(str, (number, first, last, count))
    return {f"SLURM_ARRAY_TASK_{name}": v for name, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (range(4), [(n, 4) for n in range(4)]),  # --array=0-3
        (range(1, 8, 2), [(n, 4) for n in range(4)]),  # --array=1-7:2
        (range(5, 7), [(0, 2), (1, 2)]),
        ([7], [(0, 1)]),  # --array=7 does all of it
    ],
)
def test_tasks_of_an_array_are_numbered_from_0(numbers, expected):
    found = [array_task(slurm(n, numbers[0], numbers[-1], len(numbers))) for n in numbers]
    assert found == expected


def test_outside_of_an_array_there_is_one_task():
    assert array_task({}) == array_task({"SLURM_JOB_ID": "7"}) == (0, 1)


@pytest.mark.parametrize("numbers", [[0, 1, 5], [0, 1, 4], [1, 2, 4, 9]])
def test_tasks_of_an_uneven_array_are_not_mistaken_for_others(numbers):
    found = []
    for number in numbers:
        try:
            found.append(array_task(slurm(number, numbers[0], numbers[-1], len(numbers))))
        except ValueError as refused:
            assert f"the array has {len(numbers)} tasks from" in str(refused)
            assert "expected --array=0-N" in str(refused)
    assert len(set(found)) == len(found) < len(numbers)


def test_here_reads_the_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_") or name == "RANK"]:
        monkeypatch.delenv(name)
    assert Shard.here() == Shard()
    for name, value in slurm(3, 1, 5, 3).items():
        monkeypatch.setenv(name, value)
    assert Shard.here() == Shard(1, 3)


# --- the ledger ---


def test_a_process_alone_writes_the_file_itself(tmp_path):
    own = ledger(tmp_path)
    for number in (2, 0, 1):
        own.append(record(number))
        assert files(tmp_path) == [NAME]
    assert [item(r) for r in own.records()] == [0, 1, 2]
    assert own.merge(range(3)) == own.records() == Run(tmp_path).read(NAME)
    before = os.stat(tmp_path / NAME).st_ino
    assert own.merge(range(3)) == own.records()  # in order already: it is not written anew
    assert os.stat(tmp_path / NAME).st_ino == before


@settings(max_examples=40)
@given(
    st.permutations(list(range(8))),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_interleaved_processes_end_in_the_same_file(
    tmp_path_factory, items, tasks, processes, seed
):
    folder, chance = tmp_path_factory.mktemp("run"), random.Random(seed)
    shards = [Shard(t, tasks, p, processes) for t in range(tasks) for p in range(processes)]
    ledgers = [ledger(folder, shard) for shard in shards]
    work = [(own, number) for own, s in zip(ledgers, shards, strict=True) for number in s.of(items)]
    chance.shuffle(work)
    for own, number in work:
        assert own.merge(range(8)) is None
        own.append(record(number))
        assert record(number) in chance.choice(ledgers).records()
    chance.shuffle(ledgers)
    merged = [own.merge(range(8)) for own in ledgers]
    assert merged == [[record(number) for number in range(8)]] * len(ledgers)
    assert files(folder) == [NAME]
    assert Run(folder).read(NAME) == merged[0]


def test_keys_sort_the_lines_and_the_first_of_equals_counts(tmp_path):
    ledger(tmp_path, Shard(0, 2)).append(record(1, by="0"))
    ledger(tmp_path, Shard(1, 2)).append(record(1, by="1"))
    ledger(tmp_path, Shard(1, 2)).append(record(0, by="1"))
    ledger(tmp_path).append(record(0, by="all"))  # the merged file's lines come before all
    found = ledger(tmp_path, Shard(1, 2)).merge([0, 1])
    assert [(item(r), r["by"]) for r in found] == [(0, "all"), (1, "0")]
    assert Run(tmp_path).read(NAME) == found


def test_what_was_not_expected_is_kept_and_not_given(tmp_path):
    own = ledger(tmp_path)
    for number in (5, 0, 1):
        own.append(record(number))
    assert own.merge([0, 1]) == [record(0), record(1)]
    assert own.records() == [record(0), record(1), record(5)]
    assert own.merge([0, 1, 2]) is None
    assert own.merge([]) == []


def test_other_files_of_the_run_are_left_alone(tmp_path):
    run = Run(tmp_path)
    for name in ("judged.0-1.jsonl", "starts.1.jsonl", "other_samples.0-0.jsonl"):
        run.append(name, {"text": "no item"})
    own = ledger(tmp_path, Shard(0, 2))
    own.append(record(0))
    assert own.merge([0]) == [record(0)]
    assert len(files(tmp_path)) == 4


class Killed(Exception):
    pass


def kill_at(patch, step):
    """Let the process die before its step-th change of a folder, from 1 on."""
    left = [step]

    def dying(change):
        def instead(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return change(*arguments, **options)

        return instead

    patch.setattr("os.replace", dying(os.replace))
    patch.setattr("pathlib.Path.unlink", dying(Path.unlink))


@pytest.mark.parametrize("step", range(1, 6))
def test_merging_may_be_killed_between_any_two_steps(tmp_path, monkeypatch, step):
    """The file is written, then three parts are removed: the 5th step is never reached."""
    shards = [Shard(0, 3), Shard(1, 3), Shard(2, 3)]
    for shard in shards:
        for number in shard.of(range(7)):
            ledger(tmp_path, shard).append(record(number))
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        try:
            ledger(tmp_path, shards[2]).merge(range(7))
            assert step == 5
        except Killed:
            assert step < 5
    for path in tmp_path.glob("*.tmp"):
        path.unlink()  # of a process that is no more
    expected = [record(number) for number in range(7)]
    assert ledger(tmp_path).records() == expected
    assert ledger(tmp_path, Shard(0, 2)).merge(range(7)) == expected
    assert files(tmp_path) == [NAME]
    assert Run(tmp_path).read(NAME) == expected


def test_another_process_merges_while_this_one_reads(tmp_path, monkeypatch):
    """Whatever it has not read yet of the parts, it must find in the file."""
    shards = [Shard(0, 3), Shard(1, 3), Shard(2, 3)]
    expected = [record(number) for number in range(6)]
    for moment in range(1, 5):
        folder = tmp_path / str(moment)
        folder.mkdir()
        for shard in shards:
            for number in shard.of(range(6)):
                ledger(folder, shard).append(record(number))
        reads, read = [], Run.read

        def interrupted(run, name, folder=folder, moment=moment, reads=reads, read=read):
            reads.append(name)
            if len(reads) == moment:
                assert ledger(folder, shards[1]).merge(range(6)) == expected
            return read(run, name)

        with monkeypatch.context() as patch:
            patch.setattr(Run, "read", interrupted)
            assert ledger(folder, shards[0]).records() == expected
        assert files(folder) == [NAME]


@pytest.mark.parametrize(
    "taken_up_by", [[Shard()], [Shard(0, 2), Shard(1, 2)], [Shard(0, 1, 1, 2)]]
)
def test_killed_in_a_line_and_taken_up_by_another_number(tmp_path, taken_up_by):
    for shard in (Shard(0, 1, 0, 2), Shard(0, 1, 1, 2)):
        for number in shard.of(range(6))[:2]:
            ledger(tmp_path, shard).append(record(number, by="before"))
        with open(tmp_path / f"samples.0-{shard.process}.jsonl", "ab") as file:
            file.write(json.dumps(record(4)).encode()[:9])
    ledgers = [ledger(tmp_path, shard) for shard in taken_up_by]
    done = {item(r) for r in ledgers[0].records()}
    assert done == {0, 1, 2, 3}
    for n, number in enumerate(sorted({*range(6)} - done)):
        assert ledgers[0].merge(range(6)) is None
        ledgers[n % len(ledgers)].append(record(number, by="after"))
    found = ledgers[-1].merge(range(6))
    assert [(item(r), r["by"]) for r in found] == [
        *((n, "before") for n in range(4)),
        *((n, "after") for n in (4, 5)),
    ]
    assert files(tmp_path) == [NAME]


def open_run(config, shard):
    run = prepare_run(config, shard)
    begin_run(run, shard)
    return run


def test_tasks_open_the_same_run(tmp_path):
    config = Settings(output_dir=str(tmp_path))
    runs = [open_run(config, Shard(task, 3)) for task in range(3)]
    assert {run.folder for run in runs} == {tmp_path}
    assert len(runs[0].read(STARTS)) == len(runs[0].read("starts.2.jsonl")) == 1
    runs[1].append(NAME, record(0))
    with pytest.raises(ValueError, match="seed = 0, not 1"):
        open_run(Settings(seed=1, output_dir=str(tmp_path)), Shard(2, 3))


PROCESS = """import sys
from dataclasses import dataclass
from asarm.evaluation.items import Ledger, Shard, begin_run, prepare_run

@dataclass
class Settings:
    output_dir: str = sys.argv[1]
    seed: int = 0
    overwrite: bool = False

shard = Shard.here()
try:
    run = prepare_run(Settings(seed=int(sys.argv[2])), shard)
    begin_run(run, shard)
except ValueError as error:
    print(error)
    sys.exit()
assert len(run.read("starts.jsonl")) == 1, "opened by the first before any goes on"
own = Ledger(run, "samples.jsonl", lambda record: record["item"], shard)
for number in shard.of(range(7)):
    own.append({"item": number})
merged = own.merge(range(7))
print(shard.process, shard.processes, merged and len(merged))
"""


@pytest.mark.slow
def test_processes_started_together(tmp_path):
    """Real ones: the first opens the run and the other waits; the last to finish has all lines.

    What the first is refused, the other is, too.
    """
    env = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "run")]

    def start(seed):
        return [
            subprocess.Popen(
                [*command, str(seed)],
                env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                cwd=Path(__file__).parent.parent,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]

    def outputs(started):
        found = [process.communicate()[0] for process in started]
        assert [process.returncode for process in started] == [0, 0]
        return found

    said = [output.split() for output in outputs(start(0))]
    assert [words[:2] for words in said] == [["0", "2"], ["1", "2"]]
    assert "7" in {words[2] for words in said} <= {"7", "None"}
    assert Run(tmp_path / "run").read(NAME) == [{"item": number} for number in range(7)]
    refused = outputs(start(1))
    assert all("holds a run with seed = 0, not 1" in output for output in refused)
