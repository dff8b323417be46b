"""What every lossless method costs at several k on held-out text: calls, rows, time."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from statistics import mean, median, stdev
from typing import Literal

from torch import Tensor

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.drafts import measure_parts
from asarm.benchmark.measured import Figure, MethodCost
from asarm.benchmark.models import is_trained, random_head, with_reference
from asarm.benchmark.report import Report
from asarm.benchmark.speed import held_out_blocks, warm_up
from asarm.benchmark.timing import alternate, ratio
from asarm.drafting.drafters import has_head
from asarm.order import Order
from asarm.sampling import (
    ASSD,
    SampleResult,
    Sequential,
    has_option,
    lossless_names,
    sample,
    sampler_of,
)

PROMPT_SHARES = (0.05, 0.5)
SLOWER = 1.05  # than the best fixed k, at most, is the number of drafts that is chosen
MAX_CALLS = (0.5, 0.33)  # per target with a draft head at its best k, at these fractions

K = int | Literal["auto"] | None
Run = tuple[str, K, str | None]  # method, k and what drafts


def measure_methods(report: Report, config: BenchmarkConfig) -> None:
    """Put into the report what the methods cost at 95% and at 50% targets, and what they gain."""
    model, _ = with_reference(config.demo_size, config)
    if not is_trained(config.demo_size, config):
        model.set_draft_head(random_head(model, config.seed))
    blocks = held_out_blocks(config, config.trials)
    report.costs = [
        c for fraction in PROMPT_SHARES for c in costs_at(model, blocks, fraction, config)
    ]
    report.figures += [*default_figures(report.costs), *auto_figures(report.costs)]
    if not has_head(model):
        print("skipped: the draft head (the model has none)", flush=True)
        report.notes.append(
            f"Model {config.demo_model} has no draft head: nothing to say about it."
        )
        return
    report.figures += [*call_figures(report.costs), *time_figures(report.costs)]
    for fraction in PROMPT_SHARES:
        parts, acceptance = measure_parts(model, blocks, fraction, config)
        report.parts += parts
        report.acceptance += acceptance


def costs_at(
    model: AnySubsetTransformer, blocks: Tensor, prompt_share: float, config: BenchmarkConfig
) -> list[MethodCost]:
    """Fill the same texts, blocks (trials, L), one after another, by all methods and k."""
    runs = runs_to_compare(config.ks, ["head", "self"] if has_head(model) else ["self"])
    results: dict[Run, list[SampleResult]] = {run: [] for run in runs}

    def fill(run: Run, trial: int) -> int:
        method, k, draft = run
        order = Order.random_split(config.demo_length, prompt_share, seed=trial)
        ids = blocks[trial : trial + 1]
        sampler = sampler_of(method, k=k, drafter=draft)
        found = sample(model, ids, order, sampler, seed=trial)
        results[run].append(found)
        return int(order.num_targets)

    warm_up([model], blocks[:1])
    works = {run: partial(fill, run) for run in runs}
    times = alternate(works, config.trials, config.device)
    order = Order.random_split(config.demo_length, prompt_share, seed=0)
    num_targets = int(order.num_targets)
    best_draft = "head" if has_head(model) else "self"  # what `sample` takes by default
    costs = []
    for run in runs:
        method, k, draft = run
        nfe = [int(result.nfe) / num_targets for result in results[run]]
        costs.append(
            MethodCost(
                target_fraction=1 - prompt_share,
                method=method,
                k=k,
                is_default=k == "auto" and draft in (None, best_draft),
                nfe=mean(nfe),
                nfe_error=stdev(nfe) / len(nfe) ** 0.5 if len(nfe) > 1 else None,
                rows=mean(int(result.rows) / num_targets for result in results[run]),
                milliseconds=1000 * median(times[run]),
                speed=ratio(times[runs[0]], times[run]),
                draft=draft,
            )
        )
    return costs


def runs_to_compare(ks: list[int], drafts: list[str]) -> list[Run]:
    """List sequential first, then every other lossless method at `ks` and as many as pay."""
    runs: list[Run] = [(Sequential.name, None, None)]
    for method in (name for name in lossless_names() if name != Sequential.name):
        least = 2 if method == ASSD.name else 1  # assd with k = 1 is sequential
        own: list[str | None] = [*drafts] if has_option(method, "drafter") else [None]
        wanted: list[K] = [*(k for k in sorted(set(ks)) if k >= least), "auto"]
        runs += [(method, k, draft) for draft in own for k in wanted]
    return runs


def default_figures(costs: list[MethodCost]) -> list[Figure]:
    """Measure whether a method that saves calls at its default k saves time, too."""
    return [
        Figure(
            f"{c.method} k = {c.k} (default), {c.target_fraction:.0%} targets: time per target, "
            "sequential / it",
            c.speed,
            1,
            detail=f"{c.nfe:.2f} calls and {c.rows:.1f} rows per target",
        )
        for c in costs
        if c.is_default and c.k is not None and c.target_fraction == 1 - PROMPT_SHARES[0]
    ]


def auto_figures(costs: list[MethodCost]) -> list[Figure]:
    """Measure time per target with as many drafts as seem to pay, over the best number's."""
    figures = []
    for chosen in (c for c in costs if c.is_default and has_option(c.method, "drafter")):
        key = (chosen.method, chosen.target_fraction)
        own = [c for c in costs if (c.method, c.target_fraction) == key and c.k != "auto"]
        best = least(own, chosen.draft, "milliseconds")
        figures.append(
            Figure(
                f"{chosen.method}, {chosen.target_fraction:.0%} targets: time per target, k = auto "
                "/ the fastest k",
                chosen.milliseconds / best.milliseconds,
                SLOWER,
                is_limit=True,
                detail=f"{chosen.milliseconds:.2f} ms / {best.milliseconds:.2f} ms (k = {best.k})",
            )
        )
    return figures


