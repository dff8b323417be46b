"""Blanks filled and scored by a decoder; the commands and launchers' scripts with its folder."""

import json
import runpy
from pathlib import Path

import pytest
import torch
from fakes import SIZES, decoder_folder

import asarm
from asarm import __main__ as command_line
from asarm.evaluation.prose.formats import CLOZE
from asarm.text import encode

ROOT = Path(__file__).parent.parent
TEXTS = [
    "The ship left ___ at dawn.",
    "___ left port at dawn.",
    "The ship left ___",
    "___",
    "The ___ left ___ at ___.",
    "___ left port, and ___ saw ___",
    "def f(x):\n    ___\n    return x\n",
    "Größe: ___ €, <mask> and </s> are text ___",
]
FAR = " is the value" * 20  # 60 tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return decoder_folder(tmp_path_factory.mktemp("model"), std=0.5)


@pytest.fixture(scope="module")
def decoder(folder):
    return asarm.load(folder, dtype="float64")


# --- filling and scoring ---


@pytest.mark.slow_but_one
@pytest.mark.parametrize("evidence", ["importance", "direct"])
@pytest.mark.parametrize("length", [(1, 4), 5, "auto"])
def test_text_outside_blanks_comes_back_and_no_special_token_is_filled_in(
    decoder, length, evidence
):
    model, tokenizer = decoder
    options = {"length": length, "evidence": evidence, "num_samples": 2, "best_of": 3}
    for text in TEXTS:
        found = asarm.infill(model, tokenizer, text, **options)
        assert "___".join(found.parts) == text
        for own in found.candidates:
            pairs = zip(own.fills, found.parts[1:], strict=True)
            assert own.text == found.parts[0] + "".join(fill.text + part for fill, part in pairs)
            drawn = {token for fill in own.fills for token in fill.tokens}
            assert drawn.isdisjoint(tokenizer.all_special_ids)


def test_a_score_is_the_joint_density(decoder):
    model, tokenizer = decoder
    before, fill, after = "The ship left", " port", " at dawn."
    ids = [encode(tokenizer, part) for part in (before, fill, after)]
    flat = torch.tensor([[i for part in ids for i in part]])
    is_target = torch.zeros_like(flat, dtype=torch.bool)
    is_target[0, len(ids[0]) : len(ids[0]) + len(ids[1])] = True
    expected = asarm.log_prob(model, flat, asarm.Order.from_mask(is_target)).sum()
    (found,) = asarm.score(model, tokenizer, f"{before} ___{after}", ["port"])
    assert found.log_prob == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("fills", [["port", "the harbour of the town", "it"]])
@pytest.mark.parametrize("text", TEXTS[:4])
def test_scores_are_those_of_each_filling_alone(decoder, text, fills):
    model, tokenizer = decoder
    drawn = asarm.infill(model, tokenizer, text, length=3, num_samples=2)
    again = asarm.score(model, tokenizer, text, [own.fills[0].text for own in drawn.candidates])
    assert all(own.log_prob < 0 for own in again)
    scored = asarm.score(model, tokenizer, text, fills, batch_size=2)
    alone = [asarm.score(model, tokenizer, text, [fill])[0] for fill in fills]
    assert [own.log_prob for own in scored] == pytest.approx([own.log_prob for own in alone])


@pytest.mark.parametrize("method", ["sequential", "assd", "onepass"])
def test_every_sampler_fills_the_same(decoder, method):
    model, tokenizer = decoder
    options = {"length": 4, "verifier": "gumbel", "num_samples": 2, "seed": 3}
    expected = asarm.infill(model, tokenizer, TEXTS[4], **options, sampler="sequential")
    found = asarm.infill(model, tokenizer, TEXTS[4], **options, sampler=method)
    assert [own.text for own in found.candidates] == [own.text for own in expected.candidates]


# --- texts that are longer than the model has positions for ---


@pytest.fixture(params=["positions", "window"])
def short(request, tmp_path, monkeypatch):
    """A decoder for at most 31 tokens, and how many tokens the longest call to it had."""
    changes = {"n_positions": 32} if request.param == "positions" else {"sliding_window": 32}
    family = "GPT2" if request.param == "positions" else "Mistral"
    monkeypatch.setitem(SIZES, "Mistral", SIZES["Llama"])
    model, tokenizer = asarm.load(decoder_folder(tmp_path, family, **changes), dtype="float64")
    assert model.max_length == 31
    seen, compute = [0], model._compute

    def spy(inputs, positions, *rest):
        seen.append(1 + int(positions.max()))
        return compute(inputs, positions, *rest)

    monkeypatch.setattr(model, "_compute", spy)
    return model, tokenizer, lambda: max(seen)


