"""The study of gap lengths: gaps that are there, guesses that can be checked, and the script."""

import json
import math
import runpy
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import XLNetConfig

from asarm import AnySubsetTransformer
from asarm.codec import Codec
from asarm.corpus import KINDS, held_out_documents
from asarm.evaluation.engine import lines as computed
from asarm.evaluation.gap_lengths import study
from asarm.evaluation.gap_lengths.config import GapLengthsConfig
from asarm.evaluation.items import Shard
from asarm.infilling.length import POWERS, direct_evidence, posterior
from asarm.infilling.prior import MAX_UNITS, length_prior
from asarm.infilling.template import Template
from asarm.loading import load_tokenizer

SCRIPT = Path(__file__).parents[1] / "scripts" / "gap_lengths.py"
TOKENIZER = load_tokenizer("demo")
SMALL = GapLengthsConfig(max_items=3, longest=6, num_fills=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=len(TOKENIZER), d_model=16, n_layer=1, n_head=2, d_inner=32, mask_token_id=6
    )
    return AnySubsetTransformer(config).eval()


def guess_lengths(model, config, **options):
    return computed(study.GapLengths(config, model, TOKENIZER), **options)


@pytest.fixture(scope="module")
def records(model):
    return list(guess_lengths(model, SMALL))


# --- gaps ---


@pytest.mark.parametrize("kind", KINDS)
def test_gaps_are_words_of_held_out_text(kind):
    found = study.gaps(kind, 200, seed=5)
    documents = [document.text for document in held_out_documents(kind)]
    for gap in found:
        assert gap.kind == kind
        assert any(gap.before + gap.words + gap.after in text for text in documents)
        assert gap.before.endswith(" ") and gap.after[:1] in (" ", "\n")
        assert not gap.words[0].isspace()
        assert len(gap.before) <= study.LEFT and len(gap.after) <= study.RIGHT
        assert 1 <= len(gap.words.split()) <= MAX_UNITS["words"]
    assert len({gap.words for gap in found}) > 150
    assert study.gaps(kind, 200, seed=5) == found
    assert study.gaps(kind, 20, seed=5) == found[:20]
    assert study.gaps(kind, 200, seed=6) != found


def test_gaps_of_every_number_of_words_are_there():
    numbers = Counter(len(gap.words.split()) for gap in study.gaps("prose", 400, seed=0))
    assert set(numbers) == set(range(1, MAX_UNITS["words"] + 1))
    assert min(numbers.values()) > 20


# --- guesses ---


@pytest.mark.slow
def test_true_lengths_are_what_the_words_add_to_the_text(records):
    assert len(records) > 2
    by_kind = {kind: study.gaps(kind, SMALL.max_items, SMALL.seed) for kind in KINDS}
    for record in records:
        gap = by_kind[record["kind"]][record["item"]]
        template = Template.of(Codec.of(TOKENIZER), [gap.before, gap.after])
        assert gap.words == record["words"]
        assert template.lengths([gap.words]) == [record["true"]]
        assert record["true"] <= SMALL.longest
    lengths = [len(TOKENIZER(gap.words)["input_ids"]) for gaps in by_kind.values() for gap in gaps]
    assert len(records) == sum(length <= SMALL.longest for length in lengths)


def test_every_estimator_guesses_and_counts_its_rows(records):
    prior = length_prior(TOKENIZER, 1, SMALL.longest)
    mean = round(float((prior * torch.arange(1, 7)).sum()))
    for record in records:
        guesses = record["guesses"]
        assert tuple(guesses) == study.ESTIMATORS
        assert all(1 <= own["guess"] <= SMALL.longest for own in guesses.values())
        assert guesses["constant"]["guess"] == mean and guesses["constant"]["rows"] == 0
        assert guesses["constant"]["log_prob"] == pytest.approx(math.log(prior[record["true"] - 1]))
        assert guesses["importance"]["rows"] > guesses["direct"]["rows"] > 0
        assert guesses["per token"]["rows"] > 0 and "log_prob" not in guesses["per token"]
        for name in POWERS:
            by_power = guesses[name]["by_power"]
            assert len(by_power) == len(study.TRIED)
            assert by_power[0] == pytest.approx(guesses["constant"]["log_prob"])  # power 0
            own = by_power[study.TRIED.index(POWERS[name])]
            assert guesses[name]["log_prob"] == pytest.approx(own)


def test_the_direct_guess_is_the_mode_of_its_posterior(model, records):
    lengths = torch.arange(1, SMALL.longest + 1)[:, None]
    log_prior = length_prior(TOKENIZER, 1, SMALL.longest).log()
    for record in records:
        gap = study.gaps(record["kind"], SMALL.max_items, SMALL.seed)[record["item"]]
        template = Template.of(Codec.of(TOKENIZER), [gap.before, gap.after])
        evidence = direct_evidence(model, template, lengths)
        log_probs = posterior(log_prior, evidence.log_probs, POWERS["direct"])
        found = record["guesses"]["direct"]
        assert found["guess"] == 1 + int(log_probs.argmax())
        assert found["log_prob"] == pytest.approx(float(log_probs[record["true"] - 1]))
        assert found["rows"] == evidence.rows


@pytest.mark.slow
def test_neither_interruption_nor_processes_change_a_record(model, records):
    keys = [(record["kind"], record["item"]) for record in records]
    assert len(set(keys)) == len(keys)
    rest = guess_lengths(model, SMALL, done=records[1:])
    assert list(rest) == records[:1]
    assert list(guess_lengths(model, SMALL, done=records)) == []
    shards = [Shard(0, 1, process, 2) for process in range(2)]
    split = [r for s in shards for r in guess_lengths(model, SMALL, shard=s)]
    assert sorted(split, key=lambda r: keys.index((r["kind"], r["item"]))) == records


