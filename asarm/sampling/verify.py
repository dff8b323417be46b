"""Accepting drafts and replacing the first rejected one: pure functions, and two couplings.

Leviathan et al. 2023 (arXiv 2211.17192); algorithm 1 of Guo & Ermon 2025.

Shapes: B batch, K drafts of a round, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from asarm.sampling.randomness import Purpose, Randomness


@dataclass(frozen=True)
class Drafts:
    """Tokens proposed for the next ranks of each sequence, and the laws they were drawn from."""

    tokens: Tensor  # (B, K)
    probs: Tensor  # (B, K, V)
    count: Tensor  # (B,) how many of the K are drafts; the rest is padding


class Verdict(NamedTuple):
    """How many drafts stand, and the token that comes after them."""

    accepted: Tensor  # (B,)
    token: Tensor  # (B,) meaningless where all drafts stand and no rank is left


def accept_prob(draft_probs: Tensor, target_probs: Tensor) -> Tensor:
    """Probability (...) of keeping a token drafted with draft_probs (...) of its own."""
    tiny = torch.finfo(draft_probs.dtype).tiny  # both laws are 0 at <mask>, beyond top-k and top-p
    return (target_probs / draft_probs.clamp(min=tiny)).clamp(max=1)


def residual(draft_probs: Tensor, target_probs: Tensor) -> Tensor:
    """Law (..., V) of the token that replaces a rejected draft: target mass it left uncovered."""
    uncovered = (target_probs - draft_probs).clamp(min=0)
    total = uncovered.sum(-1, keepdim=True)
    # equal laws leave nothing uncovered; a rejection is then rounding, so draw from the target
    return torch.where(total > 0, uncovered / total, target_probs)


def prefix_length(accepted: Tensor) -> Tensor:
    """Length (B,) of the leading run of True in (B, K)."""
    return accepted.long().cumprod(1).sum(1)


class Coupling(Protocol):
    """How draws from a draft law and from the target law hang together."""

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: int, needed: Tensor
    ) -> Tensor:
        """Tokens (B, K) at ranks (B, K) from probs (B, K, V), where `needed` (B, K)."""

    def verify(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: int, has_bonus: Tensor
    ) -> Verdict:
        """Keep a prefix of the drafts at ranks `start` (B,) and up, and choose what follows it.

        Where all drafts stand, a bonus token follows if target_probs (B, K or K + 1, V) holds
        the law of its rank, which `has_bonus` (B,) says.
        """


@dataclass(frozen=True)
class RejectionCoupling:
    """Keep a draft with probability target / draft, else draw from the residual.

    Args:
        randomness: where draws come from.
        slack: added to that probability; above 0 the law is no longer the target's.
    """

    randomness: Randomness
    slack: float = 0.0

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: int, needed: Tensor
    ) -> Tensor:
        return self.randomness.categorical(probs, ranks, purpose, round, needed)

    def verify(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: int, has_bonus: Tensor
    ) -> Verdict:
        num_drafts = drafts.tokens.shape[1]
        accepted = torch.zeros_like(drafts.count)
        batch = torch.arange(len(accepted), device=accepted.device)
        law = target_probs[:, 0]
        if num_drafts:
            accepted = self._accept(drafts, target_probs, start, round)
            law = target_probs[batch, accepted.clamp(max=target_probs.shape[1] - 1)]  # (B, V)
            rejected = drafts.probs[batch, accepted.clamp(max=num_drafts - 1)]
            all_stand = (accepted == drafts.count)[:, None]
            law = torch.where(all_stand, law, residual(rejected, law))
        needed = has_bonus | (accepted < drafts.count)
        ranks = (start + accepted)[:, None]
        token = self.draw(law[:, None], ranks, Purpose.RESIDUAL, round, needed[:, None])
        return Verdict(accepted, token[:, 0])

    def _accept(self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: int) -> Tensor:
        """How many drafts stand, (B,)."""
        token = drafts.tokens[..., None]  # (B, K, 1)
        steps = torch.arange(token.shape[1], device=token.device)
        target = target_probs[:, : len(steps)].gather(2, token)[..., 0]
        keep = self.slack + accept_prob(drafts.probs.gather(2, token)[..., 0], target)
        keep = keep.where(target > 0, 0)  # slack lets nothing in that the target law excludes
        is_draft = steps < drafts.count[:, None]
        kept = self.randomness.bernoulli(keep, start[:, None] + steps, round, is_draft)
        return prefix_length(kept & is_draft)


@dataclass(frozen=True)
class GumbelCoupling:
    """Every rank owns one Gumbel vector; draft and target both take argmax(log p + it).

    A draft stands if it is the target's own choice. The text is then the same for every lossless
    sampler, every k and every batch (the Gumbel-max trick; ties aside).
    """

    randomness: Randomness

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: int, needed: Tensor
    ) -> Tensor:
        return (probs.log() + self.randomness.gumbel(ranks, probs.shape[-1])).argmax(-1)

    def verify(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: int, has_bonus: Tensor
    ) -> Verdict:
        steps = torch.arange(target_probs.shape[1], device=start.device)
        ranks = start[:, None] + steps
        choice = self.draw(target_probs, ranks, Purpose.TARGET, round, torch.ones_like(ranks) > 0)
        num_drafts = drafts.tokens.shape[1]
        is_draft = steps[:num_drafts] < drafts.count[:, None]
        accepted = prefix_length((choice[:, :num_drafts] == drafts.tokens) & is_draft)
        place = accepted.clamp(max=len(steps) - 1)
        return Verdict(accepted, choice.gather(1, place[:, None])[:, 0])
