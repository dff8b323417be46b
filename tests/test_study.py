"""The study: the same trials whatever the batch, the shard, and whatever was done before."""

from dataclasses import replace

import pytest
import torch
from fakes import small_model
from published import published
from transformers import XLNetConfig

from asarm import AnySubsetTransformer, log_prob
from asarm.data.evaluated import load_blocks
from asarm.display.spans import segments
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.decoding import DecodingStudy
from asarm.evaluation.engine import lines
from asarm.evaluation.items import Shard, item_batches
from asarm.evaluation.trials import (
    batch_of,
    describe,
    key,
    model_names,
    names,
    trial_order,
    variants_of,
)
from asarm.evaluation.variants import Variant
from asarm.loading import load_tokenizer, name_and_revision
from asarm.order import Order
from asarm.text import decode

CONFIG = DecodingConfig(num_trials=5, length=12, prompt_share=0.2, parallel_steps=[2, 4])
TIMES = {"seconds"}


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


def run(model, tokenizer, blocks, config, done=(), shard=None) -> list[dict]:
    models = dict.fromkeys(model_names(config), model)
    records = lines(DecodingStudy(config, models, tokenizer, blocks), done=done, shard=shard)
    return [{name: r[name] for name in r if name not in TIMES} for r in records]


@pytest.fixture(scope="module")
def records(model, tokenizer, blocks):
    return run(model, tokenizer, blocks, CONFIG)


def test_every_trial_is_filled_by_every_variant_trial_after_trial(records):
    planned = variants_of(CONFIG)
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


@pytest.mark.slow_but_one
@pytest.mark.parametrize("shards", [(1, 2), (2, 1), (2, 2), (3, 3)])
def test_shares_add_up_to_the_whole(model, tokenizer, blocks, shards):
    config = replace(CONFIG, batch_size=2, method=["sequential", "onepass"])
    whole = run(model, tokenizer, blocks, config)
    tasks, processes = shards
    parts = [
        run(model, tokenizer, blocks, config, shard=Shard(task, tasks, process, processes))
        for task in range(tasks)
        for process in range(processes)
    ]
    found = {key(record): record for part in parts for record in part}
    assert sum(map(len, parts)) == len(whole)
    assert [found[key(record)] for record in whole] == whole


@pytest.fixture(scope="module", params=[1, 2])
def uninterrupted(request, model, tokenizer, blocks):
    """Settings with a number of sequences a batch, and the lines that they give."""
    config = replace(CONFIG, batch_size=request.param)
    return config, run(model, tokenizer, blocks, config)


@pytest.mark.slow
@pytest.mark.parametrize("count", [0, 1, 7, 20, 30])
def test_what_was_interrupted_goes_on_to_the_same(model, tokenizer, blocks, uninterrupted, count):
    config, whole = uninterrupted
    rest = run(model, tokenizer, blocks, config, done=whole[:count])
    assert whole[:count] + rest == whole


def test_a_record_lost_in_the_middle_is_made_anew(model, tokenizer, blocks, records):
    assert run(model, tokenizer, blocks, CONFIG, done=records[:9] + records[10:]) == [records[9]]


def test_blanks_hold_nothing_to_peek_at(blocks):
    for items in item_batches(CONFIG.num_trials, CONFIG.batch_size):
        batch = batch_of(items, blocks, CONFIG)
        assert not batch.input_ids[batch.order.is_target].any()
        assert batch.input_ids[~batch.order.is_target].all()


def test_blocks_come_again_with_other_blanks(blocks):
    first, again = (batch_of([item], blocks, CONFIG) for item in (0, 3))
    both = ~first.order.is_target & ~again.order.is_target
    assert torch.equal(first.input_ids[both], again.input_ids[both])
    assert not torch.equal(first.order.order, again.order.order)
    assert "3 blocks of 12 tokens: they are repeated" in describe(blocks, CONFIG)
    assert "again" not in describe(blocks, replace(CONFIG, num_trials=3))


def test_more_trials_read_on_in_an_endless_text(blocks):
    config = replace(CONFIG, dataset="openwebtext")
    for item in range(2):
        short, long = (batch_of([item], blocks[:n], config) for n in (2, 3))
        assert torch.equal(short.input_ids, long.input_ids)


