"""A decoding in the middle of its text, whose next rounds can be made again and again."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from asarm.benchmark.calls import numbered
from asarm.benchmark.config import BenchmarkConfig
from asarm.order import Order
from asarm.rows import Backbone
from asarm.sampling import Sampler, Sequential
from asarm.sampling.api import prepare
from asarm.sampling.lengths import DraftLengths
from asarm.sampling.network import Net
from asarm.sampling.rounds import Decoding
from asarm.sampling.state import State
from asarm.sampling.verify import Verifier

KNOWN_FRACTIONS = (0.35, 0.65, 0.95)  # where a text is timed, besides its start


def orders_along(config: BenchmarkConfig, *, batch: int = 1) -> list[Order]:
    """Return orders of texts at base size of which less and less is blank."""
    fractions = config.prompt_share, *KNOWN_FRACTIONS
    length, seed = config.base_length, config.seed
    return [Order.random_split(length, fraction, batch=batch, seed=seed) for fraction in fractions]


class Midway:
    """A decoding as `sample` makes it, that makes a few rounds from where it is put.

    Nothing that is kept depends on what comes after it, so it may go back as it may go on.

    Args:
        model: the backbone.
        input_ids: (B, L).
        order: the decoding order.
        num_rounds: at most, of a text.
    """

    def __init__(self, model: Backbone, input_ids: Tensor, order: Order, *, num_rounds: int):
        self.model, self.input_ids, self.num_rounds = model, input_ids, num_rounds
        self.order = order.to(input_ids.device)
        self.cache = model.new_cache(*input_ids.shape)
        self.verifier: Verifier | None = None  # in place of a sampler's own
        self.last: State | None = None  # what the last rounds came to
        self.nets: dict[Sampler, Net] = {}  # made once: a round is timed, and nothing else

    @property
    def num_prompt(self) -> int:
        """How many ranks are given, of the first sequence."""
        return int(self.order.num_prompt[0])

    def next_rounds(self, known: int, sampler: Sampler, lengths: DraftLengths | None = None) -> int:
        """Make the rounds that follow so many ranks; return how many tokens they commit.

        All ranks below but the last are taken to be in the cache, as they are between rounds.

        Args:
            known: how many ranks.
            sampler: makes the rounds.
            lengths: how many drafts they have, in place of the sampler's own k.
        """
        net, state = self._net(sampler), self._state()
        state.num_committed = torch.full_like(state.num_committed, known)
        state.cached = state.num_committed - 1
        found = self._run(sampler, replace(net, lengths=lengths or net.lengths), state)
        return int((found.num_committed - known).sum())

    def read_prompt(self) -> None:
        """Put the prompt into the cache, in a round that does not count."""
        sampler = Sequential()
        net = replace(self._net(sampler), prompt_size=int(self.order.num_prompt.max()))
        self._run(sampler, net, self._state(), max_rounds=1)

    def fill(self, sampler: Sampler) -> State:
        """Fill the whole text; return what that comes to."""
        net = replace(self._net(sampler), prompt_size=int(self.order.num_prompt.max()))
        return self._run(sampler, net, self._state())

    def _net(self, sampler: Sampler) -> Net:
        if sampler not in self.nets:
            randomness = numbered(self.input_ids)
            self.nets[sampler], _ = prepare(
                self.model, self.input_ids, self.order, sampler, randomness, cache=self.cache
            )
            self.nets[sampler].prompt_size = 0
        return replace(self.nets[sampler], verifier=self.verifier or self.nets[sampler].verifier)

    def _state(self) -> State:
        dtype = torch.promote_types(self.model.dtype, torch.float32)
        return State.of(self.input_ids, self.order, self.model.vocab_size, dtype)

    def _run(
        self, sampler: Sampler, net: Net, state: State, max_rounds: int | None = None
    ) -> State:
        max_rounds = max_rounds or self.num_rounds
        self.last = Decoding(sampler, net, state, max_rounds=max_rounds).run()
        return self.last
