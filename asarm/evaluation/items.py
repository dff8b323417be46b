"""Items of an evaluation: divided among processes and array tasks, and merged in item order.

Each process appends its lines to a file of its own, and the one that finds all of them there puts
them in order. So any of them may be killed, and the rest taken up by another number of processes.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from asarm.run import Record, Run

T = TypeVar("T")
GROWING = ("max_items", "num_trials")  # a run that is taken up again may have more of these
Key = Any  # hashable, and sorts as the lines are to be in the merged file


@dataclass(frozen=True)
class Shard:
    """The part of the work that one process of one array task has."""

    task: int = 0
    tasks: int = 1
    process: int = 0
    processes: int = 1

    @classmethod
    def here(cls) -> Shard:
        """Return the shard of this process, by the numbers of Slurm and `accelerate launch`."""
        task, tasks = array_task(os.environ)
        if "RANK" not in os.environ:
            return cls(task, tasks)
        import torch  # imported here, because they take seconds
        from accelerate import PartialState

        # left to itself, it takes each process of a machine without a GPU for the only one
        state = PartialState(cpu=not torch.cuda.is_available())
        # or threads of the group that are still there may abort the process while it ends
        atexit.register(state.destroy_process_group)
        return cls(task, tasks, state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether this is the first process of its task, which writes and prints for all."""
        return self.process == 0

    @property
    def is_whole(self) -> bool:
        """Whether no other process works on the same run."""
        return self.tasks * self.processes == 1

    def of(self, batches: Sequence[T]) -> list[T]:
        """Return the batches of this shard."""
        return list(batches[self.task :: self.tasks][self.process :: self.processes])


def item_batches(count: int, size: int) -> list[list[int]]:
    """Return the numbers of `count` items in batches of `size`."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]


def array_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return the number of this task of `sbatch --array` and how many there are; (0, 1) if none."""
    count = int(environment.get("SLURM_ARRAY_TASK_COUNT", 1))
    if count == 1:
        return 0, 1
    number, first, last = (
        int(environment[f"SLURM_ARRAY_TASK_{name}"]) for name in ("ID", "MIN", "MAX")
    )
    step = (last - first) // (count - 1)
    if first + step * (count - 1) != last or (number - first) % step:
        raise ValueError(
            f"the array has {count} tasks from {first} to {last}, unevenly; expected --array=0-N"
        )
    return (number - first) // step, count


def prepare_run(config: Any, shard: Shard, **options: Any) -> Run:
    """Prepare the run folder by the first process of a task, as `Run.prepare`."""
    options |= {"overwrite": config.overwrite, "task": shard.task, "tasks": shard.tasks}
    run = _by_first(shard, lambda: Run.prepare(config.output_dir, config, **options))
    return run or Run(config.output_dir)


def begin_run(run: Run, shard: Shard, fingerprints: Mapping[str, str] | None = None) -> None:
    """Begin the run by the first process of a task, as `Run.begin`; the others wait for it.

    Raises:
        ValueError: as `Run.begin`; or another process has loaded other weights or data.
    """
    _by_first(shard, run.begin)
    run.check_fingerprints(fingerprints or {})


def _by_first(shard: Shard, act: Callable[[], T]) -> T | None:
    """Return what `act` gives the first process of a task; an error is raised in all of them."""
    found, problem = None, None
    if shard.is_first:
        try:
            found = act()
        except (ValueError, OSError) as error:
            problem = error
    if shard.processes > 1:
        from accelerate.utils import broadcast_object_list

        (said,) = broadcast_object_list([problem and str(problem)])
        problem = problem or (said and ValueError(said))
    if problem:
        raise problem
    return found


class Ledger:
    """The records of an evaluation, written by any number of processes.

    Args:
        run: the run folder.
        name: the name of the file that holds all records in the end, in order.
        key: a function that returns the key of a record; of records with one key the first counts.
        shard: the part of this process.
    """

    def __init__(
        self, run: Run, name: str, key: Callable[[Record], Key], shard: Shard | None = None
    ):
        self.run, self.name, self.key, self.shard = run, name, key, shard or Shard()
        self._stem = name.removesuffix(".jsonl")
        part = f"{self._stem}.{self.shard.task}-{self.shard.process}.jsonl"
        self._own = name if self.shard.is_whole else part

    def records(self) -> list[Record]:
        """Return all records so far, of all processes, each key once, in order."""
        # the parts before the file: what another process merges meanwhile is then in the file
        parts = [record for name in self._parts() for record in self.run.read(name)]
        found: dict[Key, Record] = {}
        for record in [*self.run.read(self.name), *parts]:
            found.setdefault(self.key(record), record)
        return [found[key] for key in sorted(found)]

    def append(self, record: Record) -> None:
        """Append a record; it is on the disk when this returns."""
        self.run.append(self._own, record)

    def merge(self, expected: Collection[Key]) -> list[Record] | None:
        """Return all expected records in order, and merge the parts into the file of all.

        None while some are missing: the process that finishes last merges.
        """
        parts = self._parts()
        records = self.records()
        found = {self.key(record) for record in records}
        if not found.issuperset(expected):
            return None
        if parts or self.run.read(self.name) != records:
            self.run.write_lines(self.name, records)
        for part in parts:
            (self.run.folder / part).unlink(missing_ok=True)
        wanted = set(expected)
        return [record for record in records if self.key(record) in wanted]

    def _parts(self) -> list[str]:
        """Return the names of the files that single processes write."""
        return sorted(path.name for path in self.run.folder.glob(f"{self._stem}.*-*.jsonl"))
