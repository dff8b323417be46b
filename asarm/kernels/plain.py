"""The definitions: what the tuned kernels beside this module compute, in the plainest way.

Nothing here is fast, and all of it is differentiated by autograd. `attention`, `products` and
`cross_entropy` are tested against these functions, forward and backward.

Shapes: B batch, N rows, S slots, P = 2L - 1 distances, H heads, D head width, I inputs,
O outputs, C model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ALL = slice(None)


class Sight(NamedTuple):
    """Where rows and slots are, and how many ranks each row sees."""

    positions: Tensor  # (B, N)
    limits: Tensor  # (B, N)
    slot_positions: Tensor  # (B, S)
    slot_ranks: Tensor  # (B, S), or (1, S) where they are the same in all sequences
    num_distances: int  # P, of the table: the distances -(L - 1) .. L - 1

    @property
    def size(self) -> tuple[int, int]:
        """How many rows and slots there are, (N, S)."""
        return self.positions.shape[1], self.slot_positions.shape[1]

    def distance(self, rows: slice = ALL, slots: slice = ALL) -> Tensor:
        """Tell how far rows are to the right of slots, as an index of the table, (B, N, S)."""
        zero = self.num_distances // 2  # the table begins at -(L - 1): distance 0 is at L - 1
        return self.positions[:, rows, None] - self.slot_positions[:, None, slots] + zero

    def is_hidden(self, rows: slice = ALL, slots: slice = ALL) -> Tensor:
        """Tell which slots a row may not see, (B, N, S) bool: those of ranks from its limit on."""
        return self.slot_ranks[:, None, slots] >= self.limits[:, rows, None]


def attend(
    query: Tensor,
    content_bias: Tensor,
    distance_bias: Tensor,
    keys: Tensor,
    values: Tensor,
    table: Tensor,
    sight: Sight,
    scale: float,
    is_kept: Tensor | None = None,
    dropout_rate: float = 0.0,
) -> Tensor:
    """Attend with every row, (B, N, H, D): softmax over slots of scale x (q_c k + q_d r), times v.

    Dai et al. 2019 (arXiv 1901.02860), section 3.3, with rows that see the slots of their own.

    Args:
        query: (B, N, H, D).
        content_bias: (H, D), which makes it q_c, the query to the keys.
        distance_bias: (H, D), which makes it q_d, the query to the table of distances.
        keys: (B, H, S, D).
        values: (B, H, S, D).
        table: (H, D, P), every distance as a key r.
        sight: who sees whom, and from what distance. A row that sees nothing gets zeros.
        scale: of the scores.
        is_kept: (B, H, N, S) which probabilities dropout keeps; all if None.
        dropout_rate: the rate at which the others were dropped.
    """
    by_content = torch.einsum("bnhd,bhsd->bhns", query + content_bias, keys)
    by_distance = torch.einsum("bnhd,hdp->bhnp", query + distance_bias, table)
    index = sight.distance()[:, None].expand_as(by_content)  # the distance of row n and slot s
    scores = scale * (by_content + by_distance.gather(3, index))
    is_hidden = sight.is_hidden()[:, None]
    probs = scores.masked_fill(is_hidden, -torch.inf).softmax(3)
    probs = probs.masked_fill(is_hidden, 0)  # the softmax of a row that sees nothing is NaN
    if is_kept is not None:
        probs = probs * is_kept / (1 - dropout_rate)
    return torch.einsum("bhns,bhsd->bnhd", probs, values)


def linear(
    rows: Tensor, weight: Tensor, bias: Tensor | None = None, *, transposed: bool = False
) -> Tensor:
    """Multiply rows (..., I) by a weight (O, I), or (I, O) where it is `transposed`: (..., O).

    Further dimensions of the weight count as one.
    """
    matrix = weight.flatten(1)
    return F.linear(rows, matrix.t() if transposed else matrix, bias)


def head_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    tokens: Tensor,
    row_weights: Tensor,
    filter_logits: Callable[[Tensor], Tensor],
) -> Tensor:
    """Compute the weighted sum over rows of -log p(token), in nats.

    Args:
        hidden: (N, C) hidden states.
        weight: (V, C), from hidden states to logits.
        bias: (V,) of the logits.
        tokens: (N,) what each row has to predict.
        row_weights: (N,).
        filter_logits: removes what is never predicted; what it is given may be overwritten.
    """
    logits = filter_logits(linear(hidden, weight, bias))  # (N, V)
    return (row_weights * F.cross_entropy(logits, tokens, reduction="none")).sum()
