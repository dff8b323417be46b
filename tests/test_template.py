"""Texts with blanks: the text outside comes back, and ids and characters tell the same story."""

import gzip
import json
import re
from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from published import published
from transformers import AutoTokenizer

from asarm.codec import Codec
from asarm.corpus import held_out_documents
from asarm.infilling.template import Template, collate, cut_out, has_blank, split_at_marker
from asarm.infilling.token_healing import Edge, Part
from asarm.loading import load_tokenizer
from asarm.text import decode, encode

DEMO = Codec(load_tokenizer("demo"))
SNIPPETS = [
    " ",
    "  ",
    "\n",
    "\n    ",
    "\t",
    "\u3000",
    "<mask>",
    "</s>",
    "<unk>",
    "é",
    "\u0301",
    "😀",
    "x",
]
texts = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(SNIPPETS)), max_size=6)
texts = texts.map("".join)
some = texts.filter(bool)


@st.composite
def parts_and_fills(draw, part=some, end=texts, fill=some):
    """What stands around one to three gaps, and what fills them."""
    gaps = draw(st.integers(1, 3))
    parts = [draw(end), *(draw(part) for _ in range(gaps - 1)), draw(end)]
    return parts, [draw(fill) for _ in range(gaps)]


def joined(parts, fills):
    return parts[0] + "".join(f + p for f, p in zip(fills, parts[1:], strict=True))


def all_ids(template, fills):
    """The ids of the whole text, from the pieces of its gaps."""
    sizes = [*map(len, fills)]
    ids, _ = template.with_gaps(sizes)
    for place, fill in zip(template.places(sizes), fills, strict=True):
        ids[place] = fill
    return ids


def draw(template, lengths, seed, weights):
    """Pieces for the gaps, of those that may stand there."""
    sizes, generator = template.sizes(lengths), torch.Generator().manual_seed(seed)
    tables = torch.stack([*template.with_gaps(sizes)[1].values()])
    drawn = torch.multinomial((tables & weights).double(), 1, generator=generator)[:, 0]
    return [fill.tolist() for fill in drawn.split(sizes)]


@cache
def xlnet(whitespace_map: bool) -> Codec:
    tokenizer = AutoTokenizer.from_pretrained(published("xlnet-base-cased"))
    return Codec(tokenizer, whitespace_map=whitespace_map)


# --- where the gaps are ---

plain = st.text("ab \n\u00e9.<>", max_size=6).filter(lambda text: text.count("\n") < 2)


@given(st.lists(plain, min_size=1, max_size=3), plain, plain, st.sampled_from(["___", "[?]", "$"]))
def test_markers_are_cut_out(between, first, last, blank):
    assume(all(between))
    parts = [first, *between, last]
    assert split_at_marker(blank.join(parts), blank) == parts


@given(st.lists(st.tuples(plain, st.booleans()), min_size=1, max_size=5), plain)
def test_a_backslash_makes_a_marker_plain_text(pieces, last):
    """Each piece is followed by a marker, escaped or not."""
    written, parts = "", [""]
    for piece, is_escaped in pieces:
        written += piece + ("\\___" if is_escaped else "___")
        parts[-1] += piece + ("___" if is_escaped else "")
        if not is_escaped:
            parts.append("")
    written, parts[-1] = written + last, parts[-1] + last
    assume(len(parts) > 1 and all(parts[1:-1]) and "______" not in written)
    assert split_at_marker(written, "___") == parts


@given(st.lists(st.text("a_", max_size=9), min_size=1, max_size=4))
def test_a_part_of_a_longer_run_is_no_marker(words):
    text = " ".join(words)
    runs = [run.span() for run in re.finditer("_+", text) if len(run[0]) == 3]
    assert has_blank(text, "___") == (runs != [])
    if runs:
        assert split_at_marker(text, "___") == cut_out(text, runs)


@given(parts_and_fills())
def test_spans_give_the_same_parts_as_markers(problem):
    parts, fills = problem
    text, spans = parts[0], []
    for fill, part in zip(fills, parts[1:], strict=True):
        spans.append((len(text), len(text) + len(fill)))
        text += fill + part
    assert cut_out(text, spans) == parts
    assert cut_out(text, spans[::-1]) == parts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("___", ["", ""]),
        ("___ a", ["", " a"]),
        ("a ___", ["a ", ""]),
        ("a___b", ["a", "b"]),
        ("___ ___", ["", " ", ""]),
        (r"a\b ___", ["a\\b ", ""]),
        (r"\\___ ___", ["\\___ ", ""]),
        ("____init____(___)", ["____init____(", ")"]),
        ("______\n___", ["______\n", ""]),
        (r"x\___y\___ ___", ["x___y___ ", ""]),
        ("Head\n\n___\n\nText.", ["Head\n\n", "\n\nText."]),  # alone, it can be but a blank
        ("___\n\n___", ["", "\n\n", ""]),
        ("x\n___\ny ___", ["x\n", "\ny ", ""]),
    ],
)
def test_edges(text, parts):
    assert split_at_marker(text, "___") == parts


