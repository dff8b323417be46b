"""Where drafts come from: the network itself, a learned head behind it, or the text's bigrams.

A draft's law may depend on anything known when it is drawn, earlier drafts of the same round
included: verification keeps the target law whatever it is.

Shapes: B batch, L length, K drafts of a round, C model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from asarm.draft_head import DraftHead, Seen, neighbours_of
from asarm.products import content_of, linear, pack
from asarm.sampling.decoding import Decoding
from asarm.sampling.randomness import Purpose
from asarm.sampling.verify import Drafts


class Draft(Protocol):
    """Proposes tokens from the hidden states of a network call that did not know them."""

    def __call__(
        self, decoding: Decoding, hidden: Tensor, start: Tensor, limit: Tensor, count: Tensor
    ) -> Drafts:
        """Drafts for at most `count` (B,) ranks from `start` (B,) on.

        Every token is to be drawn from the probabilities that come with it, up to a factor: what
        is not finite, negative, or 0 at the token itself ends the decoding with a ValueError.

        Args:
            decoding: the batch; what is committed or drafted already is in its tokens.
            hidden: (B, K, C) of the rows at these ranks.
            limit: (B,) how many ranks these rows saw.
        """


def self_draft(
    decoding: Decoding, hidden: Tensor, start: Tensor, limit: Tensor, count: Tensor
) -> Drafts:
    """Draw each draft from the network's own law, as if the drafts beside it were unknown."""
    steps = torch.arange(hidden.shape[1], device=hidden.device)
    ranks = start[:, None] + steps
    probs = decoding.draft_probs(decoding.model.logits(hidden), ranks)  # (B, K, V)
    tokens = decoding.coupling.draw(
        probs, ranks, Purpose.DRAFT, decoding.round, steps < count[:, None]
    )
    return Drafts(tokens, probs, count)


class CheckedDraft:
    """A user's drafter, with its distributions normalised and what is no distribution noted.

    Verification keeps the target distribution only if every draft was drawn from the probabilities
    that come with it.
    """

    def __init__(self, draft: Draft):
        self.draft = draft

    def __call__(
        self, decoding: Decoding, hidden: Tensor, start: Tensor, limit: Tensor, count: Tensor
    ) -> Drafts:
        found = self.draft(decoding, hidden, start, limit, count)
        self._check_shapes(found, count, decoding.model.vocab_size)
        probs, tokens = found.probs.to(decoding.dtype), found.tokens.long()
        lawful = found.count.clamp(min=0).minimum(count).clamp(max=tokens.shape[1])
        decoding.is_bad_draft |= (found.count != lawful).any()
        steps = torch.arange(tokens.shape[1], device=tokens.device)
        is_draft = steps < lawful[:, None]
        is_token = (tokens >= 0) & (tokens < probs.shape[2])
        total = probs.sum(2)
        is_right = total.isfinite() & (total > 0) & (probs >= 0).all(2) & is_token
        decoding.is_bad_draft |= (is_draft & ~is_right).any()
        probs = torch.where((is_draft & is_right)[..., None], probs / total[..., None], 0)
        return Drafts(tokens.where(is_token & is_draft, 0), probs, lawful)

    @staticmethod
    def _check_shapes(found: Drafts, count: Tensor, vocab_size: int) -> None:
        shapes = [tuple(part.shape) for part in (found.tokens, found.probs, found.count)]
        batch, size = len(count), found.tokens.shape[-1]
        if shapes != [(batch, size), (batch, size, vocab_size), (batch,)]:
            raise ValueError(
                f"the drafter gives tokens of shape {shapes[0]}, probs of {shapes[1]} and count of "
                f"{shapes[2]}; expected (B, K), (B, K, V) and (B,), with a batch of {batch} and a "
                f"vocabulary of {vocab_size}"
            )


