"""Evaluation text from wherever it comes, as blocks, and no more of it than is asked for."""

from pathlib import Path

import pytest
import torch

from asarm.evaluation import blocks as blocks_module
from asarm.evaluation.blocks import load_blocks, read_documents
from asarm.loading import load_tokenizer
from asarm.text import decode

WIKITEXT = Path(__file__).parents[2] / "shared" / "data" / "wiki.test.raw"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo")


def test_only_the_first_blocks_are_taken(tokenizer):
    whole = load_blocks(tokenizer, "heldout", 64)
    assert torch.equal(load_blocks(tokenizer, "heldout", 64, num_blocks=3), whole[:3])
    code = load_blocks(tokenizer, "heldout-code", 64)
    prose = load_blocks(tokenizer, "heldout-prose", 64)
    assert torch.equal(prose[:3], whole[:3]) and len(prose) + len(code) <= len(whole) + 1
    assert torch.equal(load_blocks(tokenizer, "heldout", 64, num_blocks=10**6), whole)


def test_openwebtext_is_streamed_as_far_as_it_is_needed(tokenizer, monkeypatch):
    read: list[int] = []

    class Stream:
        def __init__(self, start=0):
            self.start = start

        def skip(self, count):
            return Stream(self.start + count)

        def __iter__(self):
            for row in range(self.start, 10**9):
                if row == 2 and read.count(2) == 0:
                    read.append(2)
                    raise ConnectionError("cut off")
                read.append(row)
                yield {"text": f"document {row} of the stream, one of many."}

    monkeypatch.setattr("asarm.data.hub.open_dataset", lambda config: Stream())
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    found = load_blocks(tokenizer, "openwebtext", 16, num_blocks=4)
    assert found.shape == (4, 16)
    assert max(read) < 10
    assert decode(tokenizer, found.flatten().tolist()).count("document 1 ") == 1


def test_wikitext_is_a_document_a_row(tmp_path, monkeypatch, tokenizer):
    text = " \n = Title = \n \n First .\u2028 \n\n Second . \n"
    rows = ["", " = Title = ", "", " First .\u2028 ", "", " Second . "]
    (tmp_path / "eval_datasets").mkdir()
    (tmp_path / "eval_datasets" / "wiki.test.raw").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blocks_module, "CHECKOUT", tmp_path / "elsewhere")
    assert read_documents("wikitext-2") == rows
    assert read_documents("eval_datasets/wiki.test.raw") == rows
    (tmp_path / "plain.txt").write_text(text)
    assert read_documents("plain.txt") == [text]
    found = load_blocks(tokenizer, "wikitext-2", 4)
    assert found.shape[1] == 4
    assert tokenizer.eos_token_id in found


@pytest.mark.skipif(not WIKITEXT.exists(), reason="WikiText-2 and XLNet's tokenizer are not here")
def test_published_text_gives_the_published_number_of_sequences():
    xlnet = load_tokenizer(WIKITEXT.parent / "xlnet-base-cased")
    assert load_blocks(xlnet, str(WIKITEXT), 512).shape == (640, 512)


def test_wikitext_without_file_or_hub_says_what_to_do(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nat all")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blocks_module, "CHECKOUT", tmp_path)
    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(ValueError, match=r"cannot get wikitext-2.*wiki\.test\.raw") as refused:
        read_documents("wikitext-2")
    assert "\n" not in str(refused.value)


def test_wikitext_from_the_hub_is_the_same(tmp_path, monkeypatch):
    rows = [{"text": ""}, {"text": " = Title = \n"}, {"text": " First . \n"}]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(blocks_module, "CHECKOUT", tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    assert read_documents("wikitext-2") == ["", " = Title = ", " First . "]
