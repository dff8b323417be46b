"""Texts longer than those that a model was trained on: a window around the blanks."""

import pytest
import torch
from fakes import small_model

from asarm import Order, infill, log_prob, score
from asarm.codec import Codec
from asarm.infilling import posterior
from asarm.infilling.request import templates_of
from asarm.infilling.window import fitted, part_of, windows, within
from asarm.loading import load_tokenizer
from asarm.text import encode

TOKENIZER = load_tokenizer("demo")
LIMIT = 48
FAR = " is the value" * 40  # 120 tokens
NEAR = " is the value" * 3
ONE = f"It{FAR} ___ of{FAR}."
TWO = f"It{FAR} ___ of{FAR} and ___ in{FAR}."


@pytest.fixture
def model():
    found = small_model(vocab_size=8192, d_model=16, n_head=2, d_inner=32)
    found.config.trained_length = LIMIT
    return found


@pytest.fixture
def longest(model, monkeypatch):
    """How many positions the longest call to the model had."""
    seen, forward = [0], model.forward

    def spy(content, query, cache=None):
        seen.append(
            1 + max(int(rows.positions.max()) for rows in (content, query) if rows[0].numel())
        )
        return forward(content, query, cache)

    monkeypatch.setattr(model, "forward", spy)
    return lambda: max(seen)


def template_of(text, blank="___"):
    (found,) = templates_of(Codec.of(TOKENIZER), [text], blank=blank, spans=None, closed=False)
    return found


def window_of(text, start, size, targets):
    """log p of some tokens of a text that is shown from `start` on."""
    ids = torch.tensor([encode(TOKENIZER, text)[start : start + size]])
    is_target = torch.zeros_like(ids, dtype=torch.bool)
    is_target[0, [target - start for target in targets]] = True
    return ids, Order.from_mask(is_target)


@pytest.mark.slow_but_one
@pytest.mark.parametrize("text", [ONE, TWO, f"___{FAR}", f"{FAR} ___", f"a ___{FAR} ___ {FAR}___"])
@pytest.mark.parametrize("evidence", ["direct", "importance"])
@pytest.mark.parametrize("length", [3, (1, 6), "auto"])
def test_a_model_is_shown_no_more_than_it_was_trained_on(model, longest, text, evidence, length):
    found = infill(model, TOKENIZER, text, evidence=evidence, length=length, num_samples=2)
    assert 0 < longest() <= LIMIT
    for own in found.candidates:
        pairs = zip(own.fills, found.parts[1:], strict=True)
        assert own.text == found.parts[0] + "".join(fill.text + part for fill, part in pairs)
    assert "___".join(found.parts) == text


def test_scores_see_a_window_too(model, longest):
    fills = ["the value", "x"], ["a", "name of the thing"], ["x", "y"]
    found = score(model, TOKENIZER, TWO, fills, batch_size=2)
    assert 0 < longest() <= LIMIT
    assert [own.fills for own in found] == [list(own) for own in fills]


