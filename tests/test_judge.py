"""The judge's perplexity against one worked out with the model itself."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from asarm.evaluation.judge import load_judge
from asarm.loading import load_tokenizer

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


def test_scores_go_on_where_they_stopped_and_are_kept_apart_by_judge(folder):
    judge = load_judge(str(folder), "cpu")
    records = [{"item": i, "method": "assd", "steps": None, "text": TEXT * (i + 1)} for i in (0, 1)]
    scores = list(judge.score(records))
    assert [s["judge_perplexity"] for s in scores] == [judge.perplexity(r["text"]) for r in records]
    assert list(judge.score(records, scores[:1])) == scores[1:]
    others = [{**score, "judge": "another"} for score in scores]
    assert list(judge.score(records, others)) == scores


def test_a_judge_that_is_not_there_is_one_line(tmp_path):
    for name in ("no/such-judge", str(tmp_path)):
        with pytest.raises(ValueError, match=f"judge '{name}' cannot be loaded") as refused:
            load_judge(name)
        assert "\n" not in str(refused.value)
