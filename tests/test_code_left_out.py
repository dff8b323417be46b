"""Tasks that are left out keep their numbers, and the lines of the others stay as they are."""

import json
import runpy
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from asarm.evaluation.engine import expected_keys
from asarm.evaluation.engine import lines as computed
from asarm.evaluation.programs.bundled.build import bundled_tasks
from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.evaluation import Programs
from asarm.evaluation.programs.network import CodeNetwork
from asarm.evaluation.programs.sources import load_tasks, read_samples
from asarm.evaluation.programs.task import TaskSet
from asarm.evaluation.variants import Networks
from asarm.loading import load

key = Programs.key
SCRIPT = Path(__file__).parents[1] / "scripts" / "infill_code.py"
SMALL = InfillCodeConfig(baselines=[], batch_size=2)


@pytest.fixture(scope="module")
def network():
    return CodeNetwork.of(*load("demo", device="cpu"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the script; its exit code, output and error output."""

    def call(*arguments, folder="run"):
        given = [f"--output_dir={tmp_path / folder}", "--execute=unsafe", "--timeout=60"]
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *given, "--baselines=[]", *arguments])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return call


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(records) -> list[dict]:
    return [{name: value for name, value in r.items() if name != "seconds"} for r in records]


def programs(network, tasks, config) -> Programs:
    task_set = TaskSet("tasks", tasks).leave_out(config.leave_out)
    return Programs(task_set, config, Networks(network))


def fill_tasks(network, tasks, config):
    return computed(programs(network, tasks, config))


@pytest.mark.slow
def test_tasks_that_are_left_out_change_no_line_of_the_others(network):
    tasks = bundled_tasks()[:5]
    whole = list(fill_tasks(network, tasks, SMALL))
    out = tasks[2].task_id
    config = replace(SMALL, leave_out=[out])
    part = list(fill_tasks(network, tasks, config))
    assert lines(part) == lines(record for record in whole if record["task_id"] != out)
    assert sorted(map(key, part)) == sorted(expected_keys(programs(network, tasks, config)))


def test_a_task_without_a_gap_is_named_and_may_be_left_out(network):
    tasks = [replace(task, canonical_solution="") for task in bundled_tasks()[:1]]
    tasks += bundled_tasks()[1:3]
    with pytest.raises(ValueError, match=f"task {tasks[0].task_id} has no gap") as raised:
        next(fill_tasks(network, tasks, SMALL))
    assert f"--leave_out {tasks[0].task_id}" in str(raised.value)
    config = replace(SMALL, leave_out=[tasks[0].task_id])
    assert {r["item"] for r in fill_tasks(network, tasks, config)} == {1, 2}


@pytest.mark.slow
def test_a_task_is_left_out_of_a_finished_run(run, tmp_path):
    tasks = load_tasks("bundled").tasks[:2]
    rows = [asdict(tasks[0]), asdict(replace(tasks[1], test="def check(candidate): missing"))]
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = (f"--dataset={path}",)
    code, output, errors = run(*own)
    assert code == 2
    assert f"reference solution of {tasks[1].task_id}: failed: NameError" in output
    assert f"1 of 2 reference solutions pass; {tasks[1].task_id} failed: NameError" in errors
    generated = (tmp_path / "run" / "generations.jsonl").read_bytes()
    code, output, errors = run(*own, f"--leave_out={tasks[1].task_id}")
    assert code == 0, errors
    assert (tmp_path / "run" / "generations.jsonl").read_bytes() == generated
    page = (tmp_path / "run" / "report.md").read_text()
    assert f"left out, by --leave_out: {tasks[1].task_id}" in page and ": 1 tasks" in page
    (result,) = read(tmp_path / "run" / "results.jsonl")
    assert result["task_id"] == tasks[0].task_id
    code, _, errors = run(*own, "--leave_out=T/9", folder="other")
    assert code == 2 and "leave_out holds T/9; expected ids of" in errors
    code, _, errors = run(*own, *[f"--leave_out={tasks[0].task_id},{tasks[1].task_id}"])
    assert code == 2 and "leave_out holds all 2 requested tasks" in errors


def test_completions_need_none_of_a_task_that_is_left_out(tmp_path):
    tasks = load_tasks("bundled")
    first, second = tasks.tasks[:2]
    path = tmp_path / "some.jsonl"
    path.write_text(json.dumps({"task_id": first.task_id, "completion": "x"}) + "\n")
    part = replace(tasks, tasks=[first, second]).leave_out([second.task_id])
    assert [r["task_id"] for r in read_samples(path, part)] == [first.task_id]
