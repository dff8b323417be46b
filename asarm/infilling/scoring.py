"""Exact log-probabilities of given fillings.

Shapes: L length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from asarm.codec import Codec
from asarm.density import log_prob
from asarm.infilling.ask import templates_of
from asarm.infilling.template import collate
from asarm.rows import Backbone

Filling = str | Sequence[str]


@dataclass(frozen=True)
class Score:
    """What a given filling is worth.

    Attributes:
        fills: the filling of each blank.
        log_prob: log p(fills | text around them, their lengths in tokens), joint and exact.
        num_tokens: of all blanks together.
        per_token: `log_prob` / `num_tokens`.
    """

    fills: list[str]
    log_prob: float
    num_tokens: int
    per_token: float


def score(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    candidates: Sequence[Filling],
    *,
    blank: str = "___",
    closed: bool = False,
    whitespace_map: bool = False,
    batch_size: int = 16,
) -> list[Score]:
    """Exact joint log-probabilities of given fillings of a text's blanks, as in multiple choice.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        tokenizer: the model's.
        context: a text with blanks.
        candidates: a filling of the blank, or of several blanks one for each.
        blank, closed, whitespace_map: as in `asarm.infill`. What ends with a blank is not closed
            here by default: its candidates are then continuations, as in left-to-right models.
        batch_size: candidates scored in one network call.

    Raises:
        ValueError: no blank, another number of fillings than blanks, or an empty one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    codec = Codec.of(tokenizer, whitespace_map)
    (template,) = templates_of(codec, [context], blank=blank, spans=None, closed=closed)
    fillings = [[c] if isinstance(c, str) else list(c) for c in candidates]
    encoded = [template.encode_fills(fills) for fills in fillings]
    found: list[float] = []
    for start in range(0, len(encoded), batch_size):
        part = encoded[start : start + batch_size]
        ids, _, order = collate([template.with_gaps([*map(len, own)]) for own in part])
        for b, fills in enumerate(part):
            flat = [i for fill in fills for i in fill]
            ids[b, order.is_target[b]] = torch.tensor(flat)
        found += log_prob(model, ids, order).double().sum(1).tolist()
    sizes = [sum(map(len, ids)) for ids in encoded]
    return [
        Score(fills, total, size, total / size)
        for fills, total, size in zip(fillings, found, sizes, strict=True)
    ]


def reference_lengths(
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    fills: Sequence[str],
    *,
    blank: str = "___",
    whitespace_map: bool = False,
) -> list[int]:
    """How many tokens given fillings have where they stand: the oracle length of each blank."""
    codec = Codec.of(tokenizer, whitespace_map)
    (template,) = templates_of(codec, [context], blank=blank, spans=None, closed=False)
    return template.lengths(fills)
