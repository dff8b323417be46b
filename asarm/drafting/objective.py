"""What a draft head learns from: tokens some ranks ahead, with the tokens between in view.

Shapes: B batch, L length, S starts of a sequence, K lags, R rows, C model width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asarm.distribution import Distribution
from asarm.drafting.head import DraftHead, neighbours_of
from asarm.objective import joint_loss
from asarm.order import Order
from asarm.rows import QueryRows, TrainableBackbone, joint_rows
from asarm.schedule import keyed_generator

LAGS = 12  # ranks ahead, of the rows that a head learns from


class DraftDistributions(NamedTuple):
    """Distributions (R, V) of drafts and of the network, and which of (B, S K) rows these are."""

    draft: Tensor
    target: Tensor
    is_row: Tensor

    def rejected(self) -> Tensor:
        """Return the probability (B, S K) of rejecting a draft if those before it are accepted.

        This is the total variation of its distribution and the target's (arXiv 2211.17192,
        corollary 3.6); 0 where there is no row.
        """
        rejected = 1 - torch.minimum(self.draft, self.target).sum(1)
        return rejected.new_zeros(self.is_row.shape).masked_scatter(self.is_row, rejected)


class DraftObjective(nn.Module):
    """The loss of a draft head on top of a model: what is wrapped for several processes.

    Args:
        model: the backbone.
        head: the head.
        loss_scale: where the backbone learns too, that of its joint loss; None where it is frozen.
    """

    def __init__(self, model: TrainableBackbone, head: DraftHead, *, loss_scale: str | None = None):
        super().__init__()
        self.model, self.head, self.loss_scale = model, head, loss_scale

    def forward(self, input_ids: Tensor, order: Order, starts: Tensor) -> Tensor:
        """Return the mean over sequences of the mean rate at which drafts are rejected; and the
        joint loss of the backbone."""
        found = draft_distributions(self.model, self.head, input_ids, order, starts)
        num_rows = found.is_row.sum(1).clamp(min=1)  # one target: no draft row
        loss = (found.rejected().sum(1) / num_rows).mean()
        if self.loss_scale is not None:
            loss = loss + joint_loss(self.model, input_ids, order, loss_scale=self.loss_scale)
        return loss


def draw_starts(order: Order, count: int, *, seed: int, step: int, indices: list[int]) -> Tensor:
    """Draw ranks (B, S) where a sequence's drafts might start, keyed by its place in the batch.

    Each has at least one rank after it, unless the sequence has one target only.
    """
    starts = []
    for b, index in enumerate(indices):
        generator = keyed_generator(seed, "draft", step, index)
        num_starts = max(1, int(order.num_targets[b]) - 1)
        starts.append(
            int(order.num_prompt[b]) + torch.randint(num_starts, (count,), generator=generator)
        )
    return torch.stack(starts)


def draft_distributions(
    model: TrainableBackbone, head: DraftHead, input_ids: Tensor, order: Order, starts: Tensor
) -> DraftDistributions:
    """Compute distributions of tokens 1 to `LAGS` ranks after each start, of head and target.

    The rows that the head is on top of see what is below the start; the head sees the tokens in
    between as well, as if they had been committed or drafted. The target knows all that is
    below the rank; nothing is learned through it. No row lies beyond the last rank.

    Args:
        model: the backbone.
        head: the head.
        input_ids: (B, L).
        order: which positions are targets, and in which order they are decoded.
        starts: (B, S) how many ranks the rows see.
    """
    ranks = (starts[..., None] + torch.arange(1, LAGS + 1, device=starts.device)).flatten(1)
    limits = starts[..., None].expand(-1, -1, LAGS).flatten(1)
    is_row = ranks < order.length[:, None]
    ranks, limits = torch.where(is_row, ranks, 0), torch.where(is_row, limits, 0)
    positions = order.order.gather(1, ranks)  # (B, S K)
    content, targets = joint_rows(input_ids, order)
    query = QueryRows(
        torch.cat([positions, targets.positions], dim=1),
        torch.cat([limits, targets.limits], dim=1),
    )
    found = model(content, query)
    hidden, exact = found.split([ranks.shape[1], targets.positions.shape[1]], dim=1)
    hidden = hidden[is_row]  # (R, C)
    nth = (ranks - order.num_prompt[:, None]).clamp(min=0)  # target of its sequence
    exact = exact.gather(1, nth[..., None].expand(-1, -1, exact.shape[2]))[is_row]
    offsets = torch.tensor(head.config.offsets, device=positions.device)
    nearby, seen = neighbours_of(positions, ranks, limits, order.rank, offsets)
    tokens = content.tokens.gather(1, nearby.flatten(1)).view(nearby.shape)
    embedded = F.embedding(tokens[is_row], model.embedding_weights())
    changed = hidden + head(hidden, embedded, seen[is_row])
    distribution = Distribution(model.mask_token_id)
    with torch.no_grad():
        target = distribution.probs(model.logits(exact))
    return DraftDistributions(distribution.probs(model.logits(changed)), target, is_row)
