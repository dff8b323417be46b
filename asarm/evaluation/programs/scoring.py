"""Programs are run and scored, once a test has shown that the scoring can be trusted."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from tqdm import tqdm

from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.network import CodeNetwork
from asarm.evaluation.programs.task import Task, TaskSet
from asarm.evaluation.variants import Networks
from asarm.run import Record, Run
from asarm.sandbox.execution import Limits, Outcome, Program, run_programs
from asarm.sandbox.isolation import Isolation, find_isolation

OUTCOMES = "outcomes.jsonl"
WALL = 10  # clock time over CPU time that a program may take: other work may be going on
FAR = 0.005  # fraction of tasks, and one more, by which empty completions may pass unlike recorded
MAX_NAMED = 20  # references that an error message names
ENOUGH = 10  # tasks, of which no empty completions can pass all tests


class Scorer:
    """Runs programs, each different one once, and remembers their outcomes.

    Args:
        isolation: the sandbox, from `isolation.find_isolation`.
        limits: the limits of every program.
        run: the run whose folder keeps the outcomes for later processes; none by default.
        workers: how many programs run at once; as many as there are cores by default.
        progress: whether a bar of programs is shown.
    """

    def __init__(
        self,
        isolation: Isolation,
        limits: Limits | None = None,
        *,
        run: Run | None = None,
        workers: int | None = None,
        progress: bool = False,
    ):
        self.isolation, self.limits = isolation, limits or Limits()
        self.run, self.workers, self.progress = run, workers, progress
        self._known: dict[str, Outcome] = {}
        for record in run.read(OUTCOMES) if run else []:
            outcome = Outcome(record["passed"], record["result"])
            if not outcome.is_doubtful:
                self._known[record["program"]] = outcome

    def outcomes(self, programs: Sequence[Program], what: str = "running") -> list[Outcome]:
        """Return the outcome of each program, in their order.

        A failure that may be the machine's fault is tried again, alone, before it counts, and the
        run folder never keeps it.
        """
        names = [self.name_of(program) for program in programs]
        new = {n: p for n, p in zip(names, programs, strict=True) if n not in self._known}
        for name, outcome in self._run(list(new.items()), what):
            self._known[name] = outcome
            if self.run and not outcome.is_doubtful:
                self.run.append(OUTCOMES, {"program": name, **asdict(outcome)})
        return [self._known[name] for name in names]

    def name_of(self, program: Program) -> str:
        """Return a hash of all that an outcome depends on."""
        about = [*program, asdict(self.limits), self.isolation.isolates]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def _run(
        self, named: Sequence[tuple[str, Program]], what: str
    ) -> Iterator[tuple[str, Outcome]]:
        doubtful = []
        for place, outcome in self._once(named, what, self.workers):
            if outcome.is_doubtful:
                doubtful.append(named[place])
            else:
                yield named[place][0], outcome
        if doubtful:
            for place, outcome in self._once(doubtful, f"{what}, again and alone", workers=1):
                yield doubtful[place][0], outcome

    def _once(
        self, named: Sequence[tuple[str, Program]], what: str, workers: int | None
    ) -> Iterable[tuple[int, Outcome]]:
        programs = [program for _, program in named]
        found = run_programs(
            programs, isolation=self.isolation, limits=self.limits, workers=workers
        )
        is_quiet = not (self.progress and programs)
        return tqdm(found, what, len(programs), unit="program", disable=is_quiet)


def limits_of(timeout: float) -> Limits:
    """Return the limits of a program that may take `timeout` seconds of CPU time."""
    return Limits(seconds=WALL * timeout, cpu_seconds=math.ceil(timeout))


@dataclass(frozen=True)
class SelfTest:
    """The outcomes of programs whose outcome is known beforehand.

    Attributes:
        tasks: the number of tasks.
        references: the number of reference solutions that pass.
        empty: the number of empty completions that pass.
        recorded_empty: the number that passed when it was recorded; None for an unknown set.
        failures: task and outcome of the reference solutions that do not pass.
    """

    tasks: int
    references: int
    empty: int
    recorded_empty: int | None
    failures: tuple[tuple[str, Outcome], ...] = ()

    @property
    def description(self) -> str:
        """Both rates in one line."""
        recorded = "" if self.recorded_empty is None else f" (recorded {self.recorded_empty:,})"
        return (
            f"self-test: of {self.tasks:,} tasks, {self.references:,} pass with the reference "
            f"solution and {self.empty:,} with an empty completion{recorded}"
        )

    def require(self) -> None:
        """Refuse to compute scores that would mean nothing.

        Raises:
            ValueError: a true solution fails; empty completions pass unlike what is recorded, by
                more than one task and 0.5%; or, of an unknown set, all of them do.
        """
        if self.failures:
            raise ValueError(
                f"no score: {self.references:,} of {self.tasks:,} reference solutions pass; "
                f"{self._failing()}; {self._way_out()}"
            )
        far = 1 + FAR * self.tasks
        if self.recorded_empty is not None and abs(self.empty - self.recorded_empty) > far:
            raise ValueError(
                f"no score: {self.empty:,} of {self.tasks:,} empty completions pass where "
                f"{self.recorded_empty:,} should; this machine's Python or sandbox is at fault"
            )
        if self.recorded_empty is None and self.empty == self.tasks >= ENOUGH:
            raise ValueError(
                f"no score: all {self.tasks:,} empty completions pass, so the tests test nothing"
            )

    def _failing(self) -> str:
        named = [f"{name} {outcome.result}" for name, outcome in self.failures[:MAX_NAMED]]
        more = len(self.failures) - len(named)
        return ", ".join(named) + (f" and {more:,} more, printed above" if more else "")

    def _way_out(self) -> str:
        if any(outcome.is_doubtful for _, outcome in self.failures):
            return (
                "this machine may be too busy, or have too little memory: run the same command "
                "again, or raise --timeout"
            )
        return (
            "mend these tasks or raise --timeout (what tests may do is in the README), or leave "
            "them out by --leave_out ID,ID"
        )


def self_test(task_set: TaskSet, scorer: Scorer) -> SelfTest:
    """Run the reference solutions and the empty completions of all tasks."""
    tasks = task_set.kept
    references = _outcomes(tasks, scorer, lambda task: task.canonical_solution, "references")
    empty = _outcomes(tasks, scorer, lambda task: "", "empty completions")
    failures = (
        (task.task_id, outcome)
        for task, outcome in zip(tasks, references, strict=True)
        if not outcome.passed
    )
    recorded = task_set.recorded
    expected = None if recorded is None else sum(task.task_id in recorded for task in tasks)
    return SelfTest(
        tasks=len(tasks),
        references=sum(outcome.passed for outcome in references),
        empty=sum(outcome.passed for outcome in empty),
        recorded_empty=expected,
        failures=tuple(failures),
    )


@dataclass(frozen=True)
class Ceiling:
    """The best score that a perfect model could reach through a tokenizer.

    Attributes:
        tasks: the number of tasks.
        passed: the number of true middles that pass after being encoded and decoded.
        exact: the number of those that come back character for character.
    """

    tasks: int
    passed: int
    exact: int


def codec_ceiling(network: CodeNetwork, tasks: Sequence[Task], scorer: Scorer) -> Ceiling:
    """Encode and decode the true middle of every task, and run what comes back."""

    def through(task: Task) -> str:
        template = network.template(task)
        _, (middle,) = template.filled(template.encode_fills([task.canonical_solution]))
        return middle

    middles = {task.task_id: through(task) for task in tasks}
    outcomes = _outcomes(tasks, scorer, lambda task: middles[task.task_id], "codec")
    exact = sum(middles[task.task_id] == task.canonical_solution for task in tasks)
    return Ceiling(len(tasks), sum(outcome.passed for outcome in outcomes), exact)


def score_completions(
    tasks: Sequence[Task], records: Sequence[Record], scorer: Scorer
) -> list[Record]:
    """Return a record for each completion: what it is, whether it passed, and how it ended.

    Args:
        tasks: the tasks, in the order in which the records number them.
        records: the completions, with item, variant and trial.
    """
    programs = [tasks[r["item"]].program(r["completion"]) for r in records]
    about = ("task_id", "completion")
    return [
        {**{name: r[name] for name in about}, **asdict(outcome)}
        | {name: r[name] for name in ("item", "variant", "trial")}
        for r, outcome in zip(records, scorer.outcomes(programs, "scoring"), strict=True)
    ]


def _outcomes(
    tasks: Sequence[Task], scorer: Scorer, completion: Callable[[Task], str], what: str
) -> list[Outcome]:
    return scorer.outcomes([task.program(completion(task)) for task in tasks], what)


class Checks(NamedTuple):
    """What is known before any score: the self-test, and the ceiling of each model's codec."""

    self_test: SelfTest
    ceilings: dict[str, Ceiling]


