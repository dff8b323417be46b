"""Blanks filled: the law, the ranking and the text; and given fillings scored."""

import math
from dataclasses import replace
from functools import cache
from itertools import product

import pytest
import torch
from fakes import small_model
from published import published
from transformers import AutoTokenizer

import asarm
from asarm import Order, log_prob
from asarm.codec import Codec
from asarm.distribution import Distribution
from asarm.infilling import Candidate, Score, infill, reference_lengths, score
from asarm.infilling.fill import ranked
from asarm.infilling.prior import length_prior
from asarm.infilling.template import Template, split_at_marker
from asarm.loading import load, load_tokenizer
from asarm.rows import joint_rows

TOKENIZER = load_tokenizer("demo")
CODEC = Codec(TOKENIZER)
SHIP = "The ship left ___ at dawn, and ___ was lost."
TEXTS = [SHIP, "def add(a, b):\n    ___\n", "___ is é a \\___ b", "It began ___"]


@cache
def model_of(vocab_size=8192):
    return small_model(vocab_size=vocab_size, d_model=16, n_head=2, d_inner=32)


def fill(texts, **options):
    return infill(model_of(), TOKENIZER, texts, **options)


def texts_of(infilling):
    return [candidate.text for candidate in infilling.candidates]


def encoded(context, fills):
    """The tokens of given fillings where they stand."""
    return Template.of(CODEC, split_at_marker(context, "___")).encode_fills(fills)


def test_public_names():
    assert asarm.infill is infill and asarm.score is score


# --- what comes back ---


@pytest.mark.parametrize("text", TEXTS)
def test_text_outside_the_blanks_comes_back(text):
    found = fill(text, length=(1, 4), num_samples=3)
    assert len(found.candidates) == 3
    for candidate in found.candidates:
        fills = [own.text for own in candidate.fills]
        pairs = zip(fills, found.parts[1:], strict=True)
        assert candidate.text == found.parts[0] + "".join(f + p for f, p in pairs)
    marked = "___".join(part.replace("___", "\\___") for part in found.parts)
    assert marked == text


def test_candidates_are_ranked_and_their_terms_add_up():
    found = fill(SHIP, length=[(1, 3), 2], num_samples=5, best_of=9)
    scores = [candidate.score for candidate in found.candidates]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 5
    for own in found.candidates:
        sizes = [len(f.tokens) for f in own.fills]
        assert own.score == pytest.approx(own.log_prob + own.length_log_prob)
        assert own.log_prob == pytest.approx(sum(f.log_prob for f in own.fills))
        assert own.per_token == pytest.approx(own.log_prob / sum(sizes))
        for f in own.fills:
            assert f.per_token == pytest.approx(f.log_prob / len(f.tokens))
        assert sizes[1] == 2 and own.length_log_prob == found.length_log_probs[0][sizes[0]]
        assert 1 <= own.nfe <= sum(sizes) and own.rows > sum(sizes)
    assert found.length_log_probs[1] == {2: 0.0} and found.length_rows > 0


def test_each_text_is_given_once_with_its_best_score():
    candidate = Candidate("a", [], -1.0, -1.0, 0.0, -1.0, 1, 1)
    found = ranked(
        [replace(candidate, text=t, score=s) for t, s in [("a", -5), ("b", -3), ("a", -2)]]
    )
    assert [(c.text, c.score) for c in found] == [("a", -2), ("b", -3)]
    found = fill("It began ___", length=1, num_samples=4, top_k=1)  # always the same token
    assert len(found.candidates) == 1


def test_best_of_keeps_the_best_of_the_same_drawings():
    every = fill(SHIP, length=2, num_samples=6)
    best = fill(SHIP, length=2, num_samples=2, best_of=6)
    assert best.candidates == every.candidates[:2]
    assert fill(SHIP, length=2, best_of=6).candidates == every.candidates[:1]


def test_fills_hold_no_special_token_and_begin_words_where_a_blank_stands_before():
    special = set(TOKENIZER.all_special_ids)
    for text, temperature in product(TEXTS, (1.0, 50.0)):
        found = fill(text, length=3, num_samples=12, temperature=temperature)
        for candidate in found.candidates:
            for before, own in zip(found.parts, candidate.fills, strict=False):
                assert not special & set(own.tokens)
                if before.endswith(" ") and not before.isspace() and "\n" not in before:
                    piece = TOKENIZER.convert_ids_to_tokens(own.tokens[0])
                    assert piece.startswith("Ġ")


