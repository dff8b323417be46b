"""Dropout that draws few random numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEVELS = 2**16  # 16 random bits of an entry are compared with the rate


class Dropout(nn.Module):
    """Zero entries at a rate and scale the others up, in training.

    `nn.Dropout` with a third of its time on a CPU: one random number serves four entries. The
    rate is rounded to a multiple of 2**-16.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = round_rate(rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}"

    def forward(self, entries: Tensor) -> Tensor:
        return self.keep(entries, self.draw(entries) if self.is_on else None)

    def keep(self, entries: Tensor, is_kept: Tensor | None) -> Tensor:
        """Drop what is not kept, of what was drawn; nothing if None."""
        # a product with bool takes half of masked_fill's time on a CPU
        return entries if is_kept is None else entries * is_kept * self.scale

    @property
    def is_on(self) -> bool:
        return self.training and self.rate > 0

    @property
    def scale(self) -> float:
        """Of the entries that are kept."""
        return 1 / (1 - self.rate)

    def draw(self, like: Tensor) -> Tensor:
        """Which entries are kept, bool of the shape of `like`."""
        words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
        words.random_(-(2**63), None)  # all 64 bits
        bits = words.view(torch.int16)[: like.numel()]
        return (bits >= round(self.rate * LEVELS) - LEVELS // 2).view(like.shape)


def round_rate(rate: float) -> float:
    """The rate that is dropped when `rate` is asked for."""
    return round(rate * LEVELS) / LEVELS
