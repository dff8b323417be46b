"""Times against the original method, against the bound, and of a batch against one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from statistics import median

from torch import Tensor

from asarm.evaluation.benchmark.calls import (
    CallShape,
    MatrixProducts,
    first_rounds,
    recorded_calls,
)
from asarm.evaluation.benchmark.config import BenchmarkConfig
from asarm.evaluation.benchmark.models import is_trained, random_ids, with_reference
from asarm.evaluation.benchmark.report import PAPER_K, Figure
from asarm.evaluation.benchmark.timing import alternate, ratio
from asarm.evaluation.blocks import load_blocks
from asarm.evaluation.reference import RecomputingXLNet
from asarm.loading import load_tokenizer
from asarm.model import AnySubsetTransformer
from asarm.order import Order
from asarm.rows import Backbone
from asarm.sampling import sample

NUM_SHAPES = 40  # calls of a sequence whose products are timed
KNOWN_SHARES = (0.35, 0.65, 0.95)  # where the reference is timed, besides the start


def base_figures(config: BenchmarkConfig) -> list[Figure]:
    """Time per call at XLNet-base size against the reference and the matrix products."""
    ours, reference = with_reference(config.base_size, config)
    return [
        *time_per_call(ours, reference, "sequential", None, config, demand=18),
        *time_per_call(ours, reference, "assd", PAPER_K, config, demand=15),
    ]


def time_per_call(
    ours: AnySubsetTransformer,
    reference: RecomputingXLNet,
    method: str,
    k: int | None,
    config: BenchmarkConfig,
    *,
    demand: float,
) -> list[Figure]:
    """Ours over a whole sequence, sampler included; the reference at states spread over one."""
    length, seed = config.base_length, config.seed
    ids = random_ids(ours, length)
    shares = (config.prompt_share, *KNOWN_SHARES)
    orders = [Order.random_split(length, share, seed=seed) for share in shares]

    def call_ours(_: int) -> int:
        # drafts of its own rows, as the original's are
        return int(sample(ours, ids, orders[0], method=method, k=k, draft="self", seed=seed).nfe)

    def call_reference(_: int) -> int:
        return sum(first_rounds(reference, ids, o, method, k=k, num_rounds=1) for o in orders)

    def multiply(_: int) -> int:
        for product in products:
            product()
        return len(products)

    with recorded_calls(ours) as calls:  # and a warm-up
        call_ours(0)
    products = spread_products(ours, calls, length)
    call_reference(0)
    works = {"reference": call_reference, "ours": call_ours, "products": multiply}
    times = alternate(works, config.repeats, config.device)
    name = f"{config.base_size} size, L = {length}, {method}" + (f" k = {k}" if k else "")
    ms = {who: 1000 * median(found) for who, found in times.items()}
    against = Figure(
        f"{name}: time per call, reference / ours",
        ratio(times["reference"], times["ours"]),
        demand,
        detail=f"{ms['reference']:.1f} ms / {ms['ours']:.2f} ms",
    )
    bound = Figure(
        f"{name}: time per call, ours / its matrix products",
        ratio(times["ours"], times["products"]),
        1.6,
        is_limit=True,
        detail=f"{ms['ours']:.2f} ms / {ms['products']:.2f} ms",
    )
    return [against, bound]


def spread_products(
    model: AnySubsetTransformer, calls: list[CallShape], length: int
) -> list[MatrixProducts]:
    """The products of some 40 calls, at equal steps over a sequence."""
    step = -(-len(calls) // NUM_SHAPES)
    cache = model.new_cache(1, length)
    return [MatrixProducts(model, cache, shape) for shape in calls[step // 2 :: step]]


def demo_figures(config: BenchmarkConfig) -> list[Figure]:
    """Time per sequence at demo size: our default against the original method as published."""
    ours, reference = with_reference(config.demo_size, config)
    blocks = held_out_blocks(config, config.repeats)

    def fill(backbone: Backbone, method: str, k: int | None, repeat: int) -> int:
        order = Order.random_split(config.demo_length, config.prompt_share, seed=repeat)
        sample(backbone, blocks[repeat : repeat + 1], order, method=method, k=k, seed=repeat)
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
        )
    ]


def batch_figures(config: BenchmarkConfig) -> list[Figure]:
    """Tokens per second of a batch against those of one sequence, sequential."""
    ours, _ = with_reference(config.demo_size, config)
    blocks = held_out_blocks(config, config.batch)

    def fill(batch: int, repeat: int) -> int:
        order = Order.random_split(
            config.demo_length, config.prompt_share, batch=batch, seed=repeat
        )
        sample(ours, blocks[:batch], order, method="sequential", seed=repeat)
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
    """Blocks (number, demo length) of the held-out text, spread over it."""
    blocks = load_blocks(load_tokenizer("demo"), "heldout", config.demo_length)
    index = [i * len(blocks) // number for i in range(number)]
    return blocks[index].to(config.device)


def warm_up(models: Sequence[Backbone], ids: Tensor) -> None:
    """A few rounds of every model on ids (B, L)."""
    order = Order.random_split(ids.shape[1], 0.5, batch=len(ids), seed=0)
    for model in models:
        first_rounds(model, ids, order, "assd", k=PAPER_K, num_rounds=2)
