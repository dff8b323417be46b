"""Where drafts come from: the network itself, or the bigrams of the sequence.

A draft's law may depend on anything known when it is drawn, earlier drafts of the same round
included: verification keeps the target law whatever it is.

Shapes: B batch, L length, K drafts of a round, C model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asarm.sampling.decoding import Decoding
from asarm.sampling.randomness import Purpose
from asarm.sampling.verify import Drafts


def self_draft(decoding: Decoding, hidden: Tensor, start: Tensor, count: Tensor) -> Drafts:
    """Draw each draft from the network's own law, as if the drafts beside it were unknown."""
    probs = decoding.draft_law.probs(decoding.model.logits(hidden))  # (B, K, V)
    steps = torch.arange(hidden.shape[1], device=hidden.device)
    tokens = decoding.coupling.draw(
        probs, start[:, None] + steps, Purpose.DRAFT, decoding.round, steps < count[:, None]
    )
    return Drafts(tokens, probs, count)


def ngram_draft(decoding: Decoding, k: int, start: Tensor, count: Tensor) -> Drafts:
    """Draw each draft from what follows its left neighbour elsewhere in the sequence.

    Algorithm 2 of Guo & Ermon 2025: bigrams of what is known (prompt and committed tokens), or
    its unigrams where the left neighbour is unknown or was never followed by anything. The left
    neighbour may be a draft of this round. No drafts where nothing is known.
    """
    count = torch.where(decoding.known > 0, count, 0)
    text, is_known = known_text(decoding)
    left_text = text.clone()  # with this round's drafts, which are neighbours but no evidence
    left_known = is_known.clone()
    tokens, probs = [], []
    for step in range(int(count.max()) if k else 0):
        rank = (start + step).clamp(max=decoding.size)[:, None]  # (B, 1)
        position = decoding.positions.gather(1, rank)
        left = (position - 1).clamp(min=0)
        has_left = left_known.gather(1, left) & (position > 0)
        counts = bigram_counts(
            text, is_known, left_text.gather(1, left), has_left, decoding.model.vocab_size
        )
        law = decoding.draft_law.of_counts(counts)[:, None]  # (B, 1, V)
        is_draft = step < count[:, None]
        token = decoding.coupling.draw(law, rank, Purpose.DRAFT, decoding.round, is_draft)
        place = torch.where(is_draft, position, text.shape[1] - 1)
        left_text.scatter_(1, place, token)
        left_known.scatter_(1, place, is_draft)
        tokens.append(token)
        probs.append(law)
    if not tokens:
        nothing = decoding.tokens[:, :0]
        return Drafts(nothing, nothing[..., None].float(), count)
    return Drafts(torch.cat(tokens, dim=1), torch.cat(probs, dim=1), count)


def known_text(decoding: Decoding) -> tuple[Tensor, Tensor]:
    """Tokens by position, (B, L + 1) with a spare place, and which of them are known."""
    ranks = torch.arange(decoding.size + 1, device=decoding.tokens.device)
    is_known = ranks < decoding.known[:, None]
    place = torch.where(is_known, decoding.positions, decoding.size)
    text = torch.zeros_like(decoding.tokens).scatter_(1, place, decoding.tokens)
    found = torch.zeros_like(is_known).scatter_(1, place, is_known)
    found[:, decoding.size] = False
    return text, found


def bigram_counts(
    text: Tensor, is_known: Tensor, left: Tensor, has_left: Tensor, vocab_size: int
) -> Tensor:
    """How often each token follows `left` (B, 1) in the known text, (B, V) float64.

    The token counts of the whole known text where `left` is unknown, or is followed by nothing.
    """
    follows = is_known[:, 1:] & is_known[:, :-1] & (text[:, :-1] == left) & has_left
    follows = torch.cat([torch.zeros_like(has_left), follows], dim=1)
    evidence = torch.where(follows.any(1, keepdim=True), follows, is_known)
    counts = torch.zeros(len(text), vocab_size, dtype=torch.float64, device=text.device)
    return counts.scatter_add_(1, text, evidence.to(counts.dtype))
