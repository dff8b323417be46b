"""The codec: parts of a text come back exactly, and their ids are those of the whole text."""

import ast
import gzip
import json
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from published import published
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from asarm.codec import Codec
from asarm.loading import load_tokenizer
from asarm.text import decode, encode, encode_documents

DEMO = Codec(load_tokenizer("demo"))
MAPPED = Codec(DEMO.tokenizer, whitespace_map=True)
SPECIAL = ["<mask>", "</s>", "<unk>", "<cls>", "<sep>"]

snippets = st.sampled_from(
    [
        *SPECIAL,
        "\n",
        "\n    ",
        "):\n    ",
        "\t",
        "  ",
        " ",
        "\r\n",
        "é",
        "\u0301",
        "😀",
        "\x00",
        "a",
    ]
)
texts = st.lists(st.one_of(st.text(max_size=8), snippets), max_size=12).map("".join)
blanks = st.text(" \t\n", max_size=5)


@cache
def xlnet(whitespace_map: bool) -> Codec:
    return Codec(
        AutoTokenizer.from_pretrained(published("xlnet-base-cased")), whitespace_map=whitespace_map
    )


@cache
def human_eval(name: str) -> list[dict]:
    with gzip.open(published(f"HumanEval-{name}.jsonl.gz"), "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def tree(program: str) -> str | None:
    try:
        return ast.dump(ast.parse(program))
    except SyntaxError:
        return None


@pytest.mark.slow
@settings(max_examples=250)
@given(texts, texts)
def test_every_text_comes_back_behind_every_other(text, before):
    ids = DEMO.encode(text, after=before)
    assert DEMO.decode(ids, after=before) == text
    assert decode(DEMO.tokenizer, DEMO.encode_before(before) + ids) == before + text
    assert decode(DEMO.tokenizer, DEMO.encode_after(text, before=before)) == text
    assert DEMO.fillable[ids].all()


@pytest.mark.slow
@settings(max_examples=250)
@given(texts, blanks, st.text("abcé", min_size=1, max_size=6), texts)
def test_the_parts_have_the_ids_of_the_whole_where_a_word_begins(before, space, word, rest):
    before = before + space
    assume(not before or before[-1].isspace())
    parts = DEMO.encode_before(before) + DEMO.encode(word + rest, after=before)
    assert parts == encode(DEMO.tokenizer, before + word + rest)


@settings(max_examples=150)
@given(texts, texts)
def test_text_between_blanks_leaves_out_what_the_next_fill_has(text, fill):
    ids = DEMO.encode_between(text, before="left ") + DEMO.encode(fill, after=text)
    assert decode(DEMO.tokenizer, ids) == text + fill


def test_the_demo_needs_a_word_where_its_tokenizer_would_carry_the_blank():
    carried = ["left ", " ", "a  ", "a\t ", "x = ", "\n\r ", "1 "]
    assert [b for b in carried if not DEMO.needs_word(b)] == []
    alone = ["", "left", "a\n", "a:\n    ", "\n ", "a \n ", "a\t", "(", "a\u00a0"]
    assert [b for b in alone if DEMO.needs_word(b)] == []


def test_the_first_piece_carries_the_blank():
    assert DEMO.encode("by sea", after="left ") == encode(DEMO.tokenizer, " by sea")
    assert DEMO.encode_before("left ") == encode(DEMO.tokenizer, "left")
    assert DEMO.encode("return", after="a:\n    ") == encode(DEMO.tokenizer, "return")
    assert DEMO.decode(encode(DEMO.tokenizer, "sea"), after="left ") == "sea"  # no blank to drop
    assert DEMO.decode(encode(DEMO.tokenizer, " sea"), after="left") == " sea"


@settings(max_examples=150)
@given(texts, st.data())
def test_a_fill_of_whole_words_adds_no_blank_of_its_own(before, data):
    before += " "
    assume(DEMO.needs_word(before))
    pieces = DEMO.begins_word.nonzero()[:, 0].tolist()
    ids = data.draw(st.lists(st.sampled_from(pieces), min_size=1, max_size=3))
    whole = decode(DEMO.tokenizer, DEMO.encode_before(before) + ids)
    assert before + DEMO.decode(ids, after=before) == whole


def test_masks_tell_special_pieces_and_pieces_that_begin_with_a_blank():
    assert len(DEMO.fillable) == len(DEMO.begins_word) == len(DEMO.tokenizer)
    special = (~DEMO.fillable).nonzero()[:, 0].tolist()
    assert special == sorted(DEMO.tokenizer.all_special_ids)
    pieces = [decode(DEMO.tokenizer, [i]) for i in range(len(DEMO.tokenizer))]
    assert DEMO.begins_word.tolist() == [piece.startswith(" ") for piece in pieces]


@settings(max_examples=150)
@given(texts, texts)
def test_a_whitespace_map_is_exact_on_byte_level_pieces_too(text, before):
    codec = MAPPED
    ids = codec.encode(text, after=before)
    assert codec.decode(ids, after=before) == text
    assert codec.decode(codec.encode_before(before) + ids) == before + text
    *whole, _end = encode_documents(DEMO.tokenizer, [text], whitespace_map=True)[0]
    assert codec.encode(text) == whole


def test_a_codec_refuses_what_it_cannot_read():
    tokenizer = load_tokenizer("demo")
    tokenizer.sep_token = None
    Codec(tokenizer)
    with pytest.raises(ValueError, match="sep_token"):
        Codec(tokenizer, whitespace_map=True)
    backend = Tokenizer(models.WordPiece({"a": 0}, unk_token="a"))
    backend.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match="ByteLevel or Metaspace") as refused:
        Codec(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert "\n" not in str(refused.value)


@cache
def ordinary_pieces() -> list[str]:
    """What XLNet's pieces write, blanks for word marks, but the special ones."""
    codec = xlnet(False)
    ids = codec.fillable.nonzero()[:, 0].tolist()
    return [p.replace("▁", " ") for p in codec.tokenizer.convert_ids_to_tokens(ids)]


@st.composite
def writable(draw, *spaces: str) -> str:
    """Words of XLNet's own pieces with one of `spaces`, or nothing, between two."""
    numbers = draw(st.lists(st.integers(0, len(ordinary_pieces()) - 1), max_size=6))
    words = [word for n in numbers if (word := "".join(ordinary_pieces()[n].split()))]
    text = words[0] if words else ""
    for word in words[1:]:
        text += draw(st.sampled_from(["", " ", *spaces])) + word
    assume(xlnet(False).tokenizer.backend_tokenizer.normalizer.normalize_str(text) == text)
    return text


@pytest.mark.slow
@settings(max_examples=150)
@given(st.data())
def test_xlnet_gives_back_what_its_vocabulary_can_write(data):
    codec = xlnet(False)
    before, text = data.draw(writable()) + "x", data.draw(writable())
    before, text = data.draw(
        st.sampled_from([(before, text), (before, " " + text), (before + " ", text)])
    )
    assert codec.decode(codec.encode(text, after=before), after=before) == text
    if text.strip() and (before.endswith(" ") or text.startswith(" ")):
        parts = codec.encode_before(before) + codec.encode(text, after=before)
        assert parts == encode(codec.tokenizer, before + text)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.data(), blanks, blanks, blanks)
