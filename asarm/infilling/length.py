"""How long a blank is: the posterior of its length in tokens, by two estimators.

P(m | text) is proportional to P(m) p(after | before, a gap of m tokens). A model of any subset
knows the second factor: positions that no row sees are marginalised out. P(m) is the histogram of
lengths that spans of held-out text have.

Shapes: C combinations of lengths, G gaps of a text, P tokens of the prompt, R tokens that follow,
L length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.corpus import held_out_documents
from asarm.density import chunks, log_prob
from asarm.infilling.template import Template
from asarm.law import Allowed, Law
from asarm.order import Order
from asarm.rows import Backbone, ContentRows, QueryRows
from asarm.sampling import sample
from asarm.schedule import keyed_generator, keyed_seed
from asarm.text import encode_all

MAX_WORDS = 8  # of the spans whose lengths make the prior
NUM_SPANS = 4000


class Evidence(NamedTuple):
    """What the text around gaps says of their lengths, and what it took to find out."""

    log_probs: Tensor  # (C,) log p(what follows | what stands before, the lengths), in nats
    rows: int  # pushed through the network


def direct_evidence(
    model: Backbone,
    template: Template,
    lengths: Tensor,
    *,
    first: int = 0,
    batch_size: int = 64,
) -> Evidence:
    """log p(what follows gap `first` | what stands before it), with all gaps unseen.

    The gaps have the last ranks, so that no row sees them: one row for every token that follows,
    each of which sees all text to its left but the gaps. No filling is generated. These rows have
    an unknown left, which only permuted training orders teach a model (the bundled one's recipe
    has them, that of the published models has not).

    Args:
        model: any backbone.
        template: the text.
        lengths: (C, G) lengths of its gaps; all combinations go through the network in batches.
        first: the gap whose length is in question; that of those before it is settled.
        batch_size: combinations that go through the network together.
    """
    parts = template.ids
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
    """log p(tokens from num_prompt on | those before), in place order, at positions (C, P + R)."""
    positions = positions.to(model.device)
    tokens = tokens.to(model.device).expand_as(positions)
    ranks = torch.arange(tokens.shape[1], device=model.device).expand_as(positions)
    limits = torch.where(ranks < num_prompt, num_prompt, ranks + 1)
    content = ContentRows(tokens, positions, limits, ranks)
    hidden = model(content, QueryRows(positions[:, num_prompt:], ranks[:, num_prompt:]))
    rows, targets = hidden.flatten(0, 1), tokens[:, num_prompt:].flatten()
    law = Law(model.mask_token_id)
    found = [
        law.log_probs(model.logits(rows[chunk])).gather(1, targets[chunk, None])[:, 0]
        for chunk in chunks(len(rows), model.vocab_size)
    ]
    return torch.cat(found).view(len(positions), -1).double().sum(1).cpu()


def importance_evidence(
    model: Backbone,
    template: Template,
    tables: Tensor,
    lengths: Tensor,
    *,
    num_fills: int = 4,
    seed: int = 0,
    batch_size: int = 16,
) -> Evidence:
    """log p(what follows the first gap | what stands before it), by importance weights.

    A filling is drawn given both sides, at temperature 1 without filters; its weight is the joint
    density of the filling and what follows, left to right, over the density with which it was
    drawn. The mean weight estimates p(what follows | what stands before) without bias, by rows
    that every training order teaches.

    Args:
        model: any backbone.
        template: the text.
        tables: (3, V) what its positions may hold, `template.token_tables`.
        lengths: (C, G) lengths of the gaps.
        num_fills: fillings drawn for each combination.
        seed: of the draws.
        batch_size: fillings drawn together.
    """
    jobs = [(c, f) for c in range(len(lengths)) for f in range(num_fills)]
    weights = torch.zeros(len(lengths), num_fills, dtype=torch.float64)
    num_rows = 0
    for start in range(0, len(jobs), batch_size):
        part = jobs[start : start + batch_size]
        rows = [template.with_gaps(lengths[c].tolist()) for c, _ in part]
        ids, allowed, order = collate(rows, tables)
        seeds = [keyed_seed(seed, "length", c, f) for c, f in part]
        drawn = sample(model, ids, order, allowed=allowed, seed=seeds)
        onward = left_to_right(order, len(template.ids[0]))
        joint = log_prob(model, drawn.tokens.to(ids.device), onward, allowed=allowed)
        found = joint.double().sum(1) - drawn.log_probs.double().sum(1)
        num_rows += int(drawn.rows.sum() + (order.length + onward.num_targets).sum())
        for (c, f), weight in zip(part, found.tolist(), strict=True):
            weights[c, f] = weight
    return Evidence(weights.logsumexp(1) - math.log(num_fills), num_rows)


def collate(rows: Sequence[tuple[Tensor, Tensor]], tables: Tensor) -> tuple[Tensor, Allowed, Order]:
    """A batch of texts with gaps, as `Template.with_gaps` gives them: what `sample` takes."""
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    ids, kinds = (
        torch.nn.utils.rnn.pad_sequence([row[i] for row in rows], batch_first=True)
        for i in range(2)
    )
    return ids, Allowed(tables, kinds), Order.from_mask(kinds > 0, lengths)


def left_to_right(order: Order, num_prompt: int) -> Order:
    """The orders of an ordinary language model, for texts as long as those of `order`."""
    ranks = torch.arange(order.order.shape[1]).expand_as(order.order)
    return Order(ranks, num_prompt, order.length)


@lru_cache(maxsize=8)
def length_prior(tokenizer: PreTrainedTokenizerBase, low: int, high: int) -> Tensor:
    """P(m) for m from low to high, (high - low + 1,): lengths of spans of held-out text.

    The spans are 1 to 8 words (between blanks), as many of each number, of the bundled held-out
    prose and code; each length counts once more than it was seen.
    """
    words = [f" {w}" for d in held_out_documents() for w in d.text.split()]
    generator = keyed_generator("length prior")
    starts = torch.randint(len(words) - MAX_WORDS, (NUM_SPANS,), generator=generator).tolist()
    spans = ["".join(words[s : s + 1 + i % MAX_WORDS]) for i, s in enumerate(starts)]
    lengths = torch.tensor([len(ids) for ids in encode_all(tokenizer, spans)])
    counts = torch.bincount(lengths, minlength=high + 1)[low : high + 1].double() + 1
    return counts / counts.sum()


def posterior(log_prior: Tensor, evidence: Tensor) -> Tensor:
    """log P(m | text) from log P(m) and log p(what follows | what stands before, m), (C,) each."""
    return (log_prior + evidence.to(log_prior.dtype)).log_softmax(0)
