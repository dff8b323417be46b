"""Words that a blank cuts: what is filled in may share a piece with them, if the model likes it."""

import math
import re
from functools import cache
from itertools import islice

import pytest
import torch
from fakes import small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from published import published
from transformers import AutoTokenizer

import asarm
from asarm import Order, log_prob
from asarm.codec import Codec
from asarm.corpus import held_out_documents
from asarm.infilling import infill, reference_lengths, score
from asarm.infilling.cut_words import Healing, ways_of
from asarm.infilling.template import Template, collate
from asarm.loading import load_tokenizer
from asarm.text import decode, encode

TOKENIZER = load_tokenizer("demo")
CODEC = Codec.of(TOKENIZER)
# parts of words, marks, numbers and characters of several pieces
SNIPPETS = [
    "retu",
    " retu",
    "return",
    "rn",
    "_x",
    "(",
    ")",
    "):",
    "12",
    ".",
    "Straß",
    "日",
    "é",
    "'",
]
SNIPPETS += [" ", "\n", "x = ", "\n    if ", "a"]
texts = st.lists(st.sampled_from(SNIPPETS), max_size=4).map("".join)


@cache
def model():
    return small_model(vocab_size=8192, d_model=16, n_head=2, d_inner=32)


@cache
def demo():
    return asarm.load("demo")[0]


def pieces(ids):
    return [decode(TOKENIZER, [i]) for i in ids]


def ways(before, after, length=1, network=model):
    """The ways of a text with one gap: pieces and characters of the cut words, and P(way)."""
    found = ways_of(network(), Template.of(CODEC, [before, after]), [length], 0)
    return {
        (*pieces(start.ids), start.edge.shared, "_", end.edge.shared, *pieces(end.ids)): math.exp(p)
        for (start, end), p in zip(found.cuts, found.log_probs.tolist(), strict=True)
    }


# --- the ways to write a word ---


def test_a_word_keeps_its_pieces_or_gives_its_end_away():
    found = ways("x = retu", " x")
    assert (" re", "t", "u", "", "_", "") in found  # as it is
    assert (" retu", "_", "") in found  # return, returned, ...
    assert sum(found.values()) == pytest.approx(1)
    assert {len("".join(way[: way.index("_")])) for way in found} == {len(" retu")}


def test_a_whole_word_may_stand_as_it_is_or_go_on():
    found = ways("x = return", " x")
    assert (" return", "", "_", "") in found and (" return", "_", "") in found
    table = Template.of(CODEC, ["x = return", " x"]).cuts(0)[1][0].edge.pieces
    longer = pieces(table.nonzero()[:, 0].tolist())
    assert " return" not in longer and {" returned", " returns"} <= {*longer}


@pytest.mark.parametrize(
    ("before", "after"),
    [("x = ", " y"), ("x\n", "\ny"), ("x:\n    ", "\n    y"), ("", ""), ("x ", "  y"), ("é\n", "")],
)
def test_whitespace_cuts_no_word(before, after):
    assert len(Template.of(CODEC, [before, after]).cuts(0)) == 1


@pytest.mark.slow
@settings(max_examples=150)
@given(texts, texts, texts.filter(bool), st.integers(1, 3), st.integers(0, 2**32), st.data())
def test_text_outside_comes_back_whatever_way_is_taken(before, after, fill, length, seed, data):
    template = Template.of(CODEC, [before, after])
    way = data.draw(st.sampled_from(template.cuts(0)))
    written = template.with_cut(0, *way)
    (size,) = written.sizes([length])
    if written.is_fillable(0, size):
        row = written.with_gaps([size])
        _, allowed, order = collate([row], written.moves)
        text, generator = torch.tensor([row[0]]), torch.Generator().manual_seed(seed)
        for position in order.is_target[0].nonzero():
            table = allowed.at(position[None], text)[0, 0].double()
            text[0, position] = torch.multinomial(table, 1, generator=generator)
        (place,) = written.places([size])
        own = text[0, place].tolist()
        whole, (found,) = written.filled([own])
        assert whole == before + found + after == decode(TOKENIZER, text[0].tolist())
        assert found or way == template.cuts(0)[0]  # a piece that is taken in has text of its own
    written = template.written_with([fill])
    (own,) = written.encode_fills([fill])
    ids, _ = written.with_gaps([len(own)])
    (place,) = written.places([len(own)])
    ids[place] = own
    assert decode(TOKENIZER, ids) == before + fill + after
    assert written.filled([own]) == (before + fill + after, [fill])


