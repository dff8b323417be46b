import gzip
import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import published
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from asarm import infill, load
from asarm.corpus import held_out_documents
from asarm.text import decode, encode, encode_all, encode_document, encode_documents
from asarm.training.tokenizer import SPECIAL_TOKENS, save_tokenizer, train_tokenizer

ROOT = Path(__file__).parents[1]
DEMO = AutoTokenizer.from_pretrained(ROOT / "asarm" / "demo")

snippets = st.sampled_from(
    [*SPECIAL_TOKENS, "\n", "\n    ", "\t", "  ", " ", "\r\n", "é", "e\u0301", "😀", "\x00", "):"]
)
texts = st.lists(st.one_of(st.text(max_size=10), snippets), max_size=20).map("".join)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_any_text_round_trips_without_special_tokens(text):
    ids = encode(DEMO, text)
    assert decode(DEMO, ids) == text
    assert all(i >= len(SPECIAL_TOKENS) for i in ids)


@pytest.mark.parametrize("kind", ["prose", "code"])
def test_held_out_text_round_trips_in_pieces_of_almost_four_bytes(kind):
    documents = held_out_documents(kind)
    ids = [encode(DEMO, d.text) for d in documents]
    assert [decode(DEMO, i) for i in ids] == [d.text for d in documents]
    assert sum(len(d.text.encode()) for d in documents) > 3.7 * sum(map(len, ids))


def test_demo_tokenizer_has_xlnets_ids_and_pads_on_the_right():
    assert DEMO.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(9))
    assert len(DEMO) == 8192
    assert sorted(DEMO.all_special_ids) == list(range(9))
    named = (DEMO.unk_token_id, DEMO.bos_token_id, DEMO.eos_token_id, DEMO.cls_token_id)
    assert named == (0, 1, 2, 3)
    assert (DEMO.sep_token_id, DEMO.pad_token_id, DEMO.mask_token_id) == (4, 5, 6)
    assert DEMO(["a", "b c"], padding=True)["input_ids"][0][1:] == [5]


def test_document_ends_as_published():
    assert encode_document(DEMO, "a <mask>") == [*encode(DEMO, "a <mask>"), 2]


def test_xlnet_reads_no_special_token_in_a_text():
    xlnet = AutoTokenizer.from_pretrained(published("xlnet-base-cased"))
    plain = encode(xlnet, "The cat sat.")
    assert plain == xlnet.encode("The cat sat.", add_special_tokens=False)
    assert encode_document(xlnet, "The cat sat.") == [*xlnet.encode("The cat sat."), 2]
    ids = encode(xlnet, "a <mask> and <sep>x</s>")
    assert set(ids).isdisjoint(range(9))
    assert decode(xlnet, ids) == "a <mask> and <sep>x</s>"


@given(st.lists(texts, max_size=6))
def test_in_bulk_the_ids_are_the_same(documents):
    assert encode_all(DEMO, documents) == [encode(DEMO, d) for d in documents]
    assert encode_documents(DEMO, documents) == [encode_document(DEMO, d) for d in documents]


def test_bulk_is_untouched_by_what_an_earlier_call_asked_for():
    documents = ["a b c d e f", "<mask>"]
    expected = [encode(DEMO, d) for d in documents]
    DEMO(documents, padding="max_length", truncation=True, max_length=3)
    assert encode_all(DEMO, documents) == expected


def published_map(text: str) -> str:
    """The mapping of the released code models, in its order: the last one never finds anything."""
    for whitespace, token in [("\n", "<cls>"), ("\t", "<sep>"), ("  ", "<unk>"), ("   ", "<pad>")]:
        text = text.replace(whitespace, token)
    return text


def test_whitespace_map_gives_the_ids_of_the_released_code_models():
    xlnet = AutoTokenizer.from_pretrained(published("xlnet-base-cased"))
    with gzip.open(
        published("HumanEval-SingleLineInfilling.jsonl.gz"), "rt", encoding="utf-8"
    ) as file:
        rows = [json.loads(line) for line in file]
    codes = [row["prompt"] + row["canonical_solution"] + row["suffix"] for row in rows[::9]]
    codes += ["", " ", "   ", "\t\n \t x\r\n", "a\n\n\n    b  c", " a \n b \n"]
    ending = [*xlnet("")["input_ids"], xlnet.eos_token_id]
    got = encode_documents(xlnet, codes, whitespace_map=True)
    for code, ids in zip(codes, got, strict=True):
        theirs = xlnet(published_map(code), add_special_tokens=False)["input_ids"]
        assert ids == [*theirs, *ending]
    assert encode_document(xlnet, codes[3], whitespace_map=True) == got[3]


@settings(max_examples=50)
@given(st.lists(texts, min_size=1, max_size=4))
def test_xlnet_in_bulk_and_mapped_reads_no_special_token_in_a_text(documents):
    xlnet = _xlnet()
    assert encode_all(xlnet, documents) == [encode(xlnet, d) for d in documents]
    for document, ids in zip(
        documents, encode_documents(xlnet, documents, whitespace_map=True), strict=True
    ):
        body = ids[: -len(xlnet("")["input_ids"]) - 1]
        named = document.replace("\n", "\0").replace("\t", "\1").replace("  ", "\2")
        assert body.count(xlnet.cls_token_id) == document.count("\n")
        assert body.count(xlnet.sep_token_id) == document.count("\t")
        assert body.count(xlnet.unk_token_id) >= named.count("\2")
        assert not {xlnet.pad_token_id, xlnet.mask_token_id, xlnet.eos_token_id} & set(body)


@cache
def _xlnet():
    return AutoTokenizer.from_pretrained(published("xlnet-base-cased"))


def test_whitespace_map_needs_the_tokens_it_names():
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "asarm" / "demo")
    tokenizer.sep_token = None
    with pytest.raises(ValueError, match="sep_token"):
        encode_document(tokenizer, "a", whitespace_map=True)


def test_saved_tokenizer_loads_and_training_is_repeatable(tmp_path):
    sample = ["def f(a):\n    return a\n", "Words, and more words.\n"] * 3
    one, two = (train_tokenizer(sample, num_pieces=280) for _ in range(2))
    assert one.to_str() == two.to_str()
    save_tokenizer(one, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), Tokenizer)
    assert decode(loaded, encode(loaded, sample[0] + "<mask>")) == sample[0] + "<mask>"


def test_a_tokenizer_without_an_end_of_text_ends_nothing(tmp_path):
    """Texts are read, packed and filled all the same."""
    model, tokenizer = load("demo")
    tokenizer.eos_token = None
    assert encode_document(tokenizer, "A text.") == encode(tokenizer, "A text.")
    for text in ("___ text.", "A ___", "A ___ text."):
        assert infill(model, tokenizer, text, length=2, num_samples=2).candidates
