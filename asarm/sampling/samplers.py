"""The samplers: each a value with its options, and one round of it.

Where they are lossless, they have exactly the distribution of `Sequential`: all but `Parallel` are,
unless a tolerance is above 0. None makes more network calls than there are targets.

Shapes: B batch, K drafts of a round, Q query rows, C model width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from asarm.checks import is_count, one_of
from asarm.drafting.checked import drafter_for
from asarm.drafting.drafters import Drafter, Drafts, ngram_drafter
from asarm.rows import Backbone
from asarm.sampling.base import Sampler, Speculative, draw_exact
from asarm.sampling.commit import Outcome, commit_unverified, verify_and_commit
from asarm.sampling.cost import RoundWork
from asarm.sampling.network import Net, Rows
from asarm.sampling.randomness import Purpose
from asarm.sampling.state import State
from asarm.sampling.verify import VERIFIERS


@dataclass(frozen=True)
class Sequential(Sampler):
    """Decodes one target a call: its distribution is that of every lossless sampler.

    Args:
        verifier: how tokens are drawn: with "gumbel", the text is that of every other lossless
            sampler with "gumbel".
    """

    verifier: str = "block"

    name: ClassVar[str] = "sequential"
    can_be_static: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("verifier", self.verifier, tuple(VERIFIERS))

    @property
    def is_lossless(self) -> bool:
        return True

    def round(self, net: Net, state: State) -> Outcome:
        row = Rows.verifying(state.num_committed[:, None], state.left[:, None] > 0)
        hidden = net.call(state, row, upto=state.num_committed)
        nothing = Drafts.none(state.num_committed, net.model.vocab_size, net.dtype)
        probs = net.target_probs(state, hidden, row.ranks)
        return verify_and_commit(net, state, nothing, probs, has_bonus=state.left > 0)


@dataclass(frozen=True, kw_only=True)
class ASSD(Speculative):
    """Drafts and verifies in two calls a round: algorithm 1 of Guo & Ermon 2025.

    Args:
        drafter: "self", the network's own rows (the paper's); "head", the learned head of the
            model; any `Drafter`, whose distributions are checked; the model's head where it has
            one, and else "self", if None.
    """

    drafter: str | Drafter | None = None

    name: ClassVar[str] = "assd"
    min_auto: ClassVar[int] = 3  # k = 2 makes two calls for at most two tokens, as `Sequential`

    def make_drafter(self, model: Backbone) -> Drafter:
        return drafter_for(model, self.drafter)

    def work(self, k: int) -> RoundWork:
        # call A: k query rows and the content of the token before them; call B: k - 1 of each
        return RoundWork(calls=min(k, 2), rows=3 * k - 1, drafts=k - 1)

    def round(self, net: Net, state: State) -> Outcome:
        start, count = state.num_committed, state.left.minimum(net.lengths(state))
        size = net.size(count, net.lengths.max_drafts)
        # call A: all rows see what is known; the first has the target distribution, no draft's
        rows = Rows.ahead(start, count, size)
        hidden = net.call(state, rows, upto=start)
        exact = draw_exact(net, state, hidden[:, :1])
        state.write(start, exact.tokens, exact.count)
        wanted = (count - 1).clamp(min=0)
        others = net.make_drafts(
            state, hidden[:, 1:], start=start + 1, limit=start, count=wanted, size=size - 1
        )
        drafts, target_probs = exact.followed_by(others), exact.probs
        state.write(start, drafts.tokens, drafts.count)
        if size > 1:
            # call B: every other row sees the drafts before it
            own = Rows.verifying(rows.ranks[:, 1:], rows.is_row[:, 1:])
            hidden = net.call(state, own, upto=start + count - 1, max_content=size - 1)
            verified = net.target_probs(state, hidden, own.ranks)
            target_probs = torch.cat([target_probs, verified], dim=1)
        # where a drafter gave fewer drafts than were wanted, the row after them gives a bonus token
        has_bonus = drafts.count < count
        return verify_and_commit(net, state, drafts, target_probs, has_bonus=has_bonus, num_exact=1)


@dataclass(frozen=True, kw_only=True)
class NGram(Speculative):
    """Drafts from the text's own bigrams and verifies: algorithm 2 of Guo & Ermon 2025.

    A round is one call: the drafts' rows and, in case all are accepted, the one after them.
    """

    name: ClassVar[str] = "ngram"

    def make_drafter(self, model: Backbone) -> Drafter:
        return ngram_drafter

    def work(self, k: int) -> RoundWork:
        return RoundWork(calls=1, rows=2 * (k + 1), drafts=k)  # as many content as query rows

    def round(self, net: Net, state: State) -> Outcome:
        start, count = state.num_committed, state.left.minimum(net.lengths(state))
        count = torch.where(start > 0, count, 0)  # nothing is known to draft from
        size = net.size(count, net.lengths.max_drafts)
        drafts = net.make_drafts(state, None, start=start, limit=start, count=count, size=size)
        state.write(start, drafts.tokens, drafts.count)
        ranks = start[:, None] + torch.arange(size + 1, device=start.device)
        last = (start + drafts.count).minimum(state.length - 1)
        rows = Rows.verifying(ranks, ranks <= last[:, None])
        hidden = net.call(state, rows, upto=start + drafts.count, max_content=size + 1)
        probs = net.target_probs(state, hidden, ranks)
        return verify_and_commit(net, state, drafts, probs, has_bonus=drafts.count < state.left)


@dataclass(frozen=True, kw_only=True)
class OnePass(Speculative):
    """Verifies and drafts in one call, which carries rows for the drafts of the next round, too.

    These see what is known before the call and, at most, the drafts that are accepted.

    Args:
        drafter: as of `ASSD`.
        stride: of the numbers of accepted drafts for which rows of the next drafts are prepared;
            where another number is accepted, those of the next lower one serve, which see fewer
            of the accepted drafts. If None, 1 where k is 1 or 2, and no number but 0 otherwise.

    Raises:
        ValueError: an option outside its range.
    """

    drafter: str | Drafter | None = None
    stride: int | None = None

    name: ClassVar[str] = "onepass"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride is not None and not is_count(self.stride):
            raise ValueError(f"stride is {self.stride!r}; expected at least 1, or None")

    def make_drafter(self, model: Backbone) -> Drafter:
        return drafter_for(model, self.drafter)

    def work(self, k: int) -> RoundWork:
        # content of the drafts and of the token before them; the query rows are those of the layout
        return RoundWork(calls=1, rows=k + 1 + self.layout(k, k).num_rows, drafts=k)

    def layout(self, num_drafts: int, k: int) -> Layout:
        """Lay out the rows of a call that verifies `num_drafts` drafts and prepares k."""
        only_zero = num_drafts + 1  # a stride with which there are no rows for another number
        return Layout(num_drafts, k, self.stride or (1 if self.k in (1, 2) else only_zero))

    def round(self, net: Net, state: State) -> Outcome:
        drafts, start = state.drafts, state.num_committed
        # drafts of the next round: one token at least is committed before them
        ahead = net.lengths(state).minimum(state.left - 1).clamp(min=0)
        layout = self.layout(drafts.tokens.shape[1], net.size(ahead, net.lengths.max_drafts))
        state.write(start, drafts.tokens, drafts.count)
        rows = layout.rows(start, drafts.count, ahead, state.length)
        hidden = net.call(state, rows, start + drafts.count, layout.num_drafts + 1)
        verify = slice(layout.num_drafts + 1)
        target_probs = net.target_probs(state, hidden[:, verify], rows.ranks[:, verify])
        has_bonus = drafts.count < state.left
        outcome = verify_and_commit(net, state, drafts, target_probs, has_bonus=has_bonus)
        # whatever was accepted, one token follows; the drafts come after that
        count = state.left.minimum(ahead)
        size = net.size(count, net.lengths.max_drafts)
        hidden = layout.rows_after(outcome.accepted, hidden, size)
        limit = start + layout.prepared(outcome.accepted)
        state.drafts = net.make_drafts(
            state, hidden, start=state.num_committed, limit=limit, count=count, size=size
        )
        return outcome


class Layout(NamedTuple):
    """The query rows of a call of `OnePass`: how they are laid out, and where to find them again.

    With n ranks known, 2 drafts to verify, k = 3 to prepare and stride 1:

        rows that verify        ranks n, n+1, n+2            each sees the ranks below its own
        if 0 are accepted       ranks n+1, n+2, n+3          all see n ranks
        if 1 is accepted        ranks n+2, n+3, n+4          all see n + 1 ranks
        if 2 are accepted       ranks n+3, n+4, n+5          all see n + 2 ranks

    With a larger stride only every stride-th of the lower lines is there, longer by the ranks that
    the lines left out would add.
    """

    num_drafts: int
    k: int
    stride: int  # of the numbers of accepted drafts that have rows: 0, stride, 2 x stride, ...

    @property
    def num_rows(self) -> int:
        """The number of query rows of the call."""
        return len(self.places())

    def places(self) -> list[tuple[int, int]]:
        """List rank and limit, above what is known, of each row: those that verify come first."""
        verify = [(rank, rank) for rank in range(self.num_drafts + 1)]
        prepare = [
            (rank, limit)
            for limit in range(0, self.num_drafts + 1, self.stride)
            for rank in range(limit + 1, min(limit + self.stride - 1, self.num_drafts) + self.k + 1)
        ]
        return verify + prepare

    def rows(self, start: Tensor, num_drafts: Tensor, ahead: Tensor, length: Tensor) -> Rows:
        """Return the rows from `start` (B,) on, where `ahead` (B,) drafts are to be prepared."""
        above = _places(self, start.device)  # (2, Q)
        ranks, limits = start[:, None] + above[0], start[:, None] + above[1]
        last = (start + num_drafts + ahead).minimum(length - 1)
        is_row = (above[1] <= num_drafts[:, None]) & (ranks <= last[:, None])
        return Rows(ranks, limits, is_row)

    def prepared(self, accepted: Tensor) -> Tensor:
        """Return for which number of accepted drafts the rows are that serve (B,) of them."""
        return accepted - accepted % self.stride

    def rows_after(self, accepted: Tensor, hidden: Tensor, size: int) -> Tensor:
        """Return hidden states (B, size, C) of the drafts' rows after `accepted` (B,) of them."""
        prepared = self.prepared(accepted)
        # a line has k rows, and one more for each number left out between it and the next line;
        # the rows for `accepted` begin as far into its line as it is above the line's own number
        line = self.k + self.stride - 1
        first = self.num_drafts + 1 + prepared // self.stride * line + (accepted - prepared)
        rows = (first[:, None] + torch.arange(size, device=first.device))[..., None]
        return hidden.gather(1, rows.expand(-1, -1, hidden.shape[2]))


