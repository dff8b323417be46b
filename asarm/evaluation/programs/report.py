"""Rates of passing programs as tables, in Markdown and in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.text import Text

from asarm.display.tables import markdown_table, show_table
from asarm.evaluation.programs.results import CodeResult, VariantResult
from asarm.evaluation.programs.scoring import describe_ceiling
from asarm.evaluation.programs.task import Task
from asarm.evaluation.tables import page
from asarm.metrics.passk import Rate
from asarm.metrics.statistics import Estimate
from asarm.run import Record

NOTE = (
    "pass@k in % of tasks, without bias (arXiv 2107.03374, eq. 1), with 95% intervals (Wilson's, "
    "for as many independent tasks as have the cluster-robust error over functions). "
    "Oracle length: as many tokens as the reference. Costs are means per completion."
)
EXAMPLE_LINES = 4
DOUBTFUL = "machine's fault?"
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "num_tokens": ("tokens", "{:.1f}".format),
    "nfe": ("NFE", "{:.1f}".format),
    "rows": ("rows", "{:,.0f}".format),
    "seconds": ("seconds", "{:.2f}".format),
    "log_prob_per_token": ("log p/token", "{:.2f}".format),
}


def table(result: CodeResult) -> tuple[list[str], list[list[str]]]:
    """Return the head of the table, and a row for each variant."""
    ks = [rates.k for rates in max((v.rates for v in result.variants), key=len, default=[])]
    costs = [c for c in COSTS if any(v.costs[c] for v in result.variants)]
    head = ["method", *(f"pass@{k}" for k in ks)]
    head += ["pass@1 with suffix", "empty suffix"] if ks else []
    shows_doubtful = any(v.doubtful for v in result.variants)
    head += [DOUBTFUL] if shows_doubtful else []
    head += [COSTS[cost][0] for cost in costs]
    return head, [_row(variant, ks, costs, shows_doubtful) for variant in result.variants]


def _row(
    variant: VariantResult, ks: Sequence[int], costs: Sequence[str], shows_doubtful: bool
) -> list[str]:
    found = {rates.k: rates for rates in variant.rates}
    cells = [_percent(found[k].all) if k in found else "-" for k in ks]
    if ks:
        first = found.get(1)
        cells += [_percent(first.with_suffix), _percent(first.empty_suffix)] if first else ["-"] * 2
    cells += [f"{variant.doubtful:,}"] if shows_doubtful else []
    cells += [_cost(variant.costs[cost], cost) for cost in costs]
    return [variant.name, *cells]


def _percent(rate: Rate | None) -> str:
    if rate is None:
        return "-"
    mean, low, high = (100 * part for part in (rate.mean, rate.low, rate.high))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _cost(estimate: Estimate | None, cost: str) -> str:
    return "-" if estimate is None else COSTS[cost][1](estimate.mean)


def what_was_checked(result: CodeResult) -> list[str]:
    """Return notes on the set, the scoring and the codec."""
    first = result.variants[0].rates[0] if result.variants and result.variants[0].rates else None
    parts = (
        [(r.tasks if r else 0) for r in (first.with_suffix, first.empty_suffix)] if first else []
    )
    return [
        *result.notes,
        *([result.self_test.description] if result.self_test else []),
        *(describe_ceiling(name, ceiling) for name, ceiling in result.ceilings.items()),
        *([f"{parts[0]:,} tasks have a suffix, {parts[1]:,} have none"] if parts else []),
        f"execution: {result.execution}",
    ]


def markdown(result: CodeResult) -> str:
    """Write the report as a Markdown page."""
    endings = {ending: None for v in result.variants for ending in v.outcomes}
    rows = [[e, *(f"{v.outcomes.get(e, 0):,}" for v in result.variants)] for e in endings]
    outcomes = markdown_table(["outcome", *(v.name for v in result.variants)], rows)
    return page(
        result.title,
        NOTE,
        markdown_table(*table(result)),
        [f"- {line}" for line in what_was_checked(result)],
        *(["## How the programs ended", outcomes] if endings else []),
    )


def show(result: CodeResult, console: Console) -> None:
    """Print the table and its warnings in the terminal."""
    show_table(console, result.title, NOTE, *table(result))
    for line in result.notes:
        console.print(line, style="bold red", highlight=False)


def show_example(tasks: Sequence[Task], record: Record, console: Console) -> None:
    """Print the lines around a gap, and what it was filled with."""
    task = tasks[record["item"]]
    before = task.prompt.splitlines(keepends=True)[-EXAMPLE_LINES:]
    after = task.suffix.splitlines(keepends=True)[:EXAMPLE_LINES]
    ending = f": {record['result']}" if "result" in record else ""
    console.print(f"\n{record['task_id']}, {record['variant']}{ending}", highlight=False)
    filled = (record["completion"], "bold green")
    console.print(Text.assemble("".join(before), filled, "".join(after)))
