"""Infilling of code: gaps in tokens, the filling of tasks, and the script from the command line."""

import json
import re
import runpy
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from published import published
from transformers import AutoTokenizer, XLNetConfig

from asarm import AnySubsetTransformer
from asarm.evaluation import engine
from asarm.evaluation.engine import expected_keys
from asarm.evaluation.items import Shard
from asarm.evaluation.programs.bundled.build import bundled_tasks
from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.evaluation import Programs, fill_batch, infill_code
from asarm.evaluation.programs.network import CodeNetwork
from asarm.evaluation.programs.sources import load_tasks
from asarm.evaluation.programs.task import Task, TaskSet
from asarm.evaluation.programs.variants import samples_file, variants_of
from asarm.evaluation.variants import Networks, Variant
from asarm.infilling.template import Template
from asarm.loading import load_tokenizer
from asarm.text import decode, encode

key = Programs.key
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "infill_code.py"
PRESETS = sorted((ROOT / "configs" / "infill_code").glob("*.yaml"))
SMALL = InfillCodeConfig(parallel_steps=[2], batch_size=2)


def tiny(tokenizer) -> AnySubsetTransformer:
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=len(tokenizer), d_model=32, n_layer=2, n_head=2, d_inner=64, mask_token_id=6
    )
    return AnySubsetTransformer(config).eval()


