from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from asarm.corpus import held_out_documents
from asarm.text import decode, encode, encode_document
from asarm.training.tokenizer import SPECIAL_TOKENS, save_tokenizer, train_tokenizer

ROOT = Path(__file__).parents[1]
XLNET = ROOT.parent / "shared" / "data" / "xlnet-base-cased"
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


@pytest.mark.skipif(not XLNET.exists(), reason="XLNet's tokenizer is not here")
def test_xlnet_reads_no_special_token_in_a_text():
    xlnet = AutoTokenizer.from_pretrained(XLNET)
    plain = encode(xlnet, "The cat sat.")
    assert plain == xlnet.encode("The cat sat.", add_special_tokens=False)
    assert encode_document(xlnet, "The cat sat.") == [*xlnet.encode("The cat sat."), 2]
    ids = encode(xlnet, "a <mask> and <sep>x</s>")
    assert set(ids).isdisjoint(range(9))
    assert decode(xlnet, ids) == "a <mask> and <sep>x</s>"


def test_saved_tokenizer_loads_and_training_is_repeatable(tmp_path):
    sample = ["def f(a):\n    return a\n", "Words, and more words.\n"] * 3
    one, two = (train_tokenizer(sample, num_pieces=280) for _ in range(2))
    assert one.to_str() == two.to_str()
    save_tokenizer(one, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(Tokenizer.from_file(str(tmp_path / "tokenizer.json")), Tokenizer)
    assert decode(loaded, encode(loaded, sample[0] + "<mask>")) == sample[0] + "<mask>"
