"""pass@k and its intervals, the outcomes of programs, and the self-test of the scoring."""

import itertools
import json
import math
from dataclasses import asdict, replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from asarm.evaluation.programs import report, scoring
from asarm.evaluation.programs.bundled.build import bundled_tasks
from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.results import UNSAFE, code_result, variant_result
from asarm.evaluation.programs.scoring import (
    Ceiling,
    Checks,
    Scorer,
    SelfTest,
    score_completions,
    self_test,
)
from asarm.evaluation.programs.task import Task, TaskSet
from asarm.metrics.passk import Rate, pass_at_k, rate, wilson
from asarm.run import Run
from asarm.sandbox.execution import Limits, Outcome
from asarm.sandbox.isolation import find_isolation

BARE = find_isolation("unsafe")


def a_task(number: int, suffix: str = "    return y\n") -> Task:
    return Task(
        task_id=f"T/{number}",
        entry_point="f",
        prompt="def f(x):\n    y = 0\n",
        suffix=suffix,
        canonical_solution=f"    y = x + {number}\n",
        test=f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
    )


# --- pass@k ---


@pytest.mark.parametrize(("samples", "passed"), [(n, c) for n in range(1, 8) for c in range(n + 1)])
def test_pass_at_k_counts_the_choices_of_k_completions(samples, passed):
    outcomes = [True] * passed + [False] * (samples - passed)
    for k in range(1, samples + 1):
        choices = list(itertools.combinations(outcomes, k))
        expected = sum(any(choice) for choice in choices) / len(choices)
        assert pass_at_k(samples, passed, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 1.0])
def test_pass_at_k_has_no_bias(chance):
    samples = 9
    for k in (1, 3, 9):
        expected = sum(
            math.comb(samples, c)
            * chance**c
            * (1 - chance) ** (samples - c)
            * pass_at_k(samples, c, k)
            for c in range(samples + 1)
        )
        assert expected == pytest.approx(1 - (1 - chance) ** k)


def test_pass_at_k_of_many_completions_is_finite():
    assert pass_at_k(5000, 1, 100) == pytest.approx(100 / 5000)
    assert pass_at_k(5000, 4999, 100) == 1.0


@pytest.mark.parametrize("k", [0, 4])
def test_pass_at_k_needs_k_completions(k):
    with pytest.raises(ValueError, match=f"pass@{k} of 3 completions; expected k from 1 to 3"):
        pass_at_k(3, 1, k)


# --- intervals ---


def test_wilson_by_hand():
    low, high = wilson(0.5, 100)
    assert (low, high) == (pytest.approx(0.4038315), pytest.approx(0.5961685))
    assert wilson(0.0, 10) == (0.0, pytest.approx(0.2775328))
    assert wilson(1.0, 10) == (pytest.approx(0.7224672), pytest.approx(1.0))


def test_independent_tasks_have_the_plain_interval():
    values = [1.0] * 30 + [0.0] * 70
    found = rate(values, range(100))
    expected = wilson(0.3, 99)  # the error divides by n - 1
    assert (found.low, found.high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert (found.mean, found.tasks) == (0.3, 100)


def test_tasks_of_one_function_count_as_what_they_are():
    values = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    alone = rate(values, range(8))
    copies = rate(values * 10, [*range(8)] * 10)
    assert copies == replace(alone, tasks=80)
    assert rate(values * 10, range(80)).high < alone.high


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5)), min_size=1, max_size=20))
def test_the_rate_lies_in_its_interval(pairs):
    values, problems = zip(*pairs, strict=True)
    found = rate(values, problems)
    assert 0 <= found.low <= found.mean + 1e-9
    assert found.mean <= found.high + 1e-9 <= 1 + 1e-9
    if len(set(values)) == 1 and values[0] in (0, 1):
        assert found.high - found.low > 0.3 / len(set(problems))  # never as sure as that


def test_no_task_has_no_rate():
    assert rate([], []) is None


# --- outcomes ---


@pytest.fixture
def fake(monkeypatch):
    """Programs that pass if they hold "good"; what was run."""
    ran = []

    def run_programs(programs, *, isolation, limits, workers):
        for place in reversed(range(len(programs))):
            ran.append(programs[place])
            passed = "good" in programs[place].source
            yield place, Outcome(passed, "passed" if passed else "failed: NameError")

    monkeypatch.setattr(scoring, "run_programs", run_programs)
    return ran