def test_another_seed_is_another_split_and_another_sample(blocks):
    other = replace(CONFIG, seed=1)
    assert not torch.equal(trial_order(CONFIG, [0]).order, trial_order(other, [0]).order)
    assert batch_of([0], blocks, CONFIG).seeds != batch_of([0], blocks, other).seeds


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"method": ["asd"]},
            "'asd'; expected sequential, assd, ngram, onepass, parallel",
        ),
        ({"method": []}, "method is empty"),
        ({"k": 0}, "k is 0; expected at least 1"),
        ({"num_trials": 0}, "num_trials is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"parallel_steps": [4, 0]}, "parallel_steps is 0"),
        ({"length": 1}, "length is 1; expected at least 2"),
        ({"prompt_share": 1.5}, "prompt_share is 1.5"),
        ({"max_items": 0}, "max_items is 0"),
        ({"order": "rtl"}, "order is 'rtl'; expected random_split, left_to_right"),
        ({"drafts": ["heads"]}, "drafts holds 'heads'; expected head, self"),
        ({"drafts": []}, "drafts is empty"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_loaded(change, says):
    with pytest.raises(ValueError, match=says):
        variants_of(replace(CONFIG, **change))


def test_variants_are_unique_and_no_more_steps_than_blanks():
    config = replace(CONFIG, method=["parallel", "assd", "assd"], parallel_steps=[9, 10, 9])
    parallel, own = Variant("demo", "parallel", 9), Variant("demo", "assd", draft="self")
    assert variants_of(config) == [parallel, own]
    assert variants_of(config, heads=["demo"]) == [parallel, replace(own, draft="head"), own]
    assert variants_of(replace(config, drafts=["head"])) == [parallel]


def test_models_are_compared_on_the_same_blanks(tokenizer, blocks, model):
    config = replace(CONFIG, revision="nlp", compare=["org/other@main", "demo@nlp"])
    assert model_names(config) == ["demo@nlp", "org/other@main"]
    config = replace(config, num_trials=1, method=["onepass", "parallel"], parallel_steps=[2])
    first, _, second, _ = run(model, tokenizer, blocks, config)
    assert (first["model"], second["model"]) == ("demo@nlp", "org/other@main")
    assert {**first, "model": ""} == {**second, "model": ""}  # the same network stands for both
    called = names(variants_of(config))
    assert list(called.values()) == [
        *("onepass, demo@nlp", "parallel 2, demo@nlp", "onepass, other@main"),
        "parallel 2, other@main",
    ]
    alike = [Variant("a/model", "assd"), Variant("b/model", "assd")]
    assert list(names(alike).values()) == ["assd, a/model", "assd, b/model"]


def test_revisions_are_told_from_folders(tmp_path):
    folder = tmp_path / "model@home"
    folder.mkdir()
    assert name_and_revision(str(folder)) == (str(folder), None)
    assert name_and_revision("org/name@nlp") == ("org/name", "nlp")
    assert name_and_revision("demo") == ("demo", None)


@pytest.mark.parametrize("order", ["left_to_right", "random_permutation"])
def test_other_orders_leave_as_many_tokens_visible(model, tokenizer, blocks, order):
    config = replace(CONFIG, order=order, num_trials=2, method=["sequential", "assd", "ngram"])
    found = trial_order(config, range(4))
    assert found.num_prompt.tolist() == trial_order(CONFIG, range(4)).num_prompt.tolist()
    targets = [row[n:].tolist() for row, n in zip(found.order, found.num_prompt, strict=True)]
    ascending = [row == sorted(row) for row in targets]
    if order == "left_to_right":
        assert found.order.tolist() == [list(range(12))] * 4
    else:
        assert not any(ascending) and len({tuple(row) for row in targets}) == 4
    records = run(model, tokenizer, blocks, config)
    assert len(records) == 6 and all(record["lossless"] for record in records)


def test_slack_is_lossy_and_of_drafts_only(model, tokenizer, blocks):
    config = replace(CONFIG, acceptance_slack=1.0, num_trials=2, k=3)
    records = run(model, tokenizer, blocks, config)
    lossless = {record["method"]: record["lossless"] for record in records}
    assert lossless == {
        **{"sequential": True, "assd": False, "ngram": False},
        **{"onepass": False, "parallel": False},
    }
    assert all(r["accepted"] == r["drafted"] for r in records if r["method"] == "ngram")


@pytest.mark.slow
def test_draft_temperature_changes_drafts_and_no_sequential_text(model, tokenizer, blocks):
    cold = run(model, tokenizer, blocks, replace(CONFIG, draft_temperature=0.05, k=3))
    plain = run(model, tokenizer, blocks, replace(CONFIG, k=3))
    for method in ("sequential", "parallel"):
        assert [r for r in cold if r["method"] == method] == [
            r for r in plain if r["method"] == method
        ]
    assert [r["tokens"] for r in cold] != [r["tokens"] for r in plain]
    assert all(r["lossless"] for r in cold if r["method"] != "parallel")


@pytest.mark.slow
def test_code_is_read_and_written_by_the_whitespace_map(tmp_path):
    xlnet = load_tokenizer(published("xlnet-base-cased"))
    path, code = tmp_path / "code.py", "def double(x):\n    return x + x\n\n" * 9
    path.write_text(code)
    blocks = load_blocks(xlnet, str(path), 64, whitespace_map=True)
    assert int((blocks == xlnet.cls_token_id).sum()) >= blocks.numel() // 20
    tiny = small_model(vocab_size=len(xlnet), d_model=8, n_head=1, n_layer=1, d_inner=8)
    config = replace(CONFIG, length=64, whitespace_map=True, method=["onepass"], num_trials=1)
    config = replace(config, prompt_share=0.999)  # all but one token: the text of the file
    (record,) = run(tiny, xlnet, blocks, config)
    given = [record["text"][start:end] for start, end in record["given"]]
    assert all(part in code for part in given) and len("".join(given)) > 100
    assert "<" not in "".join(given)


def test_given_text_of_a_record_is_the_prompt(records, tokenizer):
    for record in records:
        parts = segments(record["text"], record["given"], record["prompt"], 12)
        assert "".join(part.text for part in parts) == record["text"]
        assert sum(part.num_tokens for part in parts if part.is_target) == record["num_targets"]