@pytest.mark.parametrize(
    ("text", "blank", "named"),
    [
        ("no blank", "___", "the text 'no blank' has no blank; mark one with ___"),
        (r"only \___ here", "___", "has no blank"),
        ("a" * 90, "?", "'a{37}...' has no blank"),
        ("a [?][?] b", "[?]", r"two blanks of 'a \[\?\]\[\?\] b' touch; make them one"),
        ("a ______ b", "___", "mark one with ___, which no other _ touches"),
        ("____", "___", "mark one with ___, which no other _ touches"),
        ("def ____init____(self):", "___", "mark one with ___, which no other _ touches"),
        (r"In C:\data\___ is a ___.", "___", r"'.*data.*' has .*, which is a path and a blank or"),
        (r"C:\___", "___", "a path and a blank or a plain ___; mark blanks otherwise"),
        (r'open("C:\\data\\___")', "___", "such as blank='\\[\\?\\]', or give spans"),
        (r"\\server\___ or [?] ___", "___", "a path and a blank"),
        ("# Head\n\n___\n\nThe ___ ship", "___", "a Markdown rule or a blank, and ___ elsewhere"),
        ("A ___\r\n\r\n___\r\n", "___", r"write \\___ for a rule, or mark blanks otherwise"),
        ("---\n\nx --- y", "---", "a Markdown rule"),
        ("text", "", "blank is ''; expected the text that marks a blank"),
    ],
)
def test_texts_without_blanks_of_their_own_are_refused(text, blank, named):
    with pytest.raises(ValueError, match=named) as refused:
        split_at_marker(text, blank)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spans", "named"),
    [
        ([], "spans is empty"),
        ([(2, 2)], r"span \(2, 2\) is empty or outside the text of 6 characters"),
        ([(3, 1)], r"span \(3, 1\) is empty"),
        ([(-1, 2)], r"span \(-1, 2\)"),
        ([(4, 7)], r"span \(4, 7\)"),
        ([(0, 3), (2, 4)], "the spans of 'abcdef' overlap at character 2"),
        ([(0, 3), (3, 4)], "two blanks of 'abcdef' touch"),
    ],
)
def test_spans_that_are_none_are_refused(spans, named):
    with pytest.raises(ValueError, match=named):
        cut_out("abcdef", spans)


# --- byte-level pieces: everything is exact ---


@settings(max_examples=150)
@given(parts_and_fills())
def test_given_fillings_come_back_and_the_ids_spell_the_whole_text(problem):
    parts, fills = problem
    template = Template.of(DEMO, parts)
    found = template.encode_fills(fills)
    ids = all_ids(template, found)
    assert template.filled(found) == (joined(parts, fills), fills)
    assert decode(DEMO.tokenizer, ids) == joined(parts, fills)
    assert not set(ids) & set(DEMO.tokenizer.all_special_ids)
    assert all(length >= 1 for length in template.lengths(fills))


pieces = [DEMO.decode([i]) for i in range(len(DEMO.tokenizer))]
WHOLE = torch.tensor(["\ufffd" not in piece for piece in pieces])  # others are parts of characters


@pytest.mark.slow
@settings(max_examples=150)
@given(parts_and_fills(), st.integers(0, 2**32), st.lists(st.integers(1, 4), min_size=3))
def test_whatever_is_drawn_the_text_outside_comes_back(problem, seed, lengths):
    parts, _ = problem
    template = Template.of(DEMO, parts)
    fills = draw(template, lengths[: template.num_gaps], seed, WHOLE)
    text, found = template.filled(fills)
    assert text == joined(parts, found)
    assert decode(DEMO.tokenizer, all_ids(template, fills)) == text


def test_a_line_end_in_front_of_a_single_blank_keeps_it():
    """Whether the blank between two gaps is written with the second must not hang on the first."""
    template = Template.of(DEMO, ["a ", " ", " b."])
    for fills in (["x\n", "y"], ["x", "y"], ["x ", "\n"]):
        ids = template.encode_fills(fills)
        text = joined(template.texts, fills)
        assert template.filled(ids) == (text, fills)
        assert decode(DEMO.tokenizer, all_ids(template, ids)) == text


