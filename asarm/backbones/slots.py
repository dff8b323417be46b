"""What decoding keeps of the rows that a decoder of transformers has computed.

Shapes: B batch, L length, N rows of a call (content first), S slots, H key heads, D head width.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from asarm.rows import ContentRows

NEVER = 2**62  # the rank of a position whose token the network has not read


class Tokens:
    """The tokens that a network has read, by position, each with its rank. Position L is spare."""

    def __init__(self, batch: int, length: int, device: torch.device):
        self.ids = torch.zeros(batch, length + 1, dtype=torch.long, device=device)
        self.ranks = torch.full_like(self.ids, NEVER)

    def write(self, content: ContentRows) -> Tensor:
        """Note the tokens of content rows; return the row of each position, (B, L + 1), or -1."""
        spare = self.ids.shape[1] - 1
        where = content.positions.where(content.limits > 0, spare)  # padding goes to the spare one
        row = torch.full_like(self.ids, -1)
        row.scatter_(1, where, torch.arange(where.shape[1], device=where.device).expand_as(where))
        self.ids.scatter_(1, where, content.tokens)
        self.ranks.scatter_(1, where, content.ranks)
        return row

    def select(self, sequences: Tensor) -> Tokens:
        """Return those of some sequences (n,) of the batch."""
        found = copy(self)
        found.ids, found.ranks = self.ids[sequences], self.ranks[sequences]
        return found


class SlotCache:
    """Keys and values of every layer at slot = rank, and the tokens that they are of.

    The last slot is spare: padded rows write there, and no limit reaches it.
    """

    def __init__(self, batch: int, length: int, device: torch.device):
        self.tokens = Tokens(batch, length, device)
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # (B, H, S, D) each, S = L + 1
        self.is_static = False

    def select(self, sequences: Tensor) -> SlotCache:
        """Return the cache of some sequences (n,) of the batch."""
        found = copy(self)
        found.tokens = self.tokens.select(sequences)
        found.layers = {n: (k[sequences], v[sequences]) for n, (k, v) in self.layers.items()}
        return found

    def fix_shapes(self) -> None:
        """Have rows look over all slots from now on, whatever their limits."""
        self.is_static = True

    def num_slots(self, limits: Tensor) -> int:
        """Return how many slots rows with these limits look over."""
        return self.tokens.ids.shape[1] - 1 if self.is_static else max(int(limits.max()), 1)


class Call(Cache):
    """One call's view of a `SlotCache`, in the form in which transformers' layers ask for it."""

    def __init__(self, cache: SlotCache, slots: Tensor, num_slots: int):
        super().__init__(layers=[])
        self.cache, self.slots, self.num_slots = cache, slots, num_slots
        self.sequences = torch.arange(len(slots), device=slots.device)[:, None]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep keys and values (B, H, N, D) of content rows; return those of the call's slots."""
        new = key_states, value_states
        if layer_idx not in self.cache.layers:
            num_slots = self.cache.tokens.ids.shape[1]
            keys, values = (x.new_zeros(*x.shape[:2], num_slots, x.shape[3]) for x in new)
            self.cache.layers[layer_idx] = keys, values
        keys, values = self.cache.layers[layer_idx]
        for kept, rows in ((keys, key_states), (values, value_states)):
            content = rows[:, :, : self.slots.shape[1]].transpose(1, 2)
            kept.transpose(1, 2)[self.sequences, self.slots] = content
        return keys[:, :, : self.num_slots], values[:, :, : self.num_slots]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many slots rows look over."""
        return self.num_slots

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Return the width of the mask, and where its first slot is."""
        return self.num_slots, 0
