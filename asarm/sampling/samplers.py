"""The samplers: loops of drafting, verifying and committing.

All but `parallel` have exactly the law of `sequential`, and none makes more network calls than
there are targets.

Shapes: B batch, K drafts of a round, Q query rows, C model width, V vocabulary.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from asarm.sampling.decoding import Decoding
from asarm.sampling.draft import Draft, ngram_draft, self_draft
from asarm.sampling.draft_length import DraftLength
from asarm.sampling.randomness import Purpose
from asarm.sampling.rounds import repeat
from asarm.sampling.verify import Drafts


def sequential(decoding: Decoding) -> None:
    """One target a call: the law that every lossless sampler has."""

    def one_round() -> None:
        ranks = decoding.known[:, None]
        hidden = decoding.call(ranks, ranks, decoding.left[:, None] > 0, decoding.known)
        decoding.settle(decoding.no_drafts(), decoding.target_probs(hidden, ranks))

    repeat(decoding, one_round)


def assd(decoding: Decoding, length: DraftLength, draft: Draft = self_draft) -> None:
    """Any-subset speculative decoding: algorithm 1 of Guo & Ermon 2025.

    Two calls a round: up to k rows that see what is known, the first of which is exact; then the
    drafts' rows under the joint.
    """

    def one_round() -> None:
        start, count = decoding.known, decoding.left.minimum(length(decoding))
        most = decoding.most(count, length.most)
        steps = torch.arange(most, device=start.device)
        ranks, is_row = start[:, None] + steps, steps < count[:, None]
        hidden = decoding.call(ranks, start[:, None].expand_as(ranks), is_row, start)
        exact = exact_draft(decoding, hidden[:, :1])
        decoding.write(start, exact.tokens, exact.count)
        drafts = draft(decoding, hidden[:, 1:], start + 1, start, (count - 1).clamp(min=0))
        drafts, target_probs = join(exact, drafts), exact.probs
        decoding.write(start, drafts.tokens, drafts.count)
        if most > 1:
            upto, ranks = start + count - 1, ranks[:, 1:]
            hidden = decoding.call(ranks, ranks, is_row[:, 1:], upto, most - 1)
            verified = decoding.target_probs(hidden, ranks)
            target_probs = torch.cat([target_probs, verified], dim=1)
        decoding.settle(drafts, target_probs, num_exact=1)

    repeat(decoding, one_round)


def ngram(decoding: Decoding, length: DraftLength) -> None:
    """ASSD with drafts from the sequence's own bigrams: algorithm 2 of Guo & Ermon 2025.

    One call a round: the drafts' rows and, for the case that all stand, the one after them.
    """

    def one_round() -> None:
        wanted = decoding.left.minimum(length(decoding))
        drafts = ngram_draft(decoding, decoding.known, wanted, length.most)
        most = drafts.tokens.shape[1]
        ranks = decoding.known[:, None] + torch.arange(most + 1, device=decoding.known.device)
        last = (decoding.known + drafts.count).minimum(decoding.length - 1)
        is_row = ranks <= last[:, None]
        hidden = decoding.call(ranks, ranks, is_row, decoding.known + drafts.count, most + 1)
        decoding.settle(drafts, decoding.target_probs(hidden, ranks))

    repeat(decoding, one_round)


def onepass(
    decoding: Decoding, length: DraftLength, draft: Draft = self_draft, stride: int = 1
) -> None:
    """Verify and draft in the same call: it carries rows for the drafts of the next round too,
    which see what is known now and, at most, the drafts that stand.

    Their rows are prepared for every `stride`-th number of drafts that may stand. Where another
    number stands, those of the next lower one serve, which see fewer of the accepted drafts.
    """

    def one_round() -> None:
        drafts, start = decoding.drafts, decoding.known
        ahead = length(decoding).minimum(decoding.left - 1).clamp(min=0)  # one is committed first
        most, k = drafts.tokens.shape[1], decoding.most(ahead, length.most)
        decoding.write(start, drafts.tokens, drafts.count)
        above = onepass_rows(most, k, stride, start.device)  # (2, Q)
        ranks, limits = start[:, None] + above[0], start[:, None] + above[1]
        last = (start + drafts.count + ahead).minimum(decoding.length - 1)
        is_row = (above[1] <= drafts.count[:, None]) & (ranks <= last[:, None])
        hidden = decoding.call(ranks, limits, is_row, start + drafts.count, most + 1)
        verified = slice(most + 1)
        decoding.settle(drafts, decoding.target_probs(hidden[:, verified], ranks[:, verified]))
        accepted = (decoding.known - start - 1).clamp(min=0)
        count = decoding.left.minimum(ahead)
        prepared = accepted - accepted % stride
        first = most + 1 + prepared // stride * (stride - 1 + k) + accepted - prepared
        steps = torch.arange(decoding.most(count, length.most), device=start.device)
        rows = (first[:, None] + steps)[..., None]
        hidden = hidden.gather(1, rows.expand(-1, -1, hidden.shape[2]))  # (B, K, C)
        decoding.drafts = draft(decoding, hidden, decoding.known, start + prepared, count)

    repeat(decoding, one_round)


@cache
def onepass_rows(most: int, k: int, stride: int, device: torch.device) -> Tensor:
    """Ranks and limits (2, Q), above what is known, of the rows of a call with `most` drafts.

    First those that verify the drafts and follow the last; then, for every stride-th number of
    drafts that may stand, those of all ranks that can be among the k after the next token.
    """
    verify = [(rank, rank) for rank in range(most + 1)]
    draft = [
        (rank, limit)
        for limit in range(0, most + 1, stride)
        for rank in range(limit + 1, min(limit + stride - 1, most) + k + 1)
    ]
    return torch.tensor([*verify, *draft], device=device).T


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
