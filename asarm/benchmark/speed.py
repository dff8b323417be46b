"""Times against the original method, against two bounds, and of a batch against one sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.bandwidth import Reading, weights_of_a_call
from asarm.benchmark.calls import (
    PAPERS_SAMPLER,
    CallShape,
    MatrixProducts,
    first_rounds,
    recorded_calls,
)
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import PAPER_K, Figure
from asarm.benchmark.midway import orders_along
from asarm.benchmark.models import is_trained, random_ids, with_reference
from asarm.benchmark.reference import RecomputingXLNet
from asarm.benchmark.timing import alternate, ratio
from asarm.data.evaluated import load_blocks
from asarm.loading import load_tokenizer
from asarm.order import Order
from asarm.rows import Backbone
from asarm.sampling import sample, sampler_of

NUM_SHAPES = 40  # calls of a sequence whose products are timed
MAX_RATIO, MAX_OF_DEMO = 1.2, 2.0  # a call over its matrix products, at base and at demo size

Times = Mapping[str, list[float]]  # seconds, by work


def base_figures(config: BenchmarkConfig) -> list[Figure]:
    """Measure time per call at XLNet-base size against the reference and against two bounds."""
    ours, reference = with_reference(config.base_size, config)
    figures = [
        *time_per_call(ours, reference, "sequential", None, config, wanted=25),
        *time_per_call(ours, reference, "assd", PAPER_K, config, wanted=18),
    ]
    ours, reference.xlnet = ours.to(torch.bfloat16).pack(), reference.xlnet.float()
    return [*figures, *time_per_call(ours, reference, "sequential", None, config, wanted=60)]


def time_per_call(
    ours: AnySubsetTransformer,
    reference: RecomputingXLNet,
    method: str,
    k: int | None,
    config: BenchmarkConfig,
    *,
    wanted: float,
) -> list[Figure]:
    """Time ours over a whole sequence, sampler included; the reference at states of one."""
    length, seed = config.base_length, config.seed
    ids = random_ids(ours, length)
    orders = orders_along(config)

    def call_reference(_: int) -> int:
        sampler = sampler_of(method, k=k, drafter="self", verifier="rejection")
        return sum(first_rounds(reference, ids, o, sampler, num_rounds=1) for o in orders)

    call_reference(0)
    works = {"reference": call_reference, **call_and_bounds(ours, ids, orders[0], method, k, seed)}
    times = alternate(works, config.repeats, config.device)
    is_same = ours.dtype == reference.xlnet.dtype
    name = call_name(config.base_size, length, method, k) + ("" if is_same else ", bfloat16")
    theirs = "reference" if is_same else "float32 reference"
    against = Figure(
        f"{name}: time per call, {theirs} / ours",
        ratio(times["reference"], times["ours"]),
        wanted,
        detail=_in_ms(times, "reference", "ours"),
    )
    return [
        against,
        products_figure(name, times, max_ratio=MAX_RATIO if is_same else None),
        reading_figure(name, times, weights_of_a_call(ours)),
    ]


def call_and_bounds(
    model: AnySubsetTransformer,
    ids: Tensor,
    order: Order,
    method: str,
    k: int | None,
    seed: int,
) -> dict[str, Callable[[int], int]]:
    """Make works of `alternate` that take as long as a call and its two bounds, warmed up."""

    def call(_: int) -> int:
        # drafts of its own rows, as the original's are
        sampler = sampler_of(method, k=k, drafter="self")
        return int(sample(model, ids, order, sampler, seed=seed).nfe)

    def multiply(_: int) -> int:
        for product in products:
            product()
        return len(products)

    with recorded_calls(model) as calls:
        call(0)
    products = spread_products(model, calls, ids.shape[1])
    reading = Reading(weights_of_a_call(model), model.device)
    return {"ours": call, "products": multiply, "reading": reading}


def call_name(size: str, length: int, method: str, k: int | None) -> str:
    return f"{size} size, L = {length}, {method}" + (f" k = {k}" if k else "")


def products_figure(name: str, times: Times, *, max_ratio: float | None) -> Figure:
    """Compare a call with the first bound: its matrix products and nothing else."""
    return Figure(
        f"{name}: time per call, ours / its matrix products",
        ratio(times["ours"], times["products"]),
        max_ratio,
        is_limit=max_ratio is not None,
        detail=_in_ms(times, "ours", "products"),
    )


def reading_figure(name: str, times: Times, num_bytes: int) -> Figure:
    """Compare a call with the second bound: its weights read from memory and nothing else."""
    speed = num_bytes / median(times["reading"]) / 1e9
    return Figure(
        f"{name}: time per call, ours / reading its weights",
        ratio(times["ours"], times["reading"]),
        detail=f"{_in_ms(times, 'ours', 'reading')} ({num_bytes / 1e6:.0f} MB at {speed:.1f} GB/s)",
    )


def spread_products(
    model: AnySubsetTransformer, calls: list[CallShape], length: int
) -> list[MatrixProducts]:
    """Make the products of some 40 calls, at equal steps over a sequence."""
    step = -(-len(calls) // NUM_SHAPES)
    cache = model.new_cache(1, length)
    return [MatrixProducts(model, cache, shape) for shape in calls[step // 2 :: step]]


def demo_figures(config: BenchmarkConfig) -> list[Figure]:
    """Compare, at demo size, our default with the original method, and a call with its bound."""
    ours, reference = with_reference(config.demo_size, config)
    blocks = held_out_blocks(config, config.repeats)

    def fill(backbone: Backbone, method: str, k: int | None, repeat: int) -> int:
        order = Order.random_split(config.demo_length, config.prompt_share, seed=repeat)
        sampler = sampler_of(method, k=k)
        sample(backbone, blocks[repeat : repeat + 1], order, sampler, seed=repeat)
        return 1

    works = {
        "reference": lambda repeat: fill(reference, "assd", PAPER_K, repeat),
        "ours": lambda repeat: fill(ours, "onepass", None, repeat),
    }
    warm_up([reference, ours], blocks[:1])
    times = alternate(works, config.repeats, config.device)
    who = f"model {config.demo_model}" if is_trained(config.demo_size, config) else "random weights"
    return [
        Figure(
            f"{config.demo_size} size, L = {config.demo_length}: time per sequence, "
            f"reference's assd k = {PAPER_K} / onepass",
            ratio(times["reference"], times["ours"]),
            5,
            detail=f"{median(times['reference']):.2f} s / {median(times['ours']):.2f} s, {who}",
        ),
        *(
            demo_bound(ours, blocks[:1], method, k, config)
            for method, k in (("sequential", None), ("assd", PAPER_K))
        ),
    ]


def demo_bound(
    model: AnySubsetTransformer, ids: Tensor, method: str, k: int | None, config: BenchmarkConfig
) -> Figure:
    """Compare a small network's call, whose sampler weighs more, with its matrix products."""
    order = Order.random_split(config.demo_length, config.prompt_share, seed=config.seed)
    works = call_and_bounds(model, ids, order, method, k, config.seed)
    times = alternate(works, config.repeats, config.device)
    name = call_name(config.demo_size, config.demo_length, method, k)
    return products_figure(f"{name}, held-out text", times, max_ratio=MAX_OF_DEMO)


