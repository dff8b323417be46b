"""A decoding in the middle of its text, whose next rounds can be made again and again."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from asarm.evaluation.benchmark.calls import FirstRounds
from asarm.evaluation.benchmark.config import BenchmarkConfig
from asarm.order import Order
from asarm.rows import Backbone
from asarm.sampling import ONE_LIMIT, decode, default_draft
from asarm.sampling.cost import COSTS
from asarm.sampling.decoding import COUNTS
from asarm.sampling.draft_length import AutoLength, DraftLength
from asarm.sampling.randomness import HashedRandomness
from asarm.sampling.verify import BlockCoupling

KNOWN_SHARES = (0.35, 0.65, 0.95)  # where a text is timed, besides its start


def orders_along(config: BenchmarkConfig, *, batch: int = 1) -> list[Order]:
    """Orders of texts at base size of which less and less is blank."""
    shares = config.prompt_share, *KNOWN_SHARES
    length, seed = config.base_length, config.seed
    return [Order.random_split(length, share, batch=batch, seed=seed) for share in shares]


class Midway(FirstRounds):
    """A decoding as `sample` makes it by default, that makes a few rounds from where it is put.

    Nothing that is kept depends on what comes after it, so it may go back as it may go on.
    """

    def __init__(self, model: Backbone, input_ids: Tensor, order: Order, *, num_rounds: int):
        super().__init__(model, input_ids, order, num_rounds=num_rounds)
        seeds = torch.arange(len(input_ids), device=input_ids.device)
        self.coupling = BlockCoupling(HashedRandomness(seeds))

    def next_rounds(self, known: int, method: str, length: DraftLength | None = None) -> int:
        """Make the rounds that follow so many ranks; the number of tokens that they commit.

        Onepass drafts by the model's head if it has one, as many as pay if `length` is None.
        All ranks below but the last are taken to be in the cache, as they are between rounds.
        """
        again = copy(self)  # whose sequences may leave
        again.known = self.num_prompt.new_full(self.num_prompt.shape, known)
        again.cached = again.known - 1
        again.round, again.committed = 0, torch.zeros_like(self.committed)
        for name in COUNTS:
            setattr(again, name, torch.zeros_like(again.known))
        if method == "onepass":
            device = self.model.device
            length = length or AutoLength(method, COSTS[device.type], device)
            draft = default_draft(self.model)
            decode(again, method, k=length, draft=draft, stride=ONE_LIMIT)
        else:
            decode(again, method)
        return int((again.known - known).sum())

    def read_prompt(self) -> None:
        """Put the prompt into the cache, in a round that does not count."""
        first = copy(self)
        first.num_rounds = 1
        decode(first, "sequential")

    def score_jointly(self) -> None:
        """Nothing: it is no part of making a sample."""
