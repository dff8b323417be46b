"""Blanks of a text filled jointly, their lengths known or not, and ranked by what they are worth.

Shapes: B drawings made together, L length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, overload

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from asarm.checks import is_whole
from asarm.codec import Codec
from asarm.density import log_prob
from asarm.infilling.cut_words import Healing
from asarm.infilling.posterior import EVIDENCE, LengthPosterior, choose_lengths
from asarm.infilling.request import (
    check_batch_size,
    requested_lengths,
    requested_spans,
    requested_texts,
    templates_of,
)
from asarm.infilling.template import Template, collate
from asarm.infilling.unwritten import warn_of_unwritten
from asarm.infilling.window import Range, fitted, part_of, window_length, windows, within
from asarm.inputs import check_tokenizer
from asarm.order import Order, per_sequence_seeds
from asarm.rows import Backbone
from asarm.sampling import sample
from asarm.schedule import keyed_generator, keyed_seed


@dataclass(frozen=True)
class Fill:
    """What one blank was filled with.

    Attributes:
        text: its characters.
        length: the length of the blank, in tokens: how many hold what it adds to the text.
        tokens: of its pieces; one more than that where it shares one with the text after it. The
            first and the last may hold characters of words that the blank cuts.
        log_prob: log p of its tokens given the text around all blanks and the tokens of the blanks
            before it; these of all blanks add up to their joint log-probability.
        per_token: `log_prob` per token, the measure of those who know no P(length).
    """

    text: str
    length: int
    tokens: list[int]
    log_prob: float
    per_token: float


@dataclass(frozen=True)
class Candidate:
    """A text with its blanks filled.

    Attributes:
        text: the whole text; outside the blanks it is the given one, character for character.
        fills: the filling of each blank, in the order of the text.
        score: what candidates are ranked by, `log_prob` + `length_log_prob`.
        log_prob: log p(fills | text around them, their lengths), joint and exact: of the model
            itself, whatever temperature and filters the fills were drawn with.
        length_log_prob: log P(lengths | text around them); 0 where they were given.
        per_token: `log_prob` per token.
        nfe: network calls that drawing it took.
        rows: rows that these calls pushed through the network.
    """

    text: str
    fills: list[Fill]
    score: float
    log_prob: float
    length_log_prob: float
    per_token: float
    nfe: int
    rows: int


@dataclass(frozen=True)
class Infilling:
    """What `infill` gives for one text: its candidates, the best one first.

    Attributes:
        parts: the texts before, between and after the blanks.
        candidates: different texts, by their scores.
        length_log_probs: log P(length | text) of each blank by itself.
        length_rows: rows that it took to find these.
    """

    parts: list[str]
    candidates: list[Candidate]
    length_log_probs: list[dict[int, float]]
    length_rows: int


@dataclass(frozen=True)
class _Window:
    """Gaps of a text that are filled jointly, the ranges of their lengths, and a seed."""

    gaps: slice
    template: Template
    ranges: list[Range]
    seed: int


@dataclass(frozen=True)
class _Drawing:
    """One filling to be drawn: of which window, with which lengths, and from which seed.

    `ways` has log P of the way in which the words that a gap cuts are written, see `Healing`.
    """

    window: int
    template: Template
    ways: list[float | None]
    lengths: list[int]
    length_log_prob: float
    seed: int


@overload
def infill(
    model: Backbone, tokenizer: PreTrainedTokenizerBase, texts: str, **options: Any
) -> Infilling: ...
@overload
def infill(
    model: Backbone, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any
) -> list[Infilling]: ...
def infill(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    texts: str | Sequence[str],
    *,
    blank: str = "___",
    spans: Sequence[Any] | None = None,
    length: Any = "auto",
    evidence: str = "importance",
    num_samples: int = 1,
    best_of: int | None = None,
    seed: int | Sequence[int] = 0,
    closed: bool = True,
    token_healing: bool = True,
    whitespace_map: bool = False,
    batch_size: int = 16,
    progress: bool = False,
    **sampling: Any,
) -> Infilling | list[Infilling]:
    """Fill the blanks of a text jointly, from the model's distribution given the text around them.

    Candidates are ranked by log P(lengths | text) + log p(fills | text, lengths), and each text is
    given once; `asarm.infilling.length` says how P(lengths | text) comes about and what it assumes.
    Where a space comes before a blank, the first piece must begin a word; no special token is
    ever filled in: both are filters of the target distribution. What is drawn depends on a text's
    own seed and not on the texts of its batch.

    A text may be of any length. Where it has more tokens with its blanks than the texts that the
    model was trained on (`trained_length`), or has positions for, the model sees a window of that
    many tokens: blanks that fit into it with the text between them, and as much as there is room
    for before and after them. They are filled jointly, and ranges end where their blanks would not
    fit. Blanks farther apart have windows of their own, which do not see one another's blanks;
    their log-probabilities add up. Where no trained length is known, the whole text is seen.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        tokenizer: the model's tokenizer.
        texts: one text or several.
        blank: marks a blank in a text; with a backslash before it, or as a part of a longer run of
            its character, it is plain text.
        spans: instead of markers, (start, end) of the characters to blank out; for several texts
            a list of these for each.
        length: of a blank in tokens: a number, a range (low, high) that its posterior chooses
            from, or "auto", which is (1, 32). A list has one of these for each blank of a text, or
            for each of its spans in their order; for several texts a list has one, or a list of
            them, for each text.
        evidence: of unknown lengths: "importance", which knows more, or "direct", which is several
            times faster; see `asarm.infilling.length`.
        num_samples: candidates for each text; fewer where drawings coincide.
        best_of: drawings, the best `num_samples` of which are given; `num_samples` if None.
        seed: text i uses seed + i, or its own where one int per text is given.
        closed: whether a text is a whole document: a blank at one of its ends then has the end of
            a document as its other side.
        token_healing: whether a word that a blank cuts may be written in one piece with what is
            filled in, as `retu___` becomes `return`; the model says how likely that is. If False,
            the pieces of the cut word stay as they are.
        whitespace_map: code through XLNet's vocabulary, see `asarm.codec.Codec`.
        batch_size: drawings made together.
        progress: show a bar of blanks whose lengths are looked for, and one of drawings.
        **sampling: options of `asarm.sample`: sampler and its own, temperature, top_k, top_p, ...

    Returns:
        An `Infilling`, or a list of them for several texts.

    Warns:
        UserWarning: the vocabulary cannot write characters of a text, which it names.

    Raises:
        ValueError: no blank, blanks that touch, or an option that cannot be served.
    """
    check_tokenizer(model, tokenizer)
    several = requested_texts(texts)
    if isinstance(texts, str):
        length = [length]
    num_drawings = num_samples if best_of is None else best_of
    _check(evidence, num_samples, num_drawings, batch_size)
    given = None if spans is None else requested_spans(spans, texts, len(several))
    codec = Codec.of(tokenizer, whitespace_map)
    templates = templates_of(codec, several, blank=blank, spans=given, closed=closed)
    warn_of_unwritten(codec, [text for template in templates for text in template.texts])
    infillings = fill_templates(
        model,
        templates,
        requested_lengths(length, templates, given),
        evidence=evidence,
        num_samples=num_samples,
        num_drawings=num_drawings,
        seeds=per_sequence_seeds(seed, len(templates)),
        batch_size=batch_size,
        progress=progress,
        heals=token_healing,
        **sampling,
    )
    return infillings[0] if isinstance(texts, str) else infillings


def fill_templates(
    model: Backbone,
    templates: Sequence[Template],
    ranges: Sequence[Sequence[Range]],
    *,
    seeds: Sequence[int],
    evidence: str = "importance",
    num_samples: int = 1,
    num_drawings: int = 1,
    batch_size: int = 16,
    progress: bool = False,
    heals: bool = True,
    **sampling: Any,
) -> list[Infilling]:
    """Fill texts that are templates already: `ranges` has the lengths of each of their gaps."""
    for codec in {template.codec for template in templates}:
        check_tokenizer(model, codec.tokenizer)
    limit = window_length(model)
    by_text = [
        _windows(template, own, seed, limit)
        for template, own, seed in zip(templates, ranges, seeds, strict=True)
    ]
    flat = [window for own in by_text for window in own]
    if any(low < high for window in flat for low, high in window.ranges):
        check_sampling(model, **sampling)
    blanks = sum(window.template.num_gaps for window in flat)
    with tqdm(total=blanks, desc="lengths", unit="blank", disable=not progress) as bar:
        posteriors = [
            choose_lengths(
                model, window.template, window.ranges, evidence=evidence, on_weighed=bar.update
            )
            for window in flat
        ]
    heal = partial(Healing, model, **sampling) if heals else None
    drawings = [
        drawing
        for number, (window, posterior) in enumerate(zip(flat, posteriors, strict=True))
        for drawing in _drawings(number, window, posterior, num_drawings, limit, heal)
    ]
    found: list[list[Candidate]] = [[] for _ in flat]
    for drawing, candidate in zip(
        drawings, _draw_all(model, drawings, batch_size, progress, sampling), strict=True
    ):
        found[drawing.window].append(candidate)
    each = iter(zip(posteriors, found, strict=True))
    return [
        _infilling(template, list(islice(each, len(own))), num_samples)
        for template, own in zip(templates, by_text, strict=True)
    ]


def _windows(
    template: Template, ranges: Sequence[Range], seed: int, limit: int | None
) -> list[_Window]:
    """Return the windows of a text; the first has the text's own seed."""
    found = []
    for gaps in windows(template, ranges, limit):
        own = part_of(template, gaps)
        fitting = fitted(own, ranges[gaps], limit)
        key = keyed_seed(seed, "window", gaps.start) if gaps.start else seed
        found.append(_Window(gaps, own, fitting, key))
    return found


