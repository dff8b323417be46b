"""What a draft head costs: its own time, next to that of a network call."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.calls import first_rounds
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import PAPER_K, Figure
from asarm.benchmark.models import random_head, random_ids, random_network
from asarm.drafting.drafters import Drafter, Drafts, HeadDrafter, Request, self_drafter
from asarm.loading import resolve_dtype
from asarm.order import Order
from asarm.sampling import OnePass

NUM_ROUNDS = 20  # of a long text, from its start, where calls take least
MAX_RATIO = 0.05  # of a call's time


class Stopwatch:
    """A drafter that counts its calls and their time."""

    def __init__(self, drafter: Drafter):
        self.drafter, self.calls, self.seconds = drafter, 0, 0.0

    def __call__(self, request: Request) -> Drafts:
        before = self._now(request.hidden)
        drafts = self.drafter(request)
        self.seconds += self._now(request.hidden) - before
        self.calls += 1
        return drafts

    @staticmethod
    def _now(hidden: Tensor) -> float:
        if hidden.is_cuda:
            torch.cuda.synchronize()
        return perf_counter()


def head_figures(config: BenchmarkConfig) -> list[Figure]:
    """Measure what a random head adds to a round's drafts at base size, over a call's time.

    Drafts are timed where they are made, between calls, when caches hold the network's weights.
    """
    model = random_network(config.base_size, config).to(resolve_dtype(config.dtype)).pack()
    model.set_draft_head(random_head(model, config.seed))
    drafters: dict[str, Drafter] = {"self": self_drafter, "head": HeadDrafter.of(model)}
    for drafter in drafters.values():  # a warm-up
        time_rounds(model, drafter, config)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in drafters}
    for _ in range(config.repeats):
        for name, drafter in drafters.items():
            found[name].append(time_rounds(model, drafter, config))
    own, with_head = (median(drafts for drafts, _ in found[name]) for name in drafters)
    call = median(call for _, call in found["self"])
    return [
        Figure(
            f"{config.base_size} size, L = {config.base_length}, onepass k = {PAPER_K}: time of "
            "a random draft head / of a call",
            max(0.0, with_head - own) / call,
            MAX_RATIO,
            is_limit=True,
            detail=f"{with_head - own:.2f} ms a round (drafts {with_head:.2f} - {own:.2f} ms) / "
            f"{call:.2f} ms",
        )
    ]


def time_rounds(
    model: AnySubsetTransformer, drafter: Drafter, config: BenchmarkConfig
) -> tuple[float, float]:
    """Return milliseconds of a round's drafts, and of a call with all that belongs to its round."""
    ids = random_ids(model, config.base_length)
    order = Order.random_split(config.base_length, config.prompt_share, seed=config.seed)
    watch = Stopwatch(drafter)
    sampler, start = OnePass(k=PAPER_K, drafter=watch, verifier="rejection"), perf_counter()
    calls = first_rounds(model, ids, order, sampler, num_rounds=NUM_ROUNDS)
    seconds = perf_counter() - start
    return 1000 * watch.seconds / watch.calls, 1000 * seconds / calls
