"""The caller's tokenizer: nobody's calls change what the library reads, and it stays as it was."""

import copy
import gc
import threading
import weakref
from pathlib import Path

import pytest
from fakes import small_model
from published import published
from transformers import AutoTokenizer

from asarm import infill, score
from asarm.codec import Codec
from asarm.infilling import reference_lengths
from asarm.infilling.prior import length_prior
from asarm.text import encode, encode_all, encode_documents, private

DEMO = Path(__file__).parents[1] / "asarm" / "demo"
TEXT = "Return the name of the ___, or None if it does not exist."
DOCUMENTS = ["hello world, <mask> and </s>", "x = 1\n\ty = 2", ""]


@pytest.fixture(params=["demo", "xlnet-base-cased"])
def tokenizer(request):
    own = request.param == "demo"
    return AutoTokenizer.from_pretrained(DEMO if own else published(request.param))


def settings(tokenizer):
    backend = tokenizer.backend_tokenizer
    state = backend.truncation, backend.padding, backend.encode_special_tokens
    return copy.deepcopy(state), backend.to_str(), backend.encode("</s> a").ids


def doors(tokenizer):
    """Everything that reads a text by a caller's tokenizer, and what each gives."""
    model = small_model(vocab_size=len(tokenizer), d_model=16, n_head=2, d_inner=32)
    found = infill(model, tokenizer, TEXT, length=(1, 2), seed=5)
    return [
        found,
        score(model, tokenizer, TEXT, ["file", "thing"]),
        reference_lengths(tokenizer, TEXT, ["file"]),
        Codec.of(tokenizer).encode("a b"),
        Codec(tokenizer).encode("a b", after="c"),
        [encode(tokenizer, document) for document in DOCUMENTS],
        encode_all(tokenizer, DOCUMENTS),
        encode_documents(tokenizer, DOCUMENTS),
        encode_documents(tokenizer, DOCUMENTS, whitespace_map=True),
        length_prior(tokenizer, 1, 4, "words").tolist(),
    ]


def reconfigure(tokenizer):
    """What calls of a user's own leave behind."""
    tokenizer(["hello world", "x"], padding="max_length", truncation=True, max_length=4)
    tokenizer.backend_tokenizer.encode_special_tokens = False


@pytest.mark.slow_but_one
def test_nothing_reads_by_the_callers_settings_or_changes_them(tokenizer):
    wanted = doors(tokenizer)
    reconfigure(tokenizer)
    before = settings(tokenizer)
    assert doors(tokenizer) == wanted
    assert settings(tokenizer) == before
    reconfigured = copy.deepcopy(tokenizer)  # its copy is made from what is set already
    reconfigure(reconfigured)
    assert doors(reconfigured) == wanted


@pytest.mark.slow
def test_threads_that_truncate_change_nothing(tokenizer):
    text, wanted, stop = " ".join(DOCUMENTS), [], threading.Event()
    wanted = encode(tokenizer, text)

    def truncate():
        while not stop.is_set():
            reconfigure(tokenizer)

    others = [threading.Thread(target=truncate) for _ in range(2)]
    for other in others:
        other.start()
    try:
        found = [encode(tokenizer, text) for _ in range(300)]
        found += [encode(copy.deepcopy(tokenizer), text) for _ in range(5)]
    finally:
        stop.set()
        for other in others:
            other.join()
    assert all(ids == wanted for ids in found)


@pytest.mark.slow_but_one
def test_threads_share_one_copy(tokenizer):
    found = []
    threads = [threading.Thread(target=lambda: found.append(private(tokenizer))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(own) for own in found}) == 1
    assert private(found[0]) is found[0] is not tokenizer


@pytest.mark.slow_but_one
def test_a_tokenizer_that_its_owner_changes_is_read_as_it_is_then(tokenizer):
    before = encode_documents(tokenizer, ["a"])
    assert Codec.of(tokenizer) is Codec.of(tokenizer)
    old = Codec.of(tokenizer)
    tokenizer.eos_token = "<s>"
    assert encode_documents(tokenizer, ["a"]) == [[*before[0][:-1], tokenizer.bos_token_id]]
    tokenizer.add_tokens(["quxquux"])
    assert Codec.of(tokenizer) is not old
    assert len(Codec.of(tokenizer).fillable) == len(tokenizer)
    assert encode(tokenizer, "quxquux")[-1] == len(tokenizer) - 1


@pytest.mark.slow_but_one
def test_a_copy_goes_with_its_tokenizer(tokenizer):
    own = weakref.ref(private(copy.deepcopy(tokenizer)))
    gc.collect()
    assert own() is None
