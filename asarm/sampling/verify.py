"""Accepting drafts and replacing the first rejected one: pure functions, and two couplings.

Leviathan et al. 2023 (arXiv 2211.17192); algorithm 1 of Guo & Ermon 2025.

Shapes: B batch, K drafts of a round, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from asarm.sampling.randomness import Purpose, Randomness, Step


@dataclass(frozen=True)
class Drafts:
    """Tokens proposed for the next ranks of each sequence, and the laws they were drawn from."""

    tokens: Tensor  # (B, K)
    probs: Tensor  # (B, K, V)
    count: Tensor  # (B,) how many of the K are drafts; the rest is padding

    def select(self, sequences: Tensor) -> Drafts:
        """Those of some sequences (n,) of the batch alone."""
        return Drafts(self.tokens[sequences], self.probs[sequences], self.count[sequences])


class Verdict(NamedTuple):
    """How many drafts stand, and the token that comes after them."""

    accepted: Tensor  # (B,)
    token: Tensor  # (B,) meaningless where all drafts stand and no rank is left


def accept_prob(draft_probs: Tensor, target_probs: Tensor) -> Tensor:
    """Probability (...) of keeping a token drafted with draft_probs (...) of its own."""
    tiny = torch.finfo(draft_probs.dtype).tiny  # both laws are 0 at <mask>, beyond top-k and top-p
    return (target_probs / draft_probs.clamp(min=tiny)).clamp(max=1)


def residual(draft_probs: Tensor, target_probs: Tensor) -> Tensor:
    """Law (..., V) of the token that replaces a rejected draft: target mass it left uncovered.

    The target may be weighted, by the joint ratio of the drafts that stand before.
    """
    uncovered = (target_probs - draft_probs).clamp(min=0)
    total = uncovered.sum(-1, keepdim=True)
    # equal laws leave nothing uncovered; a rejection is then rounding, so draw from the target
    instead = target_probs / target_probs.sum(-1, keepdim=True)
    return torch.where(total > 0, uncovered / total, instead)


def prefix_length(accepted: Tensor) -> Tensor:
    """Length (B,) of the leading run of True in (B, K)."""
    return accepted.long().cumprod(1).sum(1)


class Coupling(Protocol):
    """How draws from a draft law and from the target law hang together."""

    def select(self, sequences: Tensor) -> Coupling:
        """That of some sequences (n,) of the batch alone."""

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: Step, needed: Tensor
    ) -> Tensor:
        """Tokens (B, K) at ranks (B, K) from probs (B, K, V), where `needed` (B, K)."""

    def verify(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: Step, has_bonus: Tensor
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

    def select(self, sequences: Tensor) -> RejectionCoupling:
        return replace(self, randomness=self.randomness.select(sequences))

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: Step, needed: Tensor
    ) -> Tensor:
        return self.randomness.categorical(probs, ranks, purpose, round, needed)

    def verify(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: Step, has_bonus: Tensor
    ) -> Verdict:
        num_drafts = drafts.tokens.shape[1]
        accepted = torch.zeros_like(drafts.count)
        batch = torch.arange(len(accepted), device=accepted.device)
        law = target_probs[:, 0]
        if num_drafts:
            accepted, weight = self.accept(drafts, target_probs[:, :num_drafts], start, round)
            law = target_probs[batch, accepted.clamp(max=target_probs.shape[1] - 1)]  # (B, V)
            rejected = drafts.probs[batch, accepted.clamp(max=num_drafts - 1)]
            all_stand = (accepted == drafts.count)[:, None]
            law = torch.where(all_stand, law, residual(rejected, law * weight[:, None]))
        needed = has_bonus | (accepted < drafts.count)
        ranks = (start + accepted)[:, None]
        token = self.draw(law[:, None], ranks, Purpose.RESIDUAL, round, needed[:, None])
        return Verdict(accepted, token[:, 0])

    def accept(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: Step
    ) -> tuple[Tensor, Tensor]:
        """How many drafts stand, (B,), and the weight (B,) of the target law in the residual.

        Here draft after draft, until the first that does not stand; the weight is 1.
        """
        steps = torch.arange(drafts.tokens.shape[1], device=start.device)
        is_draft = steps < drafts.count[:, None]
        keep = self.keep_probs(drafts, target_probs)
        kept = self.randomness.bernoulli(keep, start[:, None] + steps, round, is_draft)
        accepted = prefix_length(kept & is_draft)
        return accepted, torch.ones_like(accepted, dtype=target_probs.dtype)

    def keep_probs(self, drafts: Drafts, target_probs: Tensor) -> Tensor:
        """Probability (B, K) that each draft stands, if those before it do."""
        draft, target = probs_of(drafts, target_probs)
        keep = self.slack + accept_prob(draft, target)
        return keep.where(target > 0, 0)  # slack lets nothing in that the target law excludes


@dataclass(frozen=True)
class BlockCoupling(RejectionCoupling):
    """Keep the longest prefix of the drafts that their joint ratio allows (arXiv 2403.10444).

    On average it keeps no fewer drafts than one after the other would, from the same laws.
    """

    def accept(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: Step
    ) -> tuple[Tensor, Tensor]:
        """From the last draft down, the first prefix that stands; the weight is its joint ratio."""
        weights = prefix_weights(*probs_of(drafts, target_probs))  # (B, K)
        keep = block_keep_probs(weights, drafts, target_probs)
        steps = torch.arange(weights.shape[1], device=start.device)
        ends = drafts.count[:, None] - 1 - steps  # the drafts, last one first
        is_draft = ends >= 0
        ends = ends.clamp(min=0)
        falls = self.randomness.bernoulli(
            1 - keep.gather(1, ends), start[:, None] + ends, round, is_draft
        )
        accepted = drafts.count - prefix_length(falls & is_draft)
        weight = weights.gather(1, (accepted[:, None] - 1).clamp(min=0))[:, 0]
        return accepted, weight.where(accepted > 0, 1)


def has_bad(drafts: Drafts) -> Tensor:
    """Whether a draft is impossible under the distribution it is said to come from, (B, K)."""
    steps = torch.arange(drafts.tokens.shape[1], device=drafts.count.device)
    own = drafts.probs.gather(2, drafts.tokens[..., None])[..., 0]
    return (steps < drafts.count[:, None]) & ~(own > 0)  # a softmax with NaN or inf is NaN


def probs_of(drafts: Drafts, target_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of each draft, (B, K), under its draft law and under the target law."""
    token = drafts.tokens[..., None]
    return drafts.probs.gather(2, token)[..., 0], target_probs.gather(2, token)[..., 0]