def test_each_different_program_runs_once(fake):
    tasks = [a_task(0), a_task(1)]
    programs = [tasks[i].program(c) for i, c in [(0, "good"), (0, "bad"), (0, "good"), (1, "good")]]
    scorer = Scorer(BARE)
    assert [outcome.passed for outcome in scorer.outcomes(programs)] == [True, False, True, True]
    assert len(fake) == 3
    assert scorer.outcomes(programs[::-1])[2] == Outcome(False, "failed: NameError")
    assert scorer.outcomes([]) == []
    assert len(fake) == 3


def test_outcomes_outlive_the_process(fake, tmp_path):
    programs = [a_task(0).program(c) for c in ("good", "bad")]
    first = Scorer(BARE, run=Run(tmp_path)).outcomes(programs)
    assert Scorer(BARE, run=Run(tmp_path)).outcomes(programs) == first
    assert len(fake) == 2
    other_limits = Limits(seconds=1)
    sandbox = replace(BARE, name="namespaces")
    for scorer in (
        Scorer(BARE, other_limits, run=Run(tmp_path)),
        Scorer(sandbox, run=Run(tmp_path)),
    ):
        before = len(fake)
        assert scorer.outcomes(programs) == first
        assert len(fake) == before + 2


def test_what_ran_before_the_end_is_kept(fake, tmp_path, monkeypatch):
    programs = [a_task(0).program(c) for c in ("good", "bad", "ugly")]
    real = scoring.run_programs

    def breaks_down(*arguments, **options):
        yield next(real(*arguments, **options))
        raise RuntimeError("a sandbox does not start")

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "run_programs", breaks_down)
        with pytest.raises(RuntimeError, match="does not start"):
            Scorer(BARE, run=Run(tmp_path)).outcomes(programs)
    Scorer(BARE, run=Run(tmp_path)).outcomes(programs)
    assert len(fake) == 3


def test_lines_of_results_keep_what_was_scored(fake):
    records = [
        {"item": 1, "variant": "v", "trial": 0, "task_id": "T/1", "completion": " good", "nfe": 3}
    ]
    assert score_completions([a_task(0), a_task(1)], records, Scorer(BARE)) == [
        {
            "task_id": "T/1",
            "completion": " good",
            "passed": True,
            "result": "passed",
            "item": 1,
            "variant": "v",
            "trial": 0,
        }
    ]


# --- the self-test ---


def test_the_self_test_with_real_programs():
    idle = replace(a_task(7), canonical_solution="    y = x\n", test=a_task(0).test)
    free = Task("T/9", "g", "def g(x):\n", "    return x\n", "    x\n", a_task(0).test)
    tasks = [a_task(0), a_task(1), free]
    recorded = frozenset({"T/9", "T/elsewhere"})
    scorer = Scorer(BARE, Limits(seconds=20, cpu_seconds=20))
    tested = self_test(TaskSet("some", tasks, recorded), scorer)
    assert tested == SelfTest(tasks=3, references=3, empty=1, recorded_empty=1)
    tested.require()
    assert "3 pass with the reference solution and 1 with an empty" in tested.description
    broken = replace(idle, canonical_solution="    y = z\n")
    tested = self_test(TaskSet("some", [a_task(0), broken]), scorer)
    assert (tested.references, tested.recorded_empty) == (1, None)
    with pytest.raises(ValueError, match="no score: 1 of 2 reference.*T/7 failed: NameError"):
        tested.require()


