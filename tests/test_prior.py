"""Lengths of blanks before anything is known: histograms of held-out text, for three kinds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asarm.infilling.prior import MAX_UNITS, NUM_SPANS, kind_of_blank, length_prior
from asarm.loading import load_tokenizer
from asarm.text import encode

TOKENIZER = load_tokenizer("demo")


@pytest.mark.slow_but_one
@pytest.mark.parametrize("kind", ["words", "sentences", "lines"])
def test_prior_is_a_histogram_and_its_parts_are_those_of_the_whole(kind):
    whole = length_prior(TOKENIZER, 1, 90, kind)
    assert float(whole.sum()) == pytest.approx(1) and (whole > 0).all()
    assert torch.equal(length_prior(TOKENIZER, 1, 90, kind), whole)
    part = length_prior(TOKENIZER, 3, 9, kind)
    torch.testing.assert_close(part, whole[2:9] / whole[2:9].sum())
    assert length_prior(TOKENIZER, 7, 7, kind).tolist() == [1]
    far = length_prior(TOKENIZER, 9000, 9003, kind)
    torch.testing.assert_close(far, torch.full((4,), 0.25).double())


def test_sentences_and_lines_are_longer_than_words():
    means = [
        float((length_prior(TOKENIZER, 1, 90, kind) * torch.arange(1, 91)).sum())
        for kind in ("words", "lines", "sentences")
    ]
    assert 3 < means[0] < means[1] and 1.5 * means[0] < means[2] < 60


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("def f(x):\n", "\n", "lines"),
        ("def f(x):\n    ", "\n", "words"),
        ("It rained. ", " The end.", "sentences"),
        ('"No!" ', ' "Yes."', "sentences"),
        ("", " The end.", "sentences"),
        ("It rained. ", "", "sentences"),
        ("The ", " sank.", "words"),
        ("It rained. ", " sank.", "words"),
        ("The ship ", " The end.", "words"),
    ],
)
def test_what_a_blank_takes_the_place_of(before, after, kind):
    assert kind_of_blank(before, after) == kind


@pytest.mark.parametrize("kind", [*MAX_UNITS])
def test_each_length_counts_once_more_than_it_was_seen(kind):
    counts = length_prior(TOKENIZER, 1, 900, kind) * (NUM_SPANS + 900)
    torch.testing.assert_close(counts, counts.round())
    assert counts.min() == pytest.approx(1) and counts.max() > 50


def test_there_are_as_many_spans_of_one_word_as_of_eight():
    """So at least an eighth is as short as a word, and no more than that is as long as eight."""
    lengths = torch.arange(1, 901)
    share = length_prior(TOKENIZER, 1, 900) * (NUM_SPANS + 900) - 1
    words = [len(encode(TOKENIZER, f" {word}")) for word in ("a", "reinitialised")]
    assert words[0] == 1 and 3 <= words[1] <= 8
    assert share[lengths <= words[1]].sum() >= NUM_SPANS / MAX_UNITS["words"]
    assert share[0] < NUM_SPANS / MAX_UNITS["words"]  # words of one token


texts = st.text("ab.?! \n\"')(AB", max_size=8)


@given(texts, texts)
def test_kinds_are_settled_by_the_characters_beside_the_blank(before, after):
    kind = kind_of_blank(before, after)
    assert (kind == "lines") == before.endswith("\n")
    if kind == "sentences":
        ends = before.strip()
        assert not ends or set(ends) & set(".?!")
        assert not after.strip() or after.strip("\"'([ \n")[:1].isupper()
    # nothing beyond the nearest words matters
    far = "A b c. " * 40
    if before.strip() and set(after) & set("abAB"):
        assert kind_of_blank(far + before, after + far) == kind
