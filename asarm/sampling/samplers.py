"""The samplers: loops of drafting, verifying and committing.

All but `parallel` have exactly the law of `sequential`, and none makes more network calls than
there are targets.

Shapes: B batch, K drafts of a round, Q query rows, C model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asarm.sampling.decoding import Decoding
from asarm.sampling.draft import Draft, ngram_draft, no_drafts, self_draft
from asarm.sampling.randomness import Purpose
from asarm.sampling.verify import Drafts


def sequential(decoding: Decoding) -> None:
    """One target a call: the law that every lossless sampler has."""
    while decoding.unfinished():
        ranks = decoding.known[:, None]
        hidden = decoding.call(ranks, ranks, decoding.left[:, None] > 0, decoding.known)
        decoding.settle(no_drafts(decoding), decoding.target_probs(hidden, ranks))


def assd(decoding: Decoding, k: int, draft: Draft = self_draft) -> None:
    """Any-subset speculative decoding: algorithm 1 of Guo & Ermon 2025.

    Two calls a round: up to k rows that see what is known, the first of which is exact; then the
    drafts' rows under the joint.
    """
    while decoding.unfinished():
        start, count = decoding.known, decoding.left.clamp(max=k)
        steps = torch.arange(int(count.max()), device=start.device)
        ranks, is_row = start[:, None] + steps, steps < count[:, None]
        hidden = decoding.call(ranks, start[:, None].expand_as(ranks), is_row, start)
        exact = exact_draft(decoding, hidden[:, :1])
        decoding.write(start, exact.tokens, exact.count)
        drafts = draft(decoding, hidden[:, 1:], start + 1, start, (count - 1).clamp(min=0))
        drafts, target_probs = join(exact, drafts), exact.probs
        decoding.write(start, drafts.tokens, drafts.count)
        if len(steps) > 1:
            hidden = decoding.call(ranks[:, 1:], ranks[:, 1:], is_row[:, 1:], start + count - 1)
            verified = decoding.target_probs(hidden, ranks[:, 1:])
            target_probs = torch.cat([target_probs, verified], dim=1)
        decoding.settle(drafts, target_probs, num_exact=1)


def ngram(decoding: Decoding, k: int) -> None:
    """ASSD with drafts from the sequence's own bigrams: algorithm 2 of Guo & Ermon 2025.

    One call a round: the drafts' rows and, for the case that all stand, the one after them.
    """
    while decoding.unfinished():
        drafts = ngram_draft(decoding, decoding.known, decoding.left.clamp(max=k))
        steps = torch.arange(drafts.tokens.shape[1] + 1, device=decoding.known.device)
        ranks = decoding.known[:, None] + steps
        is_row = (steps <= drafts.count[:, None]) & (ranks < decoding.length[:, None])
        hidden = decoding.call(ranks, ranks, is_row, decoding.known + drafts.count)
        decoding.settle(drafts, decoding.target_probs(hidden, ranks))


def onepass(decoding: Decoding, k: int, draft: Draft = self_draft) -> None:
    """Verify and draft in the same call: for every possible number a of drafts that stand, the
    call carries the next drafts' rows, which see the accepted ones but not the token after them.
    """
    batch = torch.arange(len(decoding.known), device=decoding.known.device)
    drafts = no_drafts(decoding)
    while decoding.unfinished():
        decoding.write(decoding.known, drafts.tokens, drafts.count)
        hidden = verify_and_draft(decoding, drafts, k)  # (B, K + 1, 1 + k, C)
        known = decoding.known
        ranks = known[:, None] + torch.arange(hidden.shape[1], device=known.device)
        decoding.settle(drafts, decoding.target_probs(hidden[:, :, 0], ranks))
        accepted = (decoding.known - known - 1).clamp(min=0)
        count = decoding.left.clamp(max=k)
        width = int(count.max())
        hidden = hidden[batch, accepted, 1 : 1 + width]  # (B, K, C)
        drafts = draft(decoding, hidden, decoding.known, known + accepted, count)


def verify_and_draft(decoding: Decoding, drafts: Drafts, k: int) -> Tensor:
    """Hidden states (B, K + 1, 1 + k, C): row (a, j) is for rank known + a + j and sees known + a.

    Row (a, 0) verifies draft a, or follows the last; the others draft the ranks after it.
    """
    device = decoding.known.device
    most = torch.arange(drafts.tokens.shape[1] + 1, device=device)[:, None]
    steps = torch.arange(1 + k, device=device)
    limits = (decoding.known[:, None, None] + most).expand(-1, -1, 1 + k)
    ranks = limits + steps
    is_row = (most <= drafts.count[:, None, None]) & (ranks < decoding.length[:, None, None])
    hidden = decoding.call(
        ranks.flatten(1), limits.flatten(1), is_row.flatten(1), decoding.known + drafts.count
    )
    return hidden.unflatten(1, ranks.shape[1:])


def parallel(decoding: Decoding, steps: int, by: str) -> None:
    """Fill all targets in `steps` calls, those of one call as if they were independent.

    As masked-diffusion samplers do, and lossy like them. By "order", or by "confidence": of all
    targets left, those whose drawn token is the most probable: their positions move to the
    front, while every draw stays that of the rank that was asked for.
    """
    for step in range(steps):
        share = -(-decoding.left // (steps - step))  # rounded up
        asked = decoding.left if by == "confidence" else share
        if not asked.any():
            return
        offsets = torch.arange(int(asked.max()), device=share.device)
        is_row = offsets < asked[:, None]
        ranks = torch.where(is_row, decoding.known[:, None] + offsets, decoding.size)
        limits = decoding.known[:, None].expand_as(ranks)
        hidden = decoding.call(ranks, limits, is_row, decoding.known)
        probs = decoding.target_probs(hidden, ranks)  # (B, Q, V)
        positions = decoding.positions.gather(1, ranks)
        tokens = decoding.coupling.draw(
            probs, decoding.rank.gather(1, positions), Purpose.TARGET, decoding.round, is_row
        )
        if by == "confidence":
            confidence = probs.gather(2, tokens[..., None])[..., 0].where(is_row, -1)
            confidence = confidence.round(decimals=6)  # what is equal but for rounding goes by rank
            best = confidence.argsort(dim=1, descending=True, stable=True)
            tokens, probs = (
                tokens.gather(1, best),
                probs.gather(1, best[..., None].expand_as(probs)),
            )
            decoding.positions.scatter_(1, ranks, positions.gather(1, best))
        decoding.write(decoding.known, tokens, share)
        decoding.settle_unverified(share, probs)


def exact_draft(decoding: Decoding, hidden: Tensor) -> Drafts:
    """The next token, drawn from the target law: a draft that always stands."""
    ranks, is_left = decoding.known[:, None], decoding.left > 0
    probs = decoding.target_probs(hidden, ranks)  # (B, 1, V)
    tokens = decoding.coupling.draw(probs, ranks, Purpose.TARGET, decoding.round, is_left[:, None])
    return Drafts(tokens, probs, is_left.long())


def join(first: Drafts, second: Drafts) -> Drafts:
    """Drafts for consecutive ranks."""
    return Drafts(
        torch.cat([first.tokens, second.tokens], dim=1),
        torch.cat([first.probs, second.probs], dim=1),
        first.count + second.count,
    )
