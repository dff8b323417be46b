"""What every lossless method costs at several k on held-out text: calls, rows, time."""

from __future__ import annotations

from functools import partial
from statistics import mean, median, stdev

from asarm.evaluation.benchmark.config import BenchmarkConfig
from asarm.evaluation.benchmark.models import with_reference
from asarm.evaluation.benchmark.report import Figure, MethodCost
from asarm.evaluation.benchmark.speed import held_out_blocks, warm_up
from asarm.evaluation.benchmark.timing import alternate, ratio
from asarm.model import AnySubsetTransformer
from asarm.order import Order
from asarm.sampling import DEFAULT_K, SampleResult, sample

PROMPT_SHARES = (0.05, 0.5)

Run = tuple[str, int | None]  # method and k


def method_costs(config: BenchmarkConfig) -> list[MethodCost]:
    """The costs at 95% and at 50% targets, batch 1."""
    model, _ = with_reference(config.demo_size, config)
    return [cost for share in PROMPT_SHARES for cost in costs_at(model, share, config)]


def costs_at(
    model: AnySubsetTransformer, prompt_share: float, config: BenchmarkConfig
) -> list[MethodCost]:
    """All methods and k fill the same texts, one after another."""
    blocks = held_out_blocks(config, config.trials)
    runs = runs_to_compare(config.ks)
    results: dict[Run, list[SampleResult]] = {run: [] for run in runs}

    def fill(run: Run, trial: int) -> int:
        method, k = run
        order = Order.random_split(config.demo_length, prompt_share, seed=trial)
        ids = blocks[trial : trial + 1]
        results[run].append(sample(model, ids, order, method=method, k=k, seed=trial))
        return int(order.num_targets)

    warm_up([model], blocks[:1])
    works = {run: partial(fill, run) for run in runs}
    times = alternate(works, config.trials, config.device)
    order = Order.random_split(config.demo_length, prompt_share, seed=0)
    num_targets = int(order.num_targets)
    costs = []
    for run in runs:
        method, k = run
        nfe = [int(result.nfe) / num_targets for result in results[run]]
        costs.append(
            MethodCost(
                target_share=1 - prompt_share,
                method=method,
                k=k,
                is_default=k == DEFAULT_K.get(method),
                nfe=mean(nfe),
                nfe_error=stdev(nfe) / len(nfe) ** 0.5 if len(nfe) > 1 else None,
                rows=mean(int(result.rows) / num_targets for result in results[run]),
                milliseconds=1000 * median(times[run]),
                speed=ratio(times[runs[0]], times[run]),
            )
        )
    return costs


def runs_to_compare(ks: list[int]) -> list[Run]:
    """Sequential first, then every other lossless method at `ks` and its default k."""
    runs: list[Run] = [("sequential", None)]
    for method, default in DEFAULT_K.items():
        least = 2 if method == "assd" else 1  # assd with k = 1 is sequential
        runs += [(method, k) for k in sorted({*ks, default}) if k >= least]
    return runs


def default_figures(costs: list[MethodCost]) -> list[Figure]:
    """Whether a method that saves calls at its default k saves time too, where most is blank."""
    return [
        Figure(
            f"{c.method} k = {c.k} (default), {c.target_share:.0%} targets: time per target, "
            "sequential / it",
            c.speed,
            1,
            detail=f"{c.nfe:.2f} calls and {c.rows:.1f} rows per target",
        )
        for c in costs
        if c.is_default and c.k is not None and c.target_share == 1 - PROMPT_SHARES[0]
    ]
