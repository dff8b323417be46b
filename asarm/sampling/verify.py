"""Accepting drafts and replacing the first rejected one: pure functions, and three verifiers.

Leviathan et al. 2023 (arXiv 2211.17192); algorithm 1 of Guo & Ermon 2025.

Shapes: B batch, K drafts of a round, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from asarm.drafting.drafters import Drafts
from asarm.sampling.randomness import Purpose, Randomness, RoundNumber


class Verdict(NamedTuple):
    """How many drafts are accepted, and the token that comes after them."""

    accepted: Tensor  # (B,)
    token: Tensor  # (B,) meaningless where all drafts are accepted and no rank is left


def accept_prob(draft_probs: Tensor, target_probs: Tensor) -> Tensor:
    """Return the probability (...) of accepting a token that was drafted with draft_probs (...)."""
    tiny = torch.finfo(draft_probs.dtype).tiny  # both are 0 at <mask>, beyond top-k and top-p
    return (target_probs / draft_probs.clamp(min=tiny)).clamp(max=1)


def residual(draft_probs: Tensor, target_probs: Tensor) -> Tensor:
    """Return the distribution (..., V) that replaces a rejected draft: the uncovered target mass.

    The target may be weighted, by the joint ratio of the drafts that are accepted before.
    """
    uncovered = (target_probs - draft_probs).clamp(min=0)
    total = uncovered.sum(-1, keepdim=True)
    # equal distributions leave nothing uncovered: a rejection is rounding then, so draw the target
    instead = target_probs / target_probs.sum(-1, keepdim=True)
    return torch.where(total > 0, uncovered / total, instead)


def prefix_length(accepted: Tensor) -> Tensor:
    """Return the length (B,) of the leading run of True in (B, K)."""
    return accepted.long().cumprod(1).sum(1)


class Verifier(Protocol):
    """Draws tokens, and verifies drafts so that the target distribution is kept."""

    def select(self, sequences: Tensor) -> Verifier:
        """Return the verifier of some sequences (n,) of the batch alone."""

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: RoundNumber, needed: Tensor
    ) -> Tensor:
        """Draw tokens (B, K) at ranks (B, K) from probs (B, K, V), where `needed` (B, K)."""

    def verify(
        self,
        drafts: Drafts,
        target_probs: Tensor,
        start: Tensor,
        round: RoundNumber,
        has_bonus: Tensor,
    ) -> Verdict:
        """Accept a prefix of the drafts at ranks `start` (B,) and up, and choose what follows it.

        Where all drafts are accepted, a bonus token follows if target_probs (B, K or K + 1, V)
        holds the distribution of its rank, which `has_bonus` (B,) says.
        """


@dataclass(frozen=True)
class RejectionVerifier:
    """Accepts a draft with probability target / draft, else draws from the residual.

    Args:
        randomness: where draws come from.
        tolerance: added to that probability; above 0 the distribution is no longer the target's.
    """

    randomness: Randomness
    tolerance: float = 0.0

    def select(self, sequences: Tensor) -> RejectionVerifier:
        return replace(self, randomness=self.randomness.select(sequences))

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: RoundNumber, needed: Tensor
    ) -> Tensor:
        return self.randomness.categorical(probs, ranks, purpose, round, needed)

    def verify(
        self,
        drafts: Drafts,
        target_probs: Tensor,
        start: Tensor,
        round: RoundNumber,
        has_bonus: Tensor,
    ) -> Verdict:
        num_drafts = drafts.tokens.shape[1]
        accepted = torch.zeros_like(drafts.count)
        batch = torch.arange(len(accepted), device=accepted.device)
        probs = target_probs[:, 0]
        if num_drafts:
            accepted, weight = self.accept(drafts, target_probs[:, :num_drafts], start, round)
            probs = target_probs[batch, accepted.clamp(max=target_probs.shape[1] - 1)]  # (B, V)
            rejected = drafts.probs[batch, accepted.clamp(max=num_drafts - 1)]
            are_accepted = (accepted == drafts.count)[:, None]
            probs = torch.where(are_accepted, probs, residual(rejected, probs * weight[:, None]))
        needed = has_bonus | (accepted < drafts.count)
        ranks = (start + accepted)[:, None]
        token = self.draw(probs[:, None], ranks, Purpose.RESIDUAL, round, needed[:, None])
        return Verdict(accepted, token[:, 0])

    def accept(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: RoundNumber
    ) -> tuple[Tensor, Tensor]:
        """Return how many drafts are accepted, (B,), and the target's weight (B,) in the residual.

        This goes draft by draft, until the first that is rejected; the weight is 1.
        """
        steps = torch.arange(drafts.tokens.shape[1], device=start.device)
        is_draft = steps < drafts.count[:, None]
        keep = self.keep_probs(drafts, target_probs)
        kept = self.randomness.bernoulli(keep, start[:, None] + steps, round, is_draft)
        accepted = prefix_length(kept & is_draft)
        return accepted, torch.ones_like(accepted, dtype=target_probs.dtype)

    def keep_probs(self, drafts: Drafts, target_probs: Tensor) -> Tensor:
        """Return the probability (B, K) that each draft is accepted, if those before it are."""
        draft, target = probs_of(drafts, target_probs)
        keep = self.tolerance + accept_prob(draft, target)
        return keep.where(target > 0, 0)  # no tolerance lets in what the target excludes


@dataclass(frozen=True)
class BlockVerifier(RejectionVerifier):
    """Accepts the longest prefix of drafts that their joint ratio allows (arXiv 2403.10444).

    On average it accepts no fewer drafts than verification one after the other, from the same
    distributions.
    """

    def accept(
        self, drafts: Drafts, target_probs: Tensor, start: Tensor, round: RoundNumber
    ) -> tuple[Tensor, Tensor]:
        """Accept the first prefix from the last draft down; the weight is its joint ratio."""
        weights = prefix_weights(*probs_of(drafts, target_probs))  # (B, K)
        keep = block_keep_probs(weights, drafts, target_probs)
        steps = torch.arange(weights.shape[1], device=start.device)
        ends = drafts.count[:, None] - 1 - steps  # the drafts, last one first
        is_draft = ends >= 0
        ends = ends.clamp(min=0)
        is_rejected = self.randomness.bernoulli(
            1 - keep.gather(1, ends), start[:, None] + ends, round, is_draft
        )
        accepted = drafts.count - prefix_length(is_rejected & is_draft)
        weight = weights.gather(1, (accepted[:, None] - 1).clamp(min=0))[:, 0]
        return accepted, weight.where(accepted > 0, 1)


def has_bad(drafts: Drafts) -> Tensor:
    """Return whether a draft is impossible under its own distribution, (B, K)."""
    steps = torch.arange(drafts.tokens.shape[1], device=drafts.count.device)
    own = drafts.probs.gather(2, drafts.tokens[..., None])[..., 0]
    return (steps < drafts.count[:, None]) & ~(own > 0)  # a softmax with NaN or inf is NaN


def probs_of(drafts: Drafts, target_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of each draft, (B, K), under its own distribution and the target's."""
    token = drafts.tokens[..., None]
    return drafts.probs.gather(2, token)[..., 0], target_probs.gather(2, token)[..., 0]