def check_sampling(model: Backbone, **sampling: Any) -> None:
    """Refuse options that `sample` cannot serve, by one token, before anything takes long."""
    order = Order(torch.zeros(1, 1, dtype=torch.long), 0)
    sample(model, torch.zeros(1, 1, dtype=torch.long), order, **sampling)


def _drawings(
    number: int,
    window: _Window,
    posterior: LengthPosterior,
    count: int,
    limit: int | None,
    heal: Callable[[Template], Healing] | None,
) -> list[_Drawing]:
    """Return the drawings of a window, all of which see the same text around its gaps."""
    drawn = posterior.draw(count, window.seed)
    if window.gaps.start:  # their lengths come in order; those of two windows are independent
        generator = keyed_generator(window.seed, "drawings")
        drawn = [drawn[n] for n in torch.randperm(count, generator=generator)]
    longest = max((lengths for lengths, _ in drawn), key=sum)
    shown = within(window.template, window.template.sizes(longest), limit)
    write, found = heal and heal(shown), []
    for n, (lengths, length_log_prob) in enumerate(drawn):
        seed = keyed_seed(window.seed, "fill", n)
        written, ways = write(lengths, seed) if write else (shown, [None] * len(lengths))
        found.append(_Drawing(number, written, [*ways], lengths, length_log_prob, seed))
    return found


