"""A small learned head that drafts with the neighbours of a token in view.

A draft row knows its position and all that was committed when the network was called, but neither
the token that was committed since nor the drafts beside it. The head sees the tokens that stand at
some offsets from the row's position by the time it is drafted, and moves the row's hidden state
before the logits are read. It runs on top of the network, on rows that are there anyway; the
distribution of what is sampled does not depend on it.

Shapes: R rows, N neighbours, C model width, H width of the head, K its bottleneck, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asarm.kernels.products import linear, pack

OFFSETS = (-1, -2, 1)


class Seen(IntEnum):
    """What a row and the head know of a neighbour."""

    NOT = 0  # not decoded yet, or beyond the text
    BY_ROW = 1  # the network's row saw it: nothing new
    BY_HEAD = 2  # committed or drafted since


@dataclass
class DraftHeadConfig:
    """The sizes that a head is made of, and the backbone that it belongs to.

    Args:
        d_model: width of the backbone.
        hidden: width of the head.
        rank: width of the bottleneck between the head and the change of a hidden state, in files as
            here; it has nothing to do with the ranks of an order.
        offsets: positions, from that of the row, whose tokens it sees.
        backbone: `fingerprint` of the weights that it was trained on top of.
    """

    d_model: int
    hidden: int = 256
    rank: int = 64
    offsets: list[int] = field(default_factory=lambda: list(OFFSETS))
    backbone: list[float] = field(default_factory=list)


class DraftHead(nn.Module):
    """Changes a row's hidden state by what is known of the neighbours of its position."""

    def __init__(self, config: DraftHeadConfig):
        super().__init__()
        self.config = config
        width, hidden, num_neighbours = config.d_model, config.hidden, len(config.offsets)
        self.row = nn.Linear(width, hidden)
        self.neighbours = nn.Linear(num_neighbours * width, hidden, bias=False)
        self.known = nn.Parameter(torch.zeros(len(Seen), num_neighbours, hidden))
        self.down = nn.Linear(hidden, config.rank)
        self.up = nn.Parameter(torch.zeros(width, config.rank))  # at first it changes nothing
        nn.init.normal_(self.neighbours.weight, std=width**-0.5)

    def forward(self, hidden: Tensor, embedded: Tensor, seen: Tensor) -> Tensor:
        """Give the change (R, C) of hidden states (R, C).

        Args:
            hidden: of the rows, as the network gave them.
            embedded: (R, N, C) embeddings of the neighbours.
            seen: (R, N) what is known of each, see `Seen`.
        """
        # of the tokens, only those that the row did not see are news; `known` marks the other cases
        beside = (embedded * (seen == Seen.BY_HEAD)[..., None]).flatten(-2)
        places = torch.arange(seen.shape[-1], device=seen.device)
        by_neighbours = linear(beside, self.neighbours.weight) + self.known[seen, places].sum(-2)
        return self.code(self.inner(hidden) + by_neighbours) @ self.up.T

    def inner(self, hidden: Tensor) -> Tensor:
        """Give the inner layer (..., H) of hidden states (..., C), without the neighbours."""
        return linear(hidden, self.row.weight, self.row.bias)

    def code(self, inner: Tensor) -> Tensor:
        """Give the low-rank code (R, K) of the change, from the whole inner layer (R, H)."""
        return linear(F.gelu(inner), self.down.weight, self.down.bias)

    def by_neighbour(self, embedding: Tensor) -> Tensor:
        """Tabulate what a neighbour adds to the inner layer, (N, V + 2, H).

        The first V entries are for a token that the head alone saw, by its embedding (V, C); the
        last two are for one that nothing saw, and for one that the row saw.
        """
        weights = self.neighbours.weight.unflatten(1, (-1, embedding.shape[1]))  # (H, N, C)
        of_tokens = embedding @ weights.permute(1, 2, 0) + self.known[Seen.BY_HEAD][:, None]
        return torch.cat([of_tokens, self.known[[Seen.NOT, Seen.BY_ROW]].transpose(0, 1)], dim=1)

    def pack(self) -> None:
        """Pack the weights that drafting multiplies by."""
        pack(self.row.weight)
        pack(self.down.weight)


def neighbours_of(
    positions: Tensor, ranks: Tensor, limits: Tensor, rank_of: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the ranks (B, K, N) of the neighbours of rows, and what is known of each, see `Seen`.

    The rows have positions (B, K) and ranks (B, K), and their neighbours are at offsets (N,) from
    them. Known is what is known once it is the turn of the row's rank: below `limits` (B, K or 1)
    the network's rows saw it, and below the rank it is committed or drafted. `rank_of` (B, L) is
    the rank of each position.
    """
    beside = positions[..., None] + offsets
    size = rank_of.shape[1]
    is_inside = (beside >= 0) & (beside < size)
    found = rank_of.gather(1, beside.clamp(0, size - 1).flatten(1)).view(beside.shape)
    # the rows saw ranks below their limit; what is below the rank, but not the limit, came since
    seen = torch.where(found < limits[..., None], Seen.BY_ROW, Seen.BY_HEAD)
    return found, torch.where(is_inside & (found < ranks[..., None]), seen, Seen.NOT)


class HasDraftHead:
    """What an `nn.Module` inherits from so that a draft head may stand on top of it.

    The head goes where the model goes, and is cast to what the model is cast to. It is none of the
    model's modules: the parameters and the state of a model are the same with a head and without.
    """

    draft_head: DraftHead | None = None

    def set_draft_head(self, head: DraftHead | None) -> None:
        """Have a head draft for this model, or none."""
        # past nn.Module, which would count the head's weights among the model's
        object.__setattr__(self, "draft_head", head)

    def _apply(self, fn, recurse=True):
        """Do to the head's weights what is done to the model's: `to`, `half`, `cuda`, ... end here.

        torch knows no other place that all of them pass; its recurrent layers extend this one too.
        """
        super()._apply(fn, recurse)  # type: ignore[misc]  # that of nn.Module
        if self.draft_head is not None:
            self.draft_head._apply(fn, recurse)
        return self
