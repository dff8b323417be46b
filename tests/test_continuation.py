"""Texts go on left to right: the distribution is the samplers', and stop strings end them."""

from types import SimpleNamespace

import pytest
import torch

import asarm
from asarm import Order
from asarm.codec import Codec
from asarm.infilling import continuation
from asarm.infilling.continuation import Stopping, continue_texts
from asarm.loading import load

CONTEXTS = [
    "The return value is the",
    "",
    "If the argument ",
    "def f(a):\n    return a\n\n\ndef g(",
]


@pytest.fixture(scope="module")
def demo():
    return load("demo", device="cpu")


@pytest.fixture(scope="module")
def codec(demo):
    return Codec(demo[1])


def go_on(demo, codec, contexts, stopping, *, seeds=None, max_length=256):
    seeds = range(len(contexts)) if seeds is None else seeds
    return continue_texts(
        demo[0], codec, contexts, stopping, seeds=list(seeds), max_length=max_length
    )


GREEDY = Stopping(max_tokens=40, top_k=1)


def test_greedy_texts_are_those_of_the_sequential_sampler_in_one_piece(demo, codec):
    model, tokenizer = demo
    context = CONTEXTS[0]
    prompt = codec.encode_before(context)
    order = Order.left_to_right(len(prompt) + 40, len(prompt))
    blank = torch.tensor([prompt + [0] * 40])
    best = asarm.sample(model, blank, order, "sequential", top_k=1, seed=0).tokens
    expected = tokenizer.decode(best[0, len(prompt) :]).split(tokenizer.eos_token)[0]
    assert go_on(demo, codec, [context], GREEDY) == [expected]


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 7, 40])
def test_neither_pieces_nor_batch_mates_change_a_greedy_text(demo, codec, monkeypatch, first):
    together = go_on(demo, codec, CONTEXTS, GREEDY)
    monkeypatch.setattr(continuation, "FIRST", first)
    assert [go_on(demo, codec, [context], GREEDY)[0] for context in CONTEXTS] == together


@pytest.mark.slow
def test_a_sampled_text_depends_on_its_own_seed_only(demo, codec):
    sampled = Stopping(max_tokens=40)
    together = go_on(demo, codec, CONTEXTS, sampled)
    alone = [go_on(demo, codec, [c], sampled, seeds=[n])[0] for n, c in enumerate(CONTEXTS)]
    assert alone == together
    same = go_on(demo, codec, [CONTEXTS[0]] * 4, sampled)
    assert len(set(same)) == 4


@pytest.mark.slow
def test_a_sampled_text_is_the_same_in_pieces_and_as_a_whole(demo, codec, monkeypatch):
    sampled = Stopping(max_tokens=40)
    pieces = go_on(demo, codec, CONTEXTS, sampled)
    monkeypatch.setattr(continuation, "FIRST", 40)
    assert go_on(demo, codec, CONTEXTS, sampled) == pieces


@pytest.mark.slow
def test_texts_end_before_the_first_stop_string_wherever_pieces_end(demo, codec, monkeypatch):
    whole = go_on(demo, codec, CONTEXTS, GREEDY)
    for first in (1, 4, 40):
        monkeypatch.setattr(continuation, "FIRST", first)
        for until in ([" the", "e s"], ["\n"], [")", " is"], ["a"]):
            stopping = Stopping(until=tuple(until), max_tokens=40, top_k=1)
            expected = [min((text.split(stop)[0] for stop in until), key=len) for text in whole]
            assert go_on(demo, codec, CONTEXTS, stopping) == expected


def test_the_end_of_a_document_ends_a_text(demo, codec, monkeypatch):
    end = demo[1].eos_token_id
    words = codec.encode("over and out")
    drawn = SimpleNamespace(tokens=torch.tensor([[end, *words, end, *words, *words]]))
    monkeypatch.setattr(continuation, "sample", lambda *_, **__: drawn)
    assert go_on(demo, codec, [""], Stopping(max_tokens=3 * len(words) + 1)) == ["over and out"]


def test_a_blank_at_the_end_of_a_context_is_the_first_words(demo, codec):
    for seed in range(8):
        (text,) = go_on(demo, codec, ["If the argument "], Stopping(max_tokens=3), seeds=[seed])
        assert not text.startswith(" ")
        ids = codec.encode(text, after="If the argument ")
        assert not text or codec.begins_word[ids[0]]


@pytest.mark.slow
def test_no_special_token_is_written(demo, codec):
    names = demo[1].all_special_tokens
    texts = go_on(demo, codec, [""] * 8, Stopping(max_tokens=30, temperature=5.0))
    assert not [name for name in names for text in texts if name in text]


def test_long_contexts_are_cut_on_the_left(demo, codec):
    long = "One, two, three. " * 50 + CONTEXTS[0]
    room = 64 - 8
    cut = codec.encode_before(long)[-room:]
    short = demo[1].decode(cut)
    stopping = Stopping(max_tokens=8, top_k=1)
    assert codec.encode_before(short) == cut
    assert go_on(demo, codec, [long], stopping, max_length=64) == go_on(
        demo, codec, [short], stopping
    )
    with pytest.raises(ValueError, match="max_gen_toks is 8 with max_length 8; expected fewer"):
        go_on(demo, codec, [long], stopping, max_length=8)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Stopping(top_k=1)),
        ({"until": "\n"}, Stopping(until=("\n",), top_k=1)),
        ({"until": ["a", "", "b"], "do_sample": False}, Stopping(until=("a", "b"), top_k=1)),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, Stopping(top_k=1)),
        ({"do_sample": True}, Stopping()),
        ({"do_sample": True, "temperature": 0.0}, Stopping(top_k=1)),
        ({"temperature": 0.5, "top_p": 0.9}, Stopping(temperature=0.5, top_p=0.9)),
        ({"do_sample": True, "top_k": 0, "max_gen_toks": 5}, Stopping(max_tokens=5)),
        ({"max_new_tokens": "7"}, Stopping(max_tokens=7, top_k=1)),
    ],
)
def test_options_are_the_harness_own(options, expected):
    assert Stopping.of(options) == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_beams": 4}, "generation_kwargs hold num_beams; expected some of until"),
        ({"max_gen_toks": 0}, "max_gen_toks is 0; expected at least 1"),
    ],
)
def test_options_that_are_not_served_are_one_line(options, says):
    with pytest.raises(ValueError, match=says) as raised:
        Stopping.of(options)
    assert "\n" not in str(raised.value)
