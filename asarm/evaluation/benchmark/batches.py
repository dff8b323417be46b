"""Tokens per second of a batch against those of one sequence, at base size.

Whole texts would take minutes: a few rounds are timed at places spread over one, prompts read
beforehand.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from asarm.evaluation.benchmark.config import BenchmarkConfig
from asarm.evaluation.benchmark.midway import Midway, orders_along
from asarm.evaluation.benchmark.models import random_ids, with_reference
from asarm.evaluation.benchmark.report import Figure
from asarm.evaluation.benchmark.timing import alternate, ratio
from asarm.model import AnySubsetTransformer

DEMANDS = {"sequential": ("", 4.0), "onepass": (" k = auto (default)", 2.0)}

Places = dict[int, list[Midway]]  # decodings along a text, by the size of their batch


def batches_figures(config: BenchmarkConfig) -> list[Figure]:
    """The gain of a batch whose sequences have texts and prompts of their own."""
    model, _ = with_reference(config.base_size, config)
    places = {size: places_of_batch(model, size, config) for size in (1, config.base_batch)}
    return [
        batch_figure(places, method, k, demand, config) for method, (k, demand) in DEMANDS.items()
    ]


def places_of_batch(
    model: AnySubsetTransformer, size: int, config: BenchmarkConfig
) -> list[Midway]:
    """Decodings at the start of a text and further on, ready for their next rounds."""
    places, ids = [], random_ids(model, config.base_length, batch=size)
    for order in orders_along(config, batch=size):
        place = Midway(model, ids, order, num_rounds=config.rounds)
        place.read_prompt()
        places.append(place)
    return places


def batch_figure(
    places: Places, method: str, k: str, demand: float, config: BenchmarkConfig
) -> Figure:
    """Tokens per second of the batch over those of one sequence."""

    def fill(size: int, _: int) -> int:
        return sum(place.next_rounds(int(place.num_prompt[0]), method) for place in places[size])

    works = {size: partial(fill, size) for size in places}
    for work in works.values():  # a warm-up, in which the number of drafts settles
        work(0)
    times = alternate(works, config.repeats, config.device)
    one, many = (1 / median(found) for found in times.values())
    return Figure(
        f"{config.base_size} size, L = {config.base_length}, {method}{k}: tokens per second, "
        f"batch {config.base_batch} / batch 1",
        ratio(times[1], times[config.base_batch]),
        demand,
        detail=f"{many:.1f} / {one:.1f}, {config.rounds} rounds at each of {len(places[1])} places",
    )
