"""Bits per byte and the card that states them."""

import math

import pytest
import torch
from fakes import ConditionalTable

from asarm import Order, load, log_prob
from asarm.corpus import Document, held_out_documents
from asarm.data import pack
from asarm.loading import DEMO, load_tokenizer
from asarm.metrics.held_out import PROTOCOLS, bits_per_byte, markdown_table
from asarm.text import encode_document

SIZE_LIMIT = 12_000_000  # bytes of the bundled model


class Uniform(ConditionalTable):
    """A backbone that knows nothing: every token is as probable as any other."""

    def __init__(self, vocab_size: int):
        super().__init__(length=1)
        self.vocab_size, self.mask_token_id = vocab_size, vocab_size

    def __call__(self, content, query, cache=None):
        return torch.zeros(*query.positions.shape, self.vocab_size, dtype=torch.float64)


@pytest.mark.slow_but_one
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_uniform_law_costs_its_logarithm(name):
    tokenizer, text = load_tokenizer("demo"), "the quick brown fox\n" * 40
    num_tokens = len(encode_document(tokenizer, text))
    found = bits_per_byte(
        Uniform(len(tokenizer)),
        tokenizer,
        [Document("fox", "prose", text)],
        PROTOCOLS[name],
        length=16,
    )
    assert found == pytest.approx(math.log2(len(tokenizer)) * num_tokens / len(text))


def test_protocols_blank_what_they_say():
    shares = {name: int(order(200, 0).num_targets) / 200 for name, order in PROTOCOLS.items()}
    for name, share in shares.items():
        stated = 0.995 if name == "left to right" else float(name.split()[-2].rstrip("%")) / 100
        assert share == pytest.approx(stated, abs=0.006), name


def test_table_has_a_row_for_every_figure():
    table = markdown_table({"left to right": {"prose": 1.234, "code": 2.0}})
    assert table.splitlines() == [
        "| | prose | code |",
        "|---|---|---|",
        "| left to right | 1.23 | 2.00 |",
    ]


@pytest.mark.slow
def test_bundled_model_is_small_and_far_better_than_bytes():
    files = [path for path in DEMO.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= SIZE_LIMIT
    model, tokenizer = load("demo")
    assert model.dtype == torch.float32
    for kind, order2 in (("prose", 3.22), ("code", 2.86)):
        documents = held_out_documents(kind)[:2]
        found = bits_per_byte(model, tokenizer, documents, PROTOCOLS["left to right"])
        assert found < 0.8 * order2


@pytest.mark.slow
def test_bundled_model_learnt_from_what_is_visible():
    """The same targets cost less where half of the text is visible than where little is."""
    model, tokenizer = load("demo")
    block = pack([encode_document(tokenizer, held_out_documents("code")[0].text)], 256)[:4]
    half = Order.random_split(256, 0.5, batch=4, seed=0)
    little = Order.random_split(256, 0.05, batch=4, seed=0)
    both = half.is_target & little.is_target
    assert log_prob(model, block, half)[both].sum() > log_prob(model, block, little)[both].sum()