def test_positions_and_what_they_may_hold():
    anything, first, last = DEMO.fillable, DEMO.begins_word, ~DEMO.begins_word
    plain = Edge(anything)
    parts = [
        Part("a ", [10, 11], plain, Edge(first, " ")),
        Part("\nb", [12, 13], Edge(last, "\n", is_extra=True), plain),
        Part("", [], plain, plain),
    ]
    template = Template(DEMO, parts)
    assert template.num_gaps == 2 and template.texts == ["a ", "\nb", ""]
    assert template.sizes([2, 1]) == [3, 1]
    ids, allowed = template.with_gaps([3, 1])
    assert ids == [10, 11, 0, 0, 0, 13, 0]  # piece 12 is the gap's
    assert template.places([3, 1]) == [slice(2, 5), slice(6, 7)]
    for position, table in zip([2, 3, 4, 6], [first, anything, last, anything], strict=True):
        assert torch.equal(allowed[position], table)
    alone = template.with_gaps([1, 1])[1][2]  # of a given filling: `sizes` gives no such gap
    assert torch.equal(alone, first)


def test_rows_of_different_lengths_are_one_batch():
    template = Template.of(DEMO, ["a ", "\nb ", ""])
    rows = [template.with_gaps(sizes) for sizes in ([3, 1], [5, 2])]
    ids, allowed, order = collate(rows)
    assert order.length.tolist() == [len(row[0]) for row in rows]
    for b, (own, tables) in enumerate(rows):
        assert ids[b, : len(own)].tolist() == own
        assert order.is_target[b].nonzero()[:, 0].tolist() == [*tables]
        for position, table in tables.items():
            assert torch.equal(allowed.at(torch.tensor([[position]] * 2))[b, 0], table)
    assert allowed.tables[0].all()


CODE = "".join(document.text for document in held_out_documents("code"))[:60_000]
PROSE = "".join(document.text for document in held_out_documents("prose"))[:60_000]


def cut_at(text, starts, ends):
    """A text's parts and the span between a start and a later end, at many places."""
    for start in starts:
        end = next((e for e in ends if e >= start + 3), None)
        if end is not None:
            yield [text[max(0, start - 80) : start], text[end : end + 80]], text[start:end]


def marks(pattern, text, *, at_end):
    found = re.finditer(pattern, text)
    return [match.end() if at_end else match.start() for match in found]


@pytest.mark.parametrize("what", ["words", "lines", "rest of a line"])
def test_real_text_has_the_pieces_that_it_has_uncut(what):
    """Words of prose; whole lines of code, their indentation given; and what is left of a line."""
    if what == "words":
        spans = cut_at(PROSE, *(marks(r"(?<=\w) (?=\w)", PROSE, at_end=e) for e in (True, False)))
    elif what == "lines":
        lines = marks(r"\n *(?=\w)", CODE, at_end=True)
        spans = cut_at(CODE, lines, marks(r"\n", CODE, at_end=False))
    else:
        starts = marks(r"(?<=\w) = (?=\w)", CODE, at_end=True)
        spans = cut_at(CODE, starts, marks(r"\n", CODE, at_end=False))
    same, spans = 0, [span for _, span in zip(range(400), spans, strict=False)]
    for parts, fill in spans:
        template = Template.of(DEMO, parts)
        pieces = template.encode_fills([fill])
        ids, allowed = template.with_gaps([len(pieces[0])])
        is_drawable = all(table[i] for table, i in zip(allowed.values(), pieces[0], strict=True))
        same += (
            all_ids(template, pieces) == encode(DEMO.tokenizer, fill.join(parts)) and is_drawable
        )
    assert len(spans) > 100
    assert same >= 0.97 * len(spans)


@pytest.mark.parametrize("texts", [["", " a"], ["a ", ""], ["", ""], ["a ", " b"], ["a\n", ""]])
def test_a_closed_text_has_document_ends_where_a_gap_is_at_its_edge(texts):
    end = [DEMO.tokenizer.eos_token_id]
    opened, closed = Template.of(DEMO, texts), Template.of(DEMO, texts, closed=True)
    for plain, part in zip(opened.parts, closed.parts, strict=True):
        assert part.ids == (plain.ids if part.text else end)
        assert part.text or plain.ids == []
    for plain, own in zip(opened.edges(), closed.edges(), strict=True):
        for one, other in zip(plain, own, strict=True):
            assert (one.shared, one.is_extra) == (other.shared, other.is_extra)


@pytest.mark.parametrize(
    ("fills", "named"),
    [
        (["a"], "1 fillings for 2 blanks; expected one each"),
        (["a", "b", "c"], "3 fillings for 2 blanks"),
        (["a", ""], "the filling '' has no tokens; expected some text"),
    ],
)
def test_fillings_that_do_not_fit_are_refused(fills, named):
    with pytest.raises(ValueError, match=named):
        Template.of(DEMO, ["x ", " y ", "z"]).encode_fills(fills)


