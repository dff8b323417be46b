"""Decoding orders: which positions are given, and in which order the others are decoded.

Shapes: B batch, L length (of the longest sequence), r rank, i position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from operator import index as whole

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, init=False)
class Order:
    """A decoding order for each sequence of a batch: which position is decoded at each rank.

    `order[b, r]` is the position decoded at rank r (the paper's sigma); ranks below
    `num_prompt[b]` are given, the ranks from there to `length[b]` are targets, and the
    padding of a sequence shorter than L takes the last ranks, in place.

    Args:
        order: (B, L) int64, a permutation of 0..L-1 in every row.
        num_prompt: (B,) how many ranks are given; an int serves every sequence. May be 0.
        length: (B,) how many positions are not padding; all L if None.

    Raises:
        ValueError: a row is not a permutation, padding is not last, or no target is left.
    """

    order: Tensor
    num_prompt: Tensor
    length: Tensor

    def __init__(
        self,
        order: Tensor,
        num_prompt: int | Sequence[int] | Tensor,
        length: int | Sequence[int] | Tensor | None = None,
    ) -> None:
        order = torch.as_tensor(order)
        if order.ndim != 2 or order.is_floating_point():
            raise ValueError(
                f"order has shape {tuple(order.shape)} and dtype {order.dtype}; "
                "expected integers of shape (batch, length)"
            )
        length = order.shape[1] if length is None else length
        object.__setattr__(self, "order", order.long())
        object.__setattr__(self, "num_prompt", _per_sequence(num_prompt, order, "num_prompt"))
        object.__setattr__(self, "length", _per_sequence(length, order, "length"))
        self._check()

    def _check(self) -> None:
        order, size = self.order.cpu(), self.order.shape[1]
        for b, row in enumerate(order):
            num_prompt, length = int(self.num_prompt[b]), int(self.length[b])
            outside = row[(row < 0) | (row >= size)]
            if len(outside):
                raise ValueError(
                    f"order of sequence {b} holds position {int(outside[0])}; "
                    f"expected positions 0 to {size - 1}"
                )
            counts = torch.bincount(row, minlength=size)
            if (counts > 1).any():
                raise ValueError(
                    f"order of sequence {b} holds position {int(counts.argmax())} "
                    f"{int(counts.max())} times; expected every position once"
                )
            if not 1 <= length <= size:
                raise ValueError(f"length of sequence {b} is {length}; expected 1 to {size}")
            if not 0 <= num_prompt <= length:
                raise ValueError(
                    f"num_prompt of sequence {b} is {num_prompt}; "
                    f"expected 0 to {length - 1}, below its length {length}"
                )
            if num_prompt == length:
                raise ValueError(
                    f"sequence {b} has no target: all its {length} positions are prompt; "
                    "blank out at least one"
                )
            if not torch.equal(row[length:], torch.arange(length, size)):
                raise ValueError(
                    f"order of sequence {b} decodes padding; its last {size - length} ranks "
                    f"must be the positions {length} to {size - 1}, in place"
                )

    @cached_property
    def rank(self) -> Tensor:
        """The inverse of `order`, (B, L): rank[b, i] is the rank of position i."""
        return self.order.argsort(dim=1)

    @cached_property
    def is_target(self) -> Tensor:
        """Which positions are to be predicted, (B, L) bool: neither prompt nor padding."""
        return (self.rank >= self.num_prompt[:, None]) & (self.rank < self.length[:, None])

    @property
    def num_targets(self) -> Tensor:
        """How many positions each sequence has to predict, (B,)."""
        return self.length - self.num_prompt

    def __len__(self) -> int:
        return self.order.shape[0]

    def to(self, device: torch.device | str) -> Order:
        """Return the same orders on another device."""
        return _checked(self.order.to(device), self.num_prompt.to(device), self.length.to(device))

    def with_prompt(self, num_prompt: Tensor) -> Order:
        """Return the same ranks with others of them given, (B,), unchecked: a check would copy."""
        return _checked(self.order, num_prompt, self.length)

    def __eq__(self, other: object) -> bool:
        """Return whether both decode the same ranks at the same positions."""
        if not isinstance(other, Order):
            return NotImplemented
        pairs = zip(self._parts(), other._parts(), strict=True)
        return all(torch.equal(mine.cpu(), theirs.cpu()) for mine, theirs in pairs)

    def __hash__(self) -> int:
        return hash(tuple(tuple(part.flatten().tolist()) for part in self._parts()))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.order, self.num_prompt, self.length

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Order:
        """Return the orders of some sequences, a batch again; an int gives a batch of one.

        Raises:
            IndexError: there is no such sequence.
        """
        if isinstance(index, Integral) or (isinstance(index, Tensor) and index.ndim == 0):
            number = int(index)
            if not -len(self) <= number < len(self):
                raise IndexError(f"sequence {number} of a batch of {len(self)}")
            index = [number]
        return _checked(self.order[index], self.num_prompt[index], self.length[index])

    @classmethod
    def from_mask(cls, is_target: Tensor, length: Tensor | Sequence[int] | None = None) -> Order:
        """Make orders that have the prompt left to right, then the targets left to right.

        Args:
            is_target: (B, L) bool, True where a token is to be predicted; (L,) is a batch of one.
            length: (B,) how many positions are not padding; all L if None.
        """
        is_target = torch.atleast_2d(torch.as_tensor(is_target)).bool()
        size = is_target.shape[1]
        lengths = _per_sequence(size if length is None else length, is_target, "length")
        is_padding = torch.arange(size, device=is_target.device) >= lengths[:, None]
        group = torch.where(is_padding, 2, is_target.long())
        return cls(group.argsort(dim=1, stable=True), ((group == 0).sum(1)), lengths)

    @classmethod
    def left_to_right(cls, length: int, num_prompt: int) -> Order:
        """Make the order of an ordinary language model, (1, length)."""
        return cls(torch.arange(length)[None], num_prompt)

    @classmethod
    def random_split(
        cls, length: int, prompt_share: float, *, batch: int = 1, seed: int | Sequence[int]
    ) -> Order:
        """Draw orders of the 2^N protocol: a random prompt, then the targets, both left to right.

        The prompt has int(length x prompt_share) + 1 positions, at least 1 and at most length - 1.

        Args:
            seed: sequence b uses seed + b, or its own where one int per sequence is given.
        """
        _check_length(length)
        if not 0 <= prompt_share <= 1:
            raise ValueError(f"prompt_share is {prompt_share}; expected a fraction from 0 to 1")
        num_prompt = min(max(int(length * prompt_share) + 1, 1), length - 1)
        is_target = torch.ones(batch, length, dtype=torch.bool)
        for b, permutation in enumerate(_permutations(length, batch, seed)):
            is_target[b, permutation[:num_prompt]] = False
        return cls.from_mask(is_target)

    @classmethod
    def random_permutation(
        cls, length: int, num_prompt: int, *, batch: int = 1, seed: int | Sequence[int]
    ) -> Order:
        """Draw orders of the N! protocol: a random prompt in place, then targets in random order.

        Args:
            seed: sequence b uses seed + b, or its own where one int per sequence is given.
        """
        _check_length(length)
        order = torch.stack(_permutations(length, batch, seed))
        order[:, :num_prompt] = order[:, :num_prompt].sort(dim=1).values
        return cls(order, num_prompt)


def _checked(order: Tensor, num_prompt: Tensor, length: Tensor) -> Order:
    """Return an Order of what has been checked before."""
    made = object.__new__(Order)
    for name, value in (("order", order), ("num_prompt", num_prompt), ("length", length)):
        object.__setattr__(made, name, value)
    return made


def _per_sequence(values: int | Sequence[int] | Tensor, like: Tensor, name: str) -> Tensor:
    """Return one int64 per sequence, (B,), on the device of `like` (B, ...)."""
    values = torch.as_tensor(values, device=like.device)
    if values.is_floating_point() or values.ndim > 1 or values.numel() not in (1, len(like)):
        raise ValueError(
            f"{name} has shape {tuple(values.shape)} and dtype {values.dtype}; "
            f"expected one integer, or one for each of {len(like)} sequences"
        )
    return values.long().expand(len(like)).clone()


def per_sequence_seeds(seed: int | Sequence[int], batch: int) -> list[int]:
    """Return one seed for each sequence: seed + b, or the given ones.

    Raises:
        ValueError: something that is not a whole number, or another number of seeds.
    """
    try:
        if isinstance(seed, Integral) or (isinstance(seed, Tensor) and seed.ndim == 0):
            return [whole(seed) + b for b in range(batch)]
        seeds = [whole(s) for s in seed]  # type: ignore[union-attr]
    except TypeError:
        raise ValueError(
            f"seed is {seed!r}; expected a whole number, or one for each of {batch} sequences"
        ) from None
    if len(seeds) != batch:
        raise ValueError(f"seed holds {len(seeds)} values; expected one int, or {batch} of them")
    return seeds


def _permutations(length: int, batch: int, seed: int | Sequence[int]) -> list[Tensor]:
    seeds = per_sequence_seeds(seed, batch)
    return [torch.randperm(length, generator=torch.Generator().manual_seed(s)) for s in seeds]


def _check_length(length: int) -> None:
    if length < 2:
        raise ValueError(f"length is {length}; expected at least 2: one prompt and one target")
