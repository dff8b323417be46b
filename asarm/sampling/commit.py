"""The end of a round: drafts are verified, and what is accepted is committed.

Shapes: B batch, K drafts of a round, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from asarm.drafting.drafters import Drafts
from asarm.sampling.network import Net
from asarm.sampling.result import Round
from asarm.sampling.state import State
from asarm.sampling.verify import has_bad


@dataclass(frozen=True)
class Outcome:
    """What a round decided: the drafts that were accepted and the token that follows them.

    Attributes:
        drafts: what was verified, the exact ones first.
        num_exact: how many of them were drawn from the target distribution.
        start: (B,) the rank of the first draft.
        accepted: (B,) how many of the drafts were.
        token: (B,) what follows them, where `has_token` (B,) says so.
        is_verified: whether the drafts were verified.
    """

    drafts: Drafts
    num_exact: int
    start: Tensor
    accepted: Tensor
    token: Tensor
    has_token: Tensor
    is_verified: bool = True

    def records(self, state: State) -> Iterator[tuple[int, Round]]:
        """Yield the rounds of the sequences that took part, by their places in the whole batch."""
        for b, sequence in enumerate(state.sequences.tolist()):
            count, accepted = int(self.drafts.count[b]), int(self.accepted[b])
            start = int(self.start[b])
            if count == 0 and not self.has_token[b]:
                continue
            positions = state.positions[b, start : start + count + 1].tolist()
            tokens = self.drafts.tokens[b, :count].tolist()
            drafted = list(zip(positions, tokens, strict=False))
            committed = drafted[:accepted]
            if self.has_token[b]:
                committed = [*committed, (positions[accepted], int(self.token[b]))]
            is_accepted = [j < accepted for j in range(self.num_exact, count)]
            nfe, own_drafts = int(state.nfe[b]), drafted[self.num_exact :]
            yield sequence, Round(own_drafts, is_accepted, committed, nfe, self.is_verified)


def verify_and_commit(
    net: Net,
    state: State,
    drafts: Drafts,
    target_probs: Tensor,
    *,
    has_bonus: Tensor,
    num_exact: int = 0,
) -> Outcome:
    """Verify drafts, and commit those that are accepted and the token that follows them.

    Args:
        net: the model.
        state: of the batch; the drafts are at its next ranks.
        drafts: what is verified.
        target_probs: (B, K or K + 1, V) the target distributions at the drafts' ranks and, where
            `has_bonus` says so, at the rank after them.
        has_bonus: (B,) whether a token follows where all drafts of a sequence are accepted.
        num_exact: how many of the drafts were drawn from the target distribution, and so are
            accepted.
    """
    start, is_left = state.num_committed, state.left > 0
    if drafts.tokens.shape[1]:
        state.is_bad_draft |= has_bad(drafts).any()
    accepted, token = net.verifier.verify(
        drafts, target_probs, start, state.round_number, has_bonus
    )
    has_token = has_bonus | (accepted < drafts.count)
    state.write(start + accepted, token[:, None], has_token.long())
    state.rounds += is_left
    state.drafted += (drafts.count - num_exact).clamp(min=0)
    state.accepted += (accepted - num_exact).clamp(min=0)
    state.rejected += accepted < drafts.count
    state.commit(accepted + has_token, target_probs)
    return Outcome(
        drafts=drafts,
        num_exact=num_exact,
        start=start,
        accepted=accepted,
        token=token,
        has_token=has_token,
    )


def commit_unverified(state: State, drafts: Drafts) -> Outcome:
    """Commit drafts as they are."""
    start = state.num_committed
    state.rounds += drafts.count > 0
    state.commit(drafts.count, drafts.probs)
    return Outcome(
        drafts=drafts,
        num_exact=0,
        start=start,
        accepted=drafts.count,
        token=torch.zeros_like(start),
        has_token=torch.zeros_like(start, dtype=torch.bool),
        is_verified=False,
    )
