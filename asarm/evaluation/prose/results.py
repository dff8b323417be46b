"""What lines come to: a mean with its errors for every row and measure of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from asarm.metrics.statistics import clustered_estimate, estimate
from asarm.run import Record

Measure = Callable[[Record], float | None]

COSTS: dict[str, Measure] = {
    "tokens": lambda record: record["num_tokens"],
    "nfe": lambda record: record["nfe"],
    "rows": lambda record: record["rows"],
    "seconds": lambda record: record["seconds"],
    "log_prob_per_token": lambda record: (
        None if record["log_prob"] is None else record["log_prob"] / record["num_tokens"]
    ),
}


@dataclass(frozen=True)
class Score:
    """A mean over items and trials.

    Attributes:
        mean: of all lines.
        error: its standard error over items, the lines of one item taken together.
        trial_error: its standard error over trials: how much another run on the same items would
            differ. None where one trial cannot tell.
    """

    mean: float
    error: float | None = None
    trial_error: float | None = None


@dataclass(frozen=True)
class Row:
    """A variant in numbers; a measure that it does not have is not in `scores`."""

    name: str
    items: int
    trials: int
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class ResultTable:
    """The rows of one protocol.

    Attributes:
        title: of the table.
        measures: its main measures, in order; costs come after them.
        rows: in the order of the plan.
    """

    title: str
    measures: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Example:
    """One item to look at.

    Attributes:
        title: of what.
        before, after: the text around the blank.
        reference: what stood there.
        answers: the name of each variant, and what it gives.
    """

    title: str
    before: str
    after: str
    reference: str
    answers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ProseResult:
    """An evaluation on one set.

    Attributes:
        title: what was done, in a line.
        note: how its measures are to be read.
        tables: one for each protocol.
        examples: the first item of each.
        records: the lines that they come from.
    """

    title: str
    note: str
    tables: Sequence[ResultTable]
    examples: Sequence[Example]
    records: Sequence[Record]

    def summary(self) -> dict[str, Any]:
        """The tables as JSON has them."""
        return {
            "title": self.title,
            "tables": [
                {"title": table.title, "rows": [asdict(row) for row in table.rows]}
                for table in self.tables
            ],
        }


def row_of(name: str, records: Sequence[Record], measures: Mapping[str, Measure]) -> Row:
    """A variant's row from its lines."""
    scores = {}
    for measure, value in measures.items():
        values = [(record, value(record)) for record in records]
        known = [(record, number) for record, number in values if number is not None]
        if known:
            scores[measure] = score_of(*zip(*known, strict=True))
    items = {record["item"] for record in records}
    trials = {record["trial"] for record in records}
    return Row(name, len(items), len(trials), scores)


def score_of(records: Sequence[Record], values: Sequence[float]) -> Score:
    """Mean and errors of one value a line."""
    over_items = clustered_estimate(values, [record["item"] for record in records])
    by_trial: dict[int, list[float]] = {}
    for record, value in zip(records, values, strict=True):
        by_trial.setdefault(record["trial"], []).append(value)
    means = [sum(found) / len(found) for found in by_trial.values()]
    return Score(over_items.mean, over_items.error, estimate(means).error)


def rows_of(
    records: Sequence[Record], names: Sequence[str], measures: Mapping[str, Measure]
) -> list[Row]:
    """The rows of some variants, those without lines left out."""
    by_name: dict[str, list[Record]] = {name: [] for name in names}
    for record in records:
        if record["variant"] in by_name:
            by_name[record["variant"]].append(record)
    return [row_of(name, found, measures) for name, found in by_name.items() if found]


def first_item(records: Sequence[Record]) -> int:
    """The lowest item that has a line; 0 where there is none."""
    return min((record["item"] for record in records), default=0)


def predictions(
    records: Sequence[Record], names: Sequence[str], item: int
) -> list[tuple[str, str]]:
    """What each variant filled into an item's blank, in the first trial."""
    own = {r["variant"]: r["prediction"] for r in records if (r["item"], r["trial"]) == (item, 0)}
    return [(name, own[name]) for name in names if name in own]
