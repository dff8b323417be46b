"""The engine of evaluations: it computes a record for each item and cell, and keeps it as a line.

An evaluation says what its items and its cells are, how a record is computed, and how the records
are aggregated. The engine does the rest: it opens a run folder that only the same settings and
contents fit, finds which records are missing, divides them among processes and array tasks, and
has the last of these finish.

A batch with any missing record is computed whole, and only what is missing is kept. Batches are
formed by index, and everything random is keyed by item, so that neither interruptions nor the
number of processes change a record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, ClassVar, Generic, TypeVar

import torch
from rich.console import Console
from tqdm import tqdm

from asarm.display.tables import new_console
from asarm.evaluation.items import GROWING, Key, Ledger, Shard, begin_run, prepare_run
from asarm.evaluation.variants import Cell
from asarm.run import Record, Run

Item = Any
Result = TypeVar("Result")
T = TypeVar("T")


class Evaluation(ABC, Generic[Result]):
    """A kind of evaluation: its items, its cells, and how their records become a result.

    Attributes:
        kind: the kind of run that the folder is marked as.
        file: the name of the file that holds the records.
        unit: the word for one record in progress bars.
        leaves: what the finished folder holds, in words.
        may_change: settings that choose which records there are and change none of them.
        may_grow: settings that a resumed run may raise.
        config: the settings.
        fingerprints: hashes of the models and data that the records depend on, by name.
        given: records from elsewhere, in place of computed ones.
    """

    kind: ClassVar[str]
    file: ClassVar[str] = "samples.jsonl"
    unit: ClassVar[str] = "text"
    leaves: ClassVar[str] = "tables, figures and all samples"
    may_change: ClassVar[Sequence[str]] = ()
    may_grow: ClassVar[Sequence[str]] = GROWING
    config: Any
    fingerprints: Mapping[str, str] | None = None
    given: Sequence[Record] | None = None

    @property
    @abstractmethod
    def batches(self) -> list[list[Item]]:
        """All items of the run, in the batches that are computed together."""

    @property
    @abstractmethod
    def cells(self) -> Sequence[Cell]:
        """The variants and trials that every item is computed for."""

    @abstractmethod
    def key(self, record: Record) -> Key:
        """Return the key of a record; keys sort in the order of the finished file."""

    @abstractmethod
    def key_of(self, item: Item, cell: Cell) -> Key:
        """Return the key that the record of an item and a cell has."""

    @abstractmethod
    def compute(self, items: Sequence[Item], cell: Cell) -> Sequence[Record]:
        """Compute one record for each item of a batch."""

    def needs_warm(self, cell: Cell) -> Hashable:
        """Return what a cell warms up before it is timed, once each: first calls load kernels."""
        return None

    def warm_up(self, items: Sequence[Item], cell: Cell) -> None:
        """Run something small, so that the first record takes no longer than the others."""

    def describe(self) -> str | None:
        """Describe the work in a line or two, which is printed before it begins."""
        return None

    def review(self, work: Work[Result], records: Sequence[Record], *, progress: bool) -> None:
        """Post-process the records of this process, for example have them scored by a judge."""

    def reviewed(self, work: Work[Result], records: list[Record]) -> list[Record] | None:
        """Add the results of `review` to all records; None where some are still missing."""
        return records

    @abstractmethod
    def finish(self, run: Run, records: Sequence[Record]) -> Result:
        """Aggregate the records into the result, and write it.

        summary.json is written last: it marks a finished run.
        """

    def show(self, result: Result, console: Console) -> None:
        """Print the result in the terminal."""


def lines(
    evaluation: Evaluation[Any], *, done: Iterable[Record] = (), shard: Shard | None = None
) -> Iterator[Record]:
    """Yield the missing records of this process's part of the batches.

    Args:
        evaluation: the evaluation that computes them.
        done: the records of an earlier, interrupted run, which are not yielded again; the others
            are those of an uninterrupted run, except for their times.
        shard: this process's part of the batches; all if None.
    """
    found, warm = {evaluation.key(record) for record in done}, set[Hashable]()
    for items in (shard or Shard()).of(evaluation.batches):
        for cell in evaluation.cells:
            missing = [evaluation.key_of(item, cell) not in found for item in items]
            if not any(missing):
                continue
            if (about := evaluation.needs_warm(cell)) not in warm:
                evaluation.warm_up(items, cell)
                warm.add(about)
            records = evaluation.compute(items, cell)
            yield from (r for r, is_new in zip(records, missing, strict=True) if is_new)


def expected_keys(evaluation: Evaluation[Any], shard: Shard | None = None) -> list[Key]:
    """Return the keys of all records of a finished run, or of one shard of it."""
    batches = (shard or Shard()).of(evaluation.batches)
    items = [item for batch in batches for item in batch]
    return [evaluation.key_of(item, cell) for item in items for cell in evaluation.cells]


@dataclass(frozen=True)
class Work(Generic[Result]):
    """An evaluation in its run folder, as one process works on it."""

    evaluation: Evaluation[Result]
    run: Run
    shard: Shard

    @classmethod
    def prepare(cls, evaluation: Evaluation[Result], shard: Shard) -> Work[Result]:
        """Lock the folder, and check that it fits the evaluation; nothing is written yet.

        Raises:
            ValueError: the folder holds something else, or is in use.
        """
        run = prepare_run(
            evaluation.config,
            shard,
            kind=evaluation.kind,
            may_change=evaluation.may_change,
            may_grow=evaluation.may_grow,
            fingerprints=evaluation.fingerprints,
        )
        return cls(evaluation, run, shard)

    def begin(self) -> None:
        """Write the settings; until then the folder stays as it was."""
        begin_run(self.run, self.shard, self.evaluation.fingerprints)

    @property
    def ledger(self) -> Ledger:
        """The file of the records."""
        return Ledger(self.run, self.evaluation.file, self.evaluation.key, self.shard)

    def fill(self, *, progress: bool = False) -> None:
        """Compute the missing records of this shard, and have all of its records reviewed."""
        ledger, own = self.ledger, set(expected_keys(self.evaluation, self.shard))
        found = [record for record in ledger.records() if ledger.key(record) in own]
        bar = tqdm(
            lines(self.evaluation, done=found, shard=self.shard),
            "computing",
            len(own),
            initial=len(found),
            unit=self.evaluation.unit,
            disable=not (progress and self.shard.is_first),
        )
        for record in bar:
            ledger.append(record)
            found.append(record)
        self.evaluation.review(self, found, progress=progress)

    def finish(self) -> Result | None:
        """Merge all records and write the result; None while other processes still compute some."""
        records: Sequence[Record] | None = self.evaluation.given
        if records is None:
            merged = self.ledger.merge(expected_keys(self.evaluation))
            records = merged and self.evaluation.reviewed(self, merged)
        return None if records is None else self.evaluation.finish(self.run, records)


def run(config: Any, prepare: Callable[[Any], Evaluation[Any]]) -> None:
    """Run an evaluation from a script: load, compute, and print the result.

    Args:
        config: the settings.
        prepare: a function that checks them, loads what they name, and returns the evaluation.

    Raises:
        ValueError: as `prepare` and `Work.prepare`.
    """
    shard = Shard.here()
    evaluation = prepare(config)
    if evaluation.given is not None:
        if not (shard.is_first and shard.task == 0):
            return  # nothing is computed, so one process is enough
        shard = Shard()
    work = Work.prepare(evaluation, shard)
    work.begin()
    if shard.is_first and (ahead := evaluation.describe()):
        print(ahead)
    if evaluation.given is None:
        work.fill(progress=True)
    result = work.finish()
    if result is not None:
        evaluation.show(result, new_console())
        print(f"{evaluation.leaves} are in {work.run.folder}")
    elif shard.is_first:
        print("others still work on this run; the last one writes the tables")


def timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Return the result of `call`, and the seconds until the device has finished it."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = perf_counter()
    result = call()
    synchronize()
    return result, perf_counter() - start