@pytest.mark.parametrize(
    ("before", "fill", "after", "length"),
    [
        ("x = retu", "rn", " x", 1),
        ("x = return", "ed", " x", 1),
        ("x = return", " y", " x", 1),
        ("x = re", "tu", "rn x", 1),
        ("x = ", "re", "turn x", 1),
        ("def f(x", "):\n   ", "\n    y", 2),
        ("x = xy", "lophone", " x", 3),
    ],
)
def test_a_filling_has_the_pieces_of_the_whole_text(before, fill, after, length):
    template = Template.of(CODEC, [before, after]).written_with([fill])
    (own,) = template.encode_fills([fill])
    ids, allowed = template.with_gaps([len(own)])
    (place,) = template.places([len(own)])
    ids[place] = own
    assert ids == encode(TOKENIZER, before + fill + after)
    assert all(table[i] for table, i in zip(allowed.values(), own, strict=True))
    found = reference_lengths(TOKENIZER, f"{before}[?]{after}", [fill], blank="[?]")
    assert found == template.lengths([fill]) == [length]


def test_two_blanks_may_cut_one_word():
    template = Template.of(CODEC, ["x = re", "tur", "n x"])
    assert not (template.parts[1].starts and template.parts[1].ends)
    found = infill(model(), TOKENIZER, "x = re___tur___n x", length=1, num_samples=6)
    for candidate in found.candidates:
        one, other = (own.text for own in candidate.fills)
        assert candidate.text == f"x = re{one}tur{other}n x"


# --- their probabilities ---


def by_hand(template, cut, length):
    """P of a way, of all pieces that the gap may have: the word's own, and then one of these."""
    start, end = cut
    written = template.with_cut(0, *cut)
    ids, allowed = written.with_gaps([length])
    gap = list(range(len(written.parts[0].ids), len(written.parts[0].ids) + length))
    own = [*range(gap[0] - len(start.ids), gap[0]), *range(gap[-1] + 1, gap[-1] + 1 + len(end.ids))]
    total = 0.0
    for position in {gap[0], gap[-1]}:
        others = [i for i in range(len(ids)) if i not in gap and i not in own]
        ranks = [*others, *own, position, *(i for i in gap if i != position)]
        order = Order(torch.tensor([ranks]), len(others))
        is_few = allowed[position].sum() < 4000
        tokens = (allowed[position] if is_few else ~allowed[position]).nonzero()[:, 0]
        text = torch.tensor([ids]).repeat(len(tokens), 1)
        text[:, position] = tokens
        found = log_prob(model(), text, order[[0] * len(tokens)]).double()
        prob = float(found[:, position].exp().sum())
        total += math.log(prob if is_few else 1 - prob)
    return total + float(found[0, own].sum())


@pytest.mark.parametrize(
    ("before", "after", "length"),
    [("to retu", " it", 1), ("to retu", " it", 2), ("it", "urn it", 1), ("re", "urning it", 2)],
)
def test_probabilities_of_ways_are_the_models(before, after, length):
    template = Template.of(CODEC, [before, after])
    found = ways_of(model(), template, [length], 0)
    sizes = [[int(c.edge.pieces.sum()) for c in cut] for cut in found.cuts]
    chosen = [n for n, own in enumerate(sizes) if all(not 40 < size < 8000 for size in own)][:6]
    assert len(chosen) > 1
    expected = torch.tensor([by_hand(template, found.cuts[n], length) for n in chosen])
    expected = expected - expected[0]
    torch.testing.assert_close(
        found.log_probs[chosen] - found.log_probs[chosen[0]], expected.double(), atol=1e-4, rtol=0
    )


