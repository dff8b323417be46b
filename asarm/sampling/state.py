"""A batch while it is decoded: what is committed, what is cached, what it has cost so far.

Everything is in rank space: column r of what is (B, L + 1) belongs to rank r, whatever its
position. Column L is spare: padding reads it and writes it.

Shapes: B batch, L length, K drafts of a round, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from asarm.drafting.drafters import Drafts
from asarm.order import Order
from asarm.rows import content_limits
from asarm.sampling.randomness import RoundNumber

COUNTS = ("nfe", "rows", "rounds", "drafted", "accepted", "rejected")


@dataclass
class State:
    """What one round leaves to the next, as tensors.

    Attributes:
        num_prompt: (B,) how many ranks are given.
        length: (B,) how many ranks are not padding.
        positions: (B, L + 1) the position of each rank.
        rank_of: (B, L) the rank of each position in the order that was given.
        limits: (B, L + 1) how many ranks the content row of each rank may see.
        tokens: (B, L + 1) final below `num_committed`.
        log_probs: (B, L + 1) of the tokens that were sampled, under the target distribution.
        num_committed: (B,) how many ranks are committed, those of the prompt included.
        cached: (B,) how many ranks the cache holds the content of.
        sequences: (B,) which sequences of the whole batch these are.
        drafts: of the next round, where one call verifies and drafts.
        nfe, rows, rounds, drafted, accepted, rejected: (B,) counts as in `SampleResult`; `rejected`
            counts rounds, those in which a draft was rejected.
        round_number: how many rounds were made; a tensor () where the device alone counts them.
        total_committed: () how many tokens were committed, of all sequences.
        is_nan: () whether a target distribution held NaN.
        is_bad_draft: () whether a draft came from no distribution.
    """

    num_prompt: Tensor
    length: Tensor
    positions: Tensor
    rank_of: Tensor
    limits: Tensor
    tokens: Tensor
    log_probs: Tensor
    num_committed: Tensor
    cached: Tensor
    sequences: Tensor
    drafts: Drafts
    nfe: Tensor
    rows: Tensor
    rounds: Tensor
    drafted: Tensor
    accepted: Tensor
    rejected: Tensor
    round_number: RoundNumber
    total_committed: Tensor
    is_nan: Tensor
    is_bad_draft: Tensor

    @classmethod
    def of(
        cls,
        input_ids: Tensor,
        order: Order,
        vocab_size: int,
        dtype: torch.dtype,
        *,
        counts_on_device: bool = False,
    ) -> State:
        """Make the state before the first round from checked ids (B, L).

        Args:
            input_ids: ids at targets and padding are never read.
            order: the decoding order.
            vocab_size: of the model.
            dtype: of distributions.
            counts_on_device: whether the device alone counts rounds.
        """
        batch, size = input_ids.shape
        ranks = torch.arange(size + 1, device=input_ids.device).expand(batch, -1)
        positions = torch.cat([order.order, torch.zeros_like(ranks[:, :1])], dim=1)
        is_prompt = ranks < order.num_prompt[:, None]
        tokens = input_ids.gather(1, positions).where(is_prompt, 0)
        zero = torch.zeros_like(order.num_prompt)
        return cls(
            num_prompt=order.num_prompt,
            length=order.length,
            positions=positions,
            rank_of=order.rank,
            limits=content_limits(ranks, order.num_prompt),
            tokens=tokens,
            log_probs=torch.zeros(tokens.shape, device=tokens.device, dtype=dtype),
            num_committed=order.num_prompt.clone(),
            cached=zero.clone(),
            sequences=torch.arange(batch, device=tokens.device),
            drafts=Drafts.none(zero, vocab_size, dtype),
            **{name: zero.clone() for name in COUNTS},
            round_number=zero[0].clone() if counts_on_device else 0,
            total_committed=zero[0].clone(),
            is_nan=zero[0] > 0,
            is_bad_draft=zero[0] > 0,
        )

    @property
    def left(self) -> Tensor:
        """How many targets each sequence still lacks, (B,)."""
        return self.length - self.num_committed

    @property
    def spare(self) -> int:
        """The rank that padding reads and writes."""
        return self.rank_of.shape[1]

    def next_ranks(self, start: Tensor, count: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return `count` (B,) ranks from `start` (B,) on, then spare, (B, size); and which
        count."""
        steps = torch.arange(size, device=start.device)
        is_rank = steps < count[:, None]
        return torch.where(is_rank, start[:, None] + steps, self.spare), is_rank

    def write(self, start: Tensor, tokens: Tensor, count: Tensor) -> None:
        """Write the first `count` (B,) of tokens (B, K) at ranks `start` (B,) and up."""
        ranks, _ = self.next_ranks(start, count, tokens.shape[1])
        self.tokens.scatter_(1, ranks, tokens)

    def commit(self, count: Tensor, probs: Tensor) -> None:
        """Commit the next `count` (B,) tokens, drawn from probs (B, K, V)."""
        ranks, is_new = self.next_ranks(self.num_committed, count, probs.shape[1])
        tokens = self.tokens.gather(1, ranks)
        log_probs = probs.gather(2, tokens[..., None])[..., 0].log()
        self.is_nan |= log_probs.isnan().logical_and(is_new).any()
        self.log_probs.scatter_(1, ranks, log_probs)
        self.num_committed = self.num_committed + count
        # the last token has never been a content row, or its slot still holds a rejected draft
        self.cached = self.cached.minimum(self.num_committed - 1)
        self.round_number += 1
        self.total_committed += count.sum()

    def select(self, sequences: Tensor) -> State:
        """Return the state of some sequences (n,); what belongs to the whole batch stays shared."""
        return State(**{name: _selected(value, sequences) for name, value in self.items()})

    def put(self, part: State) -> None:
        """Write back what some of the sequences have come to, and what belongs to all."""
        for name, value in part.items():
            whole = getattr(self, name)
            if isinstance(value, Tensor) and value.ndim and name != "sequences":
                setattr(self, name, whole.index_copy(0, part.sequences, value))
            elif not isinstance(value, Drafts) and name != "sequences":
                setattr(self, name, value)

    def flat(self) -> dict[str, Any]:
        """Return every field by its name, the drafts' fields too."""
        drafts = {f"drafts.{field.name}": getattr(self.drafts, field.name) for field in DRAFTS}
        return {name: value for name, value in self.items() if name != "drafts"} | drafts

    def assign(self, values: dict[str, Any]) -> None:
        """Set the fields that `flat` returned."""
        self.drafts = Drafts(*(values[f"drafts.{field.name}"] for field in DRAFTS))
        for name, value in values.items():
            if not name.startswith("drafts."):
                setattr(self, name, value)

    def items(self) -> list[tuple[str, Any]]:
        """Return the fields by their names."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def by_position(self, input_ids: Tensor, order: Order) -> tuple[Tensor, Tensor]:
        """Return tokens and log-probabilities by position, (B, L) each; given ids elsewhere."""
        positions = self.positions[:, :-1]
        tokens = input_ids.scatter(1, positions, self.tokens[:, :-1])
        log_probs = torch.zeros_like(self.log_probs[:, :-1])
        log_probs.scatter_(1, positions, self.log_probs[:, :-1])
        return tokens.where(order.is_target, input_ids), log_probs.where(order.is_target, 0)


DRAFTS = fields(Drafts)


def _selected(value: Any, sequences: Tensor) -> Any:
    if isinstance(value, Drafts):
        return value.select(sequences)
    return value[sequences] if isinstance(value, Tensor) and value.ndim else value
