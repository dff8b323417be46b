"""Items of an evaluation, split over processes and array tasks, and merged in item order.

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
class Share:
    """Which part of the work this process has: one of the processes of one of an array's tasks."""

    task: int = 0
    tasks: int = 1
    process: int = 0
    processes: int = 1

    @classmethod
    def here(cls) -> Share:
        """This process's, as Slurm (`sbatch --array`) and `accelerate launch` have it."""
        task, tasks = array_task(os.environ)
        if "RANK" not in os.environ:
            return cls(task, tasks)
        import torch  # here: they take seconds
        from accelerate import PartialState

        # left to itself, it takes each process of a machine without a GPU for the only one
        state = PartialState(cpu=not torch.cuda.is_available())
        # or threads of the group that are still there may abort the process while it ends
        atexit.register(state.destroy_process_group)
        return cls(task, tasks, state.process_index, state.num_processes)

    @property
    def is_first(self) -> bool:
        """Whether it speaks for the processes of its task."""
        return self.process == 0

    @property
    def is_whole(self) -> bool:
        """Whether nobody else works on the same run."""
        return self.tasks * self.processes == 1

    def of(self, batches: Sequence[T]) -> list[T]:
        """The batches that are this process's."""
        return list(batches[self.task :: self.tasks][self.process :: self.processes])


def array_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """Which of how many tasks of `sbatch --array` this is: (0, 1) outside of an array."""
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


def open_run(
    config: Any, share: Share, *, fingerprints: Mapping[str, str] | None = None, **options: Any
) -> Run:
    """`Run.open` on `config.output_dir` by the first process of a task; the others wait for it."""
    run = prepare_run(config, share, fingerprints=fingerprints, **options)
    begin_run(run, share, fingerprints)
    return run


def prepare_run(config: Any, share: Share, **options: Any) -> Run:
    """`Run.prepare` on `config.output_dir` by the first process of a task."""
    options |= {"overwrite": config.overwrite, "task": share.task, "tasks": share.tasks}
    run = _by_first(share, lambda: Run.prepare(config.output_dir, config, **options))
    return run or Run(config.output_dir)


def begin_run(run: Run, share: Share, fingerprints: Mapping[str, str] | None = None) -> None:
    """`Run.begin` by the first process of a task; the others wait for it.

    Raises:
        ValueError: as `Run.begin`; or another process has loaded other weights or data.
    """
    _by_first(share, run.begin)
    run.check_fingerprints(fingerprints or {})


def _by_first(share: Share, act: Callable[[], T]) -> T | None:
    """What the first process of a task gets; what it refuses, the others refuse, too."""
    found, problem = None, None
    if share.is_first:
        try:
            found = act()
        except (ValueError, OSError) as error:
            problem = error
    if share.processes > 1:
        from accelerate.utils import broadcast_object_list

        (said,) = broadcast_object_list([problem and str(problem)])
        problem = problem or (said and ValueError(said))
    if problem:
        raise problem
    return found


class Ledger:
    """The lines of an evaluation, from however many processes.

    Args:
        run: the folder.
        name: of the file that holds all lines in the end, in order.
        key: what a line is about: of lines with the same key the first counts.
        share: this process's part of the work.
    """

    def __init__(
        self, run: Run, name: str, key: Callable[[Record], Key], share: Share | None = None
    ):
        self.run, self.name, self.key, self.share = run, name, key, share or Share()
        self._stem = name.removesuffix(".jsonl")
        part = f"{self._stem}.{self.share.task}-{self.share.process}.jsonl"
        self._own = name if self.share.is_whole else part

    def records(self) -> list[Record]:
        """All lines so far, whoever wrote them, each key once, in order."""
        # the parts before the file: what another process merges meanwhile is then in the file
        parts = [record for name in self._parts() for record in self.run.read(name)]
        found: dict[Key, Record] = {}
        for record in [*self.run.read(self.name), *parts]:
            found.setdefault(self.key(record), record)
        return [found[key] for key in sorted(found)]

    def append(self, record: Record) -> None:
        """Add a line; it is on the disk when this returns."""
        self.run.append(self._own, record)

    def merge(self, expected: Collection[Key]) -> list[Record] | None:
        """All expected lines, in order, once all are there: then the file holds them too.

        None where others are not finished yet: the last one gets them.
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
        """Names of the files that single processes write."""
        return sorted(path.name for path in self.run.folder.glob(f"{self._stem}.*-*.jsonl"))
