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
        """Show the rate where a model is printed."""
        return f"rate={self.rate:.4g}"

    def forward(self, entries: Tensor) -> Tensor:
        """Drop entries of any shape."""
        return self.keep(entries, self.draw(entries) if self.is_on else None)

    def keep(self, entries: Tensor, is_kept: Tensor | None) -> Tensor:
        """Drop the entries that a draw does not keep; none if it is None."""
        # a product with bool takes half of masked_fill's time on a CPU
        return entries if is_kept is None else entries * is_kept * self.scale

    @property
    def is_on(self) -> bool:
        """Whether anything is dropped: in training, at a rate above 0."""
        return self.training and self.rate > 0

    @property
    def scale(self) -> float:
        """What kept entries are multiplied by, so that the mean stays."""
        return 1 / (1 - self.rate)

    def draw(self, like: Tensor) -> Tensor:
        """Draw which entries are kept, as bool of the shape of `like`."""
        # an entry takes 16 bits, so one random int64 serves four: a quarter of them, rounded up
        words = torch.empty(-(-like.numel() // 4), dtype=torch.int64, device=like.device)
        words.random_(-(2**63), None)  # all 64 bits
        bits = words.view(torch.int16)[: like.numel()]
        # the 2**16 values of int16 begin at -2**15: the lowest `rate` of them drop their entry
        return (bits >= round(self.rate * LEVELS) - LEVELS // 2).view(like.shape)


def round_rate(rate: float) -> float:
    """Give the rate at which entries are dropped when `rate` is asked for."""
    return round(rate * LEVELS) / LEVELS
