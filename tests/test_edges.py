"""Where gaps meet the text: what is drawn goes with it, and nothing of it is lost or added."""

from functools import cache

import pytest
import torch
from fakes import small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from published import published
from transformers import AutoTokenizer

from asarm import Order, log_prob
from asarm.codec import Codec
from asarm.corpus import held_out_documents
from asarm.infilling import infill, score
from asarm.infilling.template import Template
from asarm.infilling.token_healing import INDENTED, PARTIAL, Edge, part_of
from asarm.loading import load_tokenizer
from asarm.text import decode, encode

TOKENIZER = load_tokenizer("demo")
CODEC = Codec.of(TOKENIZER)
PIECES = [decode(TOKENIZER, [i]) for i in range(len(TOKENIZER))]
CODE = "".join(document.text for document in held_out_documents("code"))[:60_000]

# whitespace of all kinds beside words, marks and what ends in the middle of a piece
SNIPPETS = [" ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "\xa0", "\u2003", "\u2028", "\x1c"]
SNIPPETS += ["x", "é", ":", "):\n", ")\n", ".\n\n", " x", "\n    x"]
texts = st.lists(st.sampled_from(SNIPPETS), max_size=4).map("".join)
some = texts.filter(bool)


@st.composite
def problems(draw):
    """The text before a gap, what fills it, and the text after it."""
    return draw(texts), draw(some), draw(texts)


@cache
def model():
    return small_model(vocab_size=8192, d_model=16, n_head=2, d_inner=32)


# --- what a part gives to the gaps beside it ---


@given(texts, st.one_of(st.none(), texts), st.booleans())
def test_a_part_spells_its_text_with_what_it_shares(text, before, is_last):
    """What the gaps have of it stands at its ends, and is whitespace or a piece that begins so."""
    part = part_of(CODEC, text, before=before, is_last=is_last)
    own = decode(TOKENIZER, part.ids[part.end.is_extra :])
    assert part.end.shared + own + part.start.shared == part.text == text
    assert part.end.shared in ("", *PIECES) or "\n" + part.end.shared in PIECES
    assert part.start.shared in ("", *PIECES)
    if before is None:
        assert part.end == Edge(CODEC.fillable)
    if is_last:
        assert part.start == Edge(CODEC.fillable)


@pytest.mark.slow
@given(problems())
def test_edges_ask_for_what_is_shared_and_for_nothing_special(problem):
    before, _, after = problem
    ((start, end),) = Template.of(CODEC, [before, after]).edges()
    for edge, is_at in ((start, str.startswith), (end, str.endswith)):
        assert edge.pieces.any() and not (edge.pieces & ~CODEC.fillable).any()
        assert all(is_at(PIECES[i], edge.shared) for i in edge.pieces.nonzero()[:, 0])
        if edge is start and INDENTED.search(before) and not edge.shared:
            assert not any(PIECES[i][0] in " \t" for i in edge.pieces.nonzero()[:, 0])
        elif not edge.shared and not edge.is_extra:
            assert torch.equal(edge.pieces, CODEC.fillable)
    assert not start.is_extra
    is_lines = before.endswith("\n") and after[:1] not in ("", "\n", "\r")
    assert end.is_extra == (is_lines or end.shared != "")  # else it would be a piece of nothing
    if is_lines:
        assert end.is_extra
        assert all("\n" in PIECES[i] for i in end.pieces.nonzero()[:, 0])


@pytest.mark.parametrize("before", ["left", "a (", "é", "x_", ""])
@pytest.mark.parametrize("after", ["y", " y", "\ty", ""])  # the tokenizer has no piece "\n\t"
def test_text_without_a_piece_across_the_edge_shares_nothing(before, after):
    template = Template.of(CODEC, [before, after])
    ((start, end),) = template.edges()
    assert template.parts[1].ids == encode(TOKENIZER, after)
    assert (start.shared, end.shared, end.is_extra) == ("", "", False)
    assert torch.equal(start.pieces, CODEC.fillable) and torch.equal(end.pieces, CODEC.fillable)


def test_a_piece_that_is_a_part_of_a_character_stays_with_its_text():
    """Such a piece is no text by itself: what is drawn could make another character of it."""
    spaces = [space for space in map(chr, range(128, 0x3001)) if space.isspace()]
    cut = [s for s in spaces if PARTIAL in PIECES[encode(TOKENIZER, "a" + s)[-1]]]
    assert cut, "the tokenizer has a piece for every space: look for other characters"
    for space in cut:
        part = part_of(CODEC, "a" + space, before=None, is_last=False)
        assert part.start == Edge(CODEC.fillable)
        assert part.ids == encode(TOKENIZER, "a" + space)


# --- what is drawn ---


@settings(max_examples=150)
@given(problems(), st.integers(1, 4), st.integers(0, 2**32))
def test_what_is_drawn_goes_with_the_text_beside_it(problem, length, seed):
    before, _, after = problem
    template = Template.of(CODEC, [before, after])
    (size,) = template.sizes([length])
    _, allowed = template.with_gaps([size])
    generator = torch.Generator().manual_seed(seed)
    tables = torch.stack([*allowed.values()]).double()
    pieces = torch.multinomial(tables, 1, generator=generator)[:, 0].tolist()
    ((start, end),) = template.edges()
    assert PIECES[pieces[0]].startswith(start.shared)
    assert PIECES[pieces[-1]].endswith(end.shared)
    text, (fill,) = template.filled([pieces])
    assert text == before + fill + after
    if before.endswith("\n") and after[:1] not in ("", "\n", "\r"):
        assert (before + fill).endswith("\r\n" if before.endswith("\r\n") else "\n")  # lines


def drawable(before, fill, after):
    """Whether a filling can be drawn, and the whole text has the pieces that it has uncut."""
    template = Template.of(CODEC, [before, after])
    (pieces,) = template.encode_fills([fill])
    ids, allowed = template.with_gaps([len(pieces)])
    (place,) = template.places([len(pieces)])
    ids[place] = pieces
    fits = all(table[i] for table, i in zip(allowed.values(), pieces, strict=True))
    assert template.sizes(template.lengths([fill])) == [len(pieces)]
    return fits and ids == encode(TOKENIZER, before + fill + after)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("after", ["{}Last.{}", "Last.{}", "    last{}", "{}", "{}{}Last."])
def test_lines_end_once_whatever_ends_them(end, after):
    """The line end behind a blank is the filling's own or the text's, but not both."""
    before, after = f"First.{end}", after.replace("{}", end)
    own_end = "" if after.startswith(end) else end
    assert drawable(before, "Middle." + own_end, after)
    found = infill(model(), TOKENIZER, f"{before}___{after}", length=3, num_samples=12, seed=1)
    fills = [candidate.fills[0].text for candidate in found.candidates]
    assert all(fill.endswith(own_end) for fill in fills)
    if not own_end:
        assert not all(fill.endswith(("\n", "\r")) for fill in fills)


@pytest.mark.slow_but_one
@pytest.mark.parametrize("indent", ["    ", "\t", "  ", "\t\t", " " * 11])
@pytest.mark.parametrize("before", ["if x:\n", "", "a\r\n", "x = 1\n\n"])
def test_indentation_that_is_given_is_not_extended(before, indent):
    text = f"{before}{indent}___\n{indent}y = 1\n"
    for options in ({}, {"temperature": 5.0}, {"top_k": 1}):
        found = infill(model(), TOKENIZER, text, length=2, num_samples=20, best_of=20, **options)
        for candidate in found.candidates:
            assert candidate.fills[0].text[:1] not in (" ", "\t")
    assert drawable("if x:\n", "    return\n", "y")  # a line end alone is


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f(x):\n", "    return x\n"),
        ("def f(x):\n    ", "\n    return x\n"),
        ("One.\n", "Three.\n"),
        ("One.\n\n", "Three.\n"),
        ("The ship ", " the harbour"),
    ],
)
def test_infill_draws_whole_lines_and_words(before, after):
    found = infill(model(), TOKENIZER, f"{before}___{after}", length=4, num_samples=8, seed=3)
    ((start, end),) = Template.of(CODEC, [before, after], closed=True).edges()
    assert len(found.candidates) == 8
    for candidate in found.candidates:
        (own,) = candidate.fills
        assert candidate.text == before + own.text + after
        assert own.length == 4 and len(own.tokens) == 4 + end.is_extra
        assert PIECES[own.tokens[0]].startswith(start.shared)
        assert PIECES[own.tokens[-1]].endswith(end.shared)
        if before.endswith("\n"):
            assert own.text.endswith("\n")


