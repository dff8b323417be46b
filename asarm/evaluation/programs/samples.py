"""Completions in the format of OpenAI's script: a line of task_id and completion each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from asarm.evaluation.programs.reading import read_rows
from asarm.evaluation.programs.task import TaskSet
from asarm.run import Record

FIELDS = ("task_id", "completion")


def official(records: Sequence[Record]) -> list[Record]:
    """Return the records in the published format."""
    return [{name: record[name] for name in FIELDS} for record in records]


def read_samples(path: str | Path, task_set: TaskSet, max_items: int | None = None) -> list[Record]:
    """Read the completions of a file, by task; those of a task keep the file's order.

    Args:
        path: a .jsonl or .jsonl.gz; other fields than task_id and completion are not read.
        task_set: the tasks that the file was made for.
        max_items: the number of tasks that are read; tasks that are left out are not read either.

    Raises:
        ValueError: the file is damaged, names a task that the set does not have, or has no
            completion of one of the tasks.
    """
    path = Path(path).expanduser()
    items = {task.task_id: item for item, task in enumerate(task_set.tasks)}
    part = task_set.first(max_items)
    items_wanted = {items[task.task_id] for task in part.kept}
    counts: Counter[str] = Counter()
    records: list[Record] = []
    for row, record in read_rows(path, FIELDS):
        name = record["task_id"]
        if name not in items:
            raise ValueError(
                f"{path}, row {row}: task_id {name} is none of the {len(items):,} of "
                f"{task_set.name}; give the --dataset that the file was made for"
            )
        if items[name] in items_wanted:
            about = {"item": items[name], "variant": path.name, "trial": counts[name]}
            records.append({**about, **record})
        counts[name] += 1
    absent = [task.task_id for task in part.kept if task.task_id not in counts]
    if absent:
        raise ValueError(
            f"{path} has no completion of {len(absent):,} of {len(part.kept):,} tasks, {absent[0]} "
            "among them; add empty ones to count them as failed, or score the first N by "
            "--max_items N"
        )
    return sorted(records, key=lambda record: (record["item"], record["trial"]))
