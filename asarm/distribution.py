"""From logits to the distribution of a token: one place for every sampler and every density.

Shapes: B batch, L length, K tables, S states, V vocabulary; leading dimensions (...) are free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from asarm.checks import is_real, is_whole


@dataclass(frozen=True)
class Allowed:
    """Says which tokens a position may hold: its distribution loses all others, and `<mask>`.

    Args:
        tables: (K, V) bool, which tokens each table allows; at least one in each.
        kinds: (B, L) the offset in `tables` of each position's kind. Without `moves` a kind is one
            table; with them it is S of them, one for each state, and offsets are multiples of S.
        moves: (S + 2, V) the state after each token from each state, where what a position may hold
            depends on the tokens to its left, which then have lower ranks than it. From state S no
            text goes on; S + 1 is an unknown state. A position whose state is s has the table at
            its offset + s, or that of state 0 where s is none of the S. The state is found from an
            unknown one and the three tokens before the position: a character of UTF-8 has at most 4
            bytes, so no token further left can be part of one that is not complete.

    Raises:
        ValueError: a kind without tokens, or a kind that has no table.
    """

    tables: Tensor
    kinds: Tensor
    moves: Tensor | None = None

    def __post_init__(self) -> None:
        if self.tables.ndim != 2 or self.kinds.ndim != 2:
            raise ValueError(
                f"allowed has tables of shape {tuple(self.tables.shape)} and kinds of "
                f"{tuple(self.kinds.shape)}; expected (kinds, vocabulary) and (batch, length)"
            )
        if not self.tables.any(1).all():
            raise ValueError("a kind of positions may hold no token; allow at least one")
        last = len(self.tables) - self.num_states
        if self.kinds.min() < 0 or self.kinds.max() > last:
            raise ValueError(
                f"kinds holds {int(self.kinds.min())} to {int(self.kinds.max())}; "
                f"expected kinds from 0 to {last}, those of the tables"
            )

    @property
    def num_states(self) -> int:
        """How many tables a kind has: S, or 1 without moves."""
        return 1 if self.moves is None else len(self.moves) - 2

    def at(self, positions: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return which tokens the positions (B, ...) may hold, (B, ..., V) bool.

        Args:
            positions: any.
            tokens: (B, L) of the whole text, of which only those to the left of a position matter;
                without them, every position is in state 0.
        """
        return self.tables[self.table_of(positions, tokens)]

    def table_of(self, positions: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the table that says what each position (B, ...) may hold, (B, ...)."""
        places = positions.flatten(1)
        kinds = self.kinds.gather(1, places)
        if self.moves is not None and tokens is not None:
            kinds = kinds + self._state(self.moves, places, tokens)
        return kinds.view(positions.shape)

    def _state(self, moves: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
        """Return the state (B, n) that the three tokens before each position lead to, 0 if none."""
        state = torch.full_like(positions, self.num_states + 1)
        for back in (3, 2, 1):
            token = tokens.gather(1, (positions - back).clamp(min=0))
            state = torch.where(positions >= back, moves[state, token], state)
        return torch.where(state < self.num_states, state, 0)

    def without_moves(self) -> Allowed:
        """Return what positions may hold where nothing is known of the tokens to their left.

        That is what state 0 allows and stays in; all that it allows, where that is nothing.
        """
        if self.moves is None:
            return self
        stays = self.tables[:: self.num_states] & (self.moves[0] == 0)
        tables = stays.where(stays.any(1, keepdim=True), self.tables[:: self.num_states])
        return Allowed(tables, self.kinds // self.num_states)

    def select(self, sequences: Tensor) -> Allowed:
        """Return what some sequences (n,) of the batch may hold."""
        return replace(self, kinds=self.kinds[sequences])

    def to(self, device: torch.device) -> Allowed:
        """Return the same on another device."""
        moves = None if self.moves is None else self.moves.to(device)
        return Allowed(self.tables.to(device), self.kinds.to(device), moves)

    def over(self, vocab_size: int) -> Allowed:
        """Return the same for a model with more logits than the tokenizer has pieces."""
        beyond = 0, vocab_size - self.tables.shape[1]
        moves = None if self.moves is None else pad(self.moves, beyond, value=self.num_states)
        return replace(self, tables=pad(self.tables, beyond, value=0), moves=moves)


@dataclass(frozen=True)
class Distribution:
    """The distribution of a token given its logits: `<mask>` and whatever is not allowed removed,
    then temperature, top-k and top-p.

    Logits are consumed: what is passed may be overwritten.

    Args:
        mask_token_id: never predicted; nothing is removed if it is outside the vocabulary.
        temperature: divides the logits; 0 is greedy decoding: the most probable token, the lowest
            id of several.
        top_k: keep exactly the k most probable tokens, the lowest ids of those that are equally
            probable; all if None.
        top_p: keep the most probable tokens that together reach this probability; all if None.

    Raises:
        ValueError: an option outside its range.
    """

    mask_token_id: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_temperature("temperature", self.temperature)
        if self.top_k is not None and not (is_whole(self.top_k) and self.top_k >= 1):
            raise ValueError(
                f"top_k is {self.top_k!r}; expected a whole number from 1, or None for no filter"
            )
        if self.top_p is not None and not (is_real(self.top_p) and 0 < self.top_p <= 1):
            raise ValueError(f"top_p is {self.top_p!r}; expected above 0 and at most 1, or None")

    def probs(self, logits: Tensor, is_allowed: Tensor | None = None) -> Tensor:
        """Return probabilities (..., V) in float32, or in float64 from float64 logits."""
        return self.filter(logits, is_allowed).softmax(-1)

    def log_probs(self, logits: Tensor, is_allowed: Tensor | None = None) -> Tensor:
        """Return log-probabilities (..., V) in float32, or in float64 from float64 logits."""
        return self.filter(logits, is_allowed).log_softmax(-1)

    def of_counts(self, counts: Tensor) -> Tensor:
        """Return probabilities (..., V) from counts, which `<mask>` has none of: log-counts are
        logits."""
        if self.temperature == 1 and self.top_k is None and self.top_p is None:
            return counts / counts.sum(-1, keepdim=True)  # the same, without the logarithms
        return self.probs(counts.log())

    def filter(self, logits: Tensor, is_allowed: Tensor | None = None) -> Tensor:
        """Return logits (..., V) of the distribution in float32 or float64: -inf where it is 0.

        Args:
            is_allowed: (..., V) bool; None allows all tokens but `<mask>`.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if is_allowed is not None:
            logits = logits.masked_fill(~is_allowed, -torch.inf)
        if 0 <= self.mask_token_id < logits.shape[-1]:
            logits[..., self.mask_token_id].fill_(-torch.inf)
        if self.temperature == 0 or self.top_k == 1:
            return _keep_best(logits)
        if self.temperature != 1:
            logits = _divide(logits, self.temperature)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = _keep_top_k(logits, int(self.top_k))
        if self.top_p is not None and self.top_p < 1:
            logits = _keep_top_p(logits, self.top_p)
        return logits


def check_temperature(name: str, value: float) -> None:
    """Refuse a temperature that no distribution has; 0 is greedy decoding.

    Raises:
        ValueError: it is negative, infinite or no number.
    """
    if not (is_real(value) and 0 <= value < math.inf):
        raise ValueError(
            f"{name} is {value!r}; expected a finite number above 0, or 0 for greedy decoding"
        )


def _divide(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits (..., V), less their largest, by a temperature, so that none overflows."""
    info = torch.finfo(logits.dtype)
    divisor = min(max(float(temperature), info.tiny), info.max)  # 0 and inf would give NaN
    return (logits - logits.amax(-1, keepdim=True)) / divisor


def _keep_best(logits: Tensor) -> Tensor:
    """Remove all tokens but the most probable one; argmax is the first of several."""
    best = logits.argmax(-1, keepdim=True)
    kept = torch.full_like(logits, -torch.inf).scatter_(-1, best, 0.0)
    # neither NaN nor a row without a token may pass for a best token: NaN is found when committed
    return kept.masked_fill(~logits.gather(-1, best).isfinite(), torch.nan)


def _keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Remove all tokens but the k most probable ones; of equal ones the lowest ids stay."""
    least = logits.topk(top_k, dim=-1).values[..., -1:]
    is_above, is_least = logits > least, logits == least
    room = top_k - is_above.sum(-1, keepdim=True)
    is_kept = is_above | (is_least & (is_least.cumsum(-1) <= room))
    return logits.masked_fill(~is_kept & ~logits.isnan(), -torch.inf)


def _keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Remove the tokens after those that together reach the probability `top_p`."""
    ordered, index = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.softmax(-1)
    is_surplus = probs.cumsum(-1) - probs >= top_p
    return logits.masked_fill(is_surplus.gather(-1, index.argsort(-1)), -torch.inf)
