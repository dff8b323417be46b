"""The variants that are compared: each fills all gaps, and is a row of the table."""

from __future__ import annotations

import math
import re
from pathlib import Path

from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.variants import (
    BOTH,
    LENGTHS,
    Variant,
    check_filling,
    check_words,
    filling_variants,
)

EXECUTE = ("sandbox", "unsafe", "none")
SAMPLES = "samples.jsonl"


def variants_of(config: InfillCodeConfig) -> list[Variant]:
    """Return the rows of the table, the one that it is about first.

    Raises:
        ValueError: a setting that cannot be served; so before any model is loaded.
    """
    check(config)
    other = "/".join(Path(config.off_the_shelf or "").parts[-2:])
    return filling_variants(config, other=other, left="left context only")


def samples_file(variant: str, first: str) -> str:
    """Return the file of the completions of a variant, in the format of OpenAI's script."""
    if variant == first:
        return SAMPLES
    return f"samples-{re.sub('[^a-z0-9]+', '_', variant.lower()).strip('_')}.jsonl"


def check(config: InfillCodeConfig) -> None:
    """Refuse settings that cannot be served.

    Raises:
        ValueError: an unknown word, or a number outside its range.
    """
    check_words("length", config.length, [*LENGTHS, BOTH])
    check_filling(config)
    check_words("execute", config.execute, EXECUTE)
    if not 0 < config.timeout < math.inf:
        raise ValueError(f"timeout is {config.timeout}; expected seconds above 0")
    if config.samples is not None and config.execute == "none":
        raise ValueError("samples can only be scored, and execute is none; take sandbox")
