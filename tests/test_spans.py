"""Which part of a text was filled in, and what its tokens say of it without a judge."""

import pytest
import torch

from asarm.display.spans import given_spans, segments
from asarm.loading import load_tokenizer
from asarm.metrics.repetition import copied, distinct, token_entropy
from asarm.text import decode, encode

SPANS = "def größe(x):\n    return '日本' * x  # 🙂\n"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo")


@pytest.mark.parametrize("seed", range(12))
def test_spans_of_what_was_given_join_to_the_text(tokenizer, seed):
    tokens = encode(tokenizer, SPANS)
    prompt = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    prompt = prompt[: seed % len(tokens)].tolist()
    text = decode(tokenizer, tokens)
    given = given_spans(lambda ids: decode(tokenizer, ids), tokens, prompt)
    parts = segments(text, given, prompt, len(tokens))
    assert "".join(part.text for part in parts) == SPANS
    assert sum(part.num_tokens for part in parts if part.is_target) == len(tokens) - len(prompt)
    assert all(a.is_target != b.is_target for a, b in zip(parts, parts[1:], strict=False))
    assert [list(span) for span in given] == sorted(given)


def test_spans_by_hand():
    pieces = ["ab", "c", " d", "ef"]
    text_of = lambda ids: "".join(pieces[i] for i in ids)  # noqa: E731
    assert given_spans(text_of, [0, 1, 2, 3], [1, 2]) == [[2, 5]]
    assert given_spans(text_of, [0, 1, 2, 3], [0, 3]) == [[0, 2], [5, 7]]


def test_repetition_by_hand():
    assert distinct([1, 2, 1, 2], 1) == 0.5
    assert distinct([1, 2, 1, 2], 2) == pytest.approx(2 / 3)
    assert distinct([1, 2], 3) is None
    assert copied([5, 6, 5, 7], [0]) == pytest.approx(1 / 3)
    assert copied([5, 6], [0, 1]) is None


def test_entropy_by_hand():
    assert token_entropy([5, 5, 7, 7]) == 1
    assert token_entropy([1, 2, 3, 4]) == 2
    assert str(token_entropy([3, 3])) == "0.0"