@pytest.mark.parametrize("length", [3, (1, 6)])
@pytest.mark.parametrize("text", [f"It{FAR} ___ of{FAR}.", f"___{FAR} and ___", f"{FAR} ___"])
def test_long_texts_are_seen_through_windows(short, text, length):
    model, tokenizer, longest = short
    found = asarm.infill(model, tokenizer, text, length=length, num_samples=2)
    assert "___".join(found.parts) == text
    asarm.score(model, tokenizer, text, [["name"] * text.count("___")])
    assert 0 < longest() <= 32


def test_a_long_text_is_scored_given_the_text_on_both_sides(short):
    model, tokenizer, _ = short
    text = f"It{FAR} ___ of{FAR}."
    ids = encode(tokenizer, text.replace("___", "name"))
    at = len(encode(tokenizer, f"It{FAR}"))
    around = model.max_length - 1
    start = at - (around - around // 2)
    window = torch.tensor([ids[start : start + model.max_length]])
    order = asarm.Order.from_mask(torch.arange(start, start + model.max_length)[None] == at)
    (found,) = asarm.score(model, tokenizer, text, ["name"])
    expected = float(asarm.log_prob(model, window, order).sum())
    assert found.log_prob == pytest.approx(expected, abs=1e-9)


# --- commands and scripts ---


@pytest.fixture
def script(monkeypatch, capsys, folder, tmp_path):
    """Run a launcher's script with the decoder; what it printed."""

    def call(name: str, *arguments: str) -> str:
        path = ROOT / "scripts" / name
        given = [f"--model={folder}", f"--output_dir={tmp_path / 'run'}", "--parallel_steps=2"]
        monkeypatch.setattr("sys.argv", [str(path), *given, *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
            raise SystemExit(0)
        output, errors = capsys.readouterr()
        assert not ended.value.code, errors
        return output

    return call


def records(tmp_path: Path) -> list[dict]:
    lines = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("arguments", [["--length", "2,3"], ["--method", "assd"]], ids=str)
def test_an_animation(folder, monkeypatch, capsys, tmp_path, arguments):
    out = tmp_path / "out.gif"
    text = "The ship left ___ at dawn, and ___"
    given = ["animate", text, "--model", str(folder), *arguments, str(out)]
    if "--method" in arguments:
        given[1] = "one two three four five six"
        given += ["--prompt_share", "0.5"]
    monkeypatch.setattr("sys.argv", ["asarm", *given])
    try:
        command_line.main()
    except SystemExit as ended:
        assert not ended.code, capsys.readouterr().err
    assert "network calls" in capsys.readouterr().out and out.stat().st_size > 0


def test_the_study_of_samplers(script, monkeypatch, tmp_path):
    for figure in ("quality_figure", "histogram_figure"):
        monkeypatch.setattr(f"asarm.evaluation.figures.{figure}", lambda *_: b"a figure")
    (tmp_path / "text.txt").write_text("\n\n".join([f"The ship left port.{FAR}."] * 20))
    dataset = f"--dataset={tmp_path / 'text.txt'}"
    script("speculative_decoding.py", dataset, "--length=16", "--num_trials=2", "--drafts=[self]")
    found = records(tmp_path)
    assert {record["method"] for record in found} >= {"sequential", "assd", "onepass"}


@pytest.mark.slow
def test_infilling_of_prose(script, tmp_path):
    path = tmp_path / "stories.csv"
    sentences = ["Ann ran.", "Ann fell.", "She cried a bit.", "Ann ran on.", "She won."]
    rows = [CLOZE, ["1", *sentences[:4], "She won.", "She lost.", "1"]]
    path.write_text("\n".join(",".join(f'"{cell}"' for cell in row) for row in rows))
    script("infill_nlp.py", f"--dataset={path}", "--max_items=1", "--num_trials=1")
    assert records(tmp_path)


@pytest.mark.slow
def test_infilling_of_code(script, tmp_path):
    script("infill_code.py", "--dataset=bundled", "--max_items=1", "--execute=unsafe")
    assert records(tmp_path)
