"""What a sampler gives back.

Shapes: B batch, L length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from asarm.sampling.cost import Costs


@dataclass(frozen=True)
class Round:
    """What one round did to one sequence, in token ids and positions.

    The drafts of a round are those it verified (or, for `parallel`, drew). Committing
    `committed` round after round replays the decoding.
    """

    drafted: list[tuple[int, int]]  # (position, token) of each draft, by rank
    accepted: list[bool]  # which drafts were kept: a prefix
    committed: list[tuple[int, int]]  # (position, token), by rank
    nfe: int  # network calls of the sequence up to the end of this round
    is_verified: bool = True  # whether the drafts were verified, or committed as they were drawn

    @property
    def replacement(self) -> tuple[int, int] | None:
        """The (position, token) that replaced the first rejected draft, if one was rejected."""
        return None if all(self.accepted) else self.committed[-1]


@dataclass(frozen=True)
class SampleResult:
    """A batch of samples, with what each of them took.

    Attributes:
        tokens: (B, L) prompt and padding as given, targets as sampled.
        log_probs: (B, L) log-probability of every sampled token under the target distribution,
            given the tokens of lower rank; 0 at prompt and padding. Their sum is the joint
            log-density. Of "parallel" and other samplers that do not draw from these
            conditionals, they are computed in one call more, which `nfe` leaves out, and without
            `Allowed.moves`.
        nfe: (B,) network calls, the number of function evaluations (the paper's NFE).
        rows: (B,) rows that the network computed, content and query rows together.
        rounds: (B,) rounds of drafting and verifying.
        drafted: (B,) drafts that were verified.
        accepted: (B,) drafts that were kept.
        k: the largest number of drafts of a round, or "auto"; None for what drafts nothing.
        costs: by which "auto" chose.
        lossless: whether the samples have exactly the sequential sampler's distribution.
        trace: the rounds of each sequence, if they were recorded.
    """

    tokens: Tensor
    log_probs: Tensor
    nfe: Tensor
    rows: Tensor
    rounds: Tensor
    drafted: Tensor
    accepted: Tensor
    k: int | Literal["auto"] | None
    lossless: bool
    costs: Costs | None = None
    trace: list[list[Round]] | None = None
