"""Which lengths the blanks of a text are drawn with: given, or by their posterior.

Shapes: C combinations of lengths, G gaps of a text, M lengths of one gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.infilling.length import (
    POWERS,
    Evidence,
    direct_evidence,
    importance_evidence,
    posterior,
)
from asarm.infilling.prior import kind_of_blank, length_prior
from asarm.infilling.template import Template
from asarm.infilling.window import Range, window_length, within
from asarm.rows import Backbone
from asarm.schedule import keyed_generator

AUTO: Range = (1, 32)
EVIDENCE = ("direct", "importance")
MAX_PER_GAP = 4  # lengths of each of several gaps that are weighed jointly
MAX_COMBINATIONS = 64
LEFT, RIGHT = 128, 64  # tokens before the first and after the last gap that are weighed
# Where the likeliest length is less than this many times as likely as the prior's likeliest, the
# evidence is weaker than that of a small model that was right in 11.5% of cases, chance being 6.3%.
WEAK = 1.8


@dataclass(frozen=True)
class LengthPosterior:
    """The lengths that a text's gaps may have, and how probable they are.

    Attributes:
        lengths: (C, G) combinations.
        log_probs: (C,) log P(lengths | text).
        by_gap: log P(length | text) of each gap by itself.
        rows: rows pushed through the network to find out.
    """

    lengths: Tensor
    log_probs: Tensor
    by_gap: list[dict[int, float]]
    rows: int

    def draw(self, count: int, seed: int) -> list[tuple[list[int], float]]:
        """Draw lengths `count` times; return them, and log P of each draw.

        They are drawn from the posterior with the least variance (systematic sampling): how often
        a combination comes differs from `count` times its probability by less than one.
        """
        start = torch.rand(1, generator=keyed_generator(seed, "lengths"), dtype=torch.float64)
        points = (torch.arange(count, dtype=torch.float64) + start) / count
        cumulated = self.log_probs.softmax(0).cumsum(0)
        chosen = torch.searchsorted(cumulated, points, right=True).clamp(max=len(cumulated) - 1)
        return [(self.lengths[c].tolist(), float(self.log_probs[c])) for c in chosen]


@dataclass(frozen=True)
class _Gap:
    """The lengths that one gap may have, what each is worth, and the few that are kept."""

    lengths: Tensor  # (M,)
    log_prior: Tensor  # (M,)
    log_probs: Tensor  # (M,) given the text
    kept: Tensor  # indices, the likeliest first

    @property
    def likeliest(self) -> int:
        return int(self.lengths[self.kept[0]])


def choose_lengths(
    model: Backbone,
    template: Template,
    ranges: Sequence[Range],
    *,
    evidence: str = "importance",
    on_weighed: Callable[[], object] = lambda: None,
) -> LengthPosterior:
    """Weigh the lengths of a text's gaps, each within a range (low, high); low = high is given.

    Each is weighed by what follows it up to the next gap of unknown length, given the likeliest
    lengths of the gaps before it. Of several, the four likeliest of each (fewer where there are
    many gaps) are then weighed jointly. Where the evidence is weak, the prior's mean is taken.
    `on_weighed` is called after each gap.
    """
    weigh = _weigher(model, _window(template), evidence)
    gaps: list[_Gap] = []
    rows = 0
    for g, bounds in enumerate(ranges):
        kind = kind_of_blank(*template.texts[g : g + 2])
        gap = _prior_of(template.codec.tokenizer, bounds, kind)
        if len(gap.lengths) > 1:
            found = weigh(*_alone(gaps, gap, ranges[g + 1 :]), g)
            gap = _weighed(gap, found.log_probs, POWERS[evidence])
            rows += found.rows
        gaps.append(gap)
        on_weighed()
    by_gap = [dict(zip(g.lengths.tolist(), g.log_probs.tolist(), strict=True)) for g in gaps]
    few = _few(gaps)
    indices = torch.cartesian_prod(*few).view(-1, len(gaps))  # (C, G)
    lengths = torch.stack([g.lengths[i] for g, i in zip(gaps, indices.T, strict=True)], dim=1)
    log_probs = _sum(gaps, indices, lambda gap: gap.log_probs)
    if sum(len(kept) > 1 for kept in few) > 1:
        found = weigh(lengths, len(template.parts), 0)
        log_prior = _sum(gaps, indices, lambda gap: gap.log_prior)
        log_probs = posterior(log_prior, found.log_probs, POWERS[evidence])
        rows += found.rows
    return LengthPosterior(lengths, log_probs, by_gap, rows)


def _prior_of(tokenizer: PreTrainedTokenizerBase, bounds: Range, kind: str) -> _Gap:
    low, high = bounds
    log_prior = length_prior(tokenizer, low, high, kind).log()
    return _Gap(torch.arange(low, high + 1), log_prior, log_prior, torch.zeros(1).long())


def _weighed(gap: _Gap, evidence: Tensor, power: float) -> _Gap:
    """Return the gap with its posterior: all lengths, or the prior's mean where it is weak."""
    log_probs = posterior(gap.log_prior, evidence, power)
    kept = log_probs.argsort(descending=True)
    if log_probs.max() < gap.log_prior.max() + math.log(WEAK):
        mean = int((gap.lengths * gap.log_prior.exp()).sum().round())
        kept = torch.tensor([mean - int(gap.lengths[0])])
    return _Gap(gap.lengths, gap.log_prior, log_probs, kept)


