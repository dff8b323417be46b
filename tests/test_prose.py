"""Infilling of prose: what is filled with what in sight, how it is scored, and the whole script."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fakes import small_model
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from asarm import Order, log_prob
from asarm.evaluation import engine
from asarm.evaluation.engine import expected_keys
from asarm.evaluation.items import Shard
from asarm.evaluation.prose import lambada as lambada_module
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.evaluation import Network, ProseEvaluation, check_config, networks_of
from asarm.evaluation.prose.formats import CLOZE, Passage, Question, Story
from asarm.evaluation.prose.results import row_of, score_of
from asarm.evaluation.prose.sources import Prose
from asarm.evaluation.prose.stories import Stories, blank_of, copied
from asarm.evaluation.prose.tasks import infill_prose
from asarm.evaluation.variants import Networks
from asarm.loading import load
from asarm.metrics.rouge import rouge
from asarm.metrics.statistics import estimate
from asarm.text import encode
from asarm.training.tokenizer import save_tokenizer, train_tokenizer

key = ProseEvaluation.key
ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "infill_nlp.py"
PRESETS = sorted((ROOT / "configs" / "infill_nlp").glob("*.yaml"))
WORDS = ["a", "cat", "cats", "the", "mat", "sat", "on"]
STORIES = [
    Story(("Rick grew up.", "He left home, at last.", "He slept.", "He woke.", "He is happy.")),
    Story(("Ann ran.", "Ann fell.", "She cried a bit.", "Ann ran on.", "She won in the end.")),
    Story(("It rained.", "We stayed in.", "We read.", "Then the sun came out.", "We went out.")),
]
QUICK = InfillProseConfig(
    num_trials=2, length="oracle", batch_size=2, parallel_steps=[1, 3], protocol="middle"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random model with few pieces, in float32."""
    path = tmp_path_factory.mktemp("model")
    texts = [" ".join(story.sentences) for story in STORIES]
    tokenizer = train_tokenizer(texts, num_pieces=320)
    save_tokenizer(tokenizer, path)
    size = tokenizer.get_vocab_size()
    small_model(vocab_size=size, std=0.3, dtype=torch.float32).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def network(folder):
    return Network(*load(folder, dtype="float64"))


def fill_stories(model, tokenizer, stories, config, **options):
    return infill_prose(model, tokenizer, Prose("stories", "stories", stories), config, **options)


def complete_passages(model, tokenizer, passages, config):
    return infill_prose(model, tokenizer, Prose("LAMBADA", "lambada", passages), config)


def choose_endings(model, tokenizer, questions, config=None):
    return infill_prose(model, tokenizer, Prose("HellaSwag", "hellaswag", questions), config)


def lines(records) -> list[dict]:
    """The records without their times."""
    records = list(records)
    assert all(record["seconds"] >= 0 for record in records)
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


# --- scores


@given(st.lists(st.sampled_from(WORDS), min_size=1), st.lists(st.sampled_from(WORDS), min_size=1))
def test_rouge_1_is_the_overlap_of_words(ours, theirs):
    shared = sum((Counter(ours) & Counter(theirs)).values())
    scores = rouge(" ".join(ours).upper() + " !", " ".join(theirs))
    assert scores["rouge1"] == pytest.approx(200 * shared / (len(ours) + len(theirs)))
    assert scores["rougeL"] <= scores["rouge1"] + 1e-9
    parts = [scores[kind] for kind in ("rouge1", "rouge2", "rougeL")]
    assert scores["rouge"] == pytest.approx(np.mean(parts))


def test_rouge_of_the_same_of_pairs_and_of_inflected_words():
    assert set(rouge("The cat sat.", "the cat sat").values()) == {100}
    assert rouge("the cat sat", "a cat sat")["rouge2"] == pytest.approx(50)
    assert rouge("cats", "cat")["rouge1"] == 0  # as in the published figures, no stemming


def test_errors_over_items_and_over_trials():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(7, 3))  # items, trials
    records = [{"item": i, "trial": t, "x": values[i, t]} for i in range(7) for t in range(3)]
    score = row_of("row", records, {"x": lambda r: r["x"], "y": lambda r: None}).scores["x"]
    assert score.mean == pytest.approx(values.mean())
    assert score.error == pytest.approx(estimate(values.mean(1)).error)
    assert score.trial_error == pytest.approx(estimate(values.mean(0)).error)
    assert score_of(records[:1], [1.0]).error is None