# --- the law ---


@pytest.mark.parametrize("method", ["sequential", "assd", "ngram", "onepass", "parallel"])
def test_log_prob_is_the_joint_of_the_model_itself(method):
    """Whatever the temperature, filters and sampler: that of the whole text's tokens."""
    options = {"steps": 2} if method == "parallel" else {}
    found = fill(
        SHIP, length=3, num_samples=4, sampler=method, temperature=0.7, top_p=0.9, **options
    )
    for own in found.candidates:
        fills = [f.text for f in own.fills]
        if [f.tokens for f in own.fills] != encoded(SHIP, fills):
            continue
        (scored,) = score(model_of(), TOKENIZER, SHIP, [fills])
        assert scored.log_prob == pytest.approx(own.log_prob, abs=1e-9)
        assert scored.num_tokens == 6 and scored.per_token == pytest.approx(own.per_token)
        break
    else:
        pytest.fail("no fill is encoded as it was drawn")
    if method == "parallel":
        assert {own.nfe for own in found.candidates} == {2}


def test_a_seed_decides_and_texts_beside_it_do_not():
    together = fill(TEXTS, length=2, num_samples=3, seed=7, batch_size=5)
    for i, text in enumerate(TEXTS):
        alone = fill(text, length=2, num_samples=3, seed=7 + i, batch_size=2)
        assert [c.text for c in alone.candidates] == [c.text for c in together[i].candidates]
        for one, other in zip(alone.candidates, together[i].candidates, strict=True):
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-9)
    own = fill(TEXTS, length=2, num_samples=3, seed=[10, 9, 8, 7], batch_size=64)
    assert (
        own[3].candidates[0].text
        == fill(TEXTS[3], length=2, num_samples=3, seed=7).candidates[0].text
    )
    assert own[0].candidates[0].text != together[0].candidates[0].text
    twice = fill([SHIP, SHIP], length=2, seed=[1, 1])
    assert twice[0] == twice[1]


@pytest.mark.parametrize("evidence", ["direct", "importance"])
def test_unknown_lengths_do_not_hang_on_texts_beside_them(evidence):
    options = {"length": (1, 3), "num_samples": 3, "evidence": evidence}
    together = fill(TEXTS[:2], **options)
    alone = fill(TEXTS[1], seed=1, **options)
    assert [c.text for c in alone.candidates] == [c.text for c in together[1].candidates]
    assert alone.length_log_probs[0] == pytest.approx(together[1].length_log_probs[0])
    assert sum(map(math.exp, alone.length_log_probs[0].values())) == pytest.approx(1)


@pytest.mark.slow
def test_auto_is_1_to_32():
    found = fill("It began ___ today", length="auto")
    assert list(found.length_log_probs[0]) == [*range(1, 33)]
    assert found == fill("It began ___ today", length=(1, 32)) == fill("It began ___ today")


def test_lengths_of_texts_and_of_blanks():
    def sizes(found):
        return [f.length for f in found.candidates[0].fills]

    assert sizes(fill(SHIP, length=[2, 3])) == [2, 3]
    assert sizes(fill(SHIP, length=(2, 2))) == [2, 2]
    found = fill([SHIP, "a ___", SHIP], length=[[1, 4], 2, (3, 3)])
    assert [sizes(one) for one in found] == [[1, 4], [2], [3, 3]]


def test_spans_are_blanks():
    text = SHIP.replace("___", "port")
    spans = [(14, 18), (text.index("port was"), text.index(" was"))]
    found = fill(text, spans=spans, length=2)
    assert found == fill(SHIP, length=2)
    several = fill([text, "a b c"], spans=[spans, [(2, 3)]], length=2)
    assert texts_of(several[0]) == texts_of(found) and several[1].parts == ["a ", " c"]
    assert fill("[ ] or ___", blank="[ ]", length=1).parts == ["", " or ___"]


