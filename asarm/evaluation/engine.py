"""The engine of evaluations: every item by every cell, batch by batch, kept line by line.

An evaluation says what its items and its cells are, what is computed of both, and what the lines
come to. The engine does the rest: a run's folder that only the same settings and contents fit, what
is there already and what is missing, the parts of processes and array tasks, and the last of them
that finishes.

A batch with any missing line is computed whole, and only what is missing is kept. Batches are
formed by index, and everything random is keyed by item, so that neither interruptions nor the
number of processes change a line.
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
from asarm.evaluation.items import GROWING, Key, Ledger, Share, begin_run, prepare_run
from asarm.evaluation.variants import Cell
from asarm.run import Record, Run

Item = Any
Result = TypeVar("Result")
T = TypeVar("T")


class Evaluation(ABC, Generic[Result]):
    """A kind of items, what is done with them, and what the lines of it come to.

    Attributes:
        kind: what the run's folder is said to be.
        file: the file of the folder that holds the lines.
        unit: what a line is of, in progress bars.
        leaves: what the folder holds in the end, in words.
        may_change: settings that say which rows there are, and change none.
        may_grow: settings that a run which is taken up again may raise.
        config: the settings.
        fingerprints: of all that the lines depend on besides, by content.
        given: lines that are not computed, for they come from elsewhere.
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
        """The items that are computed together, whatever is done already and whoever does it."""

    @property
    @abstractmethod
    def cells(self) -> Sequence[Cell]:
        """What is done with every item."""

    @abstractmethod
    def key(self, record: Record) -> Key:
        """Return what a line is about; keys sort as the lines of a run do."""

    @abstractmethod
    def key_of(self, item: Item, cell: Cell) -> Key:
        """Return the key of the line of an item and a cell."""

    @abstractmethod
    def compute(self, items: Sequence[Item], cell: Cell) -> Sequence[Record]:
        """Return a line for each of the items."""

    def needs_warm(self, cell: Cell) -> Hashable:
        """Return what a cell needs to be warm, for first calls load kernels and fill tables."""
        return None

    def warm_up(self, items: Sequence[Item], cell: Cell) -> None:
        """Make it warm, so that the time of the first line is as that of others."""

    def describe(self) -> str | None:
        """Say what lies ahead, in a line or two."""
        return None

    def review(self, work: Work[Result], records: Sequence[Record], *, progress: bool) -> None:
        """Do what else is to be done with the lines of this process."""

    def reviewed(self, work: Work[Result], records: list[Record]) -> list[Record] | None:
        """Return all lines with what their reviews found; None where some are not finished."""
        return records

    @abstractmethod
    def finish(self, run: Run, records: Sequence[Record]) -> Result:
        """Write what the lines come to, summary.json last: it says that all is there."""

    def show(self, result: Result, console: Console) -> None:
        """Show it in the terminal."""


def lines(
    evaluation: Evaluation[Any], *, done: Iterable[Record] = (), share: Share | None = None
) -> Iterator[Record]:
    """Give a line for every item and cell of this process's part of the batches.

    Args:
        evaluation: what is to be done.
        done: lines of an earlier, interrupted run, which are not given again; the others are the
            same, their times apart, as if it had not been interrupted.
        share: which part of the batches is this process's.
    """
    found, warm = {evaluation.key(record) for record in done}, set[Hashable]()
    for items in (share or Share()).of(evaluation.batches):
        for cell in evaluation.cells:
            missing = [evaluation.key_of(item, cell) not in found for item in items]
            if not any(missing):
                continue
            if (about := evaluation.needs_warm(cell)) not in warm:
                evaluation.warm_up(items, cell)
                warm.add(about)
            records = evaluation.compute(items, cell)
            yield from (r for r, is_new in zip(records, missing, strict=True) if is_new)


def expected_keys(evaluation: Evaluation[Any], share: Share | None = None) -> list[Key]:
    """Return the keys of all lines of a finished run, or of a process's part of it."""
    batches = (share or Share()).of(evaluation.batches)
    items = [item for batch in batches for item in batch]
    return [evaluation.key_of(item, cell) for item in items for cell in evaluation.cells]


@dataclass(frozen=True)
class Work(Generic[Result]):
    """An evaluation in its run's folder, and which part of it is this process's."""

    evaluation: Evaluation[Result]
    run: Run
    share: Share

    @classmethod
    def prepare(cls, evaluation: Evaluation[Result], share: Share) -> Work[Result]:
        """Lock the folder, and see whether the evaluation fits what it holds; nothing changes yet.

        Raises:
            ValueError: the folder holds something else, or is in use.
        """
        run = prepare_run(
            evaluation.config,
            share,
            kind=evaluation.kind,
            may_change=evaluation.may_change,
            may_grow=evaluation.may_grow,
            fingerprints=evaluation.fingerprints,
        )
        return cls(evaluation, run, share)

    def begin(self) -> None:
        """Write down what is done here; until then the folder stays as it was."""
        begin_run(self.run, self.share, self.evaluation.fingerprints)

    @property
    def ledger(self) -> Ledger:
        """The file of the lines."""
        return Ledger(self.run, self.evaluation.file, self.evaluation.key, self.share)

    def fill(self, *, progress: bool = False) -> None:
        """Compute this process's missing lines, and have all of its lines reviewed."""
        ledger, own = self.ledger, set(expected_keys(self.evaluation, self.share))
        found = [record for record in ledger.records() if ledger.key(record) in own]
        bar = tqdm(
            lines(self.evaluation, done=found, share=self.share),
            "computing",
            len(own),
            initial=len(found),
            unit=self.evaluation.unit,
            disable=not (progress and self.share.is_first),
        )
        for record in bar:
            ledger.append(record)
            found.append(record)
        self.evaluation.review(self, found, progress=progress)

    def finish(self) -> Result | None:
        """Merge all lines, and write what they come to; None where others still work on some."""
        records: Sequence[Record] | None = self.evaluation.given
        if records is None:
            merged = self.ledger.merge(expected_keys(self.evaluation))
            records = merged and self.evaluation.reviewed(self, merged)
        return None if records is None else self.evaluation.finish(self.run, records)


def run(config: Any, prepare: Callable[[Any], Evaluation[Any]]) -> None:
    """Run an evaluation from a script: load, compute, and show what it comes to.

    Args:
        config: the settings.
        prepare: checks them, loads what they name, and gives the evaluation.

    Raises:
        ValueError: as `prepare` and `Work.prepare`.
    """
    share = Share.here()
    evaluation = prepare(config)
    if evaluation.given is not None:
        if not (share.is_first and share.task == 0):
            return  # there is nothing to share
        share = Share()
    work = Work.prepare(evaluation, share)
    work.begin()
    if share.is_first and (ahead := evaluation.describe()):
        print(ahead)
    if evaluation.given is None:
        work.fill(progress=True)
    result = work.finish()
    if result is not None:
        evaluation.show(result, new_console())
        print(f"{evaluation.leaves} are in {work.run.folder}")
    elif share.is_first:
        print("others still work on this run; the last one writes the tables")


def timed(call: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Return what `call` gives, and the seconds until the device has finished it."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = perf_counter()
    result = call()
    synchronize()
    return result, perf_counter() - start
