"""What users ask `infill` and `score` for: served in every spelling, or refused in one line."""

import copy
from functools import cache

import numpy as np
import pytest
from fakes import small_model
from transformers import XLNetConfig, XLNetLMHeadModel

from asarm import infill, score
from asarm.codec import Codec
from asarm.infilling import fill
from asarm.infilling.fill import fill_templates
from asarm.infilling.request import templates_of
from asarm.loading import load_tokenizer
from asarm.metrics.held_out import PROTOCOLS, bits_per_byte

TOKENIZER = load_tokenizer("demo")
TEXT = "The file does not exist."
MARKED = "The ___ does ___ exist."


@cache
def model():
    return small_model(vocab_size=8192, d_model=16, n_head=2, d_inner=32)


def fills_of(*arguments, **options):
    return infill(model(), TOKENIZER, *arguments, **options).candidates[0].fills


# --- lengths go with their spans ---


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_a_length_belongs_to_its_span_in_whatever_order(kind):
    spans, lengths = [(9, 17), (0, 3), (18, 23)], [5, 1, (2, 2)]
    wanted = fills_of(TEXT, spans=sorted(spans), length=[1, 5, 2])
    assert [f.length for f in wanted] == [1, 5, 2]
    assert fills_of(TEXT, spans=kind(spans), length=lengths) == wanted


def test_lengths_belong_to_the_spans_of_their_text():
    spans = [[(9, 17), (0, 3)], [(0, 3), (9, 17)], [(9, 17), (4, 8)]]
    found = infill(model(), TOKENIZER, [TEXT] * 3, spans=spans, length=[[4, 1], [4, 1], 2])
    lengths = [[f.length for f in own.candidates[0].fills] for own in found]
    assert lengths == [[1, 4], [4, 1], [2, 2]]


# --- options are looked at before anything that takes time ---


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sampler": "magic"}, "sampler is 'magic'"),
        ({"sampler": "parallel"}, "needs steps"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 2}, "top_p is 2"),
        ({"verifier": "none"}, "verifier is 'none'"),
        ({"drafter": "head"}, "drafter is 'head'"),
        ({"execution": "fast"}, "execution is 'fast'"),
        ({"k": 0}, "k is 0"),
        ({"lenght": 3}, "lenght"),
        ({"seed": "x"}, "seed is 'x'"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"evidence": "none"}, "evidence is 'none'"),
    ],
    ids=str,
)
def test_options_are_refused_before_lengths_are_looked_for(monkeypatch, options, named):
    monkeypatch.setattr(fill, "choose_lengths", lambda *_, **__: pytest.fail("lengths come first"))
    with pytest.raises((ValueError, TypeError), match=named):
        infill(model(), TOKENIZER, [MARKED, MARKED], **options)


@pytest.mark.parametrize("method", ["sequential", "assd", "ngram", "onepass", "parallel"])
def test_every_method_can_be_served_with_lengths_unknown(method):
    options = {"steps": 3} if method == "parallel" else {"verifier": "gumbel"}
    assert len(fills_of(MARKED, length=(1, 2), sampler=method, **options)) == 2