# --- stories


@pytest.mark.parametrize("protocol", ["middle", "short_prompt"])
@pytest.mark.parametrize("story", STORIES)
def test_a_blank_and_what_is_around_it_are_the_story(story, protocol):
    blank = blank_of(story, protocol)
    assert blank.before + blank.reference + blank.after == " ".join(story.sentences)
    hidden = story.sentences[2:3] if protocol == "middle" else story.sentences[1:4]
    assert blank.reference == " ".join(hidden)
    assert blank.sentences == len(hidden)
    longest = copied(story, protocol)["prediction"]
    assert longest in set(story.sentences) - set(hidden)
    assert len(longest) == max(len(s) for s in story.sentences if s not in hidden)


@pytest.fixture(scope="module")
def filled(network):
    config = replace(QUICK, protocol="both", length="both", off_the_shelf="twin")
    return fill_stories(*network, STORIES, config, off_the_shelf=network)


def test_every_variant_fills_every_story_at_every_trial(filled):
    assert [table.title.split(":")[0] for table in filled.tables] == ["middle", "short_prompt"]
    for table in filled.tables:
        assert [row.name for row in table.rows] == [
            *("onepass, oracle length", "onepass, auto length"),
            *("twin off the shelf, oracle length", "left context, oracle length"),
            *("parallel 1, oracle length", "parallel 3, oracle length", "longest sentence copied"),
        ]
        assert all(row.items == 3 for row in table.rows)
        assert [row.trials for row in table.rows] == [2] * 6 + [1]
    for table, example in zip(filled.tables, filled.examples, strict=True):
        assert [name for name, _ in example.answers] == [row.name for row in table.rows]
    assert len(filled.records) == 2 * 3 * (6 * 2 + 1)


def test_lengths_and_costs_of_fillings(filled, network):
    for record in filled.records:
        if record["length"] is None:
            assert record["nfe"] == 0
            continue
        blank = blank_of(STORIES[record["item"]], record["protocol"])
        assert record["oracle_tokens"] == len(encode(network.tokenizer, " " + blank.reference))
        if record["length"] == "oracle":
            assert record["num_tokens"] == record["oracle_tokens"]
            assert record["length_log_prob"] == 0
        else:
            assert 1 <= record["num_tokens"] <= 32 * blank.sentences
            assert record["length_log_prob"] < 0
            assert record["rows"] > 32 * blank.sentences  # each of these lengths was weighed
        if record["variant"].startswith("parallel"):
            steps = int(record["variant"].split()[1].rstrip(","))
            assert record["nfe"] == min(steps, record["num_tokens"])
        else:
            assert record["nfe"] <= record["num_tokens"]
        assert record["log_prob"] < 0
        assert {name: record[name] for name in ("rouge1", "rouge2", "rougeL", "rouge")} == rouge(
            record["prediction"], record["reference"]
        )


def test_the_same_model_off_the_shelf_fills_the_same(filled):
    def of(name):
        found = [record for record in filled.records if record["variant"] == name]
        return [(r["item"], r["trial"], r["protocol"], r["prediction"]) for r in found]

    assert of("twin off the shelf, oracle length") == of("onepass, oracle length")
    by_trial = {}
    for item, trial, protocol, text in of("onepass, oracle length"):
        by_trial.setdefault((item, protocol), {})[trial] = text
    assert all(texts[0] != texts[1] for texts in by_trial.values())


def test_who_sees_left_context_only_sees_nothing_else(network):
    config = replace(QUICK, baselines=["left_context"], num_trials=1)
    others = [
        Story((*story.sentences[:3], "But no!", story.sentences[4].upper())) for story in STORIES
    ]
    before, after = (
        fill_stories(*network, stories, config).records for stories in (STORIES, others)
    )
    pairs = list(zip(before, after, strict=True))
    assert {record["variant"] for record in before} == {
        "onepass, oracle length",
        "left context, oracle length",
    }
    for ours, theirs in pairs:
        same = ours["log_prob"] == pytest.approx(theirs["log_prob"], abs=1e-9)
        assert same == ours["variant"].startswith("left context")
        if same:
            assert ours["prediction"] == theirs["prediction"]


# --- the plan: interruptions, processes, batches


