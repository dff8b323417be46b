"""How long a blank is: the posterior of its length in tokens, by two estimators.

P(m | text) is proportional to P(m) p(after | before, a gap of m tokens). A model of any subset
knows the second factor: positions that no row sees are marginalised out. P(m) is how often spans
of held-out text are so long (`asarm.infilling.prior`). What a model says of the second factor is
more than it knows, for its errors at the many tokens that follow add up. So that factor is raised
to a power below 1: the one with which the lengths of held-out gaps are most probable (`POWERS`,
fitted by `scripts/gap_lengths.py`).

Shapes: C combinations of lengths, G gaps of a text, P tokens of the prompt, R tokens that follow,
L length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from asarm.density import log_prob
from asarm.distribution import Distribution
from asarm.infilling.template import Template, collate
from asarm.order import Order
from asarm.rows import Backbone, ContentRows, QueryRows, chunks
from asarm.sampling import sample
from asarm.schedule import keyed_seed

POWERS = {"direct": 0.2, "importance": 0.15}  # of the evidence of each estimator


class Evidence(NamedTuple):
    """What the text around gaps says of their lengths, and what it took to find out."""

    log_probs: Tensor  # (C,) log p(what follows | what comes before, the lengths), in nats
    rows: int  # pushed through the network


def direct_evidence(
    model: Backbone,
    template: Template,
    lengths: Tensor,
    *,
    first: int = 0,
    batch_size: int = 64,
) -> Evidence:
    """Compute log p(what follows gap `first` | what comes before it), with all gaps unseen.

    The gaps have the last ranks, so that no row sees them: one row for every token that follows,
    each of which sees all text to its left but the gaps. No filling is generated. These rows have
    an unknown left, which only permuted training orders teach a model (the bundled one's recipe
    has them, that of the published models has not).

    Args:
        model: any backbone.
        template: the text.
        lengths: (C, G) lengths of its gaps; all combinations go through the network in batches.
        first: the gap whose length is in question; the lengths of those before it are known.
        batch_size: combinations that go through the network together.
    """
    parts = [part.ids for part in template.parts]
    tokens = torch.tensor([i for part in parts for i in part])  # (P + R,)
    num_prompt = sum(len(part) for part in parts[: first + 1])
    if len(tokens) == num_prompt:
        return Evidence(torch.zeros(len(lengths), dtype=torch.float64), 0)
    gaps_before = torch.tensor([g for g, part in enumerate(parts) for _ in part])  # (P + R,)
    shifts = torch.cat([torch.zeros_like(lengths[:, :1]), lengths.cumsum(1)], dim=1)  # (C, G + 1)
    positions = torch.arange(len(tokens)) + shifts[:, gaps_before]  # (C, P + R)
    found = [
        _continuation_log_prob(model, tokens, positions[start : start + batch_size], num_prompt)
        for start in range(0, len(lengths), batch_size)
    ]
    rows = len(lengths) * (2 * len(tokens) - num_prompt)
    return Evidence(torch.cat(found), rows)


@torch.inference_mode()
def _continuation_log_prob(
    model: Backbone, tokens: Tensor, positions: Tensor, num_prompt: int
) -> Tensor:
    """Compute log p(tokens from num_prompt on | those before) at positions (C, P + R)."""
    positions = positions.to(model.device)
    tokens = tokens.to(model.device).expand_as(positions)
    ranks = torch.arange(tokens.shape[1], device=model.device).expand_as(positions)
    limits = torch.where(ranks < num_prompt, num_prompt, ranks + 1)
    content = ContentRows(tokens, positions, limits, ranks)
    hidden = model(content, QueryRows(positions[:, num_prompt:], ranks[:, num_prompt:]))
    rows, targets = hidden.flatten(0, 1), tokens[:, num_prompt:].flatten()
    target = Distribution(model.mask_token_id)
    found = [
        target.log_probs(model.logits(rows[chunk])).gather(1, targets[chunk, None])[:, 0]
        for chunk in chunks(len(rows), model.vocab_size)
    ]
    return torch.cat(found).view(len(positions), -1).double().sum(1).cpu()


def importance_evidence(
    model: Backbone,
    template: Template,
    lengths: Tensor,
    *,
    num_fills: int = 2,
    seed: int = 0,
    batch_size: int = 16,
) -> Evidence:
    """Estimate log p(what follows the first gap | what comes before it), by importance weights.

    A filling is drawn given both sides, at temperature 1 without filters; its weight is the joint
    density of the filling and what follows, left to right, over the density with which it was
    drawn. The mean weight estimates p(what follows | what comes before) without bias, by rows
    that every training order teaches.

    Args:
        model: any backbone.
        template: the text.
        lengths: (C, G) lengths of the gaps.
        num_fills: fillings drawn for each combination.
        seed: the seed of the draws.
        batch_size: fillings drawn together.
    """
    if not any(part.ids for part in template.parts[1:]):
        return Evidence(torch.zeros(len(lengths), dtype=torch.float64), 0)  # nothing follows
    jobs = [(c, f) for c in range(len(lengths)) for f in range(num_fills)]
    weights = torch.zeros(len(lengths), num_fills, dtype=torch.float64)
    num_rows = 0
    for start in range(0, len(jobs), batch_size):
        part = jobs[start : start + batch_size]
        rows = [template.with_gaps(template.sizes(lengths[c].tolist())) for c, _ in part]
        ids, allowed, order = collate(rows, template.moves, vocab_size=model.vocab_size)
        seeds = [keyed_seed(seed, "length", c, f) for c, f in part]
        drawn = sample(model, ids, order, allowed=allowed, seed=seeds)
        onward = left_to_right(order, len(template.parts[0].ids))
        joint = log_prob(model, drawn.tokens.to(ids.device), onward)
        found = joint.double().sum(1) - drawn.log_probs.double().sum(1)
        num_rows += int(drawn.rows.sum() + (order.length + onward.num_targets).sum())
        for (c, f), weight in zip(part, found.tolist(), strict=True):
            weights[c, f] = weight
    return Evidence(weights.logsumexp(1) - math.log(num_fills), num_rows)


def left_to_right(order: Order, num_prompt: int) -> Order:
    """Return the orders of an ordinary language model, for texts as long as those of `order`."""
    ranks = torch.arange(order.order.shape[1]).expand_as(order.order)
    return Order(ranks, num_prompt, order.length)


def posterior(log_prior: Tensor, evidence: Tensor, power: float) -> Tensor:
    """Compute log P(m | text), (C,), from log P(m) and log p(what follows | before, m)."""
    return (log_prior + power * evidence.to(log_prior.dtype)).log_softmax(0)