# --- given fillings ---


@settings(max_examples=300)
@given(problems())
def test_every_filling_can_be_scored(problem):
    """Even one that a drawing would not give, such as a part of a line where lines are asked."""
    before, fill, after = problem
    template = Template.of(CODEC, [before, after])
    (pieces,) = template.encode_fills([fill])
    sizes = [len(pieces)]
    ids, _ = template.with_gaps(sizes)
    (place,) = template.places(sizes)
    ids[place] = pieces
    assert decode(TOKENIZER, ids) == before + fill + after
    assert template.filled([pieces]) == (before + fill + after, [fill])


@pytest.mark.parametrize(
    ("context", "fill"),
    [
        (".\n\n___ x  ", "  "),  # one piece, and neither of the two that the edges ask for
        ("   \t):\n___ \n", " "),
        ("x:\n___    y", "    if x:\n"),
        ("x:\n___    y", "a"),
        ("a ___\n", "b"),
    ],
)
def test_scores_are_those_of_the_pieces_where_they_stand(context, fill):
    before, after = context.split("___")
    template = Template.of(CODEC, [before, after])
    (pieces,) = template.encode_fills([fill])
    ((_, end),) = template.edges()
    first, last = template.parts
    whole = [*first.ids, *pieces, *last.ids[end.is_extra :]]
    is_target = torch.zeros(len(whole), dtype=torch.bool)
    is_target[len(first.ids) : len(first.ids) + len(pieces)] = True
    expected = log_prob(model(), torch.tensor([whole]), Order.from_mask(is_target)).sum()
    (found,) = score(model(), TOKENIZER, context, [fill])
    assert found.log_prob == pytest.approx(float(expected), abs=1e-9)
    assert found.num_tokens == len(pieces)