def test_ways_are_drawn_as_often_as_they_are_probable():
    template = Template.of(CODEC, ["x = return", " x"])
    log_probs = ways_of(model(), template, [1], 0).log_probs
    heal, count = Healing(model(), template, temperature=5.0), 3000
    kept = sum(heal([1], seed)[0].parts[0].ids == template.parts[0].ids for seed in range(count))
    prob = float((log_probs / 5).softmax(0)[0])
    assert 0.02 < prob < 0.98
    assert abs(kept - count * prob) < 4 * math.sqrt(count * prob * (1 - prob))


@pytest.mark.parametrize("options", [{"top_k": 1}, {"temperature": 0}, {"top_p": 1e-6}], ids=str)
def test_greedily_it_is_the_likeliest_way(options):
    template = Template.of(CODEC, ["x = retu", "urn x"])
    found = ways_of(model(), template, [2], 0)
    best = template.with_cut(0, *found.cuts[int(found.log_probs.argmax())])
    for seed in range(5):
        written, (log_p,) = Healing(model(), template, **options)([2], seed)
        assert written.parts == best.parts and log_p == pytest.approx(float(found.log_probs.max()))


@pytest.mark.parametrize("text", ["x = retu___ x", "re___urn of 12___", "f(___)"])
@pytest.mark.parametrize("method", ["sequential", "onepass"])
def test_candidates_have_the_probability_that_they_are_drawn_with(text, method):
    """That of the way and of the pieces: over all fillings it adds up to 1, and none exceeds it."""
    found = infill(model(), TOKENIZER, text, length=1, num_samples=9, sampler=method, closed=False)
    for candidate in found.candidates:
        assert candidate.log_prob < 0
        fills = [own.text for own in candidate.fills]
        written = Template.of(CODEC, found.parts).written_with(fills)
        if written.encode_fills(fills) == [own.tokens for own in candidate.fills]:
            (scored,) = score(model(), TOKENIZER, text, [fills], token_healing=True)
            assert scored.log_prob == pytest.approx(candidate.log_prob, abs=1e-4)


@pytest.mark.slow
def test_probabilities_of_all_fillings_add_up():
    template, total = Template.of(CODEC, ["x = retu", " x"]), 0.0
    found = ways_of(model(), template, [1], 0)
    for cut, log_p in zip(found.cuts, found.log_probs.tolist(), strict=True):
        written = template.with_cut(0, *cut)
        row = written.with_gaps([1])
        ids, allowed, order = collate([row], written.moves)
        table = allowed.at(order.is_target[0].nonzero()[None, :, 0], ids)[0, 0]
        text = ids.repeat(int(table.sum()), 1)
        text[:, order.is_target[0]] = table.nonzero()
        _, allowed, orders = collate([row] * len(text), written.moves)
        total += float(
            (log_p + log_prob(model(), text, orders, allowed=allowed).sum(1)).exp().sum()
        )
    assert total == pytest.approx(1, abs=1e-4)


# --- with the bundled model ---


def cut_words(num):
    """Words of held-out text of one piece each, and the text around them."""
    for document in held_out_documents():
        words = re.finditer(r"(?<= )[a-z]{6,}(?= [a-z])", document.text)
        for word in islice(words, 40, 45):
            if len(encode(TOKENIZER, " " + word[0])) == 1 and num > 0:
                num -= 1
                before = document.text[max(0, word.start() - 250) : word.start()]
                yield before, word[0], document.text[word.end() : word.end() + 120]


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_cut_words_are_completed(side):
    right = {True: 0, False: 0}
    problems = list(cut_words(16))
    kept = {"left": (4, 0), "right": (0, 4), "middle": (2, 2)}[side]
    for before, word, after in problems:
        fill = word[kept[0] : len(word) - kept[1]]
        text = before + word[: kept[0]] + "[?]" + word[len(word) - kept[1] :] + after
        (length,) = reference_lengths(TOKENIZER, text, [fill], blank="[?]")
        assert length == 1
        for heals in right:
            found = infill(
                demo(), TOKENIZER, text, blank="[?]", length=1, top_k=1, token_healing=heals
            )
            right[heals] += found.candidates[0].text == before + word + after
    assert len(problems) == 16
    assert right[True] >= 11 and right[False] <= 1


