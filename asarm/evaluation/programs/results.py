"""The result of an evaluation of programs: rates, costs, and how they were found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.scoring import Ceiling, Checks, Scorer, SelfTest
from asarm.evaluation.programs.task import Task, TaskSet
from asarm.evaluation.programs.variants import variants_of
from asarm.metrics.passk import Rate, pass_at_k, rate
from asarm.metrics.statistics import Estimate, clustered_estimate
from asarm.run import Record
from asarm.sandbox.execution import Outcome

KS = (1, 10, 100)
UNSAFE = "UNSAFE: programs ran without a sandbox"
COSTS = ("num_tokens", "nfe", "rows", "seconds", "log_prob_per_token")


@dataclass(frozen=True)
class Rates:
    """pass@k over all tasks, over those with a suffix, and over those without one."""

    k: int
    all: Rate | None
    with_suffix: Rate | None
    empty_suffix: Rate | None


@dataclass(frozen=True)
class VariantResult:
    """One row of the table.

    Attributes:
        name: the variant's name.
        samples: the number of completions of the task that has fewest.
        rates: pass@k for each k of 1, 10 and 100 that there are enough completions for.
        outcomes: the number of completions by how they ended.
        doubtful: the number of failures that may be the machine's fault.
        costs: mean and standard error per completion; None where they were not measured.
    """

    name: str
    samples: int
    rates: list[Rates]
    outcomes: dict[str, int]
    doubtful: int
    costs: dict[str, Estimate | None]


@dataclass(frozen=True)
class CodeResult:
    """The result of an evaluation of programs.

    Attributes:
        title: the title of the page.
        notes: warnings for the reader.
        tasks: the number of tasks.
        execution: "bubblewrap", "namespaces", "unsafe", or "none" where nothing was run.
        self_test: the self-test of the scoring; None where nothing was run.
        ceilings: the codec's ceiling, by model.
        variants: the rows of the table.
    """

    title: str
    notes: list[str]
    tasks: int
    execution: str
    self_test: SelfTest | None
    ceilings: dict[str, Ceiling]
    variants: list[VariantResult]


def variant_result(
    name: str, tasks: Sequence[Task], generated: Sequence[Record], scored: Sequence[Record]
) -> VariantResult:
    """Make the row of one variant.

    Args:
        name: the variant's name.
        tasks: the tasks, in the order in which the records number them.
        generated: the variant's completions, with their costs where these are known.
        scored: the same with their outcomes; empty where nothing was run.
    """
    passed: dict[int, list[bool]] = {}
    for record in scored:
        passed.setdefault(record["item"], []).append(record["passed"])
    counts = Counter(record["item"] for record in generated)
    samples = min(counts.values(), default=0)
    outcomes = Counter(record["result"] for record in scored)
    doubtful = sum(n for ending, n in outcomes.items() if Outcome(False, ending).is_doubtful)
    return VariantResult(
        name=name,
        samples=samples,
        rates=[_rates(k, tasks, passed) for k in KS if k <= samples and passed],
        outcomes=dict(outcomes.most_common()),
        doubtful=doubtful,
        costs={cost: _cost(cost, tasks, generated) for cost in COSTS},
    )


def _rates(k: int, tasks: Sequence[Task], passed: Mapping[int, Sequence[bool]]) -> Rates:
    def of(is_wanted: Sequence[bool]) -> Rate | None:
        items = [item for item in sorted(passed) if is_wanted[item]]
        values = [pass_at_k(len(passed[i]), sum(passed[i]), k) for i in items]
        return rate(values, [tasks[i].problem for i in items])

    has_suffix = [task.suffix != "" for task in tasks]
    return Rates(k, of([True] * len(tasks)), of(has_suffix), of([not has for has in has_suffix]))


def _cost(cost: str, tasks: Sequence[Task], generated: Sequence[Record]) -> Estimate | None:
    values = [_value(record, cost) for record in generated if "nfe" in record]
    problems = [tasks[record["item"]].problem for record in generated if "nfe" in record]
    return clustered_estimate(values, problems) if values else None


def _value(record: Record, cost: str) -> float:
    if cost == "log_prob_per_token":
        return float(record["log_prob"] / record["num_tokens"])
    return float(record[cost])


def code_result(
    task_set: TaskSet,
    generated: Sequence[Record],
    config: InfillCodeConfig,
    *,
    scored: Sequence[Record] = (),
    checks: Checks | None = None,
    scorer: Scorer | None = None,
) -> CodeResult:
    """Aggregate completions and their outcomes; without scores where nothing was run."""
    execution = "none" if scorer is None else scorer.isolation.name
    execution = "unsafe" if config.execute == "unsafe" else execution
    planned = [variant.name for variant in variants_of(config)]
    found = dict.fromkeys(record["variant"] for record in generated)
    names = [*(name for name in planned if name in found), *sorted({*found} - {*planned})]
    rows = [
        variant_result(
            name,
            task_set.tasks,
            [record for record in generated if record["variant"] == name],
            [record for record in scored if record["variant"] == name],
        )
        for name in names
    ]
    left_out = ", ".join(sorted(task_set.left_out))
    notes = [task_set.note, UNSAFE if execution == "unsafe" else None, _doubt(rows)]
    notes += [f"left out, by --leave_out: {left_out}"] if left_out else []
    return CodeResult(
        title=_title(task_set, config),
        notes=[note for note in notes if note],
        tasks=len(task_set.kept),
        execution=execution,
        self_test=checks and checks.self_test,
        ceilings=checks.ceilings if checks else {},
        variants=rows,
    )


def _doubt(rows: Sequence[VariantResult]) -> str | None:
    """Return a warning about programs that may have failed by the machine's fault."""
    count = sum(row.doubtful for row in rows)
    endings = sorted({e for row in rows for e in row.outcomes if Outcome(False, e).is_doubtful})
    if not count:
        return None
    return (
        f"{count:,} programs failed in a way that may be this machine's fault "
        f"({', '.join(endings)}), the second time alone; the same command tries them again"
    )


def _title(task_set: TaskSet, config: InfillCodeConfig) -> str:
    revision = f" ({config.revision})" if config.revision else ""
    what = Path(config.samples).name if config.samples else f"{config.model}{revision}"
    trials = "" if config.samples else f", {config.num_trials} completions of each"
    unsafe = " [UNSAFE: no sandbox]" if config.execute == "unsafe" else ""
    return f"{what} on {task_set.name}: {len(task_set.kept):,} tasks{trials}{unsafe}"