def run_stories(network, config, **options) -> list[dict]:
    task = Stories(STORIES, config, networks=Networks(network))
    return list(engine.lines(task, **options))


@pytest.mark.slow
def test_interruptions_change_nothing(network):
    whole = run_stories(network, QUICK)
    task = Stories(STORIES, QUICK)
    assert sorted(map(key, whole)) == sorted(expected_keys(task))
    for cut in (1, len(whole) // 2, len(whole)):
        done, rest = whole[:cut], run_stories(network, QUICK, done=whole[:cut])
        assert lines([*done, *rest]) == lines(whole)
    holes = whole[::3]
    again = sorted([*holes, *run_stories(network, QUICK, done=holes)], key=key)
    assert lines(again) == lines(sorted(whole, key=key))


def test_neither_processes_nor_batches_change_anything(network):
    whole = lines(sorted(run_stories(network, QUICK), key=key))
    shards = [Shard(task, 2, process, 2) for task in range(2) for process in range(2)]
    parts = [run_stories(network, QUICK, shard=shard) for shard in shards]
    assert lines(sorted(sum(parts, []), key=key)) == whole
    alone = sorted(run_stories(network, replace(QUICK, batch_size=1)), key=key)
    for ours, theirs in zip(lines(alone), whole, strict=True):
        assert ours["prediction"] == theirs["prediction"]
        assert ours["log_prob"] == pytest.approx(theirs["log_prob"])


# --- LAMBADA


PASSAGES = [Passage("he said that he would", "come"), Passage("`` no , '' she", "said")]


def test_last_words_are_matched_letter_for_letter(network, monkeypatch):
    come, said = (f"{passage.context} {passage.last_word}" for passage in PASSAGES)
    given = {
        "sampled, oracle length": {come: " come", said: "said."},
        "greedy, oracle length": {come: "Come", said: "said"},
    }

    def fill(networks, blanks, variant, config, seeds):
        costs = {"num_tokens": 1, "nfe": 1, "rows": 1, "seconds": 0.0, "log_prob": -1.0}
        texts = [b.before + b.reference + b.after for b in blanks]
        return [{**costs, "prediction": given[variant.name][text]} for text in texts]

    monkeypatch.setattr(lambada_module, "fill_blanks", fill)
    config = replace(QUICK, baselines=[], num_trials=1)
    result = complete_passages(*network, PASSAGES, config)
    (table,) = result.tables
    assert [row.name for row in table.rows] == list(given)
    assert [row.scores["exact_match"].mean for row in table.rows] == [50, 50]
    assert [record["correct"] for record in result.records] == [True, False, False, True]


def test_last_words_sampled_greedy_and_in_parallel(network):
    config = replace(QUICK, length="both", parallel_steps=[1, 16])
    result = complete_passages(*network, PASSAGES, config)
    (table,) = result.tables
    assert [(row.name, row.trials) for row in table.rows] == [
        ("sampled, oracle length", 2),
        ("greedy, oracle length", 1),
        ("sampled, auto length", 2),
        ("greedy, auto length", 1),
        ("parallel 1, sampled, oracle length", 2),
    ]
    other = complete_passages(*network, PASSAGES, replace(config, seed=1)).records
    for ours, theirs in zip(result.records, other, strict=True):
        if ours["variant"] == "greedy, oracle length":  # nothing random about it
            assert ours["prediction"] == theirs["prediction"]


# --- HellaSwag


QUESTIONS = [
    Question("Roofs: A man sits on a roof. he", ("sleeps.", "pulls it up, all of it.", "eats."), 1),
    Question("Cooking: She takes an egg, and", ("breaks it.", "runs.", "reads the book."), 0),
    Question("Boats: The ship", ("leaves at dawn.", "ïß", "was lost for yeärs"), 2),
]


def joint(network, context: str, ending: str) -> tuple[float, int]:
    """log p of the ending's tokens one after the other, and their number."""
    given, ids = (encode(network.tokenizer, text) for text in (context, " " + ending))
    order = Order.left_to_right(len(given) + len(ids), len(given))
    found = log_prob(network.model, torch.tensor([given + ids]), order)
    return float(found.sum()), len(ids)


def test_endings_are_chosen_by_their_probability_and_by_that_per_token(network):
    result = choose_endings(*network, QUESTIONS, InfillProseConfig(model="small"))
    for record, question in zip(result.records, QUESTIONS, strict=True):
        found = [joint(network, question.context, ending) for ending in question.endings]
        assert record["log_probs"] == pytest.approx([total for total, _ in found])
        assert record["num_tokens"] == [count for _, count in found]
        assert record["choice"] == int(np.argmax([total for total, _ in found]))
        assert record["choice_per_token"] == int(np.argmax([t / n for t, n in found]))
        totals, sizes = [t for t, _ in found], [len(ending) for ending in question.endings]
        assert record["choice_per_character"] == int(np.argmax(np.divide(totals, sizes)))
        sizes = [len(ending.encode()) for ending in question.endings]
        assert record["choice_per_byte"] == int(np.argmax(np.divide(totals, sizes)))
    assert any(r["choice"] != r["choice_per_token"] for r in result.records)
    (table,) = result.tables
    *rows, chance = table.rows
    assert [row.name for row in rows] == [
        "small, joint log-probability",
        *(f"small, log-probability per {what}" for what in ("token", "byte", "character")),
    ]
    fields = ("choice", "choice_per_token", "choice_per_byte", "choice_per_character")
    for row, field in zip(rows, fields, strict=True):
        assert row.scores["nfe"].mean == 1
        rate = np.mean([r[field] == r["label"] for r in result.records])
        assert row.scores["accuracy"].mean == pytest.approx(100 * rate)
    assert (chance.name, chance.scores["accuracy"].mean) == ("chance", pytest.approx(100 / 3))


def test_the_order_of_endings_means_nothing(network):
    turned = [
        Question(q.context, tuple(reversed(q.endings)), len(q.endings) - 1 - q.label)
        for q in QUESTIONS
    ]
    ours, theirs = (choose_endings(*network, found).records for found in (QUESTIONS, turned))
    for a, b in zip(ours, theirs, strict=True):
        assert b["choice"] == 2 - a["choice"]
        assert b["choice_per_token"] == 2 - a["choice_per_token"]


# --- settings


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"protocol": "ends"}, "protocol is 'ends'; expected middle, short_prompt or both"),
        ({"length": "long"}, "length is 'long'; expected oracle, auto or both"),
        ({"method": "parallel"}, "method is 'parallel'; expected sequential, assd"),
        ({"baselines": ["cheat"]}, "baselines holds 'cheat'; expected left_context, parallel"),
        ({"max_items": 0}, "max_items is 0; expected at least 1"),
        ({"num_trials": 0}, "num_trials is 0"),
        ({"k": 0}, "k is 0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"parallel_steps": [2, 0]}, "parallel_steps is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match="^" + says):
        check_config(replace(InfillProseConfig(), **settings))