def prefix_weights(draft_probs: Tensor, target_probs: Tensor) -> Tensor:
    """Return the joint ratio (B, K) of each prefix: target / draft, multiplied, at most 1."""
    tiny = torch.finfo(draft_probs.dtype).tiny
    ratios = target_probs / draft_probs.clamp(min=tiny)
    weight, weights = torch.ones_like(ratios[:, 0]), []
    for ratio in ratios.unbind(1):
        weight = (weight * ratio).clamp(max=1)
        weights.append(weight)
    return torch.stack(weights, dim=1)


def block_keep_probs(weights: Tensor, drafts: Drafts, target_probs: Tensor) -> Tensor:
    """Return the probability (B, K) that each prefix is accepted, where no longer one is.

    The paper's h_i (arXiv 2403.10444, equation 4): what the weighted target has beyond the next
    draft's distribution, over that and the weight that is missing. Of the last draft of a sequence,
    which in a batch may come before column K, it is the weight itself.
    """
    uncovered = (weights[:, :-1, None] * target_probs[:, 1:] - drafts.probs[:, 1:]).clamp(min=0)
    left = uncovered.sum(-1)  # (B, K - 1)
    missing = 1 - weights[:, :-1]
    total = left + missing
    keep = torch.where(total > 0, left / total, 1)  # equal distributions: a longer one is kept
    keep = torch.cat([keep, weights[:, -1:]], dim=1)
    steps = torch.arange(weights.shape[1], device=weights.device)
    return torch.where(steps == drafts.count[:, None] - 1, weights, keep)


@dataclass(frozen=True)
class GumbelVerifier:
    """Gives every rank one Gumbel vector; draft and target both take argmax(log p + it).

    A draft is accepted if the target draws it, too. The text is then the same for every
    lossless sampler, every k and every batch (the Gumbel-max trick; ties aside).
    """

    randomness: Randomness

    def select(self, sequences: Tensor) -> GumbelVerifier:
        return replace(self, randomness=self.randomness.select(sequences))

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: RoundNumber, needed: Tensor
    ) -> Tensor:
        return (probs.log() + self.randomness.gumbel(ranks, probs.shape[-1])).argmax(-1)

    def verify(
        self,
        drafts: Drafts,
        target_probs: Tensor,
        start: Tensor,
        round: RoundNumber,
        has_bonus: Tensor,
    ) -> Verdict:
        steps = torch.arange(target_probs.shape[1], device=start.device)
        ranks = start[:, None] + steps
        chosen = self.draw(target_probs, ranks, Purpose.TARGET, round, torch.ones_like(ranks) > 0)
        num_drafts = drafts.tokens.shape[1]
        is_draft = steps[:num_drafts] < drafts.count[:, None]
        accepted = prefix_length((chosen[:, :num_drafts] == drafts.tokens) & is_draft)
        place = accepted.clamp(max=len(steps) - 1)
        return Verdict(accepted, chosen.gather(1, place[:, None])[:, 0])


VERIFIERS: dict[str, type[RejectionVerifier] | type[GumbelVerifier]] = {
    "block": BlockVerifier,
    "rejection": RejectionVerifier,
    "gumbel": GumbelVerifier,
}


def make_verifier(name: str, randomness: Randomness, tolerance: float = 0.0) -> Verifier:
    """Make a verifier from its name; with a tolerance, drafts are verified one after the other."""
    if tolerance:
        return RejectionVerifier(randomness, tolerance)
    return VERIFIERS[name](randomness)
