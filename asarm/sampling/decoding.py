"""A batch while it is decoded: what is known, what is cached, what it has cost.

Everything lives in rank space: column r belongs to rank r, whatever its position. A sequence
that is finished has rows of padding only, until enough are for them all to leave.

A static decoding has the same shapes in every round but the first, and asks the device nothing
within a round: what the host must know, `unfinished` tells it.

Shapes: B batch, L length, Q query rows, K ranks drafted or committed, C model width,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from asarm.density import joint_log_probs
from asarm.law import Allowed, Law
from asarm.order import Order, content_limits
from asarm.rows import Backbone, ContentRows, QueryRows
from asarm.sampling.randomness import Step
from asarm.sampling.result import Round
from asarm.sampling.verify import Coupling, Drafts, Verdict, has_bad

STAYS = 0.75  # of a batch: if no more are unfinished, the others leave
COUNTS = ("nfe", "rows", "rounds", "drafted", "accepted", "rejected")
PER_SEQUENCE = (  # what a sequence takes with it
    *("num_prompt", "length", "positions", "rank", "tokens", "log_probs", "limits"),
    *("known", "cached", *COUNTS),
)
STATE = (
    *PER_SEQUENCE,
    "round",
    "committed",
    "is_nan",
    "is_bad_draft",
)  # besides drafts; what a round changes
EXECUTIONS = ("eager", "static", "graph")


class Decoding:
    """The state of a batch in a sampler's loop, and the model it is decoded with.

    Args:
        model: the backbone.
        input_ids: (B, L) checked ids; what stands at targets and padding is never read.
        order: the decoding order.
        law: the target law.
        draft_law: the law of drafts.
        coupling: how draws are made and drafts verified.
        allowed: which tokens each position may hold; any if None.
        trace: record every round.
        execution: "eager": shapes are as small as they can be; "static": they are the same in
            every round, and nothing in it waits for the device; "graph": such a round is recorded
            once, and replayed as a CUDA graph.
        on_commit: told how many tokens were committed since it was last told.
    """

    def __init__(
        self,
        model: Backbone,
        input_ids: Tensor,
        order: Order,
        law: Law,
        draft_law: Law,
        coupling: Coupling,
        *,
        allowed: Allowed | None = None,
        trace: bool = False,
        execution: str = "eager",
        on_commit: Callable[[int], object] = lambda count: None,
    ):
        batch, self.size = input_ids.shape
        self.model, self.law, self.draft_law, self.coupling = model, law, draft_law, coupling
        self.input_ids, self.order, self.on_commit = input_ids, order, on_commit
        self.allowed, self.execution = allowed, execution
        self.is_static = execution != "eager"
        self.num_prompt, self.length = order.num_prompt, order.length
        self.most_targets = int(order.num_targets.max())
        # column L of what is (B, L + 1) is spare: padding reads it and writes it
        ranks = torch.arange(self.size + 1, device=input_ids.device).expand(batch, -1)
        self.positions = torch.cat([order.order, torch.zeros_like(ranks[:, :1])], dim=1)
        self.rank = order.rank  # (B, L) by position
        self.tokens = input_ids.gather(1, self.positions)  # final below `known`
        self.tokens = self.tokens.where(ranks < self.num_prompt[:, None], 0)
        self.dtype = torch.promote_types(model.dtype, torch.float32)  # of laws
        self.log_probs = torch.zeros(self.tokens.shape, device=ranks.device, dtype=self.dtype)
        self.limits = content_limits(ranks, self.num_prompt)
        self.known = self.num_prompt.clone()  # (B,) ranks committed
        self.cached = torch.zeros_like(self.known)  # (B,) ranks whose content the cache holds
        self.cache = model.new_cache(batch, self.size)
        if self.is_static:
            self.cache.fix_shapes()
        self.drafts = self.no_drafts()  # of the next round, where one call verifies and drafts
        self.round: Step = torch.zeros_like(self.known[0]) if self.is_static else 0
        self.committed = torch.zeros_like(self.known[0])  # tokens, of all sequences
        self.is_nan = self.committed > 0  # whether any target distribution was
        self.is_bad_draft = self.committed > 0  # whether any draft came from no distribution
        self.told = 0  # of what is committed
        # content rows of the first call: the prompts
        self.size_of_prompt = int(self.num_prompt.max())
        self.nfe, self.rows, self.rounds, self.drafted, self.accepted, self.rejected = (
            torch.zeros_like(self.known) for _ in COUNTS
        )
        self.sequences = torch.arange(batch, device=ranks.device)  # those of the batch still here
        self.whole: dict[str, Tensor] = {}  # of the whole batch, once some have left
        self.trace: list[list[Round]] | None = [[] for _ in range(batch)] if trace else None

    @property
    def left(self) -> Tensor:
        """How many targets each sequence still lacks, (B,)."""
        return self.length - self.known

    def unfinished(self) -> bool:
        """Whether any target is left; tells the host what it must know, and waits for the device.

        Raises:
            ValueError: a target distribution held NaN, or drafts came from no distribution.
        """
        seen = (self.left > 0).any(), self.committed, self.is_nan, self.is_bad_draft
        is_left, committed, is_nan, is_bad = torch.stack([part.long() for part in seen]).tolist()
        if is_nan:
            raise ValueError("the model gives NaN instead of probabilities; check its weights")
        if is_bad:
            raise ValueError(
                "drafts come with probabilities that are NaN, infinite, negative or 0 at the "
                "drafted token, or are more than were asked for; expected the distributions that "
                "they were drawn from: check the drafter, or take draft='self'"
            )
        self.on_commit(committed - self.told)
        self.told = committed
        return bool(is_left)

    def state(self) -> dict[str, Tensor]:
        """The tensors that one round of a static decoding leaves to the next."""
        drafts = {f"drafts.{name}": value for name, value in vars(self.drafts).items()}
        return {name: getattr(self, name) for name in STATE} | drafts

    def set_state(self, state: dict[str, Tensor]) -> None:
        for name in STATE:
            setattr(self, name, state[name])
        self.drafts = Drafts(*(state[f"drafts.{name}"] for name in vars(self.drafts)))

    def most(self, count: Tensor, bound: int) -> int:
        """The largest of count (B,), or its bound in every round of a static decoding."""
        return bound if self.is_static else int(count.max())

    def drop_finished(self) -> bool:
        """Have finished sequences leave, where they are enough; `restore` brings them back."""
        if len(self.known) == 1:
            return False
        stay = (self.left > 0).nonzero()[:, 0]
        if len(stay) > STAYS * len(self.known):
            return False
        self._keep()
        self.sequences = self.sequences[stay]
        for name in PER_SEQUENCE:
            setattr(self, name, getattr(self, name)[stay])
        self.cache, self.coupling = self.cache.select(stay), self.coupling.select(stay)
        self.allowed = self.allowed and self.allowed.select(stay)
        self.drafts = self.drafts.select(stay)
        return True

    def restore(self) -> None:
        """Have the whole batch again, at the end."""
        if self.whole:
            self._keep()
            for name, value in self.whole.items():
                setattr(self, name, value)

    def _keep(self) -> None:
        """Note what the sequences that are here have come to."""
        self.whole = self.whole or {name: getattr(self, name).clone() for name in PER_SEQUENCE}
        for name, value in self.whole.items():
            value[self.sequences] = getattr(self, name)

    def call(
        self, ranks: Tensor, limits: Tensor, is_row: Tensor, upto: Tensor, most_content: int = 1
    ) -> Tensor:
        """One network call: hidden states (B, Q, C) of query rows.

        The content of all ranks below `upto` (B,) that the cache lacks rides along; a sequence
        without a query row takes no part.

        Args:
            ranks: (B, Q) ranks to predict.
            limits: (B, Q) how many ranks each row may see.
            is_row: (B, Q) False for padding.
            most_content: how many ranks, once the prompt is there, the cache can lack.
        """
        num_queries = is_row.sum(1)
        upto = torch.where(num_queries > 0, upto, self.cached)
        num_content = upto - self.cached
        size = self.most(num_content, max(most_content, self.size_of_prompt))
        self.size_of_prompt = 0  # read now
        content = self._content(self.cached, num_content, size)
        positions = self.positions.gather(1, torch.where(is_row, ranks, self.size))
        query = QueryRows(positions, torch.where(is_row, limits, 0))
        hidden = self._hidden(content, query, is_row)
        self.cached = upto
        self.nfe += num_queries > 0
        self.rows += num_queries + num_content
        return hidden

    def _hidden(self, content: ContentRows, query: QueryRows, is_row: Tensor) -> Tensor:
        """Hidden states (B, Q, C) of query rows; those that no sequence needs are not computed."""
        if self.is_static or (is_needed := is_row.any(0)).all():
            return self.model(content, query, self.cache)
        fewer = QueryRows(query.positions[:, is_needed], query.limits[:, is_needed])
        found = self.model(content, fewer, self.cache)
        hidden = found.new_zeros(*is_row.shape, found.shape[2])
        hidden[:, is_needed] = found
        return hidden

    def target_probs(self, hidden: Tensor, ranks: Tensor) -> Tensor:
        """Target laws (B, K, V) of the tokens at ranks (B, K), from hidden states (B, K, C)."""
        return self.law.probs(self.model.logits(hidden), self._allowed_at(ranks))

    def draft_probs(self, logits: Tensor, ranks: Tensor) -> Tensor:
        """Draft laws (B, K, V) of the tokens at ranks (B, K), from logits (B, K, V)."""
        return self.draft_law.probs(logits, self._allowed_at(ranks))

    def _allowed_at(self, ranks: Tensor) -> Tensor | None:
        """Which tokens the ranks (B, K) may hold; ranks beyond the last are padding."""
        if self.allowed is None:
            return None
        text = self.tokens.gather(1, self.rank)  # (B, L) by position
        return self.allowed.at(self.positions.gather(1, ranks.clamp(max=self.size)), text)

    def _content(self, start: Tensor, count: Tensor, size: int) -> ContentRows:
        """Content rows (B, R) of `count` (B,) ranks from `start` (B,) on, R the `size`."""
        ranks, is_row = self._ranks(start, count, size)
        return ContentRows(
            self.tokens.gather(1, ranks),
            self.positions.gather(1, ranks),
            torch.where(is_row, self.limits.gather(1, ranks), 0),
            ranks,
        )

    def _ranks(self, start: Tensor, count: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Ranks start .. start + count - 1, padded with the spare one; and which are real."""
        steps = torch.arange(size, device=start.device)
        is_rank = steps < count[:, None]
        return torch.where(is_rank, start[:, None] + steps, self.size), is_rank

    def no_drafts(self) -> Drafts:
        """No draft for any sequence: what is verified is the next token alone."""
        nothing = self.tokens[:, :0]
        return Drafts(nothing, nothing[..., None].float(), torch.zeros_like(self.known))

    def write(self, start: Tensor, tokens: Tensor, count: Tensor) -> None:
        """Write the first `count` (B,) of tokens (B, K) at ranks `start` (B,) and up."""
        ranks, _ = self._ranks(start, count, tokens.shape[1])
        self.tokens.scatter_(1, ranks, tokens)

    def settle(self, drafts: Drafts, target_probs: Tensor, *, num_exact: int = 0) -> None:
        """End a round: verify drafts, commit those that stand and the token that follows them.

        Args:
            drafts: what was written at the next ranks.
            target_probs: (B, K, V) the target laws at their ranks; (B, K + 1, V) with that of
                the rank after them, whose token follows where all drafts stand.
            num_exact: how many of the drafts were drawn from the target law, and so stand.
        """
        is_left = self.left > 0
        num_drafts = drafts.tokens.shape[1]
        self.is_bad_draft |= has_bad(drafts).any()
        has_bonus = self.known + drafts.count < self.length
        if target_probs.shape[1] == num_drafts:
            has_bonus = torch.zeros_like(has_bonus)
        verdict = self.coupling.verify(drafts, target_probs, self.known, self.round, has_bonus)
        is_new = has_bonus | (verdict.accepted < drafts.count)
        self.write(self.known + verdict.accepted, verdict.token[:, None], is_new.long())
        self.rounds += is_left
        self.drafted += (drafts.count - num_exact).clamp(min=0)
        self.accepted += (verdict.accepted - num_exact).clamp(min=0)
        self.rejected += verdict.accepted < drafts.count
        if self.trace is not None:
            self._record(drafts, verdict, is_new, num_exact)
        self.commit(verdict.accepted + is_new, target_probs)

    def settle_unverified(self, count: Tensor, probs: Tensor) -> None:
        """End a round: commit the next `count` (B,) tokens, drawn from probs (B, K, V), as is."""
        self.rounds += count > 0
        for b, rounds in self._traces():
            if count[b]:
                ranks = slice(int(self.known[b]), int(self.known[b] + count[b]))
                positions, tokens = self.positions[b, ranks], self.tokens[b, ranks]
                drawn = list(zip(positions.tolist(), tokens.tolist(), strict=True))
                rounds.append(Round(drawn, [True] * len(drawn), drawn))
        self.commit(count, probs)

    def commit(self, count: Tensor, probs: Tensor) -> None:
        """Make the next `count` (B,) tokens, drawn from probs (B, K, V), final."""
        ranks, is_new = self._ranks(self.known, count, probs.shape[1])
        tokens = self.tokens.gather(1, ranks)
        log_probs = probs.gather(2, tokens[..., None])[..., 0].log()
        self.is_nan |= log_probs.isnan().logical_and(is_new).any()
        self.log_probs.scatter_(1, ranks, log_probs)
        self.known = self.known + count
        # the last token has never been a content row, or its slot still holds a rejected draft
        self.cached = self.cached.minimum(self.known - 1)
        self.round += 1
        self.committed += count.sum()

    def by_position(self) -> tuple[Tensor, Tensor]:
        """Tokens and log-probabilities at their positions, (B, L) each."""
        is_target, positions = self.order.is_target, self.positions[:, :-1]
        tokens = self.input_ids.scatter(1, positions, self.tokens[:, :-1])
        log_probs = self.log_probs[:, :-1]
        log_probs = torch.zeros_like(log_probs).scatter_(1, positions, log_probs)
        return tokens.where(is_target, self.input_ids), log_probs.where(is_target, 0)

    def score_jointly(self) -> None:
        """Score the tokens under the joint law of the order that was asked for.

        One further network call, which is not counted: it is no part of making the sample.
        """
        tokens, _ = self.by_position()
        found = joint_log_probs(self.model, tokens, self.order, self.law, self.allowed)
        self.log_probs[:, :-1] = found.gather(1, self.positions[:, :-1])

    def _traces(self) -> Iterator[tuple[int, list[Round]]]:
        """The rounds of each sequence that is here, if they are recorded."""
        if self.trace is not None:
            for b, sequence in enumerate(self.sequences.tolist()):
                yield b, self.trace[sequence]

    def _record(self, drafts: Drafts, verdict: Verdict, is_new: Tensor, num_exact: int) -> None:
        for b, rounds in self._traces():
            count, accepted = int(drafts.count[b]), int(verdict.accepted[b])
            start = int(self.known[b])
            if start == int(self.length[b]):
                continue
            positions = self.positions[b, start : start + count + 1].tolist()
            drafted = list(zip(positions, drafts.tokens[b, :count].tolist(), strict=False))
            committed = drafted[:accepted]
            if is_new[b]:
                committed = [*committed, (positions[accepted], int(verdict.token[b]))]
            stands = [j < accepted for j in range(num_exact, count)]
            rounds.append(Round(drafted[num_exact:], stands, committed))