def test_a_row_without_its_model_is_refused(network):
    with pytest.raises(ValueError, match="no model for the row twin off the shelf"):
        fill_stories(*network, STORIES, replace(QUICK, off_the_shelf="twin"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_served_and_says_what_it_reproduces(preset):
    parser = ArgumentParser()
    parser.add_class_arguments(InfillProseConfig, "config")
    values = yaml.safe_load(preset.read_text())
    config = InfillProseConfig(**vars(parser.parse_object({"config": values}).config))
    check_config(config)
    assert config.output_dir != InfillProseConfig().output_dir
    assert "arXiv 2504.20456" in preset.read_text().splitlines()[0]
    defaults = asdict(InfillProseConfig())
    assert all(values[name] != defaults[name] for name in values)


def test_there_is_a_preset_for_each_published_table():
    names = {"rocstories", "rocstories_short_prompt", "lambada", "hellaswag"}
    assert {path.stem for path in PRESETS} == names


# --- the script


@pytest.fixture
def csv_file(tmp_path):
    path = tmp_path / "stories.csv"
    rows = [[f"id{n}", *s.sentences, "No.", "1"] for n, s in enumerate(STORIES)]
    text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in [CLOZE, *rows])
    path.write_text(text)
    return path


@pytest.fixture
def run(monkeypatch, capsys, folder, csv_file, tmp_path):
    """Run the script; its exit code, output and error output."""

    def call(*arguments, out="run", dataset=csv_file):
        given = [f"--model={folder}", f"--dataset={dataset}", f"--output_dir={tmp_path / out}"]
        small = ["--batch_size=2", "--length=oracle", "--parallel_steps=2"]
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *given, *small, *arguments])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return call


