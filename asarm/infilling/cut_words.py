"""Words that gaps cut, written in the way that the model takes them to be meant.

A word that a gap cuts has several ways to be written (`asarm.infilling.token_healing.Cut`): by its
own pieces, or with some of its characters in the first or last piece of the gap. How probable a way
is follows from the model itself: the probability of the word's pieces that are the text's own,
times that of all pieces that the gap may have at its edges, the rest of the gap being unseen.

Shapes: W ways, R content rows, Q query rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asarm.distribution import Distribution
from asarm.infilling.template import Template
from asarm.infilling.token_healing import Cut
from asarm.inputs import inference_mode_of
from asarm.rows import Backbone, ContentRows, QueryRows, chunks
from asarm.schedule import keyed_generator

LEFT, RIGHT = 64, 32  # tokens before and after a gap that are looked at


@dataclass(frozen=True)
class Ways:
    """The ways to write the words that a gap cuts.

    Attributes:
        cuts: the cuts of the beginning and of the end of the gap.
        log_probs: (W,) log P(way | the characters of the words, the text around, the length of the
            gap).
    """

    cuts: list[tuple[Cut, Cut]]
    log_probs: Tensor


def ways_of(model: Backbone, template: Template, lengths: Sequence[int], gap: int) -> Ways:
    """Return the ways to write the words that a gap cuts, where the gaps have these lengths."""
    written = [(cut, template.with_cut(gap, *cut)) for cut in template.cuts(gap)]
    fitting = [(cut, own) for cut, own in written if own.is_fillable(gap, own.sizes(lengths)[gap])]
    cuts = [cut for cut, _ in fitting]
    if len(cuts) <= 1:
        return Ways(cuts or [written[0][0]], torch.zeros(1, dtype=torch.float64))
    questions = [_question(own, gap, cut, lengths) for cut, own in fitting]
    with inference_mode_of(model):
        found = torch.cat([_answers(model, questions[i : i + 16]) for i in range(0, len(cuts), 16)])
    return Ways(cuts, found.log_softmax(0))


class Healing:
    """Draws the ways in which the words that the gaps of a text cut are written.

    They are drawn from their probabilities as tokens are, with temperature and filters, so that
    greedy decoding takes the likeliest one. Each gap's words are drawn by themselves: the other
    gaps are unseen.

    Args:
        model: any backbone.
        template: the text.
        temperature, top_k, top_p: of the distribution of tokens; other options of sampling change
            nothing.
    """

    def __init__(
        self,
        model: Backbone,
        template: Template,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        **_: Any,
    ):
        self.model, self.template = model, template
        self.distribution = Distribution(-1, temperature, top_k, top_p)
        self.known: dict[tuple[int, ...], list[Ways]] = {}

    def __call__(self, lengths: Sequence[int], seed: int) -> tuple[Template, list[float | None]]:
        """Return the text with its words written in ways that are drawn.

        With it comes log P of each gap's way: None where it cuts no word, or there is but one way.
        """
        found, log_probs = self.template, []
        for gap, ways in enumerate(self._ways(tuple(lengths))):
            probs = self.distribution.probs(ways.log_probs.clone())
            drawn = int(torch.multinomial(probs, 1, generator=keyed_generator(seed, "way", gap)))
            found = found.with_cut(gap, *ways.cuts[drawn])
            log_probs.append(float(ways.log_probs[drawn]) if len(ways.cuts) > 1 else None)
        return found, log_probs

    def log_probs(self, written: Template, lengths: Sequence[int]) -> list[float | None]:
        """Return log P of the ways in which a text is written, for each gap, or None as above."""
        found: list[float | None] = []
        for gap, ways in enumerate(self._ways(tuple(lengths))):
            edges = written.edges()[gap]
            own = [
                log_prob
                for (start, end), log_prob in zip(ways.cuts, ways.log_probs.tolist(), strict=True)
                if (start.edge.shared, end.edge.shared) == (edges[0].shared, edges[1].shared)
            ]
            found.append(own[0] if own and len(ways.cuts) > 1 else None)
        return found

    def _ways(self, lengths: tuple[int, ...]) -> list[Ways]:
        if lengths not in self.known:
            gaps = range(self.template.num_gaps)
            self.known[lengths] = [ways_of(self.model, self.template, lengths, gap) for gap in gaps]
        return self.known[lengths]


@dataclass(frozen=True)
class _Question:
    """A way to write a word, as the model is to judge it.

    Attributes:
        tokens: those around, and after them the word's own pieces, in their order.
        positions: the positions of these.
        num_own: how many of these are the word's own.
        edges: positions of the first and of the last piece of the gap; one, if it is the only one.
        tables: what these may be, (V,) bool each.
    """

    tokens: Tensor
    positions: Tensor
    num_own: int
    edges: list[int]
    tables: list[Tensor]


def _question(
    template: Template, gap: int, cut: tuple[Cut, Cut], lengths: Sequence[int]
) -> _Question:
    sizes = template.sizes(lengths)
    ids, allowed = template.with_gaps(sizes)
    place = template.places(sizes)[gap]
    start, end = len(cut[0].ids), len(cut[1].ids)
    own = [*range(place.start - start, place.start), *range(place.stop, place.stop + end)]
    near = range(max(0, place.start - LEFT), min(len(ids), place.stop + RIGHT))
    around = [position for position in near if position not in (allowed.keys() | set(own))]
    positions = torch.tensor([*around, *own], dtype=torch.long)
    edges = sorted({place.start, place.stop - 1})
    tables = [allowed[position] for position in edges]
    return _Question(torch.tensor(ids)[positions], positions, len(own), edges, tables)


def _answers(model: Backbone, questions: Sequence[_Question]) -> Tensor:
    """Return log p of the word's own pieces, times that of the gap's edges given these, (W,)."""
    sizes = torch.tensor([len(question.tokens) for question in questions])[:, None]
    num_own = torch.tensor([question.num_own for question in questions])[:, None]
    tokens = pad_sequence([question.tokens for question in questions], batch_first=True)
    positions = pad_sequence([question.positions for question in questions], batch_first=True)
    ranks = torch.arange(tokens.shape[1]).expand_as(tokens)
    limits = torch.maximum(ranks + 1, sizes - num_own)  # all that is around, or up to itself
    limits = torch.where(ranks < sizes, limits, 0)
    content = ContentRows(*(x.to(model.device) for x in (tokens, positions, limits, ranks)))
    # a row for each of the word's own pieces, which sees those before it; then the gap's edges
    predicted = [
        torch.cat([question.positions[len(question.tokens) - question.num_own :], edges])
        for question in questions
        for edges in [torch.tensor(question.edges)]
    ]
    counts = torch.tensor([len(own) for own in predicted])[:, None]
    rows = pad_sequence(predicted, batch_first=True)
    steps = torch.arange(rows.shape[1]).expand_as(rows)
    limits = torch.where(steps < counts, (sizes - num_own + steps).minimum(sizes), 0)
    hidden = model(content, QueryRows(rows.to(model.device), limits.to(model.device)))
    answers = [
        _answer(model, own, question) for own, question in zip(hidden, questions, strict=True)
    ]
    return torch.stack(answers)


def _answer(model: Backbone, hidden: Tensor, question: _Question) -> Tensor:
    """Compute one of the `_answers` from the hidden states (Q, C) of its rows."""
    hidden = hidden[: question.num_own + len(question.edges)]
    target = Distribution(model.mask_token_id)
    log_probs = torch.cat(
        [
            target.log_probs(model.logits(hidden[c])).cpu()
            for c in chunks(len(hidden), model.vocab_size)
        ]
    ).double()
    own = question.tokens[len(question.tokens) - question.num_own :, None]
    tables = torch.stack(question.tables)  # of the tokenizer's pieces; there may be more logits
    edges = log_probs[question.num_own :, : tables.shape[1]].masked_fill(~tables, -torch.inf)
    return log_probs[: question.num_own].gather(1, own).sum() + edges.logsumexp(1).sum()
