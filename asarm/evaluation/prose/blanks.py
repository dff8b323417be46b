"""A blank in a text, filled by any variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from asarm.evaluation.engine import timed
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.variants import Networks, Variant
from asarm.infilling import Infilling, infill, reference_lengths
from asarm.run import Record
from asarm.sampling import sampler_of

MARK = "\ue000"  # of a blank: a character that is in nobody's text, for ___ is in LAMBADA's
MAX_TOKENS = 32  # of a sentence whose length is not known


@dataclass(frozen=True)
class Blank:
    """A text with a blank in it.

    Attributes:
        before, after: the text around it, its spaces included.
        reference: the true text of the blank.
        sentences: the number of sentences of the reference.
    """

    before: str
    reference: str
    after: str = ""
    sentences: int = 1

    def template(self, *, left_only: bool = False) -> str:
        """Return the text with its mark; `left_only` hides what follows it."""
        return self.before + MARK + ("" if left_only else self.after)


def fill_blanks(
    networks: Networks[Any],
    blanks: Sequence[Blank],
    variant: Variant,
    config: InfillProseConfig,
    seeds: Sequence[int],
) -> list[Record]:
    """Fill each blank once; return a record of each filling and its costs.

    Oracle length: as many tokens as the reference has for the model's own tokenizer. Auto: 1 to 32
    for a sentence; a text that ends with the blank is then taken for a whole document, for its end
    is all that tells the length.
    """
    network = networks.pick(variant)
    lengths = [oracle_length(network.tokenizer, blank) for blank in blanks]
    requested: list[Any] = lengths
    if variant.length == "auto":
        requested = [(1, MAX_TOKENS * blank.sentences) for blank in blanks]

    def fill() -> list[Infilling]:
        return infill(
            network.model,
            network.tokenizer,
            [blank.template(left_only=variant.left_only) for blank in blanks],
            blank=MARK,
            length=requested,
            evidence="direct",  # thousands of blanks: the faster one
            seed=list(seeds),
            closed=variant.length == "auto",
            batch_size=config.batch_size,
            **sampling(variant, config),
        )

    filled, seconds = timed(fill, network.model.device)
    return [
        _record(infilling, length, seed, seconds / len(blanks))
        for infilling, length, seed in zip(filled, lengths, seeds, strict=True)
    ]


@lru_cache(maxsize=2**16)  # every trial needs it again
def oracle_length(tokenizer: PreTrainedTokenizerBase, blank: Blank) -> int:
    """Return how many tokens the reference has in its place."""
    return reference_lengths(tokenizer, blank.template(), [blank.reference], blank=MARK)[0]


def sampling(variant: Variant, config: InfillProseConfig) -> dict[str, Any]:
    """Return the options of `asarm.sample`."""
    return {
        "sampler": sampler_of(variant.method, k=config.k, steps=variant.steps),
        "temperature": config.temperature,
        "top_k": 1 if variant.greedy else config.top_k,
        "top_p": config.top_p,
    }


def _record(infilling: Infilling, oracle: int, seed: int, seconds: float) -> Record:
    best = infilling.candidates[0]
    (fill,) = best.fills
    return {
        "seed": seed,
        "prediction": fill.text,
        "num_tokens": fill.length,
        "oracle_tokens": oracle,
        "log_prob": best.log_prob,
        "length_log_prob": best.length_log_prob,
        "nfe": best.nfe,
        "rows": best.rows + infilling.length_rows,
        "seconds": seconds,
    }
