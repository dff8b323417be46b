"""Tables and pictures of made-up records."""

import json
import random
from io import StringIO

import pytest
from rich.console import Console

from asarm.display.spans import given_spans, printable, segments_of
from asarm.evaluation import figures
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.example import show_example
from asarm.evaluation.figures import histogram_figure, quality_figure
from asarm.evaluation.report import add_scores, markdown, show, summarise, title
from asarm.loading import load_tokenizer
from asarm.metrics.judge import Judge
from asarm.text import decode, encode

PNG = b"\x89PNG"


def made_up(item: int, method: str, steps: int | None = None, **values) -> dict:
    rng = random.Random(f"{item} {method} {steps}")
    record = {"item": item, "model": "demo", "method": method, "steps": steps}
    record |= {"k": 5, "num_targets": 10}
    record |= {"nfe": 5, "rows": 40, "rounds": 4, "seconds": rng.random(), "entropy": rng.random()}
    record |= {"self_perplexity": 1 + rng.random(), "lossless": method != "parallel"}
    return record | {"tokens": [9, 10, 11], "prompt": [1], "text": "abc"} | values


@pytest.fixture
def records():
    variants = [("sequential", None), ("assd", None), ("parallel", 2), ("parallel", 4)]
    return [made_up(item, *variant) for item in range(6) for variant in variants]


def test_figures_of_the_summary_by_hand():
    seconds = {"sequential": [4.0, 8.0], "assd": [1.0, 2.0]}
    records = [
        made_up(i, method, seconds=seconds[method][i], nfe=nfe, self_perplexity=3.0)
        for i in range(2)
        for method, nfe in (("sequential", 10), ("assd", 4 + i))
    ]
    summary = json.loads(json.dumps(summarise(records)))
    sequential, assd = summary["variants"]
    assert (sequential["name"], assd["name"], assd["trials"]) == ("sequential", "assd", 2)
    assert assd["nfe_per_target"] == {"mean": 0.45, "error": pytest.approx(0.05)}
    assert assd["rows_per_target"] == {"mean": 4.0, "error": 0.0}
    assert assd["tokens_per_round"]["mean"] == 2.5
    assert assd["seconds"]["mean"] == 1.5
    assert assd["speedup"]["mean"] == 4.0
    assert sequential["speedup"]["mean"] == 1.0
    assert assd["judge_perplexity"] is None
    tests = {t["measure"]: t for t in summary["tests_against_sequential"]}
    assert set(tests) == {"nfe_per_target", "seconds", "self_perplexity", "entropy"}
    assert tests["self_perplexity"]["paired_t"] == 1.0


def test_samplers_that_no_table_names_are_drawn_as_curves_of_their_own(records):
    own = [("mine", 2), ("mine", 4), ("other", None)]
    records += [made_up(item, *variant, draft=None) for item in range(6) for variant in own]
    summary = json.loads(json.dumps(summarise(records)))
    assert quality_figure(summary, "title").startswith(PNG)
    assert histogram_figure(records, "title").startswith(PNG)
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_steps_curve", lambda axes, rows, *_, **__: drawn.append(rows))
        patch.setattr(figures, "_legend", lambda *_, **__: None)
        quality_figure(summary, "title")
    assert [{row["method"] for row in rows} for rows in drawn] == [{"parallel"}, {"mine"}]


def test_methods_are_compared_on_the_trials_that_both_have(records):
    partial = [r for r in records if r["item"] < 4 or r["method"] == "sequential"]
    whole = [r for r in records if r["item"] < 4]
    tests = "tests_against_sequential"
    assert summarise(partial)[tests] == summarise(whole)[tests]


def test_without_sequential_there_is_nothing_to_compare_with(records):
    summary = summarise(r for r in records if r["method"] != "sequential")
    assert summary["tests_against_sequential"] == []
    assert all(row["speedup"] is None for row in summary["variants"])
    assert markdown(summary, "title")
    assert quality_figure(summary, "title").startswith(PNG)


def test_scores_of_the_judge_make_columns_of_their_own(records):
    records = [{**r, "text": f"text {r['item']}"} for r in records]
    referee = Judge("gpt2", None, None)
    object.__setattr__(referee, "fingerprint", "00")
    scores = [
        {**dict(zip(("judge", "fingerprint", "text"), referee.key_of(f"text {i}"), strict=True)),
         "judge_perplexity": 20.0 + i, "judge_entropy": 7.0}
        for i in range(6)
    ]  # fmt: skip
    others = [{**score, "fingerprint": "another"} for score in scores]
    assert add_scores(records, others, referee) == records
    summary = summarise(add_scores(records, scores, referee))
    assert summary["variants"][0]["judge_perplexity"]["mean"] == 22.5
    assert "judge PPL" in markdown(summary, "title")
    assert quality_figure(summary, "title").startswith(PNG)
    assert "judge PPL" not in markdown(summarise(records), "title")


@pytest.mark.parametrize("width", [80, 130])
def test_tables_show_every_variant(records, width):
    summary, output = summarise(records), StringIO()
    show(summary, "a title", Console(file=output, width=width))
    page = markdown(summary, "a title")
    for text in (output.getvalue(), page):
        for name in ("a title", "sequential", "assd", "parallel 2", "parallel 4", "Wilcoxon"):
            assert name in text
    assert "…" not in output.getvalue()
    assert max(map(len, output.getvalue().split("\n"))) <= width
    assert "| parallel 4 | 5 | 0.500 ± 0.000 | 4.00 ± 0.00 |" in page
    assert "distinct-2" in page and "copied" in page
    assert "distinct-2" not in output.getvalue()


