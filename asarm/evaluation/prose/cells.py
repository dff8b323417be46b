"""The plan of an evaluation: cells, each of which gives a line of results for every item.

A cell is a protocol, a variant (which model, told what, filling how) and a trial. Items go through
a cell in batches by item index, and everything random is keyed by item, so that neither
interruptions nor the number of processes change a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedTokenizerBase

from asarm.distribution import Distribution
from asarm.evaluation.items import Share
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.results import ProseResult
from asarm.loading import load
from asarm.rows import Backbone
from asarm.run import Record
from asarm.sampling import lossless_names

LENGTHS = ("oracle", "auto")
PROTOCOLS = ("middle", "short_prompt")
BASELINES = ("left_context", "parallel", "copy")
BOTH = "both"
# settings that say which rows there are, and change none: a run may be taken up with others
ADDS_ROWS = ("baselines", "parallel_steps", "off_the_shelf", "protocol", "length")
Key = tuple[int, str, str, int]


class Network(NamedTuple):
    """A model with its tokenizer."""

    model: Backbone
    tokenizer: PreTrainedTokenizerBase


class Networks(NamedTuple):
    """The model that is evaluated, and another one in the same table."""

    ours: Network
    off_the_shelf: Network | None = None

    def pick(self, variant: Variant) -> Network:
        """The variant's."""
        network = self.off_the_shelf if variant.off_the_shelf else self.ours
        if network is None:
            raise ValueError(f"no model for the row {variant.name}; give one as off_the_shelf")
        return network


@dataclass(frozen=True)
class Variant:
    """Which model does it, what it is told, and how: a row of the table.

    Attributes:
        name: the row's.
        method: of `asarm.sample`, "copy" or "score".
        steps: network calls of "parallel".
        length: "oracle" or "auto"; None where nothing has to be as long as something.
        off_the_shelf: whether the other model does it.
        left_only: whether what follows the blank is hidden.
        greedy: whether the most probable token is taken each time.
    """

    name: str
    method: str
    steps: int | None = None
    length: str | None = "oracle"
    off_the_shelf: bool = False
    left_only: bool = False
    greedy: bool = False

    @property
    def is_random(self) -> bool:
        """Whether a second trial says something new."""
        return not self.greedy and self.method not in ("copy", "score")


@dataclass(frozen=True)
class Cell:
    """One thing to be done with every item."""

    protocol: str
    variant: Variant
    trial: int

    def key(self, item: int) -> Key:
        """Of the item's line; sorts as the lines of a run do."""
        return item, self.protocol, self.variant.name, self.trial


class Task(Protocol):
    """A kind of items, and what is done with them."""

    @property
    def num_items(self) -> int:
        """How many there are."""

    @property
    def cells(self) -> list[Cell]:
        """The plan."""

    def compute(self, cell: Cell, items: Sequence[int], networks: Networks) -> list[Record]:
        """A line for each of the items, without what the cell says."""

    def result(self, records: Sequence[Record]) -> ProseResult:
        """What the lines come to; partial ones give partial tables."""


def load_networks(config: InfillProseConfig) -> Networks:
    """The models that the settings name."""
    where: dict[str, Any] = {"device": config.device, "dtype": config.dtype}
    ours = Network(*load(config.model, revision=config.revision, **where))
    other = Network(*load(config.off_the_shelf, **where)) if config.off_the_shelf else None
    return Networks(ours, other)


def key(record: Record) -> Key:
    """What a line is about."""
    return record["item"], record["protocol"], record["variant"], record["trial"]


def expected_keys(task: Task) -> list[Key]:
    """Of all lines of a finished run."""
    return [cell.key(item) for item in range(task.num_items) for cell in task.cells]


def run_cells(
    task: Task,
    networks: Networks,
    config: InfillProseConfig,
    *,
    done: Iterable[Record] = (),
    share: Share | None = None,
) -> Iterator[Record]:
    """A line for every item and cell of this process's share.

    Args:
        task: what is to be done.
        networks: what with.
        config: the batch size.
        done: lines of an earlier, interrupted run, which are not given again; the others are the
            same, their times apart, as if it had not been interrupted.
        share: this process's part of the batches.
    """
    found = {key(record) for record in done}
    warm: set[bool] = set()
    size = config.batch_size
    batches = [
        list(range(start, min(start + size, task.num_items)))
        for start in range(0, task.num_items, size)
    ]
    for items in (share or Share()).of(batches):
        for cell in task.cells:
            is_other = cell.variant.off_the_shelf
            missing = {item for item in items if cell.key(item) not in found}
            if not missing:
                continue
            if is_other not in warm:  # a first call loads kernels and fills tables
                task.compute(cell, items[:1], networks)
                warm.add(is_other)
            for item, record in zip(items, task.compute(cell, items, networks), strict=True):
                if item in missing:
                    yield _line(item, cell, record)


def _line(item: int, cell: Cell, record: Record) -> Record:
    about = {"item": item, "protocol": cell.protocol, "variant": cell.variant.name}
    return {**about, "trial": cell.trial, "length": cell.variant.length, **record}


def trials(protocol: str, variants: Sequence[Variant], num_trials: int) -> list[Cell]:
    """The cells of a protocol."""
    return [
        Cell(protocol, variant, trial)
        for variant in variants
        for trial in range(num_trials if variant.is_random else 1)
    ]


def title_of(config: InfillProseConfig, name: str, items: str, *, trials: bool = False) -> str:
    """What was done, in a line."""
    each = f", {config.num_trials} times each" if trials and config.num_trials > 1 else ""
    return f"{short_name(config.model)} on {name}: {items}{each}"


def short_name(model: str) -> str:
    """A model's name: the last two parts of a long path."""
    return "/".join(Path(model).parts[-2:])


def other_name(config: InfillProseConfig) -> str:
    """What the rows of `off_the_shelf` are called."""
    return f"{config.off_the_shelf} off the shelf"


def choice(name: str, value: str, valid: Sequence[str]) -> list[str]:
    """What a setting of one of two values, or "both", stands for."""
    if value not in (*valid, BOTH):
        raise ValueError(f"{name} is {value!r}; expected {', '.join(valid)} or {BOTH}")
    return list(valid) if value == BOTH else [value]


def check_config(config: InfillProseConfig) -> None:
    """Refuse settings that no task can serve, before any model is loaded.

    Raises:
        ValueError: an unknown word, or a number outside its range.
    """
    choice("protocol", config.protocol, PROTOCOLS)
    choice("length", config.length, LENGTHS)
    _one_of("method", [config.method], lossless_names())
    _one_of("baselines", config.baselines, BASELINES)
    numbers: dict[str, Any] = {
        name: getattr(config, name) for name in ("max_items", "num_trials", "batch_size", "k")
    }
    numbers["top_k"] = config.top_k
    numbers["parallel_steps"] = min(config.parallel_steps, default=None)
    for name, value in numbers.items():
        if value not in (None, "auto") and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    Distribution(0, config.temperature, config.top_k, config.top_p)  # refuses what cannot be


def _one_of(name: str, values: Sequence[str], valid: Sequence[str]) -> None:
    for value in values:
        if value not in valid:
            raise ValueError(f"{name} holds {value!r}; expected {', '.join(valid)}")