@pytest.mark.slow_but_one
@pytest.mark.parametrize(
    ("texts", "start", "end", "is_extra"),
    [
        (["left ", " at"], " ", "", False),
        (["(", ")"], "", "", False),
        (["x\n", "\ny"], "\n", "\n", True),
        (["x:\n", "\ny"], ":\n", "\n", True),
        (["x\n    ", "\n    y"], "", "\n    ", True),  # indentation that is given is not extended
        (["\t", "\ny"], "", "\n", True),
        (["x\n", "    y"], "\n", "    ", True),  # whole lines: one ends before the indentation
        (["x\n", "y"], "\n", "", True),
        (["x = ", "    y"], " ", "    ", True),  # an indentation: a line end may stand before it
        (["x\u3000", "y"], "", "", False),  # its last piece is a part of a character
        (["", ""], "", "", False),
    ],
)
def test_edges_take_in_the_texts_own_pieces(texts, start, end, is_extra):
    ((first, last),) = Template.of(DEMO, texts).edges()
    assert (first.shared, last.shared, last.is_extra) == (start, end, is_extra)
    special = torch.tensor(DEMO.tokenizer.all_special_ids)
    assert not first.pieces[special].any() and not last.pieces[special].any()
    assert all(pieces[i].startswith(start) for i in first.pieces.nonzero()[:, 0])
    ending = "\n" + end if texts[0].endswith("\n") and not texts[1].startswith("\n") else end
    if is_extra:
        assert all(pieces[i].endswith(ending) for i in last.pieces.nonzero()[:, 0])


# --- XLNet's pieces ---

words = st.text("abcdefgh", min_size=1, max_size=6)
phrases = st.lists(words, min_size=1, max_size=3).map(" ".join)
between = st.one_of(
    st.just(" "), st.builds(lambda p, a, b: a + p + b, phrases, *[st.sampled_from(["", " "])] * 2)
)


@st.composite
def prose(draw):
    """Words with single blanks around one to three gaps; at the text's ends there is none."""
    gaps = draw(st.integers(1, 3))
    first = draw(st.one_of(st.just(""), phrases, phrases.map(lambda p: p + " ")))
    last = draw(st.one_of(st.just(""), phrases, phrases.map(lambda p: " " + p)))
    return [first, *(draw(between) for _ in range(gaps - 1)), last]


def spelled(codec, ids):
    """The text that XLNet's pieces spell, its first word mark being no blank."""
    pieces = codec.tokenizer.convert_ids_to_tokens(ids)
    return "".join(pieces).replace("▁", " ").removeprefix(" ")


@pytest.mark.slow
@settings(max_examples=100)
@given(prose(), st.integers(0, 2**32), st.lists(st.integers(1, 3), min_size=3))
def test_no_blank_is_lost_or_added_beside_what_is_drawn(parts, seed, lengths):
    codec = xlnet(False)
    template = Template.of(codec, parts)
    fills = draw(template, lengths[: template.num_gaps], seed, codec.fillable)
    text, found = template.filled(fills)
    assert text == joined(parts, found)
    assert spelled(codec, all_ids(template, fills)) == text


@settings(max_examples=100)
@given(prose(), st.lists(phrases, min_size=3, max_size=3))
def test_given_words_come_back_in_xlnets_pieces(parts, fills):
    codec = xlnet(False)
    template = Template.of(codec, parts)
    fills = fills[: template.num_gaps]
    ids = template.encode_fills(fills)
    assert template.filled(ids) == (joined(parts, fills), fills)
    assert spelled(codec, all_ids(template, ids)) == joined(parts, fills)


@pytest.mark.slow_but_one
@pytest.mark.parametrize("whitespace_map", [False, True])
def test_special_names_in_a_text_are_plain_characters(whitespace_map):
    codec = xlnet(whitespace_map)
    template = Template.of(codec, ["the <mask> and </s> of ", " <cls> "], closed=True)
    ids = [i for part in template.parts for i in part.ids]
    ids += template.encode_fills(["<sep> <pad><eod>"])[0]
    assert not set(ids) & set(codec.tokenizer.all_special_ids)


def test_lines_of_code_come_back_through_the_whitespace_map():
    codec = xlnet(True)
    with gzip.open(
        published("HumanEval-SingleLineInfilling.jsonl.gz"), "rt", encoding="utf-8"
    ) as file:
        tasks = [json.loads(line) for line in file][::40]
    same = 0
    for task in tasks:
        parts, fill = [task["prompt"], task["suffix"]], task["canonical_solution"]
        template = Template.of(codec, parts, closed=True)
        (ids,) = template.encode_fills([fill])
        text, (found,) = template.filled([ids])
        assert text == parts[0] + found + parts[1]
        allowed = template.with_gaps([len(ids)])[1]
        assert all(table[i] for table, i in zip(allowed.values(), ids, strict=True))
        same += found.strip() == fill.strip()
    assert same >= 0.9 * len(tasks)
