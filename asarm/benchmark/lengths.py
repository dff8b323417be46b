"""What a call takes, and the cache, against the length of the text."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from asarm.backbones.cache import KeyValueCache
from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import NUM_LAYERS, Figure, LengthCost
from asarm.benchmark.midway import Midway
from asarm.benchmark.models import network_config, random_ids
from asarm.benchmark.report import Report
from asarm.benchmark.timing import alternate
from asarm.loading import resolve_dtype
from asarm.order import Order
from asarm.sampling import Sequential

FRACTIONS = (0.25, 0.5, 0.75)  # of the text that is known
VOCABULARY = 256  # next to no language-model head: it does not grow, and would hide what does
FASTER = 1.1  # than the length, at most, grows the time of a call

Times = dict[tuple[int, float], list[float]]  # seconds per call by length and known fraction


def measure_lengths(report: Report, config: BenchmarkConfig) -> None:
    """Put into the report what calls of sequential take at all lengths, and how that grows."""
    model = shallow_network(config)
    decodings = {length: known_text(model, length, config) for length in config.lengths}

    def call(length: int, fraction: float, _: int) -> int:
        return decodings[length].next_rounds(num_known(length, fraction), Sequential())

    works = {
        (n, fraction): partial(call, n, fraction) for n in config.lengths for fraction in FRACTIONS
    }
    for work in works.values():  # a warm-up
        work(0)
    times = alternate(works, config.repeats, config.device)
    memory = {length: num_bytes(decodings[length].cache) for length in config.lengths}
    report.lengths = [
        LengthCost(length, fraction, 1000 * median(found), memory[length])
        for (length, fraction), found in times.items()
    ]
    if len(config.lengths) > 1:
        report.figures.append(growth_figure(times, config))


def shallow_network(config: BenchmarkConfig) -> AnySubsetTransformer:
    """Make a network as wide as the base and of a few layers, of random weights."""
    settings = network_config(config.base_size)
    settings.n_layer, settings.vocab_size = NUM_LAYERS, VOCABULARY
    torch.manual_seed(config.seed)
    return AnySubsetTransformer(settings).eval().to(config.device, resolve_dtype(config.dtype))


def known_text(model: AnySubsetTransformer, length: int, config: BenchmarkConfig) -> Midway:
    """Make a decoding with all ranks in the cache: its zero keys and values cost the same."""
    order = Order.random_split(length, 0, seed=config.seed)  # a prompt below all fractions
    decoding = Midway(model, random_ids(model, length), order, num_rounds=config.rounds)
    slots = torch.arange(length, device=model.device)[None]
    cast(KeyValueCache, decoding.cache).write_positions(slots, decoding.order.order)
    return decoding


def num_known(length: int, fraction: float) -> int:
    """Return how many positions a fraction is; at least one is."""
    return max(1, int(length * fraction))


def growth_figure(times: Times, config: BenchmarkConfig) -> Figure:
    """Measure the growth of a call's time to the largest length, over that of the length."""
    below, longest = sorted(set(config.lengths))[-2:]
    per_repeat = {
        length: [sum(taken) for taken in zip(*(times[length, s] for s in FRACTIONS), strict=True)]
        for length in (below, longest)
    }
    grown = median(b / a for a, b in zip(per_repeat[below], per_repeat[longest], strict=True))
    ms = {length: 1000 * median(found) / len(FRACTIONS) for length, found in per_repeat.items()}
    return Figure(
        f"{config.base_size} width, {NUM_LAYERS} layers, sequential: growth of the time per call "
        f"from L = {below} to {longest} / growth of L",
        grown * below / longest,
        FASTER,
        is_limit=True,
        detail=f"{ms[longest]:.2f} ms / {ms[below]:.2f} ms, mean over 25, 50 and 75% known",
    )


def num_bytes(cache: object) -> int:
    """Count bytes of all that a cache keeps; what two tensors share counts once."""
    stores = [tensor.untyped_storage() for tensor in tensors(vars(cache).values())]
    return sum({store.data_ptr(): store.nbytes() for store in stores}.values())


def tensors(things: Iterable[Any]) -> list[Tensor]:
    """Yield the tensors among things, and in the lists among them."""
    found: list[Tensor] = []
    for thing in things:
        if isinstance(thing, Tensor):
            found.append(thing)
        elif isinstance(thing, list | tuple):
            found += tensors(thing)
    return found