@cache
def _places(layout: Layout, device: torch.device) -> Tensor:
    """Return the places (2, Q) of a layout's rows, copied to a device once."""
    return torch.tensor(layout.places(), device=device).T


@dataclass(frozen=True)
class Parallel(Sampler):
    """Fills all targets in at most `steps` calls, those of one call as if they were independent.

    This is what masked-diffusion samplers do, and it is lossy like them: the comparator. The tokens
    beside a target may be drawn in the same call, so `Allowed.moves`, which look at those to its
    left, play no part: neither in what is drawn nor in `SampleResult.log_probs`.

    Args:
        steps: network calls, at most: none is made without a target.
        by: which targets are filled first: by "order", or by "confidence": of all targets left,
            those whose drawn token is the most probable. Their positions move to the front, while
            every draw stays that of the rank in the given order.
        verifier: how tokens are drawn, as of `Sequential`.

    Raises:
        ValueError: an option outside its range.
    """

    steps: int
    by: str = "order"
    verifier: str = "block"

    name: ClassVar[str] = "parallel"

    def __post_init__(self) -> None:
        if not is_count(self.steps):
            raise ValueError(f"steps is {self.steps!r}; expected at least 1 network call")
        one_of("by", self.by, ("order", "confidence"))
        one_of("verifier", self.verifier, tuple(VERIFIERS))

    @property
    def is_lossless(self) -> bool:
        return False

    def round(self, net: Net, state: State) -> Outcome:
        count = -(-state.left // (self.steps - int(state.round_number)))  # rounded up
        drawn = state.left if self.by == "confidence" else count
        ranks, is_row = state.next_ranks(state.num_committed, drawn, int(drawn.max()))
        limits = state.num_committed[:, None].expand_as(ranks)
        hidden = net.call(state, Rows(ranks, limits, is_row), upto=state.num_committed)
        probs = net.target_probs(state, hidden, ranks)  # (B, Q, V)
        positions = state.positions.gather(1, ranks)
        own_ranks = state.rank_of.gather(1, positions)
        tokens = net.draw(probs, own_ranks, Purpose.TARGET, state.round_number, is_row)
        if self.by == "confidence":
            confidence = probs.gather(2, tokens[..., None])[..., 0].where(is_row, -1)
            confidence = confidence.round(decimals=6)  # what is equal but for rounding goes by rank
            best = confidence.argsort(dim=1, descending=True, stable=True)
            tokens = tokens.gather(1, best)
            probs = probs.gather(1, best[..., None].expand_as(probs))
            state.positions.scatter_(1, ranks, positions.gather(1, best))
        state.write(state.num_committed, tokens, count)
        return commit_unverified(state, Drafts(tokens, probs, count))


SAMPLERS: dict[str, type] = {
    sampler.name: sampler for sampler in (Sequential, ASSD, NGram, OnePass, Parallel)
}


def sampler_of(name: str, **settings: object) -> Sampler:
    """Return the sampler of a name, with those of the settings that it has and that are not None.

    For programs whose settings serve several samplers; `sample` refuses what a sampler lacks.

    Raises:
        ValueError: the name, which programs take as their setting `method`, is unknown, or `steps`
            are missing.
    """
    one_of("method", name, tuple(SAMPLERS))
    if has_option(name, "steps") and settings.get("steps") is None:
        raise ValueError(f"steps is None; method {name!r} needs at least 1 network call")
    own = {n: v for n, v in settings.items() if v is not None and has_option(name, n)}
    return SAMPLERS[name](**own)


def has_option(name: str, option: str) -> bool:
    """Return whether the sampler of a name has an option, such as "drafter"."""
    return option in option_names(name)


def option_names(name: str) -> list[str]:
    """Return the names of the options of the sampler of a name."""
    return [field.name for field in fields(SAMPLERS[name])]


def lossless_names() -> list[str]:
    """Return the names of the samplers that are lossless unless an option makes them lossy."""
    return [name for name in SAMPLERS if sampler_of(name, steps=1).is_lossless]