@settings(max_examples=100)
@given(st.integers(0, len(CODE) - 200), st.integers(1, 60), st.booleans())
def test_real_code_has_its_own_pieces_where_none_is_written_across_an_edge(start, size, of_lines):
    """A line of code or any other stretch of it that begins and ends with a blank or a line."""
    starts = "\n" if of_lines else " \n"
    begin = next(i for i in range(start, len(CODE)) if CODE[i] in starts) + 1
    end = next(i for i in range(begin + size, len(CODE)) if CODE[i] in starts) + of_lines
    before, fill, after = CODE[max(0, begin - 99) : begin], CODE[begin:end], CODE[end : end + 99]
    template = Template.of(CODEC, [before, after])
    ((first, last),) = template.edges()
    (pieces,) = template.encode_fills([fill])
    head, tail = template.parts[0].ids, template.parts[1].ids[last.is_extra :]
    whole = before + fill + after
    offsets = TOKENIZER(whole, return_offsets_mapping=True)["offset_mapping"]
    bounds = {first for first, _ in offsets} | {len(whole)}
    ends = {len(before) - len(first.shared), len(before + fill) + len(last.shared)}
    assert ([*head, *pieces, *tail] == encode(TOKENIZER, whole)) == (ends <= bounds)


# --- pieces with word marks ---


@pytest.mark.parametrize("whitespace_map", [False, True])
def test_word_marks_share_nothing_and_ask_for_a_word_behind_a_blank(whitespace_map):
    tokenizer = AutoTokenizer.from_pretrained(published("xlnet-base-cased"))
    codec = Codec.of(tokenizer, whitespace_map)
    for before, after in [("a ", " b"), ("a", "b"), ("x:\n    ", "\n    y"), ("x:\n", "  y")]:
        template = Template.of(codec, [before, after])
        ((start, end),) = template.edges()
        asks_word = codec.needs_word(before)
        assert torch.equal(start.pieces, codec.begins_word if asks_word else codec.fillable)
        assert torch.equal(end.pieces, codec.fillable)
        assert (start.shared, end.shared, start.is_extra, end.is_extra) == ("", "", False, False)
        assert template.sizes([3]) == [3]
        assert template.parts[0].ids == codec.encode_before(before)
        assert template.parts[1].ids == codec.encode_after(after, before=before)
    assert codec.needs_word("a ") and not codec.needs_word("a")
    middle = part_of(codec, " b ", before="a ", is_last=False)
    assert middle.ids == codec.encode_between(" b ", before="a ")


def test_edges_are_the_same_whatever_stands_at_the_other_end():
    """Each end of a gap is settled by the text there and the one before the gap."""
    template = Template.of(CODEC, ["x:\n    ", "\n    y = ", " + 1\n", ""])
    for g in range(template.num_gaps):
        alone = Template.of(CODEC, template.texts[g : g + 2])
        pairs = zip(template.edges()[g], alone.edges()[0], strict=True)
        for edge, own in pairs:
            assert (edge.shared, edge.is_extra) == (own.shared, own.is_extra)
            assert torch.equal(edge.pieces, own.pieces)
