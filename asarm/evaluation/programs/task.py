"""Infilling tasks, each a function with a gap and a test, and sets of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from asarm.sandbox.execution import Program


@dataclass(frozen=True)
class Task:
    """A task; its fields are those of OpenAI's human-eval-infilling."""

    task_id: str
    entry_point: str  # the function that `test` calls
    prompt: str  # what is before the gap
    suffix: str  # and after it
    canonical_solution: str  # what was in the gap
    test: str  # defines check(candidate)

    def program(self, completion: str) -> Program:
        """Return the program to run: the task's own prompt and suffix around a completion."""
        source = self.prompt + completion + self.suffix
        return Program(source=source, test=self.test, entry_point=self.entry_point)

    @property
    def problem(self) -> tuple[str, str]:
        """The function and its test, which tasks with a gap elsewhere in the function share."""
        return self.entry_point, self.test


@dataclass(frozen=True)
class TaskSet:
    """Tasks in the order of their file, and what is known about them.

    Attributes:
        name: the name that `load_tasks` takes.
        recorded: the ids of the tasks that an empty completion passes, if they were measured.
        note: a warning about the file for readers of the scores.
        left_out: the ids of tasks that are neither filled nor scored.
    """

    name: str
    tasks: Sequence[Task]
    recorded: frozenset[str] | None = None
    note: str | None = None
    left_out: frozenset[str] = frozenset()

    @property
    def kept(self) -> list[Task]:
        """The tasks that are not left out."""
        return [task for task in self.tasks if task.task_id not in self.left_out]

    def leave_out(self, task_ids: Sequence[str]) -> TaskSet:
        """Return the set with some tasks left out.

        Raises:
            ValueError: an id is not in the set, or no task is left.
        """
        strangers = set(task_ids) - {task.task_id for task in self.tasks}
        if strangers:
            raise ValueError(
                f"leave_out holds {min(strangers)}; expected ids of {self.name}, such as "
                f"{self.tasks[0].task_id}"
            )
        return replace(self, left_out=frozenset(task_ids))._checked()

    def first(self, count: int | None) -> TaskSet:
        """Return the set of the first `count` tasks; all if None."""
        if count is not None and count < 1:
            raise ValueError(f"max_items is {count}; expected at least 1, or null for all")
        return replace(self, tasks=self.tasks[:count])._checked()

    def _checked(self) -> TaskSet:
        if not self.kept:
            raise ValueError(
                f"leave_out holds all {len(self.tasks):,} requested tasks of {self.name}; leave "
                "one of them in, or raise --max_items"
            )
        return self
