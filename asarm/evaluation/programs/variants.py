"""What is compared: each variant fills all gaps, and is a row of the table."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asarm.distribution import Distribution
from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.sampling import lossless_names

LENGTHS = ("oracle", "auto")
BASELINES = ("left_context", "parallel")
EXECUTE = ("sandbox", "unsafe", "none")
BOTH = "both"
SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class Variant:
    """Which model fills the gaps, what it is told, and how.

    Attributes:
        name: the row's.
        method: of `asarm.sample`.
        steps: network calls of "parallel".
        length: "oracle" or "auto".
        off_the_shelf: whether the other model does it.
        left_only: whether what follows the gap is hidden.
    """

    name: str
    method: str
    steps: int | None = None
    length: str = "oracle"
    off_the_shelf: bool = False
    left_only: bool = False


def variants(config: InfillCodeConfig) -> list[Variant]:
    """The rows of the table, the one that it is about first.

    Raises:
        ValueError: a setting that cannot be served; so before any model is loaded.
    """
    check(config)
    lengths = LENGTHS if config.length == BOTH else (config.length,)
    ours = [Variant(f"{config.method}, {n} length", config.method, length=n) for n in lengths]
    other = "/".join(Path(config.off_the_shelf or "").parts[-2:])
    shelf = Variant(f"{other}, oracle length", config.method, off_the_shelf=True)
    left = Variant("left context only, oracle length", config.method, left_only=True)
    parallel = [
        Variant(f"parallel {steps}, oracle length", "parallel", steps)
        for steps in dict.fromkeys(config.parallel_steps)
    ]
    return [
        *ours,
        *([shelf] if config.off_the_shelf else []),
        *([left] if "left_context" in config.baselines else []),
        *(parallel if "parallel" in config.baselines else []),
    ]


def samples_file(variant: str, first: str) -> str:
    """Where the completions of a variant are, in the format of OpenAI's script."""
    if variant == first:
        return SAMPLES
    return f"samples-{re.sub('[^a-z0-9]+', '_', variant.lower()).strip('_')}.jsonl"


def check(config: InfillCodeConfig) -> None:
    """Refuse what cannot be served.

    Raises:
        ValueError: an unknown word, or a number outside its range.
    """
    _one_of("length", [config.length], [*LENGTHS, BOTH])
    _one_of("method", [config.method], lossless_names())
    _one_of("baselines", config.baselines, BASELINES)
    _one_of("execute", [config.execute], EXECUTE)
    numbers = {name: getattr(config, name) for name in ("max_items", "num_trials", "batch_size")}
    numbers |= {"k": config.k, "top_k": config.top_k}
    numbers["parallel_steps"] = min(config.parallel_steps, default=None)
    for name, value in numbers.items():
        if value not in (None, "auto") and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    Distribution(0, config.temperature, config.top_k, config.top_p)  # refuses what cannot be
    if not 0 < config.timeout < math.inf:
        raise ValueError(f"timeout is {config.timeout}; expected seconds above 0")
    if config.samples is not None and config.execute == "none":
        raise ValueError("samples can only be scored, and execute is none; take sandbox")


def _one_of(name: str, values: Sequence[str], valid: Sequence[str]) -> None:
    for value in values:
        if value not in valid:
            raise ValueError(f"{name} is {value!r}; expected {', '.join(valid)}")
