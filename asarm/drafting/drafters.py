"""Where drafts come from: the network itself, a learned head on top of it, or the text's bigrams.

A draft's distribution may depend on anything known when it is drawn, earlier drafts of the same
round included: verification keeps the target distribution whatever it is.

Shapes: B batch, L length, K drafts of a round, N neighbours, C model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from asarm.drafting.head import DraftHead, Seen, neighbours_of
from asarm.kernels.products import content_of, linear, pack


@dataclass(frozen=True)
class Drafts:
    """Tokens proposed for the next ranks of each sequence, and the distributions they are from."""

    tokens: Tensor  # (B, K)
    probs: Tensor  # (B, K, V)
    count: Tensor  # (B,) how many of the K are drafts; the rest is padding

    @classmethod
    def none(cls, count: Tensor, vocab_size: int, dtype: torch.dtype) -> Drafts:
        """Make no draft for any of as many sequences as `count` (B,) has."""
        tokens = count.new_zeros(len(count), 0)
        probs = torch.zeros(len(count), 0, vocab_size, dtype=dtype, device=count.device)
        return cls(tokens, probs, torch.zeros_like(count))

    @classmethod
    def of_steps(
        cls, tokens: list[Tensor], probs: list[Tensor], count: Tensor, request: Request
    ) -> Drafts:
        """Make drafts from the tokens (B, 1) and distributions (B, 1, V) of each step."""
        if not tokens:
            return cls.none(count, request.vocab_size, request.dtype)
        return cls(torch.cat(tokens, dim=1), torch.cat(probs, dim=1), count)

    def select(self, sequences: Tensor) -> Drafts:
        """Return the drafts of some sequences (n,) of the batch alone."""
        return Drafts(self.tokens[sequences], self.probs[sequences], self.count[sequences])

    def followed_by(self, others: Drafts) -> Drafts:
        """Return these drafts, followed by those of the ranks after them."""
        return Drafts(
            torch.cat([self.tokens, others.tokens], dim=1),
            torch.cat([self.probs, others.probs], dim=1),
            self.count + others.count,
        )


class Request(Protocol):
    """What a drafter is to do: draft the next ranks, from the rows of a network call.

    Everything is in rank space: column r of what is (B, L + 1) belongs to rank r, whatever its
    position, and the last column is spare. A drafter writes nothing here: it notes its drafts in a
    copy of `tokens`, where it has to.
    """

    @property
    def size(self) -> int:
        """K, the number of ranks that there are rows for."""

    @property
    def hidden(self) -> Tensor:
        """Hidden states of these rows, (B, K, C); a ValueError where no call was made for them."""

    @property
    def start(self) -> Tensor:
        """The first rank that is to be drafted, (B,)."""

    @property
    def limit(self) -> Tensor:
        """The number of ranks that the rows saw, (B,)."""

    @property
    def count(self) -> Tensor:
        """The largest number of drafts that is wanted, (B,)."""

    @property
    def tokens(self) -> Tensor:
        """The tokens by rank, (B, L + 1): what is committed or drafted below `start`."""

    @property
    def positions(self) -> Tensor:
        """The position that each rank has, (B, L + 1)."""

    @property
    def rank(self) -> Tensor:
        """The rank that each position has, (B, L)."""

    @property
    def vocab_size(self) -> int:
        """The number of tokens that there are."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that distributions have."""

    def ranks(self, step: int | None = None) -> Tensor:
        """Return the wanted ranks (B, K), or (B, 1) of one step; the spare one is padding."""

    def logits(self) -> Tensor:
        """Compute logits (B, K, V) of the rows, by the network."""

    def probs(self, logits: Tensor, ranks: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return draft distributions (B, k, V) at ranks (B, k), from logits, temperature and
        filters.

        `tokens` (B, L + 1) are those that are known by now, where more is than at first.
        """

    def of_counts(self, counts: Tensor) -> Tensor:
        """Return draft distributions (B, V) from how often each token occurs."""

    def draw(self, probs: Tensor, ranks: Tensor) -> Tensor:
        """Draw tokens (B, k) at ranks (B, k) from probs (B, k, V)."""

    def refuse(self, is_wrong: Tensor) -> None:
        """End the decoding with a ValueError if any draft is wrong, as bool of any shape says."""


class Drafter(Protocol):
    """Proposes tokens for the next ranks.

    Every token is to be drawn from the probabilities that come with it, up to a factor: what is
    not finite, negative, or 0 at the token itself ends the decoding with a ValueError.
    """

    def __call__(self, request: Request) -> Drafts:
        """Return at most `request.count` drafts for the ranks from `request.start` on."""


def self_drafter(request: Request) -> Drafts:
    """Draw each draft from the network's own distribution, as if those next to it were unknown."""
    ranks = request.ranks()
    probs = request.probs(request.logits(), ranks)  # (B, K, V)
    return Drafts(request.draw(probs, ranks), probs, request.count)


def has_head(model: object) -> bool:
    """Return whether a model has a learned draft head."""
    return getattr(model, "draft_head", None) is not None


class HeadDrafter:
    """Draws each draft from the row's distribution, changed by a head that sees its neighbours.

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
        self.table = (output @ head.up).to(
            self.dtype
        )  # (V, bottleneck): codes to changes of logits
        pack(self.table)

    @classmethod
    def of(cls, model: Any) -> HeadDrafter:
        """Make the drafter of a model that has a head, once for the same weights."""
        head = model.draft_head
        embedding, (output, _) = model.embedding_weights(), model.output_weights()
        weights = {id(weight): weight for weight in (embedding, output, *head.parameters())}
        state = [(weight.device, weight.dtype, *content_of(weight)) for weight in weights.values()]
        made = getattr(head, "made", None)
        if made is None or made[0] != state:
            with torch.no_grad():
                head.made = made = (state, cls(head, embedding, output))
        return made[1]

    def __call__(self, request: Request) -> Drafts:
        logits, tokens = request.logits(), request.tokens.clone()  # (B, K, V), (B, L + 1)
        nearby, seen = neighbours(request, self.offsets)  # (B, K, N)
        rows = self.head.inner(request.hidden.to(self.dtype))  # (B, K, H)
        # entries 0 .. V - 1 are tokens that the head alone saw, entry V is what nothing saw, and
        # entry V + 1 what the network's row saw
        is_new, other = seen == Seen.BY_HEAD, self.vocab_size + (seen == Seen.BY_ROW).long()
        drawn: list[Tensor] = []
        probs: list[Tensor] = []
        for step in range(request.size):
            known = tokens.gather(1, nearby[:, step])  # (B, N)
            entries = self.first + torch.where(is_new[:, step], known, other[:, step])
            by_neighbours = F.embedding(entries, self.by_neighbour).sum(1)
            code = self.head.code(rows[:, step] + by_neighbours)
            changed = logits[:, step] + linear(code, self.table)
            rank = request.ranks(step)
            probs.append(request.probs(changed[:, None], rank, tokens))  # (B, 1, V)
            drawn.append(request.draw(probs[-1], rank))
            tokens.scatter_(1, rank, drawn[-1])
        return Drafts.of_steps(drawn, probs, request.count, request)


def neighbours(request: Request, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ranks (B, K, N) at offsets (N,) from the positions that are to be drafted, and
    what is known of them once it is their turn.

    Below the limit the network's rows saw them; below their own rank, they are committed or
    drafted.
    """
    ranks = request.ranks()
    positions = request.positions.gather(1, ranks)
    return neighbours_of(positions, ranks, request.limit[:, None], request.rank, offsets)


def ngram_drafter(request: Request) -> Drafts:
    """Draw each draft from what follows its left neighbour elsewhere in the sequence.

    This is algorithm 2 of Guo & Ermon 2025: it takes bigrams of what is known (prompt and committed
    tokens), or its unigrams where the left neighbour is unknown or was never followed by anything.
    The left neighbour may be a draft of this round. `start` is to be above 0. What a position may
    not hold can be drafted, and is then rejected. The rows' hidden states are not read.
    """
    tokens = request.tokens.clone()
    text = tokens.gather(1, request.rank)  # (B, L) by position
    is_known = request.rank < request.start[:, None]
    drawn: list[Tensor] = []
    probs: list[Tensor] = []
    for step in range(request.size):
        rank = request.ranks(step)
        position = request.positions.gather(1, rank)
        left_rank = request.rank.gather(1, (position - 1).clamp(min=0))
        has_left = (position > 0) & (left_rank < rank)  # drafted just before, or known
        left = tokens.gather(1, left_rank)
        counts = bigram_counts(text, is_known, left, has_left, request.vocab_size)
        probs.append(request.of_counts(counts)[:, None])  # (B, 1, V)
        drawn.append(request.draw(probs[-1], rank))
        tokens.scatter_(1, rank, drawn[-1])
    return Drafts.of_steps(drawn, probs, request.count, request)


def bigram_counts(
    text: Tensor, is_known: Tensor, left: Tensor, has_left: Tensor, vocab_size: int
) -> Tensor:
    """Count how often each token follows `left` (B, 1) in the known text, (B, V) float64.

    These are the counts of the whole known text where `left` is unknown, or nothing follows it.
    """
    follows = is_known[:, 1:] & is_known[:, :-1] & (text[:, :-1] == left) & has_left
    follows = torch.cat([torch.zeros_like(has_left), follows], dim=1)
    evidence = torch.where(follows.any(1, keepdim=True), follows, is_known)
    counts = torch.zeros(len(text), vocab_size, dtype=torch.float64, device=text.device)
    return counts.scatter_add_(1, text, evidence.to(counts.dtype))