class HeadDraft:
    """Draws each draft from the row's law, changed by a head that sees the tokens beside it.

    Args:
        head: the learned head.
        embedding: (V, C) of tokens, the backbone's.
        output: (V, C) from hidden states to logits, the backbone's.
    """

    def __init__(self, head: DraftHead, embedding: Tensor, output: Tensor):
        is_halved = output.device.type == "cpu" and output.dtype == torch.float32
        self.dtype = torch.bfloat16 if is_halved else output.dtype  # half to read, and good enough
        self.head = DraftHead(head.config).to(output.device, self.dtype)
        self.head.load_state_dict(head.state_dict())
        self.head.pack()
        self.vocab_size = len(embedding)
        self.offsets = torch.tensor(head.config.offsets, device=output.device)
        by_neighbour = head.by_neighbour(embedding).to(self.dtype)  # (N, V + 2, H)
        places = torch.arange(len(by_neighbour), device=output.device)
        self.first = places * by_neighbour.shape[1]  # (N,) of each offset's, in the flat table
        self.by_neighbour = by_neighbour.flatten(0, 1)
        self.table = (output @ head.up).to(self.dtype)  # (V, rank): codes to changes of logits
        pack(self.table)

    def __call__(
        self, decoding: Decoding, hidden: Tensor, start: Tensor, limit: Tensor, count: Tensor
    ) -> Drafts:
        logits = decoding.model.logits(hidden)  # (B, K, V)
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        is_draft = steps < count[:, None]
        ranks = torch.where(is_draft, start[:, None] + steps, decoding.size)  # (B, K)
        beside, seen = neighbours(decoding, ranks, limit, self.offsets)  # (B, K, N)
        rows = self.head.inner(hidden.to(self.dtype))  # (B, K, H)
        is_new, other = seen == Seen.BY_HEAD, self.vocab_size + (seen == Seen.BY_ROW).long()
        probs = []
        for step in range(len(steps)):
            tokens = decoding.tokens.gather(1, beside[:, step])  # (B, N)
            entries = self.first + torch.where(is_new[:, step], tokens, other[:, step])
            by_neighbours = F.embedding(entries, self.by_neighbour).sum(1)
            code = self.head.code(rows[:, step] + by_neighbours)
            changed = logits[:, step] + linear(code, self.table)
            rank = ranks[:, step, None]
            law = decoding.draft_probs(changed[:, None], rank)  # (B, 1, V)
            needed = is_draft[:, step, None]
            token = decoding.coupling.draw(law, rank, Purpose.DRAFT, decoding.round, needed)
            decoding.tokens.scatter_(1, rank, token)
            probs.append(law)
        drawn = decoding.tokens.gather(1, ranks)
        laws = torch.cat(probs, dim=1) if probs else logits.to(decoding.dtype)
        return Drafts(drawn, laws, count)


def head_draft(model: Any) -> HeadDraft:
    """The draft of a model that has a head; what it needs is made once for the same weights."""
    head = model.draft_head
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    weights = {id(weight): weight for weight in (embedding, output, *head.parameters())}
    state = [(weight.device, weight.dtype, *content_of(weight)) for weight in weights.values()]
    made = getattr(head, "made", None)
    if made is None or made[0] != state:
        with torch.no_grad():
            head.made = made = (state, HeadDraft(head, embedding, output))
    return made[1]


def neighbours(
    decoding: Decoding, ranks: Tensor, limit: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """The ranks (B, K, N) at offsets (N,) from the positions of ranks (B, K), and what is known of
    them once it is their turn.

    Below `limit` (B,) the network's rows saw them; below their own, they are committed or drafted.
    """
    positions = decoding.positions.gather(1, ranks)
    return neighbours_of(positions, ranks, limit[:, None], decoding.rank, offsets)


def ngram_draft(decoding: Decoding, start: Tensor, count: Tensor, most: int) -> Drafts:
    """Draw each draft from what follows its left neighbour elsewhere in the sequence; write it.

    Algorithm 2 of Guo & Ermon 2025: bigrams of what is known (prompt and committed tokens), or
    its unigrams where the left neighbour is unknown or was never followed by anything. The left
    neighbour may be a draft of this round. No drafts where nothing is known. What a position may
    not hold can be drafted, and is then rejected. `count` is at most `most`.
    """
    count = torch.where(decoding.known > 0, count, 0)
    text = decoding.tokens.gather(1, decoding.rank)  # (B, L) by position
    is_known = decoding.rank < decoding.known[:, None]
    tokens, probs = [], []
    for step in range(decoding.most(count, most)):
        is_draft = step < count
        rank = torch.where(is_draft, start + step, decoding.size)[:, None]  # (B, 1)
        position = decoding.positions.gather(1, rank)
        left_rank = decoding.rank.gather(1, (position - 1).clamp(min=0))
        has_left = (position > 0) & (left_rank < rank)  # drafted just before, or known
        left = decoding.tokens.gather(1, left_rank)
        counts = bigram_counts(text, is_known, left, has_left, decoding.model.vocab_size)
        law = decoding.draft_law.of_counts(counts)[:, None].to(decoding.dtype)  # (B, 1, V)
        token = decoding.coupling.draw(law, rank, Purpose.DRAFT, decoding.round, is_draft[:, None])
        decoding.tokens.scatter_(1, rank, token)
        tokens.append(token)
        probs.append(law)
    if not tokens:
        return decoding.no_drafts()
    return Drafts(torch.cat(tokens, dim=1), torch.cat(probs, dim=1), count)


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
