"""Tokens per second of whole batches, for every way of making rounds: for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.baselines import calls_of_original
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import PAPER_K, Figure
from asarm.benchmark.memory import current_memory, peak_memory
from asarm.benchmark.midway import orders_along
from asarm.benchmark.models import random_head, random_ids, with_reference
from asarm.benchmark.timing import alternate
from asarm.order import Order
from asarm.sampling import ASSD, sample

METHODS = ("sequential", "onepass")
WANTED = {(1, "onepass"): 10.0, (32, "onepass"): 50.0}  # by batch and method, on a GPU
LARGE_BATCH, CARD = 64, 16 * 10**9  # sequences that a card of so many bytes holds


def throughput_figures(config: BenchmarkConfig) -> list[Figure]:
    """Measure tokens per second of batches over the original method's; memory of a large one."""
    is_gpu = config.device.startswith("cuda")
    if not is_gpu and config.base_size == "base":
        print("skipped: throughput at base size (it is for a GPU: --device cuda)", flush=True)
        return []
    ours, reference = with_reference(config.base_size, config)
    ours.set_draft_head(random_head(ours, config.seed))
    ids, order = random_ids(ours, config.base_length), orders_along(config)[0]
    works: dict[str, Callable[[int], int]] = {
        "reference": lambda _: calls_of_original(reference, ids, config)
    }
    for batch in (1, config.large_batch):
        for method in METHODS:
            for execution in ("eager", "static", *(["graph"] if is_gpu else [])):
                name = f"{method}, {execution}, batch {batch}"
                works[name] = partial(fill, ours, batch, method, execution, config)
    for work in works.values():
        work(0)  # a warm-up
    times = alternate(works, config.repeats, config.device)
    seconds_per_call = median(times.pop("reference"))
    paper = sample(ours, ids, order, ASSD(k=PAPER_K, drafter="self"), seed=config.seed)
    original = seconds_per_call * float(paper.nfe) / int(order.num_targets)  # s per token
    figures = []
    for name, found in times.items():
        method, _, size = name.split(", ")
        wanted = WANTED.get((int(size.removeprefix("batch ")), method)) if is_gpu else None
        figures.append(
            Figure(
                f"{config.base_size} size, L = {config.base_length}, {name}: tokens per second, "
                f"ours / original method's assd k = {PAPER_K}, batch 1",
                original / median(found),
                wanted if name.split(", ")[1] == "graph" else None,
                detail=f"{1 / median(found):.1f} / {1 / original:.1f}",
            )
        )
    if is_gpu:
        figures.append(memory_figure(ours, config))
    return figures


def fill(
    model: AnySubsetTransformer,
    batch: int,
    method: str,
    execution: str,
    config: BenchmarkConfig,
    repeat: int,
) -> int:
    """Fill a batch of texts; return how many tokens that are."""
    order = Order.random_split(config.base_length, config.prompt_share, batch=batch, seed=repeat)
    ids = random_ids(model, config.base_length, batch=batch)
    sample(model, ids, order, method, execution=execution, seed=repeat)
    return int(order.num_targets.sum())


def memory_figure(model: AnySubsetTransformer, config: BenchmarkConfig) -> Figure:
    """Measure peak memory of a large batch, weights included, of a 16 GB card."""
    current_memory(config.device)
    fill(model, LARGE_BATCH, "onepass", "graph", config, 0)
    peak = peak_memory(config.device)
    return Figure(
        f"{config.base_size} size, L = {config.base_length}, onepass, batch {LARGE_BATCH}: peak "
        "memory, fraction of a 16 GB card",
        peak / CARD,
        1,
        is_limit=True,
        detail=f"{peak / 1e9:.2f} GB / {CARD / 1e9:.0f} GB",
    )