def _alone(gaps: Sequence[_Gap], gap: _Gap, later: Sequence[Range]) -> tuple[Tensor, int]:
    """Return combinations (M, G) that differ in one gap, and how many parts of the text they reach.

    That is up to the next gap whose length is unknown.
    """
    columns = [torch.full_like(gap.lengths, g.likeliest) for g in gaps] + [gap.lengths]
    for low, high in later:
        if low < high:
            break
        columns.append(torch.full_like(gap.lengths, low))
    return torch.stack(columns, dim=1), len(columns) + 1


def _few(gaps: Sequence[_Gap]) -> list[Tensor]:
    """Return the indices of each gap's lengths to combine: all where one gap alone is open."""
    if sum(len(gap.kept) > 1 for gap in gaps) <= 1:
        return [gap.kept for gap in gaps]
    for count in range(MAX_PER_GAP, 0, -1):
        few = [gap.kept[:count] for gap in gaps]
        if math.prod(map(len, few)) <= MAX_COMBINATIONS:
            break
    return few


def _sum(gaps: Sequence[_Gap], indices: Tensor, part: Callable[[_Gap], Tensor]) -> Tensor:
    """Return, for each combination (C,), the sum over the gaps of what `part` says of them."""
    columns = [part(gap)[i].double() for gap, i in zip(gaps, indices.T, strict=True)]
    return torch.stack(columns, dim=1).sum(1)


def _weigher(
    model: Backbone, template: Template, evidence: str
) -> Callable[[Tensor, int, int], Evidence]:
    """Return what weighs lengths (C, G') of a gap among the first parts of a text."""

    def weigh(lengths: Tensor, num_parts: int, first: int) -> Evidence:
        reached = Template(template.codec, template.parts[:num_parts])
        longest = lengths[lengths.sum(1).argmax()].tolist()
        reached = within(reached, reached.sizes(longest), window_length(model))
        if evidence == "direct":
            return direct_evidence(model, reached, lengths, first=first)
        return importance_evidence(model, reached, lengths)

    return weigh


def _window(template: Template) -> Template:
    """Cut what is too far from the gaps to say anything of their lengths."""
    first, *between, last = template.parts
    first, last = replace(first, ids=first.ids[-LEFT:]), replace(last, ids=last.ids[:RIGHT])
    return Template(template.codec, [first, *between, last])
