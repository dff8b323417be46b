"""No filling ends inside a character, and the distribution is the model's under that filter."""

import codecs
from collections import Counter
from functools import cache
from itertools import product

import pytest
import torch
from fakes import ConditionalTable, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_distribution_of_samplers import DRAFTING, VERIFIERS, EnumeratingRandomness

from asarm import Order, log_prob, sample
from asarm.codec import Codec
from asarm.infilling import infill, score
from asarm.infilling.template import Template, collate
from asarm.loading import load_tokenizer
from asarm.sampling import sampler_of
from asarm.sampling.api import prepare
from asarm.sampling.rounds import Decoding
from asarm.utf8 import COMPLETE, DEAD, UNKNOWN, transitions

TOKENIZER = load_tokenizer("demo")
CODEC = Codec.of(TOKENIZER)
TEXTS = ["日本語の___テキスト", "Die Straße ___ für Fußgänger geöffnet.", "Ja ___ не ___!", "___😀"]


def is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


@cache
def model():
    return small_model(vocab_size=8192, d_model=16, n_head=2, d_inner=32)


def bytes_of(tokens):
    return b"".join(CODEC.piece_bytes[i] for i in tokens)


# --- the automaton ---

# bytes near every bound of the standard's table of well-formed sequences
BOUNDS = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED]
BOUNDS += [0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
some_bytes = st.lists(st.sampled_from(BOUNDS), max_size=6).map(bytes)


@pytest.mark.slow
@settings(max_examples=500)
@given(st.lists(st.one_of(some_bytes, st.text(max_size=2).map(str.encode)), min_size=1, max_size=4))
def test_states_are_those_of_pythons_decoder(pieces):
    moves, state, decoder = transitions(pieces), COMPLETE, codecs.getincrementaldecoder("utf-8")()
    for n, piece in enumerate(pieces):
        state = int(moves[state, n])
        try:
            decoder.decode(piece)
        except UnicodeDecodeError:
            assert state == DEAD
            return
        assert state != DEAD
        assert (state == COMPLETE) == (decoder.getstate()[0] == b"")


@given(st.text(min_size=1, max_size=4), st.data())
def test_three_pieces_tell_the_state_wherever_a_text_is_cut(text, data):
    content = text.encode()
    ends = data.draw(st.sets(st.integers(1, len(content))))
    bounds = sorted({0, len(content), *ends})
    pieces = [content[i:j] for i, j in zip(bounds, bounds[1:], strict=False)]
    moves, state = transitions(pieces), COMPLETE
    for n in range(len(pieces)):
        state, found = int(moves[state, n]), UNKNOWN
        for back in range(max(0, n - 2), n + 1):
            found = int(moves[found, back])
        assert (0 if found == UNKNOWN else found) == state


# --- the distribution ---

PIECES = [b"a", b"\xc3", b"\xa9", b"\xa9\xc3"]  # a letter, and parts of one or of two
FAKE = ConditionalTable(length=6, vocab_size=4, mask_token_id=9, seed=3)
GIVEN = torch.tensor([[0, 0, 0, 0, 0, 0]])
ORDER = Order(torch.tensor([[0, 5, 1, 2, 3, 4]]), 2)
METHODS = [("sequential", None), *((method, k) for method in DRAFTING for k in (1, 2, 3))]


def in_a_batch(count):
    anything = torch.ones(4, dtype=torch.bool)
    row = ([0] * 6, {position: anything for position in (1, 2, 3, 4)})
    return collate([row] * count, transitions(PIECES))[1]


@cache
def expected():
    """From the conditionals, by trying all that could follow each token."""
    texts = {(): 1.0}
    for position in (1, 2, 3, 4):
        longer = Counter()
        for text, weight in texts.items():
            seen = {0: 0, 5: 0} | dict(enumerate(text, 1))
            weights = FAKE.conditional(position, seen).exp().tolist()
            for i in range(4):
                rests = product(PIECES, repeat=4 - position)
                content = b"".join(PIECES[j] for j in (*text, i))
                if not any(is_text(content + b"".join(rest)) for rest in rests):
                    weights[i] = 0
            for i in range(4):
                longer[*text, i] += weight * weights[i] / sum(weights)
        texts = {text: weight for text, weight in longer.items() if weight}
    return {(0, *text, 0): weight for text, weight in texts.items()}


@VERIFIERS
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_lossless_samplers_have_the_distribution_under_the_filter(method, k, verifier):
    found, scripts = Counter(), [[]]
    sampler = sampler_of(method, k=k)
    while scripts:
        randomness, size = EnumeratingRandomness(scripts), len(scripts)
        ids, order = GIVEN.expand(size, -1), ORDER[[0] * size]
        net, state = prepare(FAKE, ids, order, sampler, randomness, allowed=in_a_batch(size))
        net.verifier = verifier(randomness)
        state = Decoding(sampler, net, state).run()
        texts = state.by_position(ids, order)[0].tolist()
        for text, weight in zip(texts, randomness.probability, strict=True):
            found[tuple(text)] += weight
        scripts = randomness.unexplored
    assert all(is_text(b"".join(PIECES[i] for i in text)) for text in found)
    assert found.keys() == expected().keys()
    for text, weight in expected().items():
        assert found[text] == pytest.approx(weight, abs=1e-12)


def test_log_densities_are_those_that_fillings_are_drawn_with():
    every = torch.tensor([(0, *text, 0) for text in product(range(4), repeat=4)])
    orders = ORDER[[0] * len(every)]
    found = log_prob(FAKE, every, orders, allowed=in_a_batch(len(every))).sum(1).exp()
    for text, prob in zip(every.tolist(), found.tolist(), strict=True):
        assert prob == pytest.approx(expected().get(tuple(text), 0), abs=1e-12)
    drawn = sample(FAKE, GIVEN, ORDER, allowed=in_a_batch(1), seed=4)
    again = log_prob(FAKE, drawn.tokens, ORDER, allowed=in_a_batch(1))
    torch.testing.assert_close(drawn.log_probs, again)


def test_parallel_draws_and_scores_without_what_stands_to_the_left():
    allowed = in_a_batch(1)
    found = sample(FAKE, GIVEN, ORDER, "parallel", steps=2, allowed=allowed, seed=4)
    apart, together = (
        log_prob(FAKE, found.tokens, ORDER, allowed=a) for a in (allowed.without_moves(), allowed)
    )
    torch.testing.assert_close(found.log_probs, apart)
    assert not torch.equal(apart, together)


# --- fillings ---


@pytest.mark.slow_but_one
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 3.0},
        {"top_k": 1},
        {"sampler": "sequential"},
        {"sampler": "assd", "k": 4},
        {"sampler": "ngram"},
        {"sampler": "onepass", "verifier": "gumbel"},
        {"sampler": "onepass", "execution": "static"},
        {"sampler": "parallel", "steps": 2},
        {"sampler": "parallel", "steps": 2, "by": "confidence"},
    ],
    ids=str,
)
def test_fillings_are_the_text_of_their_tokens(text, options):
    for length in (1, 2, 5):
        found = infill(model(), TOKENIZER, text, length=length, num_samples=6, seed=2, **options)
        for candidate in found.candidates:
            assert "\ufffd" not in candidate.text
            template = Template.of(CODEC, found.parts, closed=True)
            for own, (start, end) in zip(candidate.fills, template.edges(), strict=True):
                shown = start.shared + own.text + end.shared  # and of a word that the gap cuts
                assert shown in bytes_of(own.tokens).decode()


def test_characters_of_several_pieces_are_still_written():
    found = infill(
        model(), TOKENIZER, "日本___語", length=4, num_samples=40, temperature=3.0, seed=1
    )
    written = "".join(candidate.fills[0].text for candidate in found.candidates)
    assert any(len(CODEC.encode(character)) > 1 for character in written)


def test_a_filling_that_ends_a_character_of_the_text_is_refused_nothing():
    """Given fillings are whole texts: every piece of theirs is allowed where it stands."""
    for fill in ["ä", "日本", "a😀b", "’"]:
        template = Template.of(CODEC, ["x", "y"])
        (pieces,) = template.encode_fills([fill])
        ids, allowed, order = collate([template.with_gaps([len(pieces)])], template.moves)
        ids[order.is_target] = torch.tensor(pieces)
        found = log_prob(model(), ids, order, allowed=allowed)
        assert found.isfinite().all()
        (scored,) = score(model(), TOKENIZER, "x___y", [fill])
        assert scored.log_prob < 0 and float(found.sum()) >= scored.log_prob - 1e-4