@pytest.mark.parametrize(
    ("tasks", "empty", "recorded", "is_fine"),
    [
        (1033, 27, 27, True),
        (1033, 30, 27, True),
        (1033, 1033, 27, False),  # a scorer that runs nothing
        (1033, 0, 27, False),  # one that passes nothing but references
        (10, 1, 0, True),
        (10, 2, 0, False),
        (10, 10, None, False),
        (9, 9, None, True),
        (10, 9, None, True),
    ],
)
def test_empty_completions_have_to_pass_as_recorded(tasks, empty, recorded, is_fine):
    tested = SelfTest(tasks, tasks, empty, recorded)
    if is_fine:
        return tested.require()
    with pytest.raises(ValueError, match="^no score: .*empty completions pass") as raised:
        tested.require()
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_bundled_references_pass_in_the_sandbox():
    try:
        isolation = find_isolation()
    except ValueError as error:
        pytest.skip(f"nothing isolates here: {error}")
    last = {task.problem: task for task in bundled_tasks()}
    scorer = Scorer(isolation, Limits(seconds=30, cpu_seconds=30))
    some = list(last.values())[::4]
    tested = self_test(TaskSet("some", some), scorer)
    assert (tested.references, tested.empty) == (len(some), 0)


# --- results ---


@pytest.fixture
def scored():
    """Three tasks, the last without a suffix, two completions each: 2, 1 and 0 of them pass."""
    tasks = [a_task(0), a_task(1), a_task(2, suffix="")]
    records = [
        {
            **{"item": item, "variant": "v", "trial": trial, "task_id": f"T/{item}"},
            **{"completion": "x", "passed": item + trial < 2, "result": "passed"},
            **{"nfe": 2, "rows": 10, "num_tokens": 4, "seconds": 0.5, "log_prob": -2.0},
        }
        for item in range(3)
        for trial in range(2)
    ]
    return tasks, records


def test_rates_by_hand(scored):
    tasks, records = scored
    found = variant_result("v", tasks, records, records)
    (first,) = found.rates  # two completions are too few for pass@10
    assert (first.k, found.samples) == (1, 2)
    assert first.all.mean == pytest.approx(0.5)
    assert (first.with_suffix.mean, first.with_suffix.tasks) == (0.75, 2)
    assert (first.empty_suffix.mean, first.empty_suffix.tasks) == (0.0, 1)
    assert found.costs["log_prob_per_token"].mean == -0.5
    assert found.costs["nfe"].mean == 2
    many = [{**record, "trial": t} for record in records for t in range(5)]
    assert [rates.k for rates in variant_result("v", tasks, many, many).rates] == [1, 10]


def test_the_report_says_what_was_done(scored):
    tasks, records = scored
    config = InfillCodeConfig(model="m", execute="unsafe")
    checks = Checks(SelfTest(3, 3, 0, None), {"m": Ceiling(3, 2, 1)})
    task_set = TaskSet("set", tasks, note="other bytes")
    result = code_result(
        task_set, records, config, scored=records, checks=checks, scorer=Scorer(BARE)
    )
    assert result.execution == "unsafe"
    page = report.markdown(result)
    output = StringIO()
    report.show(result, Console(file=output, width=130))
    for text in (page, output.getvalue()):
        assert UNSAFE in text and "other bytes" in text and "50.0 [" in text
        assert "no sandbox" in text.splitlines()[0] + text.splitlines()[1]
    for line in ("3 pass with the reference", "2 of 3 true middles pass", "execution: unsafe"):
        assert line in page
    assert "2 tasks have a suffix, 1 have none" in page
    assert json.loads(json.dumps(asdict(result)))["ceilings"]["m"]["passed"] == 2


def test_without_scores_there_are_costs(scored):
    tasks, records = scored
    result = code_result(TaskSet("set", tasks), records, InfillCodeConfig(execute="none"))
    assert result.execution == "none"
    head, (row,) = report.table(result)
    assert head == ["method", "tokens", "NFE", "rows", "seconds", "log p/token"]
    assert row == ["v", "4.0", "2.0", "10", "0.50", "-0.50"]
    assert "pass@1" not in report.markdown(result).replace(report.NOTE, "")


def test_completions_of_unknown_origin_have_no_costs(scored):
    tasks, records = scored
    given = [{key: r[key] for key in ("item", "variant", "trial", "completion")} for r in records]
    config = InfillCodeConfig(samples="x.jsonl")
    result = code_result(TaskSet("set", tasks), given, config, scored=records, scorer=Scorer(BARE))
    head, (row,) = report.table(result)
    assert head == ["method", "pass@1", "pass@1 with suffix", "empty suffix"]
    assert result.title.startswith("x.jsonl on set: 3 tasks")
    assert isinstance(result.variants[0].rates[0].all, Rate)