def call_figures(costs: list[MethodCost]) -> list[Figure]:
    """Compare calls per target of what drafts with the head, at the best method and k."""
    figures = []
    for fraction, wanted in zip(PROMPT_SHARES, MAX_CALLS, strict=True):
        own = [c for c in costs if c.target_fraction == 1 - fraction]
        head, own_rows = (least(own, draft, "nfe") for draft in ("head", "self"))
        figures.append(
            Figure(
                f"drafts by the head, best k, {head.target_fraction:.0%} targets: network calls, "
                "it / sequential",
                head.nfe,
                wanted,
                is_limit=True,
                detail=f"{_named(head)}; without the head {own_rows.nfe:.3f}, {_named(own_rows)}",
            )
        )
    return figures


def time_figures(costs: list[MethodCost]) -> list[Figure]:
    """Compare time per target without the head over that with it, each at its fastest k."""
    figures = []
    for fraction in PROMPT_SHARES:
        for method in ("assd", "onepass"):
            own = [c for c in costs if c.method == method and c.target_fraction == 1 - fraction]
            head, own_rows = (least(own, draft, "milliseconds") for draft in ("head", "self"))
            figures.append(
                Figure(
                    f"{method}, fastest k, {head.target_fraction:.0%} targets: time per target, "
                    "without the head / with it",
                    own_rows.milliseconds / head.milliseconds,
                    1,
                    detail=f"{own_rows.milliseconds:.2f} ms (k = {own_rows.k}) / "
                    f"{head.milliseconds:.2f} ms (k = {head.k})",
                )
            )
    return figures


def least(costs: list[MethodCost], draft: str | None, measure: str) -> MethodCost:
    """Return the one with these drafts that costs least, by calls ("nfe") or by time
    ("milliseconds")."""
    return min((c for c in costs if c.draft == draft), key=attrgetter(measure))


def _named(cost: MethodCost) -> str:
    return f"{cost.method} k = {cost.k}"
