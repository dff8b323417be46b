"""What decoding keeps of the content rows that a network has computed: keys and values, by slot.

Shapes: B batch, R content rows, S slots, P = 2L - 1 distances, H heads, D head width.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of every layer, kept at slot = rank.

    A content row depends on lower ranks alone, so what is kept stays valid; the slot of a
    rejected token is overwritten by the token that replaces it. The last slot is spare: padded
    rows write there, and no limit reaches it.
    """

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor, tables: list[Tensor]):
        self.keys = keys  # (layers, B, H, S, D)
        self.values = values  # (layers, B, H, S, D)
        self.positions = positions  # (B, S) the position whose token each slot holds
        self.tables = tables  # (H, D, P) per layer: every distance as a key
        self.sequences = torch.arange(len(positions), device=positions.device)[:, None]  # (B, 1)
        self.is_static = False

    def select(self, sequences: Tensor) -> KeyValueCache:
        """Give the cache of some sequences (n,) of the batch alone."""
        found = copy(self)
        found.keys, found.values = self.keys[:, sequences], self.values[:, sequences]
        found.positions = self.positions[sequences]
        found.sequences = self.sequences[: len(sequences)]
        return found

    def fix_shapes(self) -> None:
        """Have rows look over all slots from now on, whatever their limits."""
        self.is_static = True

    def num_slots(self, limits: Tensor) -> int:
        """How many slots rows with these limits look over; none looks beyond its limit."""
        # a row with limit n sees ranks 0 .. n - 1, in the first n slots; the last slot is spare
        return self.positions.shape[1] - 1 if self.is_static else int(limits.max())

    def write_positions(self, slots: Tensor, positions: Tensor) -> None:
        """Note at which positions (B, R) the tokens are that come to slots (B, R)."""
        self.positions.scatter_(1, slots, positions)

    def update(
        self, layer: int, slots: Tensor, num_slots: int, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keep keys and values (B, H, R, D) of one layer at slots (B, R), and give all that it has.

        What is given back is that of the first `num_slots` slots, (B, H, num_slots, D) each.
        """
        # (B, 1) and (B, R) together pick (b, slots[b, r]) from (B, S, H, D); on a CPU, scatter_
        # takes ten times as long in bfloat16
        at = self.sequences, slots
        self.keys[layer].transpose(1, 2)[at] = keys.transpose(1, 2)
        self.values[layer].transpose(1, 2)[at] = values.transpose(1, 2)
        return self.read(layer, num_slots)

    def read(self, layer: int, num_slots: int) -> tuple[Tensor, Tensor]:
        """Give keys and values (B, H, num_slots, D) of the first slots of one layer."""
        return self.keys[layer, :, :, :num_slots], self.values[layer, :, :, :num_slots]