def batch_figures(config: BenchmarkConfig) -> list[Figure]:
    """Measure tokens per second of a batch against those of one sequence, sequential."""
    ours, _ = with_reference(config.demo_size, config)
    blocks = held_out_blocks(config, config.batch)

    def fill(batch: int, repeat: int) -> int:
        order = Order.random_split(
            config.demo_length, config.prompt_share, batch=batch, seed=repeat
        )
        sample(ours, blocks[:batch], order, "sequential", seed=repeat)
        return int(order.num_targets.sum())

    works = {size: partial(fill, size) for size in (1, config.batch)}
    warm_up([ours], blocks)
    times = alternate(works, config.repeats, config.device)
    one, many = (1 / median(found) for found in times.values())
    return [
        Figure(
            f"{config.demo_size} size, sequential: tokens per second, "
            f"batch {config.batch} / batch 1",
            ratio(times[1], times[config.batch]),
            3,
            detail=f"{many:.0f} / {one:.0f}",
        )
    ]


def held_out_blocks(config: BenchmarkConfig, number: int) -> Tensor:
    """Return blocks (number, demo length) of the held-out text, spread over it."""
    blocks = load_blocks(load_tokenizer("demo"), "heldout", config.demo_length)
    index = [i * len(blocks) // number for i in range(number)]
    return blocks[index].to(config.device)


def warm_up(models: Sequence[Backbone], ids: Tensor) -> None:
    """Make a few rounds of every model on ids (B, L)."""
    order = Order.random_split(ids.shape[1], 0.5, batch=len(ids), seed=0)
    for model in models:
        first_rounds(model, ids, order, PAPERS_SAMPLER, num_rounds=2)


def _in_ms(times: Times, above: str, below: str) -> str:
    return f"{1000 * median(times[above]):.4g} ms / {1000 * median(times[below]):.4g} ms"