def samples(path: Path) -> list[dict]:
    return lines(map(json.loads, (path / "samples.jsonl").read_text().splitlines()))


@pytest.mark.slow
def test_the_launcher_s_script_from_beginning_to_end(folder, csv_file, tmp_path):
    command = [sys.executable, SCRIPT, f"--model={folder}", f"--dataset={csv_file}"]
    command += [
        f"--output_dir={tmp_path / 'run'}",
        "--parallel_steps=2",
        "--max_items=2",
        "--num_trials=1",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for shown in ("onepass, auto length", "left context", "short_prompt:", "an item", "reference"):
        assert shown in done.stdout
    assert f"samples are in {tmp_path / 'run'}" in done.stdout
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("config.yaml", "starts.jsonl", "samples.jsonl"),
        *("summary.json", "report.md", "rouge.png"),
    }
    found = samples(tmp_path / "run")
    assert [key(record) for record in found] == sorted(map(key, found))
    assert {record["item"] for record in found} == {0, 1}
    tables = json.loads((tmp_path / "run" / "summary.json").read_text())["tables"]
    for table in tables:
        own = [r for r in found if r["protocol"] == table["title"].split(":")[0]]
        for row in table["rows"]:
            values = [r["rouge"] for r in own if r["variant"] == row["name"]]
            assert row["scores"]["rouge"]["mean"] == pytest.approx(np.mean(values))
    page = (tmp_path / "run" / "report.md").read_text()
    assert "| onepass, oracle length |" in page and "**____**" in page


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_lines(run, tmp_path):
    assert run("--protocol=middle", out="whole")[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    path = tmp_path / "run" / "samples.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # in the middle of a line
    assert run("--protocol=middle")[0] == 0
    assert samples(tmp_path / "run") == samples(tmp_path / "whole")


@pytest.mark.slow
def test_rows_may_be_added_and_other_settings_may_not_change(run, tmp_path):
    assert run("--protocol=middle", "--baselines=copy")[0] == 0
    before = samples(tmp_path / "run")
    code, output, errors = run("--protocol=both", "--baselines=copy,left_context")
    assert code == 0, errors
    assert "left context" in output and "short_prompt" in output
    after = samples(tmp_path / "run")
    assert len(after) > len(before) and all(record in after for record in before)
    code, _, errors = run("--seed=1")
    assert code == 2
    assert "seed = 0, not 1" in errors and errors.count("\n") == 1
    assert samples(tmp_path / "run") == after


@pytest.mark.slow
def test_tasks_of_an_array_share_a_run(run, tmp_path, monkeypatch):
    arguments = "--protocol=middle", "--batch_size=1", "--baselines=copy"
    assert run(*arguments, out="whole")[0] == 0
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "0")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MAX", "1")
    for task, said in ((1, "the last one writes the tables"), (0, "tables, the figure")):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        code, output, errors = run(*arguments)
        assert code == 0, errors
        assert said in output
    assert samples(tmp_path / "run") == samples(tmp_path / "whole")


@pytest.mark.slow
def test_choices_and_last_words_from_files(run, tmp_path):
    endings = "\n".join(["Roofs: A man", "3", "sleeps.", "eats.", "runs.", "pulls it up."])
    for content, shown in ((f"{endings}\n" * 2, "chance"), ("he said so\n" * 2, "exact match")):
        path = tmp_path / f"{shown}.txt"
        path.write_text(content)
        kind = "lambada:" if shown == "exact match" else ""
        code, output, errors = run(dataset=f"{kind}{path}", out=shown)
        assert code == 0, errors
        assert shown in output
        assert (tmp_path / shown / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_damaged_data_lose_nothing(run, tmp_path, csv_file):
    assert run("--protocol=middle")[0] == 0
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    csv_file.write_text(csv_file.read_text().replace("He slept.", ""))
    code, _, errors = run("--protocol=middle")
    assert code == 2
    assert "stories.csv line 2 has '' in InputSentence3" in errors and errors.count("\n") == 1
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


def test_networks_are_those_of_the_settings(folder):
    config = InfillProseConfig(model=str(folder), off_the_shelf=str(folder))
    ours, other = networks_of(config)
    assert other is not None and other.model is not ours.model
    assert networks_of(replace(config, off_the_shelf=None)).off_the_shelf is None