def test_mapped_whitespace_comes_back_and_at_the_edges_all_of_it(data, space, first, last):
    codec, spaces = xlnet(True), ("\n", "\t", "  ", "\n    ", "\n\n")
    before, text = data.draw(writable(*spaces)) + "x" + space, data.draw(writable(*spaces))
    edged = first + text + last
    assert codec.decode(codec.encode(edged, after=before), after=before) == edged
    if text and space:
        parts = codec.encode_before(before) + codec.encode(text, after=before)
        assert parts == codec.encode(before + text)


@settings(max_examples=100)
@given(texts, texts)
def test_xlnet_makes_no_special_token_of_a_text(text, before):
    for codec in (xlnet(False), xlnet(True)):
        unknown = {codec.tokenizer.unk_token_id}
        for ids in (codec.encode(text, after=before), codec.encode_after(text, before=before)):
            assert codec.fillable[[i for i in ids if i not in unknown]].all()


def test_xlnet_goes_on_with_a_word_and_begins_one():
    codec = xlnet(False)
    pieces = codec.tokenizer.convert_ids_to_tokens
    assert pieces(codec.encode("by sea", after="left ")) == ["▁by", "▁sea"]
    assert pieces(codec.encode(". He", after="word")) == [".", "▁He"]
    assert pieces(codec.encode(" He", after="word")) == ["▁He"]
    assert pieces(codec.encode("by sea ", after="left ")) == ["▁by", "▁sea", "▁"]
    assert pieces(codec.encode("by sea\n", after="left ")) == ["▁by", "▁sea"]
    assert codec.decode(codec.encode("<mask>", after="a"), after="a") == "<mask>"
    assert [codec.needs_word(b) for b in ("", "a ", "a\n", "a", "(")] == [True] * 3 + [False] * 2
    assert codec.begins_word[codec.tokenizer.convert_tokens_to_ids(["▁by", "."])].tolist() == [
        True,
        False,
    ]


