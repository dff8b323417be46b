"""Characters that XLNet's vocabulary cannot write are named in one warning; nothing else is."""

import re
import warnings
from functools import cache

import pytest
from fakes import small_model
from published import published
from transformers import AutoTokenizer

from asarm import infill, score
from asarm.codec import Codec
from asarm.infilling.unwritten import MAX_NAMED, unwritten
from asarm.loading import load_tokenizer

ODD = "café 😀 naïve\n\tx  y\r"


@cache
def xlnet():
    return AutoTokenizer.from_pretrained(published("xlnet-base-cased"))


@cache
def model_of(vocab_size):
    return small_model(vocab_size=vocab_size, d_model=16, n_head=2, d_inner=32, mask_token_id=6)


@pytest.mark.parametrize(
    ("text", "lost", "mapped"),
    [
        ("Plain text, here: 1 + 2 = {3}.", [], []),
        (" one blank at each end ", [], []),
        (ODD, ["é", "😀", "ï", "\n", "\t", "\r", "  "], ["é", "😀", "ï", "\r"]),
        ("if x:\n    return 1\n", ["\n", "  "], []),
        ("日本", ["日", "本"], ["日", "本"]),
        ("e\u0301 … \u200b", ["\u0301", "…", "\u200b"], ["\u0301", "…", "\u200b"]),
        ("x ^ y", ["^"], ["^"]),
        ("", [], []),
    ],
)
def test_what_does_not_come_back(text, lost, mapped):
    assert unwritten(Codec.of(xlnet()), [text]) == lost
    assert unwritten(Codec.of(xlnet(), True), [text]) == mapped


@pytest.mark.parametrize("whitespace_map", [False, True])
def test_one_warning_names_it_for_all_texts(whitespace_map):
    model, options = model_of(32000), {"whitespace_map": whitespace_map}
    with pytest.warns(UserWarning) as told:
        infill(model, xlnet(), ["a ___ 😀", f"{ODD} ___ e\u0301"], length=1, **options)
    (message,) = [str(own.message) for own in told]
    names = "'😀', 'é', 'ï', "
    spaces = "" if whitespace_map else "line ends, tabs, "
    runs = "" if whitespace_map else ", runs of blanks"
    assert f"cannot write {names}{spaces}carriage returns, U+0301{runs}: the model" in message
    assert ("whitespace_map=True" in message) is not whitespace_map


def test_fillings_are_looked_at_too_and_a_long_list_is_cut():
    with pytest.warns(UserWarning, match="cannot write 'é', '日'") as told:
        score(model_of(32000), xlnet(), "a ___ é", ["b", "c 日 d"])
    assert len(told) == 1
    many = "".join(map(chr, range(0x4E00, 0x4E00 + MAX_NAMED + 5)))
    with pytest.warns(UserWarning, match=re.escape("5 more: the model")):
        infill(model_of(32000), xlnet(), f"a ___ {many}", length=1)


def test_what_can_be_written_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        infill(model_of(32000), xlnet(), "It ___ the harbour, and ___.", length=1)
        score(model_of(32000), xlnet(), "It ___ the harbour.", ["was in"])


def test_bytes_write_everything():
    tokenizer = load_tokenizer("demo")
    assert unwritten(Codec.of(tokenizer), [ODD, "日本 e\u0301 \x00"]) == []
    infill(model_of(8192), tokenizer, f"{ODD} ___", length=1)
