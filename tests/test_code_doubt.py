"""What may be the machine's fault is tried again alone, never kept, and named apart."""

import json
import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from asarm.evaluation.programs import report, scoring
from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.results import code_result
from asarm.evaluation.programs.scoring import OUTCOMES, Scorer, check_scoring, limits_of
from asarm.evaluation.programs.task import Task, TaskSet
from asarm.run import Run
from asarm.sandbox.execution import Limits, Outcome, Program
from asarm.sandbox.isolation import Isolation, find_isolation

BARE = find_isolation("unsafe")
PASSED, FAILED = Outcome(True, "passed"), Outcome(False, "failed: AssertionError")
DOUBTFUL = [
    *("timed out", "killed: SIGKILL", "no sandbox: it does not start; fork failed"),
    *("failed: it closed its pipes", "no sandbox: Cannot allocate memory"),
]
CERTAIN = ["passed", "failed: MemoryError", "killed: cpu time", "killed: SIGSEGV"]
TEST = "def check(candidate):\n    assert candidate(3) == 9\n"
A, B, C = (Program(name, TEST, "f") for name in "abc")


@pytest.fixture
def machine(monkeypatch):
    """What comes of each program, one time after the other; and the calls: programs, workers."""
    plan, calls = {}, []

    def run_programs(programs, *, isolation, limits, workers):
        calls.append(("".join(program.source for program in programs), workers))
        for place, program in enumerate(programs):
            yield place, plan[program.source].pop(0)

    monkeypatch.setattr(scoring, "run_programs", run_programs)
    return plan, calls


@pytest.mark.parametrize("ending", DOUBTFUL)
def test_what_may_be_the_machines_fault_has_a_second_chance_alone(machine, tmp_path, ending):
    plan, calls = machine
    doubtful = Outcome(False, ending)
    assert doubtful.is_doubtful
    plan |= {"a": [doubtful, PASSED], "b": [FAILED], "c": [doubtful, doubtful]}
    scorer = Scorer(BARE, run=Run(tmp_path), workers=7)
    assert scorer.outcomes([A, B, C]) == [PASSED, FAILED, doubtful]
    assert calls == [("abc", 7), ("ac", 1)]
    kept = [json.loads(line) for line in (tmp_path / OUTCOMES).read_text().splitlines()]
    assert sorted(line["result"] for line in kept) == ["failed: AssertionError", "passed"]
    plan["c"] = [PASSED]  # the machine has less to do when the command is run again
    assert Scorer(BARE, run=Run(tmp_path)).outcomes([A, B, C]) == [PASSED, FAILED, PASSED]


@pytest.mark.parametrize("ending", DOUBTFUL)
def test_what_an_earlier_version_kept_of_it_is_not_believed(machine, tmp_path, ending):
    plan, _ = machine
    plan["a"] = [PASSED]
    run = Run(tmp_path)
    run.append(OUTCOMES, {"program": Scorer(BARE).name_of(A), "passed": False, "result": ending})
    assert Scorer(BARE, run=run).outcomes([A]) == [PASSED]


@pytest.mark.parametrize("ending", CERTAIN)
def test_what_is_the_programs_own_doing_counts_at_once(machine, ending):
    plan, calls = machine
    plan["a"] = [Outcome(ending == "passed", ending)]
    Scorer(BARE).outcomes([A])
    assert calls == [("a", None)]


@pytest.mark.slow
def test_time_is_limited_by_the_cpu_not_by_the_clock():
    limits = limits_of(0.5)
    assert limits == Limits(seconds=5.0, cpu_seconds=1)
    sources = ["import time\ndef f(x):\n    time.sleep(0.8)\n    return 9", "while True: pass"]
    found = Scorer(BARE, limits).outcomes([Program(source, TEST, "f") for source in sources])
    assert [outcome.result for outcome in found] == ["passed", "killed: cpu time"]


def test_a_sandbox_that_starts_the_second_time_gives_the_verdict(tmp_path):
    mark = tmp_path / "tried"

    def once_broken(command, space):
        first = not mark.exists()
        mark.touch()
        return ["/bin/false"] if first else command

    (found,) = Scorer(Isolation("none", once_broken)).outcomes(
        [Program("def f(x): return 9", TEST, "f")]
    )
    assert found == PASSED


def a_task(number: int) -> Task:
    return Task(f"T/{number}", "f", f"# {number}\n", "", "pass\n", TEST)


@pytest.fixture
def two():
    return TaskSet("two", [a_task(0), a_task(1)])


def test_tables_and_notes_name_it_apart(two):
    endings = [["passed", "timed out"], ["failed: NameError", "no sandbox: it does not start"]]
    records = [
        {"item": item, "variant": "v", "trial": trial, "task_id": f"T/{item}", "completion": "x"}
        | {"passed": ending == "passed", "result": ending}
        for item, own in enumerate(endings)
        for trial, ending in enumerate(own)
    ]
    config = InfillCodeConfig(samples="x.jsonl")
    result = code_result(two, records, config, scored=records, scorer=Scorer(BARE))
    assert result.variants[0].doubtful == 2
    assert result.variants[0].rates[0].all.mean == 0.25  # they count as failed
    head, (row,) = report.table(result)
    assert row[head.index("machine's fault?")] == "2"
    output = StringIO()
    report.show(result, Console(file=output, width=130))
    for text in (report.markdown(result), " ".join(output.getvalue().split())):
        assert "2 programs failed in a way that may be this machine's fault" in text
    certain = [{**record, "result": "failed: NameError"} for record in records]
    result = code_result(two, records, config, scored=certain, scorer=Scorer(BARE))
    assert "machine's fault" not in report.markdown(result)


def test_all_references_that_fail_are_listed(machine, two, capsys):
    plan, _ = machine
    tasks = [a_task(n) for n in range(30)]
    for task in tasks:
        reference = [FAILED if int(task.task_id[2:]) % 10 else PASSED]
        plan |= {task.program("pass\n").source: reference, task.program("").source: [FAILED]}
    with pytest.raises(ValueError, match="no score: 3 of 30 reference solutions pass") as raised:
        check_scoring(TaskSet("own", tasks), Scorer(BARE), None, InfillCodeConfig())
    message, printed = str(raised.value), capsys.readouterr().out
    assert "T/1 failed: AssertionError, T/2 failed: AssertionError" in message
    assert "and 7 more, printed above" in message and "--leave_out" in message
    assert len(re.findall("reference solution of T/", printed)) == 27
    assert "\n" not in message


def test_a_reference_that_may_have_failed_by_the_machines_fault_says_so(machine, two):
    plan, _ = machine
    late = Outcome(False, "timed out")
    for task in two.tasks:
        plan |= {task.program("pass\n").source: [late, late], task.program("").source: [FAILED]}
    with pytest.raises(ValueError, match="T/0 timed out, T/1 timed out.*same command"):
        check_scoring(two, Scorer(BARE), None, replace(InfillCodeConfig(), samples="x"))