def _infilling(
    template: Template, found: Sequence[tuple[LengthPosterior, list[Candidate]]], num_samples: int
) -> Infilling:
    """Combine the drawings of each window into the candidates of a text."""
    posteriors, drawn = zip(*found, strict=True)
    joined = [_joined(template, parts) for parts in zip(*drawn, strict=True)]
    by_gap = [own for posterior in posteriors for own in posterior.by_gap]
    rows = sum(posterior.rows for posterior in posteriors)
    return Infilling(template.texts, ranked(joined)[:num_samples], by_gap, rows)


def _joined(template: Template, parts: Sequence[Candidate]) -> Candidate:
    """Join a candidate of each window into one for the whole text: their terms add up."""
    fills = [fill for part in parts for fill in part.fills]
    joint = sum(part.log_prob for part in parts)
    length_log_prob = sum(part.length_log_prob for part in parts)
    return Candidate(
        text=template.with_fills([fill.text for fill in fills]),
        fills=fills,
        score=joint + length_log_prob,
        log_prob=joint,
        length_log_prob=length_log_prob,
        per_token=joint / sum(len(fill.tokens) for fill in fills),
        nfe=sum(part.nfe for part in parts),
        rows=sum(part.rows for part in parts),
    )


def _draw_all(
    model: Backbone,
    drawings: Sequence[_Drawing],
    batch_size: int,
    progress: bool,
    sampling: dict[str, Any],
) -> Iterator[Candidate]:
    """Draw the candidates of all drawings, in batches."""
    with tqdm(total=len(drawings), desc="fills", unit="text", disable=not progress) as bar:
        for start in range(0, len(drawings), batch_size):
            batch = drawings[start : start + batch_size]
            yield from draw(model, batch, **sampling)
            bar.update(len(batch))


