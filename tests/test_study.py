"""The study: the same trials whatever the batch, and whatever was done before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import XLNetConfig

from asarm import AnySubsetTransformer, log_prob
from asarm.evaluation import blocks as blocks_module
from asarm.evaluation.blocks import load_blocks, read_documents
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.study import (
    Variant,
    batches,
    decode_trials,
    describe,
    key,
    token_entropy,
    trial_order,
    variants,
)
from asarm.loading import load_tokenizer
from asarm.order import Order
from asarm.text import decode

CONFIG = DecodingConfig(num_trials=5, max_length=12, prompt_share=0.2, parallel_steps=[2, 4])
TIMES = {"seconds"}
WIKITEXT = Path(__file__).parents[2] / "shared" / "data" / "wiki.test.raw"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo")


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=len(tokenizer), d_model=32, n_layer=2, n_head=2, d_inner=64, mask_token_id=6
    )
    return AnySubsetTransformer(config).double().eval()


@pytest.fixture(scope="module")
def blocks():
    return torch.randint(9, 8000, (3, 12), generator=torch.Generator().manual_seed(0))


def run(model, tokenizer, blocks, config, done=()) -> list[dict]:
    records = decode_trials(model, tokenizer, blocks, config, done=done)
    return [{name: r[name] for name in r if name not in TIMES} for r in records]


@pytest.fixture(scope="module")
def records(model, tokenizer, blocks):
    return run(model, tokenizer, blocks, CONFIG)


def test_every_trial_is_filled_by_every_variant_trial_after_trial(records):
    planned = variants(CONFIG)
    assert [v.name for v in planned] == [
        *("sequential", "assd", "ngram", "onepass", "parallel 2", "parallel 4"),
    ]
    assert [key(r) for r in records] == [(item, v) for item in range(5) for v in planned]


def test_methods_of_a_trial_share_text_split_and_seed(records, blocks):
    for item in range(5):
        trial = [r for r in records if r["item"] == item]
        assert len({r["seed"] for r in trial}) == 1
        prompt = trial[0]["prompt"]
        assert len(prompt) == int(12 * 0.2) + 1
        for record in trial:
            assert record["prompt"] == prompt
            assert any([b[i] for i in prompt] == [record["tokens"][i] for i in prompt]
                       for b in blocks.tolist())  # fmt: skip
    assert len({r["seed"] for r in records}) == 5


def test_figures_of_a_record_are_those_of_its_text(records, model, tokenizer):
    for record in records:
        is_target = torch.ones(12, dtype=torch.bool)
        is_target[record["prompt"]] = False
        tokens = torch.tensor([record["tokens"]])
        density = float(log_prob(model, tokens, Order.from_mask(is_target)).sum())
        assert record["log_prob"] == pytest.approx(density)
        assert record["num_targets"] == 9
        assert record["self_perplexity"] == pytest.approx(2.718281828 ** (-density / 9))
        assert record["text"] == decode(tokenizer, record["tokens"])
        assert record["nfe"] <= 9
        assert record["lossless"] == (record["method"] != "parallel")
    assert [r["nfe"] for r in records if r["method"] == "sequential"] == [9] * 5
    assert {(r["steps"], r["nfe"]) for r in records if r["method"] == "parallel"} == {
        *((2, 2), (4, 4)),
    }


def test_batches_change_nothing(records, model, tokenizer, blocks):
    batched = run(model, tokenizer, blocks, replace(CONFIG, batch_size=3))
    rounded = {"log_prob", "self_perplexity"}
    by_key = {key(r): r for r in batched}
    for record in records:
        other = by_key[key(record)]
        assert {n: v for n, v in record.items() if n not in rounded} == {
            n: v for n, v in other.items() if n not in rounded
        }
        assert record["log_prob"] == pytest.approx(other["log_prob"], abs=1e-9)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 7, 20, 30])
def test_what_was_interrupted_goes_on_to_the_same(model, tokenizer, blocks, batch_size, count):
    config = replace(CONFIG, batch_size=batch_size)
    whole = run(model, tokenizer, blocks, config)
    rest = run(model, tokenizer, blocks, config, done=whole[:count])
    assert whole[:count] + rest == whole


def test_a_record_lost_in_the_middle_is_made_anew(model, tokenizer, blocks, records):
    assert run(model, tokenizer, blocks, CONFIG, done=records[:9] + records[10:]) == [records[9]]


def test_blanks_hold_nothing_to_peek_at(blocks):
    for batch in batches(blocks, CONFIG):
        assert not batch.input_ids[batch.order.is_target].any()
        assert batch.input_ids[~batch.order.is_target].all()


def test_blocks_come_again_with_other_blanks(blocks):
    found = list(batches(blocks, replace(CONFIG, num_trials=6)))
    first, again = found[0], found[3]
    both = ~first.order.is_target & ~again.order.is_target
    assert torch.equal(first.input_ids[both], again.input_ids[both])
    assert not torch.equal(first.order.order, again.order.order)
    assert "3 blocks of 12 tokens: they come again" in describe(blocks, CONFIG)
    assert "again" not in describe(blocks, replace(CONFIG, num_trials=3))


def test_another_seed_is_another_split_and_another_sample(blocks):
    other = replace(CONFIG, seed=1)
    assert not torch.equal(trial_order(CONFIG, [0]).order, trial_order(other, [0]).order)
    assert next(batches(blocks, CONFIG)).seeds != next(batches(blocks, other)).seeds


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"methods": ["asd"]},
            "'asd'; expected some of sequential, assd, ngram, onepass, parallel",
        ),
        ({"methods": []}, "methods is empty"),
        ({"k": 0}, "k is 0; expected at least 1"),
        ({"num_trials": 0}, "num_trials is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"parallel_steps": [4, 0]}, "parallel_steps is 0"),
        ({"max_length": 1}, "length is 1; expected at least 2"),
        ({"prompt_share": 1.5}, "prompt_share is 1.5"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(change, says):
    with pytest.raises(ValueError, match=says):
        variants(replace(CONFIG, **change))


def test_variants_are_unique_and_no_more_steps_than_blanks():
    config = replace(CONFIG, methods=["parallel", "assd", "assd"], parallel_steps=[9, 10, 9])
    assert variants(config) == [Variant("parallel", 9), Variant("assd")]


def test_entropy_by_hand():
    assert token_entropy([5, 5, 7, 7]) == 1
    assert token_entropy([1, 2, 3, 4]) == 2
    assert str(token_entropy([3, 3])) == "0.0"


def test_wikitext_is_a_document_a_row(tmp_path, monkeypatch, tokenizer):
    text = " \n = Title = \n \n First .\u2028 \n\n Second . \n"
    rows = ["", " = Title = ", "", " First .\u2028 ", "", " Second . "]
    (tmp_path / "eval_datasets").mkdir()
    (tmp_path / "eval_datasets" / "wiki.test.raw").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blocks_module, "CHECKOUT", tmp_path / "elsewhere")
    assert read_documents("wikitext-2") == rows
    assert read_documents("eval_datasets/wiki.test.raw") == rows
    (tmp_path / "plain.txt").write_text(text)
    assert read_documents("plain.txt") == [text]
    found = load_blocks(tokenizer, "wikitext-2", 4)
    assert found.shape[1] == 4
    assert tokenizer.eos_token_id in found


@pytest.mark.skipif(not WIKITEXT.exists(), reason="WikiText-2 and XLNet's tokenizer are not here")
def test_published_text_gives_the_published_number_of_sequences():
    xlnet = load_tokenizer(WIKITEXT.parent / "xlnet-base-cased")
    assert load_blocks(xlnet, str(WIKITEXT), 512).shape == (640, 512)


def test_wikitext_without_file_or_hub_says_what_to_do(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nat all")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blocks_module, "CHECKOUT", tmp_path)
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"cannot get wikitext-2.*wiki\.test\.raw") as refused:
        read_documents("wikitext-2")
    assert "\n" not in str(refused.value)


def test_wikitext_from_the_hub_is_the_same(tmp_path, monkeypatch):
    rows = [{"text": ""}, {"text": " = Title = \n"}, {"text": " First . \n"}]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blocks_module, "CHECKOUT", tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    assert read_documents("wikitext-2") == ["", " = Title = ", " First . "]