def new_scorer(
    config: InfillCodeConfig, *, run: Run | None = None, progress: bool = False
) -> Scorer | None:
    """Make what runs the programs; None where none are to be run.

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
    networks: Networks[CodeNetwork] | None,
    config: InfillCodeConfig,
    *,
    say: Callable[[str], None] = print,
) -> Checks:
    """Run programs of known outcome, report them, and refuse to score where they are wrong.

    Args:
        task_set: the tasks that are scored.
        scorer: runs the programs.
        networks: the models whose codecs are tried; None for completions of unknown origin.
        config: the settings, which have the models' names.
        say: a function that is called with each line of the report.

    Raises:
        ValueError: the self-test fails, so that no score would mean anything.
    """
    tested = self_test(task_set, scorer)
    say(tested.description)
    for name, outcome in tested.failures:
        say(f"the reference solution of {name}: {outcome.result}")
    tested.require()
    ceilings = {}
    names = config.model, config.off_the_shelf or ""
    for name, network in zip(names, networks or (), strict=False):
        if network is not None:
            ceilings[name] = codec_ceiling(network, task_set.kept, scorer)
            say(describe_ceiling(name, ceilings[name]))
    return Checks(tested, ceilings)


def describe_ceiling(name: str, ceiling: Ceiling) -> str:
    """Describe in one line what a model's codec lets through."""
    return (
        f"codec of {name}: {ceiling.passed:,} of {ceiling.tasks:,} true middles pass after being "
        f"encoded and decoded, {ceiling.exact:,} come back character for character"
    )