@pytest.fixture(scope="module")
def network():
    tokenizer = load_tokenizer("demo")
    return CodeNetwork.of(tiny(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def xlnet():
    tokenizer = AutoTokenizer.from_pretrained(published("xlnet-base-cased"), padding_side="right")
    return CodeNetwork.of(tiny(tokenizer), tokenizer)


def lines(records) -> list[dict]:
    return [{name: value for name, value in r.items() if name != "seconds"} for r in records]


# --- gaps ---


def test_whitespace_has_its_own_tokens_where_a_tokenizer_cannot_write_it(network):
    assert not network.whitespace_map
    assert not CodeNetwork.of(network.model, network.tokenizer, False).whitespace_map


def test_xlnet_needs_the_whitespace_map(xlnet):
    assert xlnet.whitespace_map
    assert not CodeNetwork.of(xlnet.model, xlnet.tokenizer, whitespace_map=False).whitespace_map


def around(template: Template) -> tuple[list[int], list[int]]:
    """The ids before and after the pieces of a template's only gap."""
    (_, end), (before, after) = template.edges()[0], template.parts
    return before.ids, after.ids[end.is_extra :]


def has_pieces_apart(network: CodeNetwork, task: Task, template: Template) -> bool:
    """Whether no piece of the whole program reaches over an end of the gap."""
    ((start, end),) = template.edges()
    ends = len(task.prompt) - len(start.shared), len(task.prompt + task.canonical_solution)
    whole = task.prompt + task.canonical_solution + task.suffix
    offsets = network.tokenizer(whole, return_offsets_mapping=True)["offset_mapping"]
    starts = {first for first, _ in offsets} | {len(whole)}
    return {ends[0], ends[1] + len(end.shared)} <= starts


def test_a_gap_has_the_tokens_that_the_whole_program_has(network):
    """All tokens are those of the program, unless one of these is written across the gap's end."""
    agree = drawable = 0
    for task in bundled_tasks():
        template = network.template(task)
        (ids,) = template.encode_fills([task.canonical_solution])
        text, middles = template.filled([ids])
        assert middles == [task.canonical_solution]
        assert text == task.prompt + task.canonical_solution + task.suffix
        before, after = around(template)
        if not task.suffix:
            assert after == [network.tokenizer.eos_token_id]
            after = []
        same = [*before, *ids, *after] == encode(network.tokenizer, text)
        assert same == has_pieces_apart(network, task, template)
        agree += same
        tables = template.with_gaps([len(ids)])[1].values()
        drawable += all(table[i] for table, i in zip(tables, ids, strict=True))
    # the demo has pieces like "[]", a line end and indentation, in one
    assert agree > 0.85 * len(bundled_tasks())
    assert drawable > 0.95 * len(bundled_tasks())


@given(st.text(max_size=20), st.text(max_size=20), st.text(min_size=1, max_size=20))
def test_every_completion_comes_back_whatever_stands_around_it(network, prompt, suffix, middle):
    template = network.template(Task("T", "f", prompt, suffix, middle, ""))
    (ids,) = template.encode_fills([middle])
    assert template.filled([ids]) == (prompt + middle + suffix, [middle])
    before, after = around(template)
    ends = [network.tokenizer.eos_token_id]
    assert prompt or before == ends
    assert suffix or after == ends
    around_it = [before if prompt else [], ids, after if suffix else []]
    assert decode(network.tokenizer, sum(around_it, [])) == prompt + middle + suffix


ORACLE = Variant("ours", "onepass")
AUTO_LENGTH = replace(ORACLE, length="auto")


def filled(network: CodeNetwork, tasks: list[Task], seeds, variant: Variant = ORACLE) -> list[dict]:
    return fill_batch(network, tasks, variant, SMALL, seeds)


def test_what_is_filled_in_fits_the_characters_around_it(network):
    """Whole lines end with a line end, and are as long as the task's own."""
    tasks = bundled_tasks()[::12]
    found = filled(network, tasks, range(len(tasks)))
    for task, record in zip(tasks, found, strict=True):
        assert task.prompt.endswith("\n")
        assert record["task_id"] == task.task_id
        assert not task.suffix or record["completion"].endswith("\n")
        template = network.template(task)
        assert [record["num_tokens"]] == template.lengths([task.canonical_solution])
        assert record["length_log_prob"] == 0
        assert 1 <= record["nfe"] <= record["num_tokens"] + 1
    assert any(not task.suffix for task in tasks)
    assert len({record["completion"] for record in found}) == len(tasks)


def test_a_filling_depends_on_its_own_seed_and_not_on_its_neighbours(network):
    tasks = bundled_tasks()[:3]
    together = filled(network, tasks, [1, 2, 3])
    for i, found in enumerate(together):
        (alone,) = filled(network, [tasks[i]], [i + 1])
        assert alone["completion"] == found["completion"]
        assert alone["log_prob"] == pytest.approx(found["log_prob"], abs=1e-4)
    (other,) = filled(network, [tasks[0]], [4])
    assert other["completion"] != together[0]["completion"]


def test_a_length_is_found_where_none_is_given(network):
    tasks = bundled_tasks()[:2]
    for found in filled(network, tasks, [0, 1], AUTO_LENGTH):
        assert 1 <= found["num_tokens"] <= 32
        assert found["length_log_prob"] < 0
        assert found["rows"] > 1000  # to weigh all lengths


def test_the_left_context_shows_nothing_of_the_rest(network):
    task = bundled_tasks()[0]
    other = replace(task, suffix="    return something_else\n", canonical_solution="    pass\n")
    templates = [network.template(t, left_only=True) for t in (task, other)]
    assert templates[0].texts == templates[1].texts == [task.prompt, ""]
    assert around(templates[0]) == around(templates[1])
    assert around(templates[0])[1] == []
    assert around(network.template(task)) != around(network.template(other))


def test_gaps_of_the_whitespace_map_are_the_codecs(xlnet):
    (task,) = (t for t in bundled_tasks() if t.task_id == "bundled/running_total/L2")
    template = xlnet.template(task)
    (ids,) = template.encode_fills([task.canonical_solution])
    assert ids == template.codec.encode(task.canonical_solution, after=task.prompt)
    assert ids[-1] == xlnet.tokenizer.cls_token_id  # a line end
    assert template.filled([ids])[1] == [task.canonical_solution]
    assert template.lengths([task.canonical_solution]) == [len(ids)]
    (found,) = filled(xlnet, [task], [0])
    assert found["num_tokens"] == len(ids)
    special = {"<mask>", "<pad>", "<s>", "</s>", "<eod>", "<eop>"}
    assert not any(name in found["completion"] for name in special)


# --- tasks ---


def programs(network, tasks: list[Task], config: InfillCodeConfig) -> Programs:
    return Programs(TaskSet("tasks", tasks), config, Networks(network))


def fill_tasks(network, tasks: list[Task], config: InfillCodeConfig, **options):
    return engine.lines(programs(network, tasks, config), **options)


def test_a_line_for_every_gap_variant_and_trial(network):
    config = replace(SMALL, num_trials=2, length="both")
    tasks = bundled_tasks()[:3]
    records = list(fill_tasks(network, tasks, config))
    assert sorted(map(key, records)) == sorted(expected_keys(programs(network, tasks, config)))
    assert len(records) == 3 * 4 * 2
    for record in records:
        assert record["task_id"] == tasks[record["item"]].task_id
        assert record["log_prob"] < 0 and record["nfe"] >= 1
    trials = {r["completion"] for r in records if r["item"] == 0 and "auto" not in r["variant"]}
    assert len(trials) > 3  # each has a seed of its own


def test_neither_interruption_nor_processes_change_a_line(network):
    tasks = bundled_tasks()[:5]
    whole = list(fill_tasks(network, tasks, SMALL))
    done = [record for n, record in enumerate(whole) if n % 3]
    rest = list(fill_tasks(network, tasks, SMALL, done=done))
    assert lines(rest) == lines(record for n, record in enumerate(whole) if n % 3 == 0)
    shards = [Shard(task, 2, process, 2) for task in range(2) for process in range(2)]
    split = [r for shard in shards for r in fill_tasks(network, tasks, SMALL, shard=shard)]
    assert sorted(lines(split), key=key) == sorted(lines(whole), key=key)


def test_a_notebook_gets_a_result(network, capsys):
    config = replace(SMALL, execute="unsafe", timeout=30.0, baselines=[])
    whole = load_tasks("bundled")
    result = infill_code(Networks(network), whole.first(2), config)
    assert result.self_test.references == result.tasks == 2
    assert result.ceilings["demo"].exact == 2
    (row,) = result.variants
    assert row.rates[0].all.tasks == 2
    assert sum(row.outcomes.values()) == 2
    assert "self-test: of 2 tasks, 2 pass" in capsys.readouterr().out
    assert infill_code(
        Networks(network), whole.first(2), replace(config, execute="none")
    ) == replace(
        result,
        execution="none",
        notes=[],
        title=result.title.removesuffix(" [UNSAFE: no sandbox]"),
        self_test=None,
        ceilings={},
        variants=[replace(row, rates=[], outcomes={}, costs=ANY)],
    )


class Anything:
    def __eq__(self, other: object) -> bool:
        return True


ANY = Anything()


def test_a_scorer_that_runs_nothing_gives_no_score(network, monkeypatch):
    from asarm.evaluation.programs import scoring
    from asarm.sandbox.execution import Outcome

    def passes_everything(programs, **_):
        return ((i, Outcome(True, "passed")) for i in range(len(programs)))

    monkeypatch.setattr(scoring, "run_programs", passes_everything)
    task_set = load_tasks("bundled")
    config = replace(SMALL, execute="unsafe", baselines=[], batch_size=64)
    with pytest.raises(ValueError, match="no score: 105 of 105 empty completions pass where 0"):
        infill_code(
            Networks(network), TaskSet("bundled", task_set.tasks, task_set.recorded), config
        )


# --- settings ---


def test_variants_and_their_files():
    config = InfillCodeConfig(
        length="both", parallel_steps=[4, 4], off_the_shelf="xlnet/xlnet-base"
    )
    names = [variant.name for variant in variants_of(config)]
    assert names == [
        "onepass, oracle length",
        "onepass, auto length",
        "xlnet/xlnet-base, oracle length",
        "left context only, oracle length",
        "parallel 4, oracle length",
    ]
    files = [samples_file(name, names[0]) for name in names]
    assert files[0] == "samples.jsonl"
    assert files[2] == "samples-xlnet_xlnet_base_oracle_length.jsonl"
    assert len(set(files)) == len(files)
    assert len(variants_of(replace(config, baselines=[], length="auto", off_the_shelf=None))) == 1


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_hold_differences_and_name_what_they_reproduce(preset):
    assert len(PRESETS) == 4
    text = preset.read_text()
    assert text.startswith("# ") and "arXiv 2504.20456" in text.splitlines()[0]
    parser = ArgumentParser()
    parser.add_class_arguments(InfillCodeConfig)
    parsed = parser.parse_path(str(preset))
    default = asdict(InfillCodeConfig())
    changed = yaml.safe_load(text)
    assert all(parsed[name] != default[name] for name in changed)
    expected = {"revision": "code", "k": 10, "whitespace_map": True}
    assert expected.items() <= changed.items()
    assert (parsed["length"], parsed["temperature"], parsed["num_trials"]) == ("oracle", 1.0, 1)
    variants_of(InfillCodeConfig(**changed))


# --- the script ---


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    network.model.save_pretrained(folder)
    network.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run(monkeypatch, capsys, model, tmp_path):
    """Run the script on two tasks; its exit code, output and error output."""

    def call(*arguments, folder="run"):
        given = [f"--model={model}", f"--output_dir={tmp_path / folder}", "--dataset=bundled"]
        given += ["--max_items=2", "--parallel_steps=2", "--execute=unsafe", "--timeout=60"]
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *given, *arguments])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return call


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_from_beginning_to_end_and_again_after_a_kill(run, tmp_path):
    code, output, errors = run()
    assert code == 0, errors
    for shown in (
        "self-test: of 2 tasks",
        "codec of",
        "onepass, oracle length",
        "UNSAFE",
        "pass@1",
    ):
        assert shown in output
    folder = tmp_path / "run"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.yaml", "starts.jsonl", "generations.jsonl", "samples.jsonl", "results.jsonl"),
        *("samples-left_context_only_oracle_length.jsonl", "outcomes.jsonl", "summary.json"),
        *("samples-parallel_2_oracle_length.jsonl", "report.md"),
    }
    official = read(folder / "samples.jsonl")
    assert [list(line) for line in official] == [["task_id", "completion"]] * 2
    results = read(folder / "results.jsonl")
    assert len(results) == 6
    assert all({"task_id", "completion", "passed", "result"} <= set(line) for line in results)
    assert "UNSAFE" in (folder / "report.md").read_text()
    assert json.loads((folder / "summary.json").read_text())["execution"] == "unsafe"

    generated, outcomes = read(folder / "generations.jsonl"), read(folder / "outcomes.jsonl")
    before = {name: (folder / name).read_bytes() for name in ("samples.jsonl", "results.jsonl")}
    for name in ("generations.jsonl", "outcomes.jsonl"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    for name in ("report.md", "summary.json", *before):
        (folder / name).unlink()
    assert run()[0] == 0
    assert lines(read(folder / "generations.jsonl")) == lines(generated)
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert sorted(map(str, read(folder / "outcomes.jsonl"))) == sorted(map(str, outcomes))


def test_completions_of_others_are_scored_as_they_are(run, tmp_path):
    tasks = load_tasks("bundled").tasks[:2]
    given = [
        {"task_id": tasks[1].task_id, "completion": tasks[1].canonical_solution},
        {"task_id": tasks[0].task_id, "completion": "    total = 1\n"},
    ]
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in given))
    code, output, errors = run(f"--samples={path}")
    assert code == 0, errors
    assert "theirs.jsonl on bundled: 2 tasks" in output
    assert "codec of" not in output
    results = read(tmp_path / "run" / "results.jsonl")
    assert [(line["task_id"], line["passed"]) for line in results] == [
        (tasks[0].task_id, False),
        (tasks[1].task_id, True),
    ]
    assert results[0]["result"] == "failed: AssertionError"
    assert not (tmp_path / "run" / "samples.jsonl").exists()
    path.write_text(json.dumps({"task_id": "who", "completion": ""}) + "\n")
    code, _, errors = run(f"--samples={path}")
    assert code == 2
    assert "line 1: task_id who is none of the 105 of bundled" in errors


