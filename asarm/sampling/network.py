"""The model as samplers see it: query rows in, hidden states and distributions out.

Shapes: B batch, L length, Q query rows, K ranks drafted or committed, C model width,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from asarm.distribution import Allowed, Distribution
from asarm.drafting.drafters import Drafter, Drafts, self_drafter
from asarm.rows import Backbone, ContentCache, ContentRows, QueryRows
from asarm.sampling.lengths import DraftLengths, FixedLength
from asarm.sampling.randomness import Purpose, RoundNumber
from asarm.sampling.state import State
from asarm.sampling.verify import Verifier


class Rows(NamedTuple):
    """Query rows, each with the rank that it predicts and its limit."""

    ranks: Tensor  # (B, Q) to predict
    limits: Tensor  # (B, Q) how many ranks each row may see
    is_row: Tensor  # (B, Q) False for padding

    @classmethod
    def verifying(cls, ranks: Tensor, is_row: Tensor) -> Rows:
        """Return rows that see all ranks below their own: those of the target distribution."""
        return cls(ranks, ranks, is_row)

    @classmethod
    def ahead(cls, start: Tensor, count: Tensor, size: int) -> Rows:
        """Return rows of `count` (B,) ranks from `start` (B,) on, all with limit `start`."""
        steps = torch.arange(size, device=start.device)
        ranks = start[:, None] + steps
        return cls(ranks, start[:, None].expand_as(ranks), steps < count[:, None])


@dataclass
class Net:
    """A model with all that a round needs of it.

    Attributes:
        model: the backbone.
        target_distribution: from logits to probabilities of tokens.
        draft_distribution: the same for drafts.
        verifier: how draws are made and drafts verified.
        cache: of the model, for the sequences of the batch.
        drafter: proposes tokens.
        lengths: says how many drafts a round has.
        allowed: which tokens each position may hold; any if None.
        is_static: whether all rounds have the same shapes, and never wait for the device.
        prompt_size: ranks of the longest prompt, which the first call reads; 0 once it was made.
    """

    model: Backbone
    target_distribution: Distribution
    draft_distribution: Distribution
    verifier: Verifier
    cache: ContentCache
    drafter: Drafter = self_drafter
    lengths: DraftLengths = FixedLength(1)
    allowed: Allowed | None = None
    is_static: bool = False
    prompt_size: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that distributions have."""
        return torch.promote_types(self.model.dtype, torch.float32)

    def size(self, count: Tensor, bound: int) -> int:
        """Return the largest of count (B,), or its bound where shapes are static."""
        return bound if self.is_static else int(count.max())

    def call(self, state: State, rows: Rows, upto: Tensor, max_content: int = 1) -> Tensor:
        """Make one network call; return the hidden states (B, Q, C) of query rows.

        The content of all ranks below `upto` (B,) that the cache lacks rides along; a sequence
        without a query row takes no part. Unless shapes are static, some sequence must have one.

        Args:
            state: of the batch; the call is counted there.
            rows: the query rows.
            upto: how many ranks the cache holds the content of afterwards.
            max_content: how many ranks below `upto` the cache can lack if, of what is committed, it
                lacks the last rank at most, as between rounds. The first call has the prompt, too.
        """
        num_queries = rows.is_row.sum(1)
        upto = torch.where(num_queries > 0, upto, state.cached)
        num_content = upto - state.cached
        # before the first round the cache lacks the whole prompt, and not its last rank alone
        bound = max_content + max(self.prompt_size - 1, 0)
        content = self._content(state, num_content, bound)
        self.prompt_size = 0
        positions = state.positions.gather(1, torch.where(rows.is_row, rows.ranks, state.spare))
        query = QueryRows(positions, torch.where(rows.is_row, rows.limits, 0))
        hidden = self._hidden(content, query, rows.is_row)
        state.cached = upto
        state.nfe += num_queries > 0
        state.rows += num_queries + num_content
        return hidden

    def _content(self, state: State, count: Tensor, bound: int) -> ContentRows:
        """Return content rows of `count` (B,) ranks, from the first that the cache lacks on."""
        ranks, is_row = state.next_ranks(state.cached, count, self.size(count, bound))
        return ContentRows(
            state.tokens.gather(1, ranks),
            state.positions.gather(1, ranks),
            torch.where(is_row, state.limits.gather(1, ranks), 0),
            ranks,
        )

    def _hidden(self, content: ContentRows, query: QueryRows, is_row: Tensor) -> Tensor:
        """Compute hidden states (B, Q, C) of query rows, but not of rows that no sequence needs."""
        if self.is_static or (is_needed := is_row.any(0)).all():
            return self.model(content, query, self.cache)
        fewer = QueryRows(query.positions[:, is_needed], query.limits[:, is_needed])
        found = self.model(content, fewer, self.cache)
        hidden = found.new_zeros(*is_row.shape, found.shape[2])
        hidden[:, is_needed] = found
        return hidden

    def target_probs(self, state: State, hidden: Tensor, ranks: Tensor) -> Tensor:
        """Compute target distributions (B, K, V) at ranks (B, K) from hidden states (B, K, C)."""
        logits = self.model.logits(hidden)
        return self.target_distribution.probs(logits, self.allowed_at(state, ranks, state.tokens))

    def allowed_at(self, state: State, ranks: Tensor, tokens: Tensor) -> Tensor | None:
        """Return which tokens the ranks (B, K) may hold, (B, K, V); some may be padding."""
        if self.allowed is None:
            return None
        positions = state.positions.gather(1, ranks.clamp(max=state.spare))
        return self.allowed.at(positions, tokens.gather(1, state.rank_of))

    def draw(
        self, probs: Tensor, ranks: Tensor, purpose: Purpose, round: RoundNumber, needed: Tensor
    ) -> Tensor:
        """Draw tokens (B, K) at ranks (B, K) from probs (B, K, V), where `needed` (B, K)."""
        return self.verifier.draw(probs, ranks, purpose, round, needed)

    def make_drafts(
        self,
        state: State,
        hidden: Tensor | None,
        *,
        start: Tensor,
        limit: Tensor,
        count: Tensor,
        size: int,
    ) -> Drafts:
        """Draw at most `size` drafts for `count` (B,) ranks from `start` (B,) on.

        The rows have `limit` (B,) and these hidden states (B, size, C); None where there are none,
        for a drafter that reads none.
        """
        return self.drafter(DraftRequest(self, state, size, hidden, start, limit, count))

    def select(self, sequences: Tensor) -> Net:
        """Return the same for some sequences (n,) of the batch alone."""
        return replace(
            self,
            cache=self.cache.select(sequences),
            verifier=self.verifier.select(sequences),
            allowed=self.allowed and self.allowed.select(sequences),
        )


