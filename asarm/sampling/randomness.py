"""Random numbers that depend on what they are for, and on nothing else.

Every number is a hash of (sequence seed, rank, purpose, round): the same on every device, in
every batch, whatever else was drawn. The hash is splitmix64 (Steele, Lea & Flood 2014) in
tensor operations; int64 arithmetic wraps as it needs.

Shapes: B batch, K ranks, V vocabulary.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
RANK_STRIDE = 0xD1342543DE82EF95
ROUND_STRIDE = 0xAEF17502108EF2D9


RoundNumber = int | Tensor  # a tensor () where the device alone counts rounds


class Purpose(IntEnum):
    """What a random number decides."""

    TARGET = 0  # a token of the target distribution that is drawn before drafts, or beside others
    DRAFT = 1  # a draft
    ACCEPT = 2  # whether a draft is accepted
    RESIDUAL = 3  # what follows the accepted drafts: a replacement, a bonus, every sequential token
    GUMBEL = 4  # the Gumbel vector of a rank, whatever is drawn by it


class Randomness(Protocol):
    """Everything that a sampler leaves to chance.

    `needed` says which numbers decide something. Hashed numbers cost nothing and ignore it;
    randomness that goes through all outcomes, as tests have, takes the needed ones only.
    """

    def categorical(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: RoundNumber, needed: Tensor
    ) -> Tensor:
        """Draw tokens (B, K) from probs (B, K, V); only those `needed` (B, K) are looked at."""

    def bernoulli(self, prob: Tensor, ranks: Tensor, round: RoundNumber, needed: Tensor) -> Tensor:
        """Draw yes (B, K) with probability prob (B, K); only those `needed`, up to the first no."""

    def gumbel(self, ranks: Tensor, vocab_size: int) -> Tensor:
        """Return the Gumbel vectors (B, K, V) that the ranks (B, K) own."""

    def select(self, sequences: Tensor) -> Randomness:
        """Return the randomness of some sequences (n,) of the batch alone."""


class HashedRandomness:
    """Draws everything from one seed per sequence (B,)."""

    def __init__(self, seeds: Tensor):
        self.seeds = seeds
        self._keys = mix(seeds * signed(GOLDEN))[:, None]  # (B, 1)

    def select(self, sequences: Tensor) -> HashedRandomness:
        return HashedRandomness(self.seeds[sequences])

    def categorical(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: RoundNumber, needed: Tensor
    ) -> Tensor:
        return inverse_cdf(probs, self._uniform(ranks, purpose, round))

    def bernoulli(self, prob: Tensor, ranks: Tensor, round: RoundNumber, needed: Tensor) -> Tensor:
        return self._uniform(ranks, Purpose.ACCEPT, round) < prob

    def gumbel(self, ranks: Tensor, vocab_size: int) -> Tensor:
        keys = self._bits(ranks, Purpose.GUMBEL, 0)[..., None]
        tokens = torch.arange(vocab_size, device=ranks.device) * signed(GOLDEN)
        uniform = unit_interval(mix(keys + tokens)) + 2.0**-54  # inside (0, 1)
        return -(-uniform.log()).log()

    def _bits(self, ranks: Tensor, purpose: Purpose, round: RoundNumber) -> Tensor:
        stream: RoundNumber = (round * len(Purpose) + purpose) * signed(ROUND_STRIDE)
        stream = stream if isinstance(stream, Tensor) else signed(stream)
        return mix(self._keys + (ranks * signed(RANK_STRIDE) + stream))

    def _uniform(self, ranks: Tensor, purpose: Purpose, round: RoundNumber) -> Tensor:
        """Return numbers in [0, 1), float64, (B, K)."""
        return unit_interval(self._bits(ranks, purpose, round))


def inverse_cdf(probs: Tensor, uniform: Tensor) -> Tensor:
    """Return the token (...) where the summed probs (..., V) pass `uniform` (...) of their total.

    A token of probability 0 is never taken.
    """
    summed = probs.cumsum(-1, dtype=torch.float64)
    aim = uniform[..., None] * summed[..., -1:]
    token = torch.searchsorted(summed, aim, right=True)[..., 0]
    return token.clamp(
        max=probs.shape[-1] - 1
    )  # NaN probs have no such token: found when committed


def mix(x: Tensor) -> Tensor:
    """Mix the bits of int64 `x` so that the upper bits of neighbours have nothing in common.

    This is splitmix64 without its last step, which mends the lower bits: nothing reads them alone.
    """
    x = (x ^ _shift(x, 30)) * signed(MIX_1)
    return (x ^ _shift(x, 27)) * signed(MIX_2)


def unit_interval(bits: Tensor) -> Tensor:
    """Make the top 53 bits a float64 in [0, 1)."""
    return _shift(bits, 11).to(torch.float64) * 2.0**-53


def signed(x: int) -> int:
    """Make the lowest 64 bits of `x` the int64 of the same bits."""
    x &= (1 << 64) - 1
    return x - (1 << 64) if x >> 63 else x


def _shift(x: Tensor, by: int) -> Tensor:
    """Shift right logically: torch's own shift keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