def test_judge_free_measures_by_hand():
    texts = {"tokens": [4, 5, 4, 5, 6], "prompt": [0, 1]}
    (row,) = summarise([made_up(0, "assd", **texts)])["variants"]
    found = {name: row[name]["mean"] for name in ("distinct_1", "distinct_2", "copied")}
    assert found == {"distinct_1": 3 / 5, "distinct_2": 3 / 4, "copied": 2 / 3}
    assert row["distinct_3"]["mean"] == 1.0
    (short,) = summarise([made_up(0, "assd", tokens=[4, 5], prompt=[0])])["variants"]
    assert short["distinct_3"] is None


@pytest.mark.slow
def test_each_model_is_held_against_its_own_sequential(records):
    others = [{**r, "model": "org/shelf", "nfe": 2 * r["nfe"]} for r in records]
    summary = summarise([*records, *others])
    rows = [row["name"] for row in summary["variants"]]
    assert rows[:2] == ["sequential, demo", "assd, demo"]
    assert rows[4:6] == ["sequential, shelf", "assd, shelf"]
    tests = {(t["variant"], t["measure"]): t for t in summary["tests_against_sequential"]}
    assert tests["assd, shelf", "nfe_per_target"]["paired_t"] == 1.0  # both are twice as many
    assert len(summary["tests_against_sequential"]) == 2 * len(
        summarise(records)["tests_against_sequential"]
    )
    assert quality_figure(summary, "title").startswith(PNG)
    assert quality_figure(summary, "title") != quality_figure(summarise(records), "title")
    assert histogram_figure([*records, *others], "title").startswith(PNG)
    output = StringIO()
    show(summary, "a title", Console(file=output, width=130))
    assert "parallel 2, shelf" in output.getvalue()
    narrow = StringIO()
    show(summary, "a title", Console(file=narrow, width=80))
    assert "…" not in narrow.getvalue()
    assert max(map(len, narrow.getvalue().split("\n"))) <= 80


def test_one_trial_gives_tables_without_errors():
    records = [made_up(0, "sequential"), made_up(0, "assd")]
    summary = summarise(records)
    assert "±" not in markdown(summary, "title").split("## Against")[0].replace("Mean ±", "")
    assert quality_figure(summary, "title").startswith(PNG)
    assert histogram_figure(records, "title").startswith(PNG)


@pytest.mark.slow
def test_pictures(records):
    assert quality_figure(summarise(records), "title").startswith(PNG)
    assert histogram_figure(records, "title").startswith(PNG)
    same = [{**r, "seconds": 0.0, "self_perplexity": 1.0, "entropy": 0.0} for r in records]
    assert quality_figure(summarise(same), "title").startswith(PNG)
    assert histogram_figure(same, "title").startswith(PNG)


def test_title(records):
    config = DecodingConfig(length=12)
    assert title(records, config) == "demo on heldout: 6 trials, 10 of 12 tokens blank"
    config = DecodingConfig(length=12, revision="nlp", compare=["other"])
    assert title(records, config).startswith("demo@nlp, other on heldout: 6 trials")


TEXT = "def größe(x):\n    return '日本' * x  # 🙂\n"


@pytest.mark.slow_but_one
@pytest.mark.parametrize("seed", range(20))
def test_segments_join_to_the_text(seed):
    tokenizer = load_tokenizer("demo")
    tokens = encode(tokenizer, TEXT)
    prompt = random.Random(seed).sample(range(len(tokens)), len(tokens) // 3)
    parts = segments_of(tokenizer, tokens, prompt)
    assert "".join(part.text for part in parts) == TEXT
    assert sum(part.num_tokens for part in parts if part.is_target) == len(tokens) - len(prompt)
    assert all(a.is_target != b.is_target for a, b in zip(parts, parts[1:], strict=False))


def test_example_shows_blanks_fillings_and_calls():
    tokenizer = load_tokenizer("demo")
    tokens = encode(tokenizer, "import math\n")
    tokens += encode(tokenizer, "\x1b[31m")
    text = decode(tokenizer, tokens)
    given = given_spans(lambda ids: decode(tokenizer, ids), tokens, [0])
    texts = {"tokens": tokens, "prompt": [0], "num_targets": len(tokens) - 1}
    texts |= {"text": text, "given": given}
    records = [
        made_up(item, method, **texts, nfe=nfe)
        for item in (0, 1)
        for method, nfe in (("sequential", 7), ("assd", 3), ("parallel", 2))
    ]
    output = StringIO()
    show_example(records, Console(file=output, width=80))
    shown = output.getvalue()
    assert "_" * (len(tokens) - 1) in shown
    assert "math" in shown
    assert "\x1b" not in shown
    assert "7 calls" in shown and "3 calls" in shown and "lossy" in shown
    show_example([], Console(file=output))


def test_nothing_steers_the_terminal():
    assert printable("a\x1b[2J\r\b\n\té") == "a\N{REPLACEMENT CHARACTER}[2J" + (
        "\N{REPLACEMENT CHARACTER}" * 2 + "\n\té"
    )
