"""How completions are scored: what isolates programs, what is checked first, and the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.network import Network
from asarm.evaluation.programs.results import CodeResult, VariantResult, variant_result
from asarm.evaluation.programs.scoring import (
    Ceiling,
    Scorer,
    SelfTest,
    codec_ceiling,
    limits_of,
    self_test,
)
from asarm.evaluation.programs.task import TaskSet
from asarm.evaluation.programs.variants import variants
from asarm.evaluation.variants import Networks
from asarm.run import Record, Run
from asarm.sandbox.execution import Outcome
from asarm.sandbox.isolation import find_isolation

UNSAFE = "UNSAFE: programs ran without a sandbox"


class Checks(NamedTuple):
    """What is known before any score: that scoring works, and what the codec lets through."""

    self_test: SelfTest
    ceilings: dict[str, Ceiling]


def new_scorer(
    config: InfillCodeConfig, *, run: Run | None = None, progress: bool = False
) -> Scorer | None:
    """What runs the programs; None where none are to be run.

    Raises:
        ValueError: nothing isolates them here.
    """
    if config.execute == "none":
        return None
    isolation = find_isolation(config.execute)
    return Scorer(isolation, limits_of(config.timeout), run=run, progress=progress)


def check_scoring(
    task_set: TaskSet,
    scorer: Scorer,
    networks: Networks[Network] | None,
    config: InfillCodeConfig,
    *,
    say: Callable[[str], None] = print,
) -> Checks:
    """Run what has a known outcome, say what came of it, and refuse where that is wrong.

    Args:
        task_set: the tasks at hand.
        scorer: what runs them.
        networks: whose codecs are tried; None for completions of unknown origin.
        config: the models' names.
        say: called with each line.

    Raises:
        ValueError: the self-test fails, so that no score would mean anything.
    """
    tested = self_test(task_set, scorer)
    say(tested.description)
    for name, outcome in tested.failures:
        say(f"the reference solution of {name}: {outcome.result}")
    tested.require()
    ceilings = {}
    for name, network in _named(networks, config):
        ceilings[name] = codec_ceiling(network, task_set.kept, scorer)
        say(describe_ceiling(name, ceilings[name]))
    return Checks(tested, ceilings)


def describe_ceiling(name: str, ceiling: Ceiling) -> str:
    """What a model's codec lets through, in a line."""
    return (
        f"codec of {name}: {ceiling.passed:,} of {ceiling.tasks:,} true middles pass after being "
        f"encoded and decoded, {ceiling.exact:,} come back character for character"
    )


def code_result(
    task_set: TaskSet,
    generated: Sequence[Record],
    config: InfillCodeConfig,
    *,
    scored: Sequence[Record] = (),
    checks: Checks | None = None,
    scorer: Scorer | None = None,
) -> CodeResult:
    """What it all comes to; without scores where nothing was run."""
    execution = "none" if scorer is None else scorer.isolation.name
    execution = "unsafe" if config.execute == "unsafe" else execution
    names = sorted({record["variant"] for record in generated}, key=_place(config))
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
    """What a reader has to know of programs that may have failed by the machine's fault."""
    count = sum(row.doubtful for row in rows)
    endings = sorted({e for row in rows for e in row.outcomes if Outcome(False, e).is_doubtful})
    if not count:
        return None
    return (
        f"{count:,} programs failed in a way that may be this machine's fault "
        f"({', '.join(endings)}), the second time alone; the same command tries them again"
    )


def _place(config: InfillCodeConfig) -> Callable[[str], int]:
    """Return the place of a row in the table."""
    names = [variant.name for variant in variants(config)]
    return lambda name: names.index(name) if name in names else len(names)


def _title(task_set: TaskSet, config: InfillCodeConfig) -> str:
    revision = f" ({config.revision})" if config.revision else ""
    what = Path(config.samples).name if config.samples else f"{config.model}{revision}"
    trials = "" if config.samples else f", {config.num_trials} completions of each"
    unsafe = " [UNSAFE: no sandbox]" if config.execute == "unsafe" else ""
    return f"{what} on {task_set.name}: {len(task_set.kept):,} tasks{trials}{unsafe}"


def _named(
    networks: Networks[Network] | None, config: InfillCodeConfig
) -> list[tuple[str, Network]]:
    if networks is None:
        return []
    found = [(config.model, networks.ours)]
    if networks.off_the_shelf is not None:
        found.append((config.off_the_shelf or "", networks.off_the_shelf))
    return found
