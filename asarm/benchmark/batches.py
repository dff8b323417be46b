"""Tokens per second of a batch against those of one sequence, at base size.

Whole texts would take minutes: a few rounds are timed at places spread over one, prompts read
beforehand.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import Figure
from asarm.benchmark.methods import PROMPT_SHARES
from asarm.benchmark.midway import Midway, orders_along
from asarm.benchmark.models import random_head, random_ids, with_reference
from asarm.benchmark.replayed import (
    acceptance_by_lag,
    auto_figure,
    replay_acceptance,
)
from asarm.benchmark.timing import alternate, ratio
from asarm.sampling import sampler_of
from asarm.sampling.calibration import calibrate

WANTED = {"sequential": ("", 4.0), "onepass": (" k = auto (default)", 2.0)}

Places = dict[int, list[Midway]]  # decodings along a text, by the size of their batch


def batches_figures(config: BenchmarkConfig) -> list[Figure]:
    """Measure the gain of a batch of texts with prompts of their own; that of k = auto.

    Drafts of onepass are accepted as often as those of the trained model of demo size.
    """
    demo, _ = with_reference(config.demo_size, config)
    if demo.draft_head is None:
        demo.set_draft_head(random_head(demo, config.seed))
    model, _ = with_reference(config.base_size, config)
    model.set_draft_head(random_head(model, config.seed))
    places = {size: places_of_batch(model, size, config) for size in (1, config.base_batch)}
    costs, figures = calibrate(model, repeats=2), []
    for fraction in reversed(PROMPT_SHARES):
        rates = acceptance_by_lag(demo, fraction, config)
        for of_size in places.values():
            replay_acceptance(of_size, rates)
        figures.append(auto_figure(places[1], fraction, costs, config))
    return [
        *(batch_figure(places, m, k, wanted, config) for m, (k, wanted) in WANTED.items()),
        *figures,
    ]


def places_of_batch(
    model: AnySubsetTransformer, size: int, config: BenchmarkConfig
) -> list[Midway]:
    """Prepare decodings at the start of a text and further on, ready for their next rounds."""
    places, ids = [], random_ids(model, config.base_length, batch=size)
    for order in orders_along(config, batch=size):
        place = Midway(model, ids, order, num_rounds=config.rounds)
        place.read_prompt()
        places.append(place)
    return places


def batch_figure(
    places: Places, method: str, k: str, wanted: float, config: BenchmarkConfig
) -> Figure:
    """Measure tokens per second of the batch over those of one sequence."""

    sampler = sampler_of(method)

    def fill(size: int, _: int) -> int:
        return sum(place.next_rounds(place.num_prompt, sampler) for place in places[size])

    works = {size: partial(fill, size) for size in places}
    for work in works.values():  # a warm-up, in which the number of drafts becomes steady
        work(0)
    times = alternate(works, config.repeats, config.device)
    one, many = (1 / median(found) for found in times.values())
    return Figure(
        f"{config.base_size} size, L = {config.base_length}, {method}{k}: tokens per second, "
        f"batch {config.base_batch} / batch 1",
        ratio(times[1], times[config.base_batch]),
        wanted,
        detail=f"{many:.1f} / {one:.1f}, {config.rounds} rounds at each of {len(places[1])} places",
    )