@pytest.mark.slow
def test_without_execution_completions_are_written_and_nothing_is_scored(run, tmp_path):
    code, output, errors = run("--execute=none", "--baselines=[]")
    assert code == 0, errors
    assert "pass@1" not in re.sub(r"pass@k", "", output).replace("\n", " ")
    assert len(read(tmp_path / "run" / "samples.jsonl")) == 2
    assert not (tmp_path / "run" / "results.jsonl").exists()
    code, output, _ = run("--baselines=[]")  # scored afterwards
    assert code == 0
    assert "pass@1" in output
    shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--length=long"], "length is 'long'; expected oracle, auto, both"),
        (["--method=parallel"], "method is 'parallel'; expected sequential, assd"),
        (["--baselines=copy"], "baselines holds 'copy'; expected left_context, parallel"),
        (["--execute=maybe"], "execute is 'maybe'; expected sandbox, unsafe, none"),
        (["--num_trials=0"], "num_trials is 0"),
        (["--timeout=0"], "timeout is 0.0; expected seconds above 0"),
        (["--k=0"], "k is 0"),
        (["--parallel_steps=0"], "parallel_steps is 0"),
        (["--dataset=triple-line"], "dataset triple-line does not exist; expected single-line"),
        (["--samples=/no/such.jsonl"], "cannot read /no/such.jsonl"),
        (["--samples=x.jsonl", "--execute=none"], "samples can only be scored"),
        (["--model=/no/such/model"], "/no/such/model"),
        (["--temperature=-1"], "temperature is -1"),
    ],
)
def test_wrong_settings_are_one_line(run, arguments, says):
    code, _, errors = run(*arguments)
    assert code == 2
    assert says in errors.splitlines()[-1]


def test_a_machine_that_isolates_nothing_is_one_line(run, monkeypatch, tmp_path):
    from asarm.sandbox import isolation

    monkeypatch.setattr(isolation, "candidates", lambda: [])
    code, _, errors = run("--execute=sandbox")
    assert code == 2
    assert "--execute unsafe" in errors.splitlines()[-1]
    assert not (tmp_path / "run" / "generations.jsonl").exists()  # before anything is generated