def prefix_weights(draft_probs: Tensor, target_probs: Tensor) -> Tensor:
    """Joint ratio (B, K) of each prefix: target / draft, multiplied up, never above 1."""
    tiny = torch.finfo(draft_probs.dtype).tiny
    ratios = target_probs / draft_probs.clamp(min=tiny)
    weight, weights = torch.ones_like(ratios[:, 0]), []
    for ratio in ratios.unbind(1):
        weight = (weight * ratio).clamp(max=1)
        weights.append(weight)
    return torch.stack(weights, dim=1)


def block_keep_probs(weights: Tensor, drafts: Drafts, target_probs: Tensor) -> Tensor:
    """Probability (B, K) that each prefix stands, where no longer one does.

    Equation 4 of arXiv 2403.10444: what the target, weighted, leaves uncovered of the next draft's
    law, over that and the weight that is missing; the weight itself for the whole block.
    """
    uncovered = (weights[:, :-1, None] * target_probs[:, 1:] - drafts.probs[:, 1:]).clamp(min=0)
    left = uncovered.sum(-1)  # (B, K - 1)
    missing = 1 - weights[:, :-1]
    total = left + missing
    keep = torch.where(total > 0, left / total, 1)  # equal laws: a longer prefix stands
    keep = torch.cat([keep, weights[:, -1:]], dim=1)
    steps = torch.arange(weights.shape[1], device=weights.device)
    return torch.where(steps == drafts.count[:, None] - 1, weights, keep)


@dataclass(frozen=True)
class GumbelCoupling:
    """Every rank owns one Gumbel vector; draft and target both take argmax(log p + it).

    A draft stands if it is the target's own choice. The text is then the same for every lossless
    sampler, every k and every batch (the Gumbel-max trick; ties aside).
    """

    randomness: Randomness

    def select(self, sequences: Tensor) -> GumbelCoupling:
        return replace(self, randomness=self.randomness.select(sequences))

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: Step, needed: Tensor
    ) -> Tensor:
        return (probs.log() + self.randomness.gumbel(ranks, probs.shape[-1])).argmax(-1)

    def verify(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: Step, has_bonus: Tensor
    ) -> Verdict:
        steps = torch.arange(target_probs.shape[1], device=start.device)
        ranks = start[:, None] + steps
        choice = self.draw(target_probs, ranks, Purpose.TARGET, round, torch.ones_like(ranks) > 0)
        num_drafts = drafts.tokens.shape[1]
        is_draft = steps[:num_drafts] < drafts.count[:, None]
        accepted = prefix_length((choice[:, :num_drafts] == drafts.tokens) & is_draft)
        place = accepted.clamp(max=len(steps) - 1)
        return Verdict(accepted, choice.gather(1, place[:, None])[:, 0])
