"""Evaluation text from wherever it comes, as blocks, and no more of it than is asked for."""

import json

import datasets
import pytest
import torch
from published import published

from asarm.data import evaluated as blocks_module
from asarm.data import pack
from asarm.data.evaluated import load_blocks, read_documents
from asarm.loading import load_tokenizer
from asarm.text import decode, encode_document


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("demo")


@pytest.mark.slow
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


@pytest.mark.slow
def test_published_text_gives_the_published_number_of_sequences():
    xlnet = load_tokenizer(published("xlnet-base-cased"))
    assert load_blocks(xlnet, str(published("wiki.test.raw")), 512).shape == (640, 512)


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


ROWS = [{"text": "The first document, of several."}, {"text": ""}, {"text": "And the second é."}]
TEXTS = [row["text"] for row in ROWS if row["text"]]


def test_records_are_read_as_training_reads_them(tmp_path, tokenizer):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "b.csv").write_text("n,body\n1,Some text.\n", encoding="utf-8-sig")
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "c.parquet")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "d")
    for name in ("a.jsonl", "c.parquet", "d"):
        assert list(read_documents(str(tmp_path / name))) == TEXTS
    assert list(read_documents(str(tmp_path / "b.csv"), dataset_column="body")) == ["Some text."]
    with pytest.raises(ValueError, match="has no column 'text', only: n, body; name one as"):
        list(read_documents(str(tmp_path / "b.csv")))
    ids = [encode_document(tokenizer, text) for text in TEXTS]
    blocks = load_blocks(tokenizer, str(tmp_path / "a.jsonl"), 8)
    assert torch.equal(blocks, pack(ids, 8))


def test_text_is_a_document_a_file_without_its_byte_order_mark(tmp_path):
    for name, encoding in (("a.txt", "utf-8-sig"), ("b.txt", "utf-16"), ("c.log", "utf-8-sig")):
        (tmp_path / name).write_text("One.\n\nTwo.\n", encoding=encoding)
        assert read_documents(str(tmp_path / name)) == ["One.\n\nTwo.\n"]
    found = list(read_documents(str(tmp_path / "a.txt"), txt_documents="paragraph"))
    assert found == ["One.", "Two."]


def test_a_folder_is_read_and_what_is_left_out_is_named(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("One.")
    (tmp_path / "b.md").write_text("Two.")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "Three."}\n{"text": "caf\xe9"}\n')
    (tmp_path / "d.pdf").touch()
    assert list(read_documents(str(tmp_path))) == ["One.", "Two.", "Three."]
    said = capsys.readouterr().err
    assert "3 files are read, 1 left out" in said and "1 skipped not utf8" in said


def test_of_several_splits_none_is_taken_unasked(tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "all")
    with pytest.raises(ValueError, match="holds test, train; name the folder of one"):
        list(read_documents(str(tmp_path / "all")))
    assert list(read_documents(str(tmp_path / "all" / "test"))) == TEXTS[:1]


def test_what_is_not_there_is_refused_with_the_name_that_is(tmp_path):
    (tmp_path / "corpus.txt").touch()
    with pytest.raises(ValueError, match=r"expected heldout.*\(is .*corpus\.txt meant\?\)"):
        read_documents(str(tmp_path / "corpus.tx"))
    with pytest.raises(ValueError, match="txt_documents is 'page'"):
        read_documents(str(tmp_path / "corpus.txt"), txt_documents="page")
