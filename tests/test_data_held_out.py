"""Which text of finite data is held out: whole documents, of every kind, and none of its copies."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from asarm.data import DataConfig, open_blocks
from asarm.data.held_out import HASHES, Lowest, document_hash, hold_out, is_held_out
from asarm.data.packed import FACTS
from asarm.text import decode

ROOT = Path(__file__).parents[1]
DEMO = AutoTokenizer.from_pretrained(ROOT / "asarm" / "demo")


@pytest.fixture
def config(tmp_path):
    (tmp_path / "data").mkdir()
    return DataConfig(
        dataset=str(tmp_path / "data"),
        length=16,
        cache_dir=str(tmp_path / "cache"),
        eval_sequences=12,
    )


def opened(config):
    return open_blocks(config, DEMO, seed=3, global_batch_size=4)


def texts_of(blocks) -> tuple[str, str]:
    """What is trained on and what is held out, each as one text."""
    held_out = blocks.held_out.blocks.input_ids.flatten().tolist()
    return decode(DEMO, blocks.blocks.flatten().tolist()), decode(DEMO, held_out)


def paragraphs(kind: str, count: int) -> list[str]:
    return [f"{kind}{i:04d} " + "some words " * (i * 7 % 23) + "end" for i in range(count)]


def write(config, name: str, texts: list[str]) -> None:
    Path(config.dataset, name).write_text("\n\n".join(texts), encoding="utf-8")


def test_every_kind_of_text_in_a_folder_is_held_out(config):
    write(config, "a_prose.txt", paragraphs("prose", 300))
    write(config, "z_code.txt", paragraphs("code", 200))
    blocks = opened(config)
    trained, held_out = texts_of(blocks)
    assert len(blocks.held_out.blocks.input_ids) == 12
    assert "prose0" in held_out and "code0" in held_out
    assert "prose0" in trained and "code0" in trained
    assert blocks.statistics["documents"] + blocks.statistics["held_out"] == 500


def test_no_copy_of_a_held_out_document_is_trained_on(config):
    texts = paragraphs("text", 150)
    write(config, "a.txt", texts)
    write(config, "b.txt", texts[::-1])
    Path(config.dataset, "c.jsonl").write_text(
        "".join(json.dumps({"text": t}) + "\n" for t in texts)
    )
    trained, held_out = texts_of(opened(config))
    marks = [text.split()[0] for text in texts]
    assert [mark for mark in marks if mark in held_out]
    assert not [mark for mark in marks if mark in held_out and mark in trained]
    assert all((mark in trained) + (mark in held_out) <= 1 for mark in marks)


def test_what_streams_hold_out_is_not_trained_on_either(config):
    texts = paragraphs("text", 900)
    write(config, "a.txt", texts)
    trained, held_out = texts_of(opened(replace(config, eval_sequences=1)))
    streams = [text.split()[0] for text in texts if is_held_out(text.encode())]
    assert len(streams) > 3 and not [mark for mark in streams if mark in trained]
    assert held_out[:5] == min(texts, key=lambda text: document_hash(text.encode()))[:5]


def test_more_text_moves_no_document_from_training_to_held_out(config):
    write(config, "a.txt", paragraphs("text", 100))
    trained, _ = texts_of(opened(config))
    write(config, "b.txt", paragraphs("more", 300))
    _, held_out = texts_of(opened(config))
    held = [mark for i in range(100) if (mark := f"text{i:04d}") in held_out]
    assert not [mark for mark in held if mark in trained]


@pytest.mark.parametrize("txt_documents", ["paragraph", "file"])
def test_of_few_long_documents_blocks_are_held_out_all_over_the_text(config, capsys, txt_documents):
    for kind in ("prose", "code"):
        text = "\n".join(paragraphs(kind, 100))
        Path(config.dataset, f"{kind}.txt").write_text(text, encoding="utf-8")
    blocks = opened(replace(config, txt_documents=txt_documents))
    assert "blocks evenly spread over the text are held out\n" in capsys.readouterr().err
    count = len(blocks.blocks)
    rows = [int(name.split()[-1]) for name in blocks.held_out.blocks.names]
    assert len(rows) == 12 and min(rows) < count / 12 and max(rows) > count * 11 / 12
    assert blocks.size == count - 12
    trained = [int(name.split()[-1]) for _ in range(count) for name in blocks.next_batch([0]).names]
    blocks.consumed = 0
    epoch = []
    for _ in range(blocks.size):
        epoch += [int(name.split()[-1]) for name in blocks.next_batch([0]).names]
        blocks.consumed -= 3
    assert sorted(epoch + rows) == list(range(count))
    assert set(trained).isdisjoint(rows)


def test_a_document_that_is_most_of_the_data_is_trained_on(config):
    texts = paragraphs("text", 60)
    first = min(texts, key=lambda text: document_hash(text.encode()))
    write(config, "a.txt", texts + [first] * 200)
    trained, held_out = texts_of(opened(config))
    assert first.split()[0] in trained
    assert held_out


def test_a_run_whose_held_out_blocks_were_others_is_refused(config):
    write(config, "a.txt", paragraphs("text", 100))
    blocks = opened(config)
    before = {"data": "0123", "size": 100, "consumed": 8}  # as it was kept then
    with pytest.raises(ValueError, match="a version that held out other blocks") as refused:
        blocks.load_state_dict(before)
    assert "\n" not in str(refused.value)


def test_packed_python_text_of_a_version_before_is_read(config, monkeypatch):
    from asarm.corpus import Document
    from asarm.data import finite

    documents = [Document(t.split()[0], "prose", t) for t in paragraphs("text", 40)]
    monkeypatch.setattr(finite, "training_documents", lambda: documents)
    python = replace(config, dataset="python", eval_sequences=2)
    state = opened(python).state_dict()
    (facts,) = Path(config.cache_dir, "packed").glob(f"*/{FACTS}")
    known = json.loads(facts.read_text())
    facts.write_text(json.dumps({name: known[name] for name in ("statistics", "last_length")}))
    del state["made_of"]
    opened(python).load_state_dict(state)


def encode(document: bytes) -> list[np.ndarray]:
    return [np.frombuffer(document, np.uint8)]


documents = st.lists(st.binary(min_size=1, max_size=40), max_size=60)


@given(documents, st.integers(1, 200))
def test_the_lowest_are_the_shortest_beginning_that_has_the_bytes(documents, num_bytes):
    lowest = Lowest(documents, num_bytes)
    order = sorted(set(documents), key=document_hash)
    expected = []
    while order and sum(map(len, expected)) < num_bytes:
        expected.append(order.pop(0))
    assert sorted(lowest.documents.values(), key=document_hash) == expected
    assert lowest.total == sum(map(len, documents))
    for document in expected:
        assert lowest.copies[document_hash(document)] == documents.count(document)
    assert len(lowest.copies) == len(expected)


@given(documents, st.integers(2, 8), st.integers(1, 9))
def test_at_most_a_tenth_is_held_out_to_be_evaluated_on(documents, length, num_blocks):
    found = hold_out(documents, encode, length=length, num_blocks=num_blocks)
    if found is None:
        return
    total = sum(map(len, documents))
    rows, columns = found.blocks.shape
    assert 1 <= rows <= num_blocks and columns == length
    assert rows * length <= max(total / 20, length)
    chosen = sorted({d for d in documents if document_hash(d) < found.limit}, key=document_hash)
    held = b"".join(chosen)
    assert bytes(found.blocks.flatten()) == held[: rows * length]
    beyond = [d for d in documents if HASHES // 100 <= document_hash(d) < found.limit]
    assert sum(map(len, beyond)) <= max(total / 10, 2 * length)