def test_nothing_in_a_text_is_read_as_a_special_token():
    found = fill("the <mask> and </s> of ___ <unk>", length=1)  # a <mask> would be refused
    assert found.parts == ["the <mask> and </s> of ", " <unk>"]


@pytest.mark.parametrize("text", ["___", "___ a", "a ___", "___ and ___"])
def test_ends_of_documents_are_known_where_a_text_is_closed(text):
    closed, opened = fill(text, length=2), fill(text, length=2, closed=False)
    assert closed.parts == opened.parts
    fills = [f.text for f in closed.candidates[0].fills]
    found = [score(model_of(), TOKENIZER, text, [fills], closed=c)[0] for c in (True, False)]
    assert found[0].log_prob != pytest.approx(found[1].log_prob)
    if [f.tokens for f in closed.candidates[0].fills] == encoded(text, fills):
        assert found[0].log_prob == pytest.approx(closed.candidates[0].log_prob)


def test_a_text_alone_and_open_has_the_prior_alone():
    found = fill("___", length=(1, 6), closed=False)
    prior = length_prior(TOKENIZER, 1, 6, "sentences").log().tolist()
    assert list(found.length_log_probs[0].values()) == pytest.approx(prior)
    assert found.length_rows == 0


# --- given fillings ---


def test_score_is_the_density_of_the_whole_text():
    context, fills = "It ___ the ___ now", ["was in", "harbour"]
    (found,) = score(model_of(), TOKENIZER, context, [fills])
    whole = TOKENIZER("It was in the harbour now")["input_ids"]
    was, harbour = TOKENIZER(" was in")["input_ids"], TOKENIZER(" harbour")["input_ids"]
    is_target = torch.tensor([i in {*was, *harbour} for i in whole])
    expected = log_prob(model_of(), torch.tensor([whole]), Order.from_mask(is_target)).sum()
    assert found == Score(
        fills, pytest.approx(float(expected)), len(was + harbour), found.per_token
    )
    assert found.per_token * found.num_tokens == pytest.approx(found.log_prob)
    assert reference_lengths(TOKENIZER, context, fills) == [len(was), len(harbour)]


@torch.no_grad()
def test_scores_of_one_token_fillings_are_parts_of_one_law():
    model, before = model_of(), TOKENIZER("It was")["input_ids"]
    ids = torch.tensor([[*before, 0]])
    content, query = joint_rows(ids, Order.left_to_right(len(before) + 1, len(before)))
    logits = model.logits(model(content, query))[0, 0]
    law = Distribution(model.mask_token_id).probs(logits)
    pieces = {i: TOKENIZER.decode([i]) for i in range(9, 8192, 37)}
    choices = {i: piece for i, piece in pieces.items() if "\ufffd" not in piece}
    found = score(model, TOKENIZER, "It was___", list(choices.values()), batch_size=64)
    for own, i, piece in zip(found, choices, choices.values(), strict=True):
        if encoded("It was___", [piece]) == [[i]]:
            assert own.log_prob == pytest.approx(float(law[i].log()), abs=1e-9)
            law[i] = 0
    assert 150 < (law == 0).sum() <= len(choices) + 1
    assert float(law.sum()) < 1


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_candidates_beside_a_candidate_change_nothing(batch_size):
    context, choices = "It ___ now", ["was", "was in the harbour", "x" * 30, "é"]
    found = score(model_of(), TOKENIZER, context, choices, batch_size=batch_size)
    for choice, own in zip(choices, found, strict=True):
        (alone,) = score(model_of(), TOKENIZER, context, [choice])
        assert own.fills == [choice] and own.log_prob == pytest.approx(alone.log_prob, abs=1e-9)
    assert score(model_of(), TOKENIZER, context, []) == []