@pytest.mark.slow
def test_what_needs_no_healing_is_left_as_it_is():
    """Of whole words and calls in held-out text, nearly all keep the pieces that they have."""
    kept = 0
    problems = list(cut_words(16))
    for before, word, after in problems:
        fill = f" {word}"
        template = Template.of(CODEC, [before[:-1], after])  # the blank goes with the filling
        assert len(template.cuts(0)) > 1
        heal = Healing(demo(), template, top_k=1)
        lengths = template.written_with([fill]).lengths([fill])
        kept += heal(lengths, 0)[0].parts[0].ids == template.parts[0].ids
    assert kept >= 14


def test_a_switch_turns_it_off():
    text, options = "if x:\n    retu___ x\n", {"length": 1, "top_k": 1}
    (on,) = infill(demo(), TOKENIZER, text, **options).candidates
    (off,) = infill(demo(), TOKENIZER, text, **options, token_healing=False).candidates
    assert on.text == "if x:\n    return x\n" and pieces(on.fills[0].tokens) == ["return"]
    assert pieces(off.fills[0].tokens) == [off.fills[0].text]
    assert reference_lengths(TOKENIZER, text, ["rn"]) == [1]
    assert reference_lengths(TOKENIZER, text, ["rn"], token_healing=False) == [2]
    (scored,) = score(demo(), TOKENIZER, text, ["rn"], token_healing=True, closed=True)
    assert scored.log_prob == pytest.approx(on.log_prob, abs=1e-4)
    assert score(demo(), TOKENIZER, text, ["rn"], closed=True)[0].log_prob < scored.log_prob - 1


def test_texts_beside_a_text_change_nothing():
    several = ["x = retu___ x", "f(___)", "The ship ___ at dawn."]
    together = infill(model(), TOKENIZER, several, length=2, num_samples=3, seed=[5, 6, 7])
    for text, own, seed in zip(several, together, (5, 6, 7), strict=True):
        alone = infill(model(), TOKENIZER, text, length=2, num_samples=3, seed=seed)
        assert [c.text for c in alone.candidates] == [c.text for c in own.candidates]


# --- word marks ---


@pytest.mark.slow
@pytest.mark.parametrize("whitespace_map", [False, True])
def test_word_marks_are_healed_too(whitespace_map):
    tokenizer = AutoTokenizer.from_pretrained(published("xlnet-base-cased"))
    codec = Codec.of(tokenizer, whitespace_map)
    names = tokenizer.convert_ids_to_tokens
    for before, fill, after in [
        ("to retu", "rn", " it"),
        ("to re", "tu", "rn it"),
        ("to ", "re", "turn it"),
        ("retu", "rn", ""),
        ("to return", "ing", " it"),
    ]:
        template = Template.of(codec, [before, after])
        written = template.written_with([fill])
        (own,) = written.encode_fills([fill])
        assert names(own) == (["▁returning"] if fill == "ing" else ["▁return"])
        assert written.filled([own]) == (before + fill + after, [fill])
        ids, allowed = written.with_gaps([1])
        assert allowed[len(written.parts[0].ids)][own[0]]
        for cut in template.cuts(0):
            other = template.with_cut(0, *cut)
            if other.is_fillable(0, 2):
                tables = other.with_gaps([2])[1].values()
                drawn = [int(table.nonzero()[-1]) for table in tables]
                text, (found,) = other.filled([drawn])
                assert text == before + found + after


@pytest.mark.slow
def test_fillings_of_words_with_marks_leave_the_text_as_it_is():
    tokenizer = AutoTokenizer.from_pretrained(published("xlnet-base-cased"))
    network = small_model(vocab_size=32000, d_model=16, n_head=2, d_inner=32)
    for text in ["to retu___ it", "to ___turn it", "retu___", "a re___rn (x___y)", "return___ it"]:
        found = infill(network, tokenizer, text, length=2, num_samples=6, seed=1)
        for candidate in found.candidates:
            fills = [own.text for own in candidate.fills]
            pairs = zip(fills, found.parts[1:], strict=True)
            assert candidate.text == found.parts[0] + "".join(f + p for f, p in pairs)
            assert math.isfinite(candidate.log_prob)
