"""What evaluations compare: variants, the networks that they use, and the words of settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Generic, NamedTuple, TypeVar

from asarm.distribution import Distribution
from asarm.evaluation.config import InfillConfig, SamplingConfig
from asarm.loading import load
from asarm.rows import Backbone
from asarm.sampling import Parallel, lossless_names

N = TypeVar("N")
LENGTHS = ("oracle", "auto")
BOTH = "both"
BASELINES = ("left_context", Parallel.name)
OURS, OTHER = "ours", "off_the_shelf"  # the fields of `Networks`


class Action(Enum):
    """What a variant does with an item: it samples a text, copies one, or scores given ones."""

    SAMPLE = "sample"
    COPY = "copy"
    SCORE = "score"


@dataclass(frozen=True)
class Variant:
    """A model and a way to use it: one row of the table.

    Attributes:
        model: the name of its network.
        method: the name of its sampler; empty where nothing is sampled.
        steps: network calls of a sampler that has a number of them.
        draft: the drafter, "head" or "self", where the sampler has a choice.
        length: how the length of a blank is chosen, "oracle" or "auto"; None where it is given.
        left_only: whether what follows the blank is hidden.
        greedy: whether the most probable token is taken each time.
        action: what it does with an item.
        title: the row's name; the sampler's name and steps if None.
    """

    model: str
    method: str = ""
    steps: int | None = None
    draft: str | None = None
    length: str | None = None
    left_only: bool = False
    greedy: bool = False
    action: Action = Action.SAMPLE
    title: str | None = None

    @property
    def name(self) -> str:
        """The row's name, which does not say who drafts."""
        if self.title is not None:
            return self.title
        return self.method if self.steps is None else f"{self.method} {self.steps}"

    @property
    def settings(self) -> dict[str, Any]:
        """The fields that a record of the decoding study has."""
        return {name: getattr(self, name) for name in ("model", "method", "steps", "draft")}

    @property
    def is_random(self) -> bool:
        """Whether a second trial can give another result."""
        return self.action is Action.SAMPLE and not self.greedy


@dataclass(frozen=True)
class Cell:
    """A variant and a trial, which are computed for every item.

    Attributes:
        variant: the model, and how it is used.
        trial: the number of the trial, from 0.
        protocol: the conditions, where an evaluation has several.
    """

    variant: Variant
    trial: int = 0
    protocol: str = ""


def cells_of(variants: Sequence[Variant], num_trials: int, protocol: str = "") -> list[Cell]:
    """Return every variant with all trials; those that are not random have one."""
    return [
        Cell(variant, trial, protocol)
        for variant in variants
        for trial in range(num_trials if variant.is_random else 1)
    ]


class Networks(NamedTuple, Generic[N]):
    """The network that is evaluated, and another one in the same table."""

    ours: N
    off_the_shelf: N | None = None

    def pick(self, variant: Variant) -> N:
        """Return the network of a variant.

        Raises:
            ValueError: there is none.
        """
        network: N | None = self.off_the_shelf if variant.model == OTHER else self.ours
        if network is None:
            raise ValueError(f"no model for the row {variant.name}; give one as off_the_shelf")
        return network


def load_networks(config: InfillConfig) -> Networks[tuple[Backbone, Any]]:
    """Load the models and tokenizers that the settings name."""
    where: dict[str, Any] = {"device": config.device, "dtype": config.dtype}
    other = load(config.off_the_shelf, **where) if config.off_the_shelf else None
    return Networks(load(config.model, revision=config.revision, **where), other)


def filling_variants(config: InfillConfig, *, other: str, left: str) -> list[Variant]:
    """Return the ways to fill blanks; the first is the one that the table is about.

    Args:
        config: the settings.
        other: the name of the rows of the other model.
        left: the name of the row that hides what follows a blank.
    """
    own = Variant(OURS, config.method, length="oracle")

    def row(name: str, **changes: Any) -> Variant:
        changed = replace(own, **changes)
        return replace(changed, title=f"{name}, {changed.length} length")

    return [
        *(row(config.method, length=length) for length in words("length", config, LENGTHS)),
        *([row(other, model=OTHER)] if config.off_the_shelf else []),
        *([row(left, left_only=True)] if "left_context" in config.baselines else []),
        *(row(v.name, method=v.method, steps=v.steps) for v in parallel_variants(config)),
    ]


def parallel_variants(config: InfillConfig) -> list[Variant]:
    """Return the baseline that draws tokens as if they were independent, by its network calls."""
    if Parallel.name not in config.baselines:
        return []
    steps = dict.fromkeys(config.parallel_steps)
    return [Variant(OURS, Parallel.name, count, length="oracle") for count in steps]


def words(name: str, config: Any, valid: Sequence[str]) -> list[str]:
    """Return the words that a setting selects whose value is one word, or "both" for all."""
    value = getattr(config, name)
    if value not in (*valid, BOTH):
        raise ValueError(f"{name} is {value!r}; expected {', '.join(valid)} or {BOTH}")
    return list(valid) if value == BOTH else [value]


def check_words(name: str, value: str | Sequence[str], valid: Sequence[str]) -> None:
    """Refuse a word, or a list with a word, that a setting cannot have.

    Raises:
        ValueError: names the first one.
    """
    for word in [value] if isinstance(value, str) else value:
        if word not in valid:
            verb = "is" if isinstance(value, str) else "holds"
            raise ValueError(f"{name} {verb} {word!r}; expected {', '.join(valid)}")


def check_numbers(config: SamplingConfig) -> None:
    """Refuse numbers outside their ranges.

    Raises:
        ValueError: names the first one.
    """
    names = ("max_items", "num_trials", "batch_size", "k", "top_k")
    numbers = {name: getattr(config, name, None) for name in names}
    numbers["parallel_steps"] = min(config.parallel_steps, default=None)
    for name, value in numbers.items():
        if value not in (None, "auto") and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    filters = getattr(config, "top_k", None), getattr(config, "top_p", None)
    Distribution(0, config.temperature, *filters)  # raises a ValueError for numbers out of range


def check_filling(config: InfillConfig, baselines: Sequence[str] = BASELINES) -> None:
    """Refuse settings of an evaluation that fills blanks, before any model is loaded.

    Raises:
        ValueError: an unknown word, or a number outside its range.
    """
    check_words("method", config.method, lossless_names())
    check_words("baselines", config.baselines, baselines)
    check_numbers(config)