def draw(model: Backbone, drawings: Sequence[_Drawing], **sampling: Any) -> Iterator[Candidate]:
    """Draw a batch; yield the candidate of each drawing, for its part of the text."""
    sizes = [drawing.template.sizes(drawing.lengths) for drawing in drawings]
    rows = [drawing.template.with_gaps(own) for drawing, own in zip(drawings, sizes, strict=True)]
    ids, allowed, order = collate(rows, drawings[0].template.moves, vocab_size=model.vocab_size)
    seeds = [drawing.seed for drawing in drawings]
    result = sample(model, ids, order, allowed=allowed, seed=seeds, **sampling)
    order = order.to(result.tokens.device)
    free = log_prob(model, result.tokens, order).double().cpu()
    is_healed = any(way is not None for drawing in drawings for way in drawing.ways)
    healed = log_prob(model, result.tokens, order, allowed=allowed).cpu() if is_healed else free
    for b, drawing in enumerate(drawings):
        tokens = result.tokens[b].tolist()
        cost = int(result.nfe[b]), int(result.rows[b])
        places = drawing.template.places(sizes[b])
        yield _candidate(drawing, places, tokens, (free[b], healed[b]), cost)


def _candidate(
    drawing: _Drawing,
    places: Sequence[slice],
    tokens: list[int],
    log_probs: tuple[Tensor, Tensor],
    cost: tuple[int, int],
) -> Candidate:
    """Make a candidate from the tokens of its whole text and their log-probabilities (L,): the
    model's own, and those that they were drawn with in gaps that cut words."""
    text, texts = drawing.template.filled([tokens[place] for place in places])
    free, healed = log_probs
    sums = [
        float(free[place].sum()) if way is None else way + float(healed[place].double().sum())
        for way, place in zip(drawing.ways, places, strict=True)
    ]
    fills = [
        Fill(fill, length, tokens[place], total, total / (place.stop - place.start))
        for fill, length, place, total in zip(texts, drawing.lengths, places, sums, strict=True)
    ]
    joint = sum(sums)
    return Candidate(
        text=text,
        fills=fills,
        score=joint + drawing.length_log_prob,
        log_prob=joint,
        length_log_prob=drawing.length_log_prob,
        per_token=joint / sum(place.stop - place.start for place in places),
        nfe=cost[0],
        rows=cost[1],
    )


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Sort candidates, the best one first, and keep each text once."""
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: -candidate.score):
        best.setdefault(candidate.text, candidate)
    return list(best.values())


def _check(evidence: str, num_samples: int, num_drawings: int, batch_size: int) -> None:
    if evidence not in EVIDENCE:
        raise ValueError(f"evidence is {evidence!r}; expected one of {', '.join(EVIDENCE)}")
    whole = is_whole(num_samples) and is_whole(num_drawings)
    if not (whole and 1 <= num_samples <= num_drawings):
        raise ValueError(
            f"num_samples is {num_samples!r} of {num_drawings!r} drawings; expected at least 1, "
            "and best_of to be no less"
        )
    check_batch_size(batch_size)