def test_whitespace_pieces_may_fill_and_begin_a_word():
    codec = xlnet(True)
    spaces = [codec.tokenizer.cls_token_id, codec.tokenizer.sep_token_id, 0]
    assert codec.fillable[spaces].all() and codec.begins_word[spaces].all()
    assert not xlnet(False).fillable[spaces].any()
    assert (
        codec.needs_word("a:\n    ") and codec.needs_word("a:\n   ") and not codec.needs_word("a")
    )
    # the blank of an odd indentation goes with the next one into a pair
    assert codec.encode(" return", after="a:\n   ") == [0, *encode(codec.tokenizer, "return")]
    assert codec.decode([0, *encode(codec.tokenizer, "return")], after="a:\n   ") == " return"


def test_the_callers_tokenizer_stays_as_it_is():
    tokenizer = AutoTokenizer.from_pretrained(published("xlnet-base-cased"))
    given_state = tokenizer.backend_tokenizer.to_str()
    codec = Codec(tokenizer, whitespace_map=True)
    codec.encode("b c\n", after="a")
    assert codec.tokenizer is not tokenizer
    assert tokenizer.backend_tokenizer.to_str() == given_state


@pytest.mark.slow_but_one
@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("SingleLineInfilling", 4),
        ("MultiLineInfilling", 23),
        ("RandomSpanInfilling", 6),
        ("RandomSpanInfillingLight", 1),
    ],
)
def test_programs_keep_their_syntax_tree_but_where_xlnet_rewrites_quotes(name, step):
    for row in human_eval(name)[::step]:
        before, middle, after = row["prompt"], row["canonical_solution"], row["suffix"]
        for codec in (DEMO, xlnet(True)):
            text = codec.decode(codec.encode(middle, after=before), after=before)
            is_same = tree(before + text + after) == tree(before + middle + after)
            assert is_same or (codec is not DEMO and "''" in middle), row["task_id"]


def test_whole_lines_have_the_ids_that_the_whole_program_gives_them():
    codec = xlnet(True)
    ending = [*codec.tokenizer("")["input_ids"], codec.tokenizer.eos_token_id]
    for row in human_eval("MultiLineInfilling")[::40]:
        before, middle, after = row["prompt"], row["canonical_solution"], row["suffix"]
        program = before + middle + after
        whole = codec.encode(program)
        assert [*whole, *ending] == encode_documents(
            codec.tokenizer, [program], whitespace_map=True
        )[0]
        start, end = codec.encode_before(before), codec.encode_after(after, before=before)
        assert whole[: len(start)] == start and whole[len(whole) - len(end) :] == end
        if " \n" not in middle and "''" not in program:
            assert whole == start + codec.encode(middle, after=before) + end


def test_text_at_the_start_of_a_line_begins_a_word():
    for codec in (xlnet(False), xlnet(True)):
        word = encode(codec.tokenizer, "dawn")
        assert codec.encode_after("dawn", before="a\n") == word
        assert codec.encode_after("dawn", before="a ") == codec.encode("dawn", after="a")
        assert codec.encode_after(" dawn", before="a ") == word
        assert codec.encode("dawn", after="a") != word
        assert codec.encode_between("dawn ", before="a\n") == word
        assert codec.encode_between("dawn ", before="a ") == codec.encode("dawn", after="a")