# --- refusals ---


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"length": 0}, "length is 0; expected a number of tokens from 1 on"),
        ({"length": (3, 2)}, r"length is \(3, 2\)"),
        ({"length": (0, 2)}, r"length is \(0, 2\)"),
        ({"length": (1, 2, 3)}, r"length is \(1, 2, 3\)"),
        ({"length": 2.5}, "length is 2.5"),
        ({"length": True}, "length is True"),
        ({"length": "long"}, "length is 'long'.*or 'auto'"),
        ({"length": None}, "length is None"),
        ({"length": [1]}, "length has 1 entries for 2 blanks of a text"),
        ({"length": [1, 2, 3]}, "length has 3 entries for 2 blanks"),
        ({"evidence": "both"}, "evidence is 'both'; expected one of direct, importance"),
        ({"num_samples": 0}, "num_samples is 0 of 0 drawings; expected at least 1"),
        ({"num_samples": 3, "best_of": 2}, "num_samples is 3 of 2 drawings"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"blank": "?"}, "has no blank; mark one with \\?"),
        ({"blank": ""}, "blank is ''"),
        ({"spans": []}, "spans is empty"),
        ({"spans": [(3, 99)]}, r"span \(3, 99\)"),
        ({"seed": [1, 2]}, "seed holds 2 values; expected one int, or 1 of them"),
        ({"length": 1, "sampler": "magic"}, "sampler is 'magic'"),
        ({"length": 1, "sampler": "parallel"}, "needs steps"),
        ({"length": 1, "temperature": -1}, "temperature is -1"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_one_clear_line(options, named):
    with pytest.raises(ValueError, match=named) as refused:
        fill(SHIP, **options)
    assert "\n" not in str(refused.value)


def test_lists_that_do_not_fit_the_texts_are_refused():
    for options, named in [
        ({"length": [1, 2, 3]}, "length has 3 entries for 2 texts"),
        ({"length": [1, [2]]}, "length has 1 entries for 2 blanks"),
        ({"spans": [[(0, 1)]]}, "spans of 1 texts for 2 texts"),
        ({"seed": [1]}, "seed holds 1 values"),
    ]:
        with pytest.raises(ValueError, match=named):
            fill([SHIP, SHIP], **options)
    with pytest.raises(ValueError, match="'no blank' has no blank"):
        fill([SHIP, "no blank"], length=1)
    with pytest.raises(ValueError, match="no option lenght; its options are"):
        fill(SHIP, length=1, lenght=3)


@pytest.mark.parametrize(
    ("context", "candidates", "options", "named"),
    [
        ("no blank", ["a"], {}, "has no blank"),
        (SHIP, ["a"], {}, "1 fillings for 2 blanks"),
        ("a ___", [["a", "b"]], {}, "2 fillings for 1 blanks"),
        ("a ___", ["b", ""], {}, "the filling '' has no tokens"),
        ("a ___", ["b"], {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_fillings_that_cannot_be_scored_are_refused(context, candidates, options, named):
    with pytest.raises(ValueError, match=named):
        score(model_of(), TOKENIZER, context, candidates, **options)


# --- XLNet's pieces ---


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the vocabulary cannot write")
@pytest.mark.parametrize("whitespace_map", [False, True])
def test_xlnets_pieces_fill_blanks_too(whitespace_map):
    tokenizer = AutoTokenizer.from_pretrained(published("xlnet-base-cased"))
    model, text = model_of(32000), "def add(a, b):\n    ___\n\n___ is  a test"
    found = infill(
        model, tokenizer, text, length=(1, 3), num_samples=4, whitespace_map=whitespace_map
    )
    for own in found.candidates:
        pairs = zip(own.fills, found.parts[1:], strict=True)
        assert own.text == found.parts[0] + "".join(f.text + p for f, p in pairs)
        assert not any("<" in f.text and ">" in f.text for f in own.fills)
    (scored,) = score(model, tokenizer, "It ___ the harbour", ["was in"])
    assert scored.num_tokens == 2
    whole = tokenizer("It was in the harbour", add_special_tokens=False)["input_ids"]
    is_target = torch.tensor([False, True, True, *[False] * (len(whole) - 3)])
    expected = log_prob(model, torch.tensor([whole]), Order.from_mask(is_target)).sum()
    assert scored.log_prob == pytest.approx(float(expected))


def test_the_demo_fills_a_blank():
    model, tokenizer = load("demo")
    found = infill(model, tokenizer, "for i in range(___):", length=(1, 3), num_samples=2)
    assert found.candidates[0].text.startswith("for i in range(")
    good, bad = score(model, tokenizer, "for i ___ range(10):", ["in", "of"])
    assert good.log_prob > bad.log_prob + 1