def test_other_seeds_take_other_gaps(model, records):
    other = replace(SMALL, seed=1, max_items=1, longest=2, num_fills=1)
    found = list(guess_lengths(model, other))
    assert not {r["words"] for r in found} & {r["words"] for r in records}


# --- what it all comes to ---


def by_hand(true, guess, *, kind="prose", log_prob=-1.0, by_power=(-2.0, -1.0)):
    """A record in which every estimator says the same."""
    powers = [*by_power, *[-9.0] * (len(study.TRIED) - len(by_power))]
    own = {"guess": guess, "rows": 10 * guess, "log_prob": log_prob, "by_power": powers}
    plain = {"guess": guess, "rows": 0}
    guesses = {"direct": own, "importance": own, "per token": plain, "constant": plain}
    return {"kind": kind, "item": true, "true": true, "words": "", "guesses": guesses}


def test_summary_by_hand():
    records = [by_hand(3, 3), by_hand(4, 5, log_prob=-3.0), by_hand(5, 8), by_hand(1, 1)]
    summary = study.summarise([*records, by_hand(2, 2, kind="code")])
    assert [(row["kind"], row["estimator"]) for row in summary] == [
        (kind, name) for kind in ("prose", "code") for name in study.ESTIMATORS
    ]
    direct = summary[0]
    assert direct["items"] == 4
    assert direct["first"] == {"mean": 0.5, "error": pytest.approx(math.sqrt(1 / 3 / 4))}
    assert direct["within 1"]["mean"] == 0.75
    assert direct["mean error"]["mean"] == 1.0
    assert direct["rows"]["mean"] == 42.5
    assert direct["log p(true)"]["mean"] == -1.5
    assert summary[2]["log p(true)"] is None and summary[2]["rows"]["mean"] == 0
    assert summary[4]["items"] == 1 and summary[4]["first"] == {"mean": 1.0, "error": None}
    head, cells = study.table(summary)
    assert all(len(row) == len(head) for row in cells)
    assert cells[0] == [
        "prose", "direct", "0.500 ± 0.289", "0.750 ± 0.250", "1.00 ± 0.71", "42 ± 15",
        "-1.50 ± 0.50",
    ]  # fmt: skip
    assert cells[2][-1] == "-" and cells[4][2] == "1.000"


def test_the_best_power_makes_the_true_lengths_most_probable():
    records = [by_hand(2, 2, by_power=(-3.0, -1.0, -2.5)), by_hand(2, 2, by_power=(-1.0, -2, -1.4))]
    assert study.best_powers(records) == {name: study.TRIED[1] for name in POWERS}
    records[0]["guesses"]["direct"] = by_hand(1, 1, by_power=(-1.0, -4.0))["guesses"]["direct"]
    assert study.best_powers(records)["direct"] == study.TRIED[0]
    assert study.best_powers(records)["importance"] == study.TRIED[1]
    assert study.TRIED[0] == 0 and set(POWERS.values()) <= set(study.TRIED)


# --- the script ---


@pytest.fixture
def run(monkeypatch, capsys, model, tmp_path):
    """Run the script on a few gaps; its exit code, output and error output."""
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)

    def call(*arguments):
        given = [f"--model={folder}", f"--output_dir={tmp_path / 'run'}", "--max_items=2"]
        given += ["--longest=8", "--num_fills=1"]
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *given, *arguments])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return call


@pytest.mark.slow
def test_from_beginning_to_end_and_again_after_a_kill(run, tmp_path):
    code, output, errors = run()
    assert code == 0, errors
    for shown in ("Lengths of blanks", "importance", "Best powers of the evidence: direct"):
        assert shown in " ".join(output.split())
    folder = tmp_path / "run"
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"gaps.jsonl", "summary.json", "report.md", "config.yaml"} <= set(content)
    summary = json.loads(content["summary.json"])
    lines = content["gaps.jsonl"].splitlines(keepends=True)
    assert len(lines) > 1
    assert sum(row["items"] for row in summary) == len(lines) * len(study.ESTIMATORS)
    assert content["report.md"].decode().count("| prose | ") == len(study.ESTIMATORS)

    (folder / "gaps.jsonl").write_bytes(lines[0] + lines[1][:20])
    (folder / "report.md").unlink()
    assert run()[0] == 0
    for name in ("gaps.jsonl", "summary.json", "report.md"):
        assert (folder / name).read_bytes() == content[name]


def test_a_model_that_is_not_there_is_one_line(run):
    code, _, errors = run("--model=/no/such/model")
    assert code == 2 and "/no/such/model" in errors.splitlines()[-1]


@pytest.mark.slow
def test_two_array_tasks_share_the_gaps_and_the_last_one_writes_the_tables(
    run, tmp_path, monkeypatch
):
    assert run()[0] == 0
    whole = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    shutil.rmtree(tmp_path / "run")
    array = {"COUNT": "2", "MIN": "0", "MAX": "1"}
    for name, value in array.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert "others still work on this run" in run()[1]
    assert not (tmp_path / "run" / "report.md").exists()
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert run()[0] == 0
    for name in ("gaps.jsonl", "summary.json", "report.md"):
        assert (tmp_path / "run" / name).read_bytes() == whole[name]
