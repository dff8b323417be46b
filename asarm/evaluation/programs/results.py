"""What an evaluation of programs comes to: rates, costs, and how they were found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from asarm.evaluation.programs.scoring import Ceiling, SelfTest
from asarm.evaluation.programs.task import Task
from asarm.metrics.passk import Rate, pass_at_k, rate
from asarm.metrics.statistics import Estimate, clustered_estimate
from asarm.run import Record
from asarm.sandbox.execution import Outcome

KS = (1, 10, 100)
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
        name: the variant's.
        samples: completions of a task, of the task that has fewest.
        rates: pass@k for each k of 1, 10 and 100 that there are enough completions for.
        outcomes: how many completions ended how.
        doubtful: how many of them count as failed, and the machine may be at fault.
        costs: mean and standard error a completion, None where they were not measured.
    """

    name: str
    samples: int
    rates: list[Rates]
    outcomes: dict[str, int]
    doubtful: int
    costs: dict[str, Estimate | None]


@dataclass(frozen=True)
class CodeResult:
    """An evaluation of programs.

    Attributes:
        title: what was done.
        notes: what a reader has to know.
        tasks: how many.
        execution: "bubblewrap", "namespaces", "unsafe", or "none" where nothing was run.
        self_test: of the scoring; None where nothing was run.
        ceilings: of the codec, by model.
        variants: the rows.
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
    """The row of one variant.

    Args:
        name: the variant's.
        tasks: by whose order the records number their items.
        generated: its completions, with their costs where these are known.
        scored: the same with what came of them; empty where nothing was run.
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
