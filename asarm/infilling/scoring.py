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
from asarm.infilling.cut_words import Healing
from asarm.infilling.request import check_batch_size, templates_of
from asarm.infilling.template import Template, collate
from asarm.infilling.unwritten import warn_of_unwritten
from asarm.infilling.window import part_of, window_length, windows, within
from asarm.inputs import check_tokenizer
from asarm.rows import Backbone

Filling = str | Sequence[str]


@dataclass(frozen=True)
class Score:
    """What a given filling is worth.

    Attributes:
        fills: the filling of each blank.
        log_prob: log p(fills | text around them, their lengths in tokens), joint and exact.
        num_tokens: the number of tokens of all blanks together.
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
    token_healing: bool = False,
    whitespace_map: bool = False,
    batch_size: int = 16,
) -> list[Score]:
    """Compute exact joint log-probabilities of given fillings, as in multiple choice.

    Of a text that is longer than those the model was trained on, the model sees a window around the
    blanks, the same for all candidates, see `asarm.infill`.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        tokenizer: the model's tokenizer.
        context: a text with blanks.
        candidates: a filling of the blank, or of several blanks one for each.
        blank, closed, whitespace_map: as in `asarm.infill`. What ends with a blank is not closed
            here by default: its candidates are then continuations, as in left-to-right models.
        token_healing: whether a word that the blank cuts is written as it is with the filling, as
            `asarm.infill` does: `log_prob` is then what a candidate of `asarm.infill` has, given
            the characters of the word. If False, it is given the pieces that the cut word has.
        batch_size: candidates scored in one network call.

    Warns:
        UserWarning: the vocabulary cannot write characters of the text or of a filling.

    Raises:
        ValueError: no blank, another number of fillings than blanks, or an empty one.
    """
    check_tokenizer(model, tokenizer)
    check_batch_size(batch_size)
    fillings = requested_fillings(candidates)
    codec = Codec.of(tokenizer, whitespace_map)
    texts = [checked_text(context, "context")]
    (template,) = templates_of(codec, texts, blank=blank, spans=None, closed=closed)
    warn_of_unwritten(codec, chain(template.texts, *fillings))
    written = [template.written_with(own) if token_healing else template for own in fillings]
    encoded = [t.encode_fills(fills) for t, fills in zip(written, fillings, strict=True)]
    found = _log_probs(model, template, encoded, batch_size, fillings if token_healing else None)
    sizes = [sum(map(len, ids)) for ids in encoded]
    return [
        Score(fills, total, size, total / size)
        for fills, total, size in zip(fillings, found, sizes, strict=True)
    ]


def requested_fillings(candidates: Sequence[Filling]) -> list[list[str]]:
    """Return the fillings of the blanks of each candidate.

    Raises:
        ValueError: one text instead of a list of candidates, or a candidate that is not text.
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
    model: Backbone,
    template: Template,
    encoded: Sequence[list[list[int]]],
    batch_size: int,
    healed: Sequence[Sequence[str]] | None,
) -> list[float]:
    """Compute the joint log-probability of each candidate's pieces; windows add up.

    `healed` has the fillings themselves where cut words are written as they are with these.
    """
    if not encoded:
        return []
    limit = window_length(model)
    sizes = [max(map(len, pieces)) for pieces in zip(*encoded, strict=True)]
    ends = [end for _, end in template.edges()]
    lengths = [size - end.num_extra for size, end in zip(sizes, ends, strict=True)]
    found = []
    for gaps in windows(template, [(length, length) for length in lengths], limit):
        own = within(part_of(template, gaps), sizes[gaps], limit)
        heal = Healing(model, own) if healed else None
        written = [own.written_with(fills[gaps]) for fills in healed or ()]
        texts = written or [own] * len(encoded)
        pieces = [pieces[gaps] for pieces in encoded]
        batches = [slice(n, n + batch_size) for n in range(0, len(encoded), batch_size)]
        found.append([x for b in batches for x in _of_batch(model, texts[b], pieces[b], heal)])
    return [sum(totals) for totals in zip(*found, strict=True)]


def _of_batch(
    model: Backbone,
    templates: Sequence[Template],
    encoded: Sequence[Sequence[Sequence[int]]],
    heal: Healing | None,
) -> list[float]:
    """Compute log p of the fillings of each text: under the filters of gaps that cut words, and
    with log P of the way in which these are written; the model's own elsewhere."""
    rows = [t.with_gaps([*map(len, own)]) for t, own in zip(templates, encoded, strict=True)]
    ids, allowed, order = collate(rows, templates[0].moves, vocab_size=model.vocab_size)
    for b, fills in enumerate(encoded):
        ids[b, order.is_target[b]] = torch.tensor([i for fill in fills for i in fill])
    free = log_prob(model, ids, order).double().cpu()
    if heal is None:
        return free.sum(1).tolist()
    healed = log_prob(model, ids, order, allowed=allowed).double().cpu()
    healed = healed.where(healed.isfinite(), free)  # a filling may be another than is ever drawn
    found = []
    for b, (template, fills) in enumerate(zip(templates, encoded, strict=True)):
        places = template.places([*map(len, fills)])
        lengths = template.lengths_of(fills)
        ways = heal.log_probs(template, lengths)
        found.append(
            sum(
                float(free[b, place].sum() if way is None else way + healed[b, place].sum())
                for way, place in zip(ways, places, strict=True)
            )
        )
    return found


def reference_lengths(
    tokenizer: PreTrainedTokenizerBase,
    context: str,
    fills: Sequence[str],
    *,
    blank: str = "___",
    token_healing: bool = True,
    whitespace_map: bool = False,
) -> list[int]:
    """Count the tokens that given fillings have where they are: the oracle length of each blank.

    With `token_healing` those are counted that hold any of its characters where the words that a
    blank cuts are whole: for `asarm.infill`, which has the same switch.
    """
    fills, context = _fillings(fills, "fills"), checked_text(context, "context")
    codec = Codec.of(tokenizer, whitespace_map)
    (template,) = templates_of(codec, [context], blank=blank, spans=None, closed=False)
    written = template.written_with(fills) if token_healing else template
    return written.lengths(fills)
