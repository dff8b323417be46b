"""What a draft head learns from: tokens some ranks ahead, with the tokens between in view.

Shapes: B batch, L length, S starts of a sequence, K lags, R rows, C model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asarm.density import joint_rows
from asarm.draft_head import DraftHead, Seen
from asarm.law import Law
from asarm.model import AnySubsetTransformer
from asarm.objective import joint_loss
from asarm.order import Order
from asarm.rows import QueryRows
from asarm.schedule import keyed_generator

LAGS = 8  # ranks ahead, of the rows that a head learns from


class DraftObjective(nn.Module):
    """The loss of a draft head behind a model: what is wrapped for several processes.

    Args:
        model: the backbone.
        head: the head.
        loss_scale: where the backbone learns too, that of its joint loss; None where it is frozen.
    """

    def __init__(
        self, model: AnySubsetTransformer, head: DraftHead, *, loss_scale: str | None = None
    ):
        super().__init__()
        self.model, self.head, self.loss_scale = model, head, loss_scale

    def forward(self, input_ids: Tensor, order: Order, starts: Tensor) -> Tensor:
        """Mean over sequences of the mean over draft rows of -log p(token), in nats; and the joint
        loss of the backbone."""
        log_probs, is_row = draft_log_probs(self.model, self.head, input_ids, order, starts)
        loss = -(log_probs.sum(1) / is_row.sum(1).clamp(min=1)).mean()  # one target: no draft row
        if self.loss_scale is not None:
            loss = loss + joint_loss(self.model, input_ids, order, loss_scale=self.loss_scale)
        return loss


def draw_starts(order: Order, count: int, *, seed: int, step: int, indices: list[int]) -> Tensor:
    """Ranks (B, S) from which a sequence's drafts might start, keyed by its place in the batch.

    Each has at least one rank behind it, unless the sequence has one target only.
    """
    starts = []
    for b, index in enumerate(indices):
        generator = keyed_generator(seed, "draft", step, index)
        most = max(1, int(order.num_targets[b]) - 1)
        starts.append(int(order.num_prompt[b]) + torch.randint(most, (count,), generator=generator))
    return torch.stack(starts)


def draft_log_probs(
    model: AnySubsetTransformer, head: DraftHead, input_ids: Tensor, order: Order, starts: Tensor
) -> tuple[Tensor, Tensor]:
    """log p (B, R) under the head's law of the tokens 1 to `LAGS` ranks after each start.

    The rows see what is below the start; the head sees the tokens in between as well, as if they
    had been committed or drafted. With it, which of them (B, R) are rows: none lies beyond the last
    rank, and log p is 0 there.

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
    content, _ = joint_rows(input_ids, order)
    hidden = model(content, QueryRows(positions, limits))[is_row]  # (R, C)
    tokens, seen = known_neighbours(input_ids, order, positions, ranks, limits, head)
    embedded = model.get_input_embeddings()(tokens[is_row])
    changed = hidden + head(hidden, embedded, seen[is_row])
    law = Law(model.mask_token_id)
    laws = law.log_probs(model.logits(changed))
    found = laws.gather(1, input_ids.gather(1, positions)[is_row][:, None])[:, 0]
    return found.new_zeros(is_row.shape).masked_scatter(is_row, found), is_row


def known_neighbours(
    input_ids: Tensor,
    order: Order,
    positions: Tensor,
    ranks: Tensor,
    limits: Tensor,
    head: DraftHead,
) -> tuple[Tensor, Tensor]:
    """The tokens (B, R, N) beside rows at `positions` (B, R), and what is known of them."""
    offsets = torch.tensor(head.config.offsets, device=positions.device)
    size = input_ids.shape[1]
    beside = positions[..., None] + offsets  # (B, R, N)
    is_inside = (beside >= 0) & (beside < size)
    flat = beside.clamp(0, size - 1).flatten(1)
    rank = order.rank.gather(1, flat).view(beside.shape)
    seen = torch.where(rank < limits[..., None], Seen.BY_ROW, Seen.BY_HEAD)
    seen = torch.where(is_inside & (rank < ranks[..., None]), seen, Seen.NOT)
    return input_ids.gather(1, flat).view(beside.shape), seen