def test_a_blank_is_scored_given_the_text_on_both_sides_of_it(model):
    whole = ONE.replace("___", "name")
    at = len(encode(TOKENIZER, f"It{FAR}"))
    around = LIMIT - 1
    ids, order = window_of(whole, at - (around - around // 2), LIMIT, [at])
    (found,) = score(model, TOKENIZER, ONE, ["name"])
    assert found.log_prob == pytest.approx(float(log_prob(model, ids, order).sum()), abs=1e-9)


@pytest.mark.parametrize("text", [f"It ___ of{FAR}.", f"It{FAR} ___ of."])
def test_what_one_side_does_not_need_the_other_has(model, text):
    whole = text.replace("___", "name")
    at = len(encode(TOKENIZER, text.partition(" ___")[0]))
    end = min(len(encode(TOKENIZER, whole)), max(LIMIT, at + 3))
    ids, order = window_of(whole, end - LIMIT, LIMIT, [at])
    (found,) = score(model, TOKENIZER, text, ["name"])
    assert found.log_prob == pytest.approx(float(log_prob(model, ids, order).sum()), abs=1e-9)


def test_blanks_that_are_near_are_filled_jointly_and_others_apart(model):
    near = f"It{FAR} ___{NEAR} of ___{FAR}."
    assert windows(template_of(near), [(1, 8)] * 2, LIMIT) == [slice(0, 2)]
    assert windows(template_of(TWO), [(1, 8)] * 2, LIMIT) == [slice(0, 1), slice(1, 2)]
    three = f"___{NEAR} ___{FAR} ___ {NEAR}"
    assert windows(template_of(three), [(1, 8)] * 3, LIMIT) == [slice(0, 2), slice(2, 3)]
    assert windows(template_of(three), [(1, 8)] * 3, None) == [slice(0, 3)]


def test_log_probs_of_windows_add_up(model):
    first = TWO.partition("___")[0]
    half = f"{FAR} and "
    left = score(model, TOKENIZER, f"{first}___ of{half}", ["name"])[0]
    right = score(model, TOKENIZER, f"of{half}___ in{FAR}.", ["value"])[0]
    (found,) = score(model, TOKENIZER, TWO, [["name", "value"]])
    assert found.log_prob == pytest.approx(left.log_prob + right.log_prob, abs=1e-9)
    assert found.num_tokens == left.num_tokens + right.num_tokens


def test_candidates_of_windows_are_ranked_by_the_sum(model, monkeypatch):
    monkeypatch.setattr(posterior, "WEAK", 1e-9)  # all lengths are drawn, not the prior's mean
    found = infill(model, TOKENIZER, TWO, length=(1, 3), num_samples=6, seed=3)
    assert len(found.candidates) == 6
    assert len(found.length_log_probs) == 2 and found.length_rows > 0
    scores = [own.score for own in found.candidates]
    assert scores == sorted(scores, reverse=True)
    for own in found.candidates:
        assert own.log_prob == pytest.approx(sum(fill.log_prob for fill in own.fills))
        lengths = zip(own.fills, found.length_log_probs, strict=True)
        assert own.length_log_prob == pytest.approx(sum(p[fill.length] for fill, p in lengths))
    pairs = {tuple(fill.length for fill in own.fills) for own in found.candidates}
    assert len({b - a for a, b in pairs}) > 1  # a long one does not always meet a long one


def test_a_text_that_fits_is_read_as_ever(model):
    text = f"It{NEAR} ___ of{NEAR} and ___."
    found = infill(model, TOKENIZER, text, length=2, num_samples=3)
    scored = score(model, TOKENIZER, text, [["name", "value"]])
    model.config.trained_length = None
    assert infill(model, TOKENIZER, text, length=2, num_samples=3) == found
    assert score(model, TOKENIZER, text, [["name", "value"]]) == scored


@pytest.mark.slow
def test_ranges_end_where_blanks_would_not_fit(model):
    text = f"It{FAR}" + " ___ of" * 4 + FAR
    found = infill(model, TOKENIZER, text, length=[(1, 32), 2, (1, 32), (1, 32)], num_samples=1)
    tops = [max(own) for own in found.length_log_probs]
    assert tops[1] == 2 and 1 < tops[0] == tops[2] == tops[3] < 32
    template = template_of(text)
    assert fitted(template, [(1, 32)] * 4, None) == [(1, 32)] * 4
    assert fitted(template, [(50, 50)] * 4, LIMIT) == [(50, 50)] * 4  # what is asked for is kept


def test_a_window_keeps_what_its_blanks_take_in():
    """The piece that holds a line end and indentation belongs to the blank before it."""
    template = template_of("a = 1\n" * 30 + "___\n    b = 2\n" + "c = 3\n" * 30)
    for limit in (4, 10, 40):
        cut = within(template, template.sizes([2]), limit)
        ids, allowed = cut.with_gaps(cut.sizes([2]))
        assert len(ids) <= max(limit, 3) and len(allowed) == template.sizes([2])[0]
    assert part_of(template, slice(0, 1)).texts == template.texts
