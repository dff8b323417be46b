"""Exact log-probabilities of given fillings.

Shapes: L length.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from transformers import PreTrainedTokenizerBase

from asarm.checks import checked_text, described
from asarm.codec import Codec
from asarm.density import log_prob
from asarm.infilling.ask import check_batch_size, templates_of
from asarm.infilling.template import Template, collate
from asarm.infilling.unwritten import warn_of_unwritten
from asarm.infilling.window import part_of, trained_length, windows, within
from asarm.inputs import check_tokenizer
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

    Of a text that is longer than those the model was trained on, the model sees a window around the
    blanks, the same for all candidates, see `asarm.infill`.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        tokenizer: the model's.
        context: a text with blanks.
        candidates: a filling of the blank, or of several blanks one for each.
        blank, closed, whitespace_map: as in `asarm.infill`. What ends with a blank is not closed
            here by default: its candidates are then continuations, as in left-to-right models.
        batch_size: candidates scored in one network call.

    Warns:
        UserWarning: the vocabulary cannot write characters of the text or of a filling.

    Raises:
        ValueError: no blank, another number of fillings than blanks, or an empty one.
    """
    check_tokenizer(model, tokenizer)
    check_batch_size(batch_size)
    fillings = asked_fillings(candidates)
    codec = Codec.of(tokenizer, whitespace_map)
    texts = [checked_text(context, "context")]
    (template,) = templates_of(codec, texts, blank=blank, spans=None, closed=closed)
    warn_of_unwritten(codec, chain(template.texts, *fillings))
    encoded = [template.encode_fills(fills) for fills in fillings]
    found = _log_probs(model, template, encoded, batch_size) if encoded else []
    sizes = [sum(map(len, ids)) for ids in encoded]
    return [
        Score(fills, total, size, total / size)
        for fills, total, size in zip(fillings, found, sizes, strict=True)
    ]


def asked_fillings(candidates: Sequence[Filling]) -> list[list[str]]:
    """The fillings of the blanks of each candidate.

    Raises:
        ValueError: one text instead of a list of candidates, or a candidate that is no text.
    """
    if isinstance(candidates, str):
        raise ValueError(
            f"candidates is {candidates!r}; expected a list of fillings, such as [{candidates!r}]"
        )
    if not isinstance(candidates, Iterable) or isinstance(candidates, bytes | Mapping):
        raise ValueError(f"candidates is {described(candidates)}; expected a list of fillings")
    return [_fillings(candidate, f"candidate {n}") for n, candidate in enumerate(candidates)]


def _fillings(candidate: object, name: str) -> list[str]:
    if isinstance(candidate, str) or not isinstance(candidate, list | tuple):
        return [checked_text(candidate, name)]
    return [checked_text(fill, f"a filling of {name}") for fill in candidate]


def _log_probs(
    model: Backbone, template: Template, encoded: Sequence[list[list[int]]], batch_size: int
) -> list[float]:
    """The joint log-probability of each candidate's pieces; those of several windows add up."""
    limit = trained_length(model)
    sizes = [max(map(len, pieces)) for pieces in zip(*encoded, strict=True)]
    ends = [end for _, end in template.edges()]
    lengths = [size - end.is_extra for size, end in zip(sizes, ends, strict=True)]
    found = []
    for gaps in windows(template, [(length, length) for length in lengths], limit):
        own = within(part_of(template, gaps), sizes[gaps], limit)
        found.append(_in_window(model, own, [pieces[gaps] for pieces in encoded], batch_size))
    return [sum(totals) for totals in zip(*found, strict=True)]


def _in_window(
    model: Backbone, template: Template, encoded: Sequence[list[list[int]]], batch_size: int
) -> list[float]:
    found: list[float] = []
    for start in range(0, len(encoded), batch_size):
        part = encoded[start : start + batch_size]
        ids, _, order = collate([template.with_gaps([*map(len, own)]) for own in part])
        for b, fills in enumerate(part):
            flat = [i for fill in fills for i in fill]
            ids[b, order.is_target[b]] = torch.tensor(flat)
        found += log_prob(model, ids, order).double().sum(1).tolist()
    return found


def reference_lengths(
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    fills: Sequence[str],
    *,
    blank: str = "___",
    whitespace_map: bool = False,
) -> list[int]:
    """How many tokens given fillings have where they stand: the oracle length of each blank."""
    fills, context = _fillings(fills, "fills"), checked_text(context, "context")
    codec = Codec.of(tokenizer, whitespace_map)
    (template,) = templates_of(codec, [context], blank=blank, spans=None, closed=False)
    return template.lengths(fills)
