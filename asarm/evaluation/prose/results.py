"""The results of prose: a mean with its errors for every row and measure of a table."""

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
        mean: the mean of all records.
        error: its standard error over items, the records of one item taken together.
        trial_error: its standard error over trials: how much another run on the same items would
            differ; None where there is one trial.
    """

    mean: float
    error: float | None = None
    trial_error: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """A variant in numbers; a measure that it does not have is not in `scores`."""

    name: str
    items: int
    trials: int
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class ResultTable:
    """The table of one protocol.

    Attributes:
        title: the title of the table.
        measures: its main measures, in order; costs come after them.
        rows: the rows, in the order of the variants.
    """

    title: str
    measures: Sequence[str]
    rows: Sequence[ScoreRow]


@dataclass(frozen=True)
class Example:
    """An example item and its answers.

    Attributes:
        title: the protocol of the item.
        before, after: the text around the blank.
        reference: the true text of the blank.
        answers: the name and the answer of each variant.
    """

    title: str
    before: str
    after: str
    reference: str
    answers: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class ProseResult:
    """The result of an evaluation on one set.

    Attributes:
        title: the model, the data and the number of items, in a line.
        note: the definitions of its measures.
        tables: one for each protocol.
        examples: the first item of each.
        records: the records that they were computed from.
    """

    title: str
    note: str
    tables: Sequence[ResultTable]
    examples: Sequence[Example]
    records: Sequence[Record]

    def summary(self) -> dict[str, Any]:
        """Return the tables as objects for JSON."""
        return {
            "title": self.title,
            "tables": [
                {"title": table.title, "rows": [asdict(row) for row in table.rows]}
                for table in self.tables
            ],
        }


def row_of(name: str, records: Sequence[Record], measures: Mapping[str, Measure]) -> ScoreRow:
    """Make a variant's row from its records."""
    scores = {}
    for measure, value in measures.items():
        values = [(record, value(record)) for record in records]
        known = [(record, number) for record, number in values if number is not None]
        if known:
            scores[measure] = score_of(*zip(*known, strict=True))
    items = {record["item"] for record in records}
    trials = {record["trial"] for record in records}
    return ScoreRow(name, len(items), len(trials), scores)


def score_of(records: Sequence[Record], values: Sequence[float]) -> Score:
    """Compute the mean and the errors of one value per record."""
    over_items = clustered_estimate(values, [record["item"] for record in records])
    by_trial: dict[int, list[float]] = {}
    for record, value in zip(records, values, strict=True):
        by_trial.setdefault(record["trial"], []).append(value)
    means = [sum(found) / len(found) for found in by_trial.values()]
    return Score(over_items.mean, over_items.error, estimate(means).error)


def rows_of(
    records: Sequence[Record], names: Sequence[str], measures: Mapping[str, Measure]
) -> list[ScoreRow]:
    """Make the rows of some variants; those without records are left out."""
    by_name: dict[str, list[Record]] = {name: [] for name in names}
    for record in records:
        if record["variant"] in by_name:
            by_name[record["variant"]].append(record)
    return [row_of(name, found, measures) for name, found in by_name.items() if found]


def first_item(records: Sequence[Record]) -> int:
    """Return the lowest item that has a record; 0 where there is none."""
    return min((record["item"] for record in records), default=0)


def predictions(
    records: Sequence[Record], names: Sequence[str], item: int
) -> list[tuple[str, str]]:
    """Return what each variant filled into an item's blank, in the first trial."""
    own = {r["variant"]: r["prediction"] for r in records if (r["item"], r["trial"]) == (item, 0)}
    return [(name, own[name]) for name in names if name in own]