@dataclass(frozen=True)
class DraftRequest:
    """What a drafter is to do, and what it may know: see `asarm.drafting.drafters.Request`."""

    net: Net
    state: State
    size: int
    rows: Tensor | None  # their hidden states, (B, size, C)
    start: Tensor
    limit: Tensor
    count: Tensor

    @property
    def hidden(self) -> Tensor:
        if self.rows is None:
            raise ValueError(
                "hidden states are read before the call of a round; expected a drafter that reads "
                "the text alone: make the call first"
            )
        return self.rows

    @property
    def vocab_size(self) -> int:
        return self.net.model.vocab_size

    @property
    def dtype(self) -> torch.dtype:
        return self.net.dtype

    @property
    def tokens(self) -> Tensor:
        return self.state.tokens

    @property
    def positions(self) -> Tensor:
        return self.state.positions

    @property
    def rank(self) -> Tensor:
        return self.state.rank_of

    def ranks(self, step: int | None = None) -> Tensor:
        ranks, _ = self.state.next_ranks(self.start, self.count, self.size)
        return ranks if step is None else ranks[:, step, None]

    def logits(self) -> Tensor:
        return self.net.model.logits(self.hidden)

    def probs(self, logits: Tensor, ranks: Tensor, tokens: Tensor | None = None) -> Tensor:
        tokens = self.tokens if tokens is None else tokens
        return self.net.draft_distribution.probs(
            logits, self.net.allowed_at(self.state, ranks, tokens)
        )

    def of_counts(self, counts: Tensor) -> Tensor:
        return self.net.draft_distribution.of_counts(counts).to(self.dtype)

    def draw(self, probs: Tensor, ranks: Tensor) -> Tensor:
        needed = ranks != self.state.spare
        return self.net.draw(probs, ranks, Purpose.DRAFT, self.state.round_number, needed)

    def refuse(self, is_wrong: Tensor) -> None:
        self.state.is_bad_draft |= is_wrong.any()
