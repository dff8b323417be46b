"""The judge's perplexity against one worked out with the model itself."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from asarm.loading import load_tokenizer
from asarm.metrics.judge import Judge, key, load_judge
from asarm.metrics.repetition import token_entropy

TEXT = "def area(radius):\n    return math.pi * radius ** 2\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge")
    tokenizer = load_tokenizer("demo")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=1024,
        bos_token_id=1, eos_token_id=2, initializer_range=0.5,
    )  # fmt: skip
    GPT2LMHeadModel(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def by_hand(judge, ids: list[int]) -> float:
    """exp of the mean loss over `ids` behind the start token, as transformers computes it."""
    input_ids = torch.tensor([[judge.tokenizer.bos_token_id, *ids]])
    with torch.no_grad():
        return math.exp(judge.model(input_ids=input_ids, labels=input_ids).loss)


def test_perplexity_is_that_of_the_model_itself(folder):
    judge = load_judge(str(folder), "cpu")
    ids = judge.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert judge.perplexity(TEXT) == pytest.approx(by_hand(judge, ids), rel=1e-5)


def test_long_texts_are_cut_to_960_tokens(folder):
    judge = load_judge(str(folder), "cpu")
    ids = judge.tokenizer(TEXT * 100, add_special_tokens=False)["input_ids"]
    assert len(ids) > 960
    assert judge.perplexity(TEXT * 100) == pytest.approx(by_hand(judge, ids[:960]), rel=1e-5)
    judge.model.config.max_position_embeddings = 100
    assert judge.perplexity(TEXT * 100) == pytest.approx(by_hand(judge, ids[:99]), rel=1e-5)


def test_without_a_start_token_the_first_token_is_not_scored(folder):
    judge = load_judge(str(folder), "cpu")
    judge.tokenizer.bos_token = None
    input_ids = torch.tensor([judge.tokenizer(TEXT, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        expected = math.exp(judge.model(input_ids=input_ids, labels=input_ids).loss)
    assert judge.perplexity(TEXT) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("start", [True, False])
def test_texts_of_a_batch_score_as_one_by_one(folder, start):
    judge = load_judge(str(folder), "cpu")
    if not start:
        judge.tokenizer.bos_token = None
    texts = [TEXT * 40, "x", TEXT, "", "ab " * 11]
    together = judge.perplexities(texts)
    for value, text in zip(together, texts, strict=True):
        alone = judge.perplexity(text)
        assert value == pytest.approx(alone, rel=1e-5) or math.isnan(value) and math.isnan(alone)
    assert math.isnan(together[3])
    assert math.isnan(judge.perplexities(["", ""])[1])


def test_scores_go_on_where_they_stopped(folder):
    judge = load_judge(str(folder), "cpu")
    groups = [[TEXT * n for n in (1, 2, 3)], [f"{TEXT}{n}" for n in range(6)]]
    scores = list(judge.score(groups))
    texts = [text for group in groups for text in group]
    assert [key(score) for score in scores] == [judge.key_of(text) for text in texts]
    for score, text in zip(scores, texts, strict=True):
        assert score["judge_perplexity"] == pytest.approx(judge.perplexity(text), rel=1e-5)
        assert score["judge_entropy"] == token_entropy(judge.tokens(text))
    for count in range(len(scores) + 1):
        assert list(judge.score(groups, scores[:count])) == scores[count:]
    assert list(judge.score(groups, scores[:4] + scores[5:])) == [scores[4]]


def test_a_text_is_scored_once_and_a_known_one_never_again(folder, monkeypatch):
    judge, calls = load_judge(str(folder), "cpu"), []
    plain = type(judge).perplexities
    monkeypatch.setattr(
        type(judge), "perplexities", lambda self, texts: calls.append(texts) or plain(self, texts)
    )
    scores = list(judge.score([["a b", "c d", "a b"], ["c d", "e f"]]))
    assert len(scores) == 3 and calls == [["a b", "c d"], ["c d", "e f"]]
    calls.clear()
    assert list(judge.score([["e f", "a b"], ["c d"]], scores)) == [] == calls


@pytest.mark.slow
def test_scores_are_kept_apart_by_judge_and_by_its_weights(folder, tmp_path):
    judge = load_judge(str(folder), "cpu")
    scores = list(judge.score([[TEXT]]))
    assert list(judge.score([[TEXT]], [{**scores[0], "judge": "another"}])) == scores
    again = load_judge(str(folder), "cpu")
    assert again.fingerprint == judge.fingerprint
    with torch.no_grad():
        again.model.transformer.h[0].mlp.c_fc.weight.mul_(1.001)
    changed = Judge(again.name, again.model, again.tokenizer)
    assert changed.fingerprint != judge.fingerprint
    assert len(list(changed.score([[TEXT]], scores))) == 1
    halved = Judge(judge.name, judge.model.bfloat16(), judge.tokenizer)
    assert halved.fingerprint != judge.fingerprint
    assert halved.perplexity(TEXT) == pytest.approx(scores[0]["judge_perplexity"], rel=0.1)


def test_a_judge_that_is_not_there_is_one_line(tmp_path):
    for name in ("no/such-judge", str(tmp_path)):
        with pytest.raises(ValueError, match=f"judge '{name}' cannot be loaded") as refused:
            load_judge(name)
        assert "\n" not in str(refused.value)
