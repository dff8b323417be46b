"""What the evaluations of prose have in common: their records, networks and titles."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from asarm.evaluation.engine import Evaluation
from asarm.evaluation.items import item_batches
from asarm.evaluation.prose import report
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.results import ProseResult
from asarm.evaluation.published import PROSE
from asarm.evaluation.variants import (
    BASELINES,
    LENGTHS,
    Cell,
    Networks,
    check_filling,
    load_networks,
    words,
)
from asarm.rows import Backbone
from asarm.run import Record, Run

PROTOCOLS = ("middle", "short_prompt")
PROSE_BASELINES = (*BASELINES, "copy")
Key = tuple[int, str, str, int]


class Network(NamedTuple):
    """A model with its tokenizer."""

    model: Backbone
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class ProseEvaluation(Evaluation[ProseResult]):
    """An evaluation of items of prose.

    Attributes:
        items: all items that are evaluated.
        config: the settings; those of models, data and folders are not read.
        name: the name of the items in titles.
        networks: the networks that fill them.
        fingerprints: hashes of the models and the items.
    """

    kind = PROSE
    leaves = "tables, the figure and all samples"
    may_change = ("baselines", "parallel_steps", "off_the_shelf", "protocol", "length")
    items: Sequence[Any]
    config: InfillProseConfig
    name: str = "items"
    networks: Networks[Any] = Networks(None)
    fingerprints: dict[str, str] | None = None

    @cached_property
    def batches(self) -> list[list[int]]:
        return item_batches(len(self.items), self.config.batch_size)

    @staticmethod
    def key(record: Record) -> Key:
        return record["item"], record["protocol"], record["variant"], record["trial"]

    def key_of(self, item: int, cell: Cell) -> Key:
        return item, cell.protocol, cell.variant.name, cell.trial

    def needs_warm(self, cell: Cell) -> str:
        return cell.variant.model

    def warm_up(self, items: Sequence[int], cell: Cell) -> None:
        self.answers(items[:1], cell)

    def compute(self, items: Sequence[int], cell: Cell) -> list[Record]:
        return [
            {
                "item": item,
                "protocol": cell.protocol,
                "variant": cell.variant.name,
                "trial": cell.trial,
                "length": cell.variant.length,
                **answer,
            }
            for item, answer in zip(items, self.answers(items, cell), strict=True)
        ]

    @abstractmethod
    def answers(self, items: Sequence[int], cell: Cell) -> list[Record]:
        """Compute the records of the items, without the fields of the cell."""

    @abstractmethod
    def result(self, records: Sequence[Record]) -> ProseResult:
        """Aggregate the records into the result; part of them gives partial tables."""

    @property
    def names(self) -> list[str]:
        """The names of the rows, in the order of the variants."""
        return list(dict.fromkeys(cell.variant.name for cell in self.cells))

    def title(self, items: str) -> str:
        """Return the title of the result."""
        num_trials = self.config.num_trials
        each = f", {num_trials} times each" if any(cell.trial for cell in self.cells) else ""
        return f"{short_name(self.config.model)} on {self.name}: {len(self.items)} {items}{each}"

    def finish(self, run: Run, records: Sequence[Record]) -> ProseResult:
        result = self.result(records)
        run.write("report.md", report.markdown(result))
        run.write(report.figure_name(result), report.figure(result))
        run.write("summary.json", result.summary())
        return result

    def show(self, result: ProseResult, console: Console) -> None:
        report.show(result, console)


def networks_of(config: InfillProseConfig) -> Networks[Network]:
    """Load the models that the settings name."""
    ours, other = load_networks(config)
    return Networks(Network(*ours), Network(*other) if other else None)


def short_name(model: str) -> str:
    """Return the last two parts of a model's name or path."""
    return "/".join(Path(model).parts[-2:])


def other_name(config: InfillProseConfig) -> str:
    """Return the name of the rows of `off_the_shelf`."""
    return f"{config.off_the_shelf} off the shelf"


def check_config(config: InfillProseConfig) -> None:
    """Refuse settings that no evaluation of prose can serve, before any model is loaded.

    Raises:
        ValueError: an unknown word, or a number outside its range.
    """
    words("protocol", config, PROTOCOLS)
    words("length", config, LENGTHS)
    check_filling(config, PROSE_BASELINES)