def test_progress_begins_with_the_lengths(monkeypatch):
    bars = []

    class Bar(fill.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append(self)

    monkeypatch.setattr(fill, "tqdm", Bar)
    seen = []
    choose = fill.choose_lengths

    def spy(*arguments, **options):
        seen.append((len(bars), bars[0].n))
        return choose(*arguments, **options)

    monkeypatch.setattr(fill, "choose_lengths", spy)
    infill(model(), TOKENIZER, [MARKED, "a ___"], length=(1, 2), num_samples=2, progress=True)
    assert seen == [(1, 0), (1, 2)]  # the bar is there, and counts blanks
    assert [(bar.desc, bar.total, bar.n) for bar in bars] == [("lengths", 3, 3), ("fills", 4, 4)]


# --- whole numbers of numpy and torch ---


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_whole_numbers_of_numpy_are_whole_numbers(kind):
    wanted = infill(model(), TOKENIZER, MARKED, length=[2, (1, 3)], seed=3, k=2, num_samples=2)
    found = infill(
        model(),
        TOKENIZER,
        MARKED,
        length=[kind(2), (kind(1), kind(3))],
        seed=kind(3),
        k=kind(2),
        num_samples=kind(2),
        best_of=kind(2),
        batch_size=kind(16),
    )
    assert found == wanted
    lengths = found.length_log_probs
    assert all(type(length) is int for own in lengths for length in own)
    several = infill(model(), TOKENIZER, [MARKED] * 2, length=kind(1), seed=np.array([3, 4]))
    assert several == infill(model(), TOKENIZER, [MARKED] * 2, length=1, seed=[3, 4])
    spans = np.array([[4, 8]], dtype=kind)
    assert fills_of(TEXT, spans=spans, length=kind(2)) == fills_of(TEXT, spans=[(4, 8)], length=2)
    scored = score(model(), TOKENIZER, "a ___", ["b", "c"], batch_size=kind(16))
    assert scored == score(model(), TOKENIZER, "a ___", ["b", "c"])


# --- what is no text, no marker, no span ---

NO_TEXTS = [None, b"a ___", 3, 2.5, "a \ud800 ___", "\udcff___"]


@pytest.mark.parametrize("text", [*NO_TEXTS, {"a ___": 1}], ids=ascii)
def test_what_is_no_text_is_one_clear_line(text):
    one_line(r"text.* (is|holds) .*; expected", infill, model(), TOKENIZER, text, length=1)
    one_line(r"context (is|holds) .*; expected", score, model(), TOKENIZER, text, ["b"])


@pytest.mark.parametrize("text", [*NO_TEXTS, ["a ___"]], ids=ascii)
def test_what_is_no_text_among_texts_is_named(text):
    one_line(r"text 1 (is|holds) .*; exp", infill, model(), TOKENIZER, ["a ___", text], length=1)


@pytest.mark.parametrize("text", NO_TEXTS, ids=ascii)
def test_what_is_no_filling_is_named(text):
    one_line(r"candidate 1 (is|holds) .*; exp", score, model(), TOKENIZER, "a ___", ["b", text])
    pair = [["b", "c"], ["b", text]]
    one_line(r"candidate 1 (is|holds) .*; exp", score, model(), TOKENIZER, MARKED, pair)


@pytest.mark.parametrize("candidates", ["must", "", None, 3, b"must", {"must": 1}], ids=ascii)
def test_one_filling_is_no_list_of_them(candidates):
    one_line(
        "candidates is .*; expected a list of fillings",
        score,
        model(),
        TOKENIZER,
        "a ___",
        candidates,
    )


def test_text_like_texts_are_texts():
    wanted = infill(model(), TOKENIZER, ["a ___", "b ___"], length=1)
    assert infill(model(), TOKENIZER, ("a ___", "b ___"), length=1) == wanted
    assert infill(model(), TOKENIZER, np.array(["a ___", "b ___"]), length=1) == wanted
    assert infill(model(), TOKENIZER, iter(["a ___", "b ___"]), length=1) == wanted
    assert score(model(), TOKENIZER, "a ___", ("b", "c")) == score(
        model(), TOKENIZER, "a ___", np.array(["b", "c"])
    )


@pytest.mark.parametrize("blank", [None, 3, b"___", ["___"], ""], ids=ascii)
def test_what_is_no_marker_is_one_clear_line(blank):
    one_line(
        "blank is .*; expected the text that marks", infill, model(), TOKENIZER, MARKED, blank=blank
    )
    one_line(
        "blank is .*; expected the text that marks",
        score,
        model(),
        TOKENIZER,
        MARKED,
        ["b"],
        blank=blank,
    )


@pytest.mark.parametrize(
    "spans",
    [(4, 8), [4, 8], 4, [(4,)], [(4, 8, 9)], [(4.0, 8)], [None], [("4", "8")], "48", [[[4, 8]]]],
)
def test_spans_that_are_no_pairs_are_one_clear_line(spans):
    one_line("spans? .*; expected", infill, model(), TOKENIZER, TEXT, spans=spans, length=1)
    one_line("spans? .*; expected", infill, model(), TOKENIZER, [TEXT], spans=[spans], length=1)


@pytest.mark.parametrize(
    "length", [np.float64(2), np.array([1, 2]), "2", [1.5, 1], {}, True, (1, None)], ids=str
)
def test_what_is_no_length_is_one_clear_line(length):
    one_line("length is .*; expected", infill, model(), TOKENIZER, MARKED, length=length)


@pytest.mark.parametrize("name", ["num_samples", "best_of", "batch_size"])
@pytest.mark.parametrize("value", [2.0, "2", True, -1, [2]], ids=str)
def test_what_is_no_number_of_things_is_one_clear_line(name, value):
    one_line(
        f"{name.replace('best_of', 'num_samples')} is",
        infill,
        model(),
        TOKENIZER,
        MARKED,
        **{name: value},
    )


# --- another model's tokenizer, and what is no model ---


def other_tokenizer(**special):
    found = copy.deepcopy(TOKENIZER)
    found.add_tokens(["quxquux"]) if not special else found.add_special_tokens(special)
    return found


DOORS = [
    lambda model, tokenizer: infill(model, tokenizer, MARKED),
    lambda model, tokenizer: score(model, tokenizer, "a ___", ["b"]),
    lambda model, tokenizer: bits_per_byte(model, tokenizer, [], next(iter(PROTOCOLS))),
    lambda model, tokenizer: fill_templates(
        model,
        templates_of(Codec.of(tokenizer), ["a ___"], blank="___", spans=None, closed=True),
        [[(1, 1)]],
        seeds=[0],
    ),
]


@pytest.mark.parametrize("door", DOORS)
def test_another_models_tokenizer_is_refused(door):
    one_line(
        "the tokenizer has 8193 tokens and the model 8192; expected",
        door,
        model(),
        other_tokenizer(),
    )
    smaller = small_model(vocab_size=9000, d_model=16, n_head=2, d_inner=32)
    one_line("the tokenizer has 8192 tokens and the model 9000; expected", door, smaller, TOKENIZER)
    mask = other_tokenizer(mask_token="<eop>")
    named = small_model(vocab_size=8192, d_model=16, n_head=2, d_inner=32, mask_token_id=6)
    one_line("the mask token is 8 in the tokenizer and 6 in the model; expected", door, named, mask)


@pytest.mark.parametrize("door", DOORS[:3])
@pytest.mark.parametrize(
    "tokenizer", [None, "demo", TOKENIZER.backend_tokenizer], ids=lambda t: type(t)
)
def test_what_is_no_tokenizer_is_refused(door, tokenizer):
    one_line("tokenizer is .*; expected the model's own: take both", door, model(), tokenizer)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("other", [XLNetLMHeadModel, None, "demo", TOKENIZER], ids=str)
def test_what_is_no_model_is_refused(door, other):
    sizes = {"vocab_size": 8192, "d_model": 16, "n_head": 2, "n_layer": 1, "d_inner": 32}
    other = other(XLNetConfig(**sizes)) if other is XLNetLMHeadModel else other
    one_line("model is .*; expected a model of asarm: take asarm.load", door, other, TOKENIZER)


def one_line(named, door, *arguments, **options):
    with pytest.raises(ValueError, match=named) as refused:
        door(*arguments, **options)
    assert "\n" not in str(refused.value)
