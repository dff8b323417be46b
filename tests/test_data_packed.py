"""Finite data: packed once, permuted every epoch, the same for any number of processes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from asarm.data import DataConfig, cache, finite, open_blocks, prepare_blocks
from asarm.data.held_out import HeldOutText, document_hash, hold_out
from asarm.data.packed import BLOCKS, epoch_order
from asarm.text import encode_document

ROOT = Path(__file__).parents[1]
DEMO = AutoTokenizer.from_pretrained(ROOT / "asarm" / "demo")


def texts(count: int) -> list[str]:
    return [f"Document {i} " + "words " * (i * 7 % 23) + f"end {i}" for i in range(count)]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(100)), encoding="utf-8")
    return DataConfig(
        dataset=str(path), length=16, cache_dir=str(tmp_path / "cache"), eval_sequences=4
    )


def opened(config, **changes):
    settings = {"seed": 3, "global_batch_size": 4} | changes
    return open_blocks(config, DEMO, **settings)


def held_out_texts(config) -> HeldOutText:
    return hold_out(
        [text.encode() for text in texts(100)],
        lambda document: [np.array(encode_document(DEMO, document.decode()))],
        length=config.length,
        num_blocks=config.eval_sequences,
    )


def training_texts(config) -> list[str]:
    limit = held_out_texts(config).limit
    return [text for text in texts(100) if document_hash(text) >= limit]


def packed_by_hand(config) -> torch.Tensor:
    texts = training_texts(config)
    stream = torch.tensor([i for text in texts for i in encode_document(DEMO, text)])
    return stream[: len(stream) // config.length * config.length].view(-1, config.length)


def test_an_epoch_gives_every_block_but_the_held_out_once(config):
    blocks = opened(config)
    training = packed_by_hand(config).tolist()
    held_out = held_out_texts(config).blocks.tolist()
    assert blocks.held_out.blocks.input_ids.tolist() == held_out and len(held_out) == 4
    epochs = []
    for epoch in range(2):
        got, names = [], []
        for _ in range(len(training)):
            batch = blocks.next_batch([0])
            blocks.consumed -= 3  # one block at a time, to cut at the epoch
            got += batch.input_ids.tolist()
            names += batch.names
            assert batch.input_ids.dtype == torch.int64 and batch.lengths.tolist() == [16]
        assert sorted(got) == sorted(training)
        assert names[0].startswith(f"epoch {epoch} block ")
        assert training[int(names[0].split()[-1])] == got[0]
        epochs.append(got)
    assert epochs[0] != epochs[1] and epochs[0] != training


def test_bytes_per_token_and_statistics(config):
    blocks = opened(config)
    trained = training_texts(config)
    tokens = sum(len(encode_document(DEMO, t)) for t in trained)
    size = sum(len(t.encode()) for t in trained)
    assert blocks.held_out.bytes_per_token == held_out_texts(config).bytes_per_token
    counts = blocks.statistics
    assert (counts["documents"], counts["bytes"], counts["tokens"]) == (len(trained), size, tokens)
    assert counts["held_out"] == 100 - len(trained)
    assert counts["blocks"] == tokens // 16


def test_batches_do_not_depend_on_the_number_of_processes(config):
    alone = opened(config)
    pair = [opened(config, process_index=p, num_processes=2) for p in range(2)]
    for _ in range(60):
        whole = alone.next_batch(range(4)).input_ids
        halves = [blocks.next_batch([2 * p, 2 * p + 1]).input_ids for p, blocks in enumerate(pair)]
        assert torch.equal(whole, torch.cat(halves))
    three = opened(config, num_processes=4, process_index=3)
    three.load_state_dict(pair[0].state_dict())
    assert torch.equal(three.next_batch([3]).input_ids[0], alone.next_batch(range(4)).input_ids[3])


def test_data_are_packed_once_and_stay_on_disk(config, monkeypatch):
    prepare_blocks(config, DEMO, seed=3)
    monkeypatch.setattr(finite, "_pack_into", None)  # would fail if it were called
    blocks = opened(config)
    assert isinstance(blocks.blocks, np.memmap) and blocks.blocks.dtype == np.uint16


@pytest.mark.parametrize(
    "change",
    [
        {"length": 32},
        {"last_block": "pad"},
        {"max_document_bytes": 50},
        {"whitespace_map": True},
    ],
)
def test_other_settings_are_other_data_and_refused(config, change):
    state = opened(config).state_dict()
    other = opened(replace(config, **change))
    with pytest.raises(ValueError, match="packed data") as refused:
        other.load_state_dict(state)
    assert "\n" not in str(refused.value)


def test_the_last_block_is_padded_as_asked(config):
    config = replace(config, length=15)
    dropped, padded = opened(config), opened(replace(config, last_block="pad"))
    left = dropped.statistics["tokens"] % 15
    assert left > 1 and padded.statistics["blocks"] == dropped.statistics["blocks"] + 1
    order = epoch_order(3, 0, padded.size).tolist()
    padded.consumed = order.index(padded.size - 1)
    last = padded.next_batch([0])
    assert last.lengths.tolist() == [left]
    assert set(last.input_ids[0, left:].tolist()) == {DEMO.pad_token_id}
    assert DEMO.pad_token_id not in last.input_ids[0, :left].tolist()


def test_a_single_token_is_no_block(config):
    length = next(
        n for n in range(8, 40) if opened(replace(config, length=n)).statistics["tokens"] % n == 1
    )
    config = replace(config, length=length)
    dropped, padded = opened(config), opened(replace(config, last_block="pad"))
    assert dropped.statistics["tokens"] % length == 1  # a target would have no prompt
    assert padded.statistics["blocks"] == dropped.statistics["blocks"]


def test_a_long_document_is_split_and_none_of_it_lost(config):
    whole, split = opened(config), opened(replace(config, max_document_bytes=64))
    for count in ("bytes", "documents", "held_out"):
        assert split.statistics[count] == whole.statistics[count]
    assert split.statistics["split"] > 20


def test_too_little_data_is_refused(config, tmp_path):
    for content, message in [
        ("", "no usable document"),
        ("\x00\n\n\n", "no usable document .*skipped_binary 1"),
        ("A few words.", "fills 0 blocks of 16"),
    ]:
        path = tmp_path / "small.txt"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=message) as refused:
            opened(replace(config, dataset=str(path)))
        assert "\n" not in str(refused.value)
    assert not list((Path(config.cache_dir) / "packed").iterdir())  # nothing half done


def test_a_killed_packing_leaves_nothing_that_is_taken_for_whole(config):
    expected = opened(config).blocks.copy()
    packed = Path(config.cache_dir) / "packed"
    folder = next(packed.iterdir())
    (folder / BLOCKS).write_bytes(b"")  # a disk that lost it
    with pytest.raises(ValueError, match=f"{folder} are damaged.*remove it"):
        opened(config)
    folder.rename(packed / "unfinished.old")  # what a kill leaves
    old = time.time() - cache.ABANDONED - 60
    for path in ((packed / "unfinished.old").iterdir(), [packed / "unfinished.old"]):
        for each in path:
            os.utime(each, (old, old))
    (packed / "unfinished.new").mkdir()
    assert np.array_equal(opened(config).blocks, expected)
    assert not (packed / "unfinished.old").exists() and (packed / "unfinished.new").exists()


PACKING = """
import sys
from asarm.data import DataConfig, prepare_blocks
from asarm.loading import load_tokenizer
config = DataConfig(dataset=sys.argv[1], length=16, cache_dir=sys.argv[2], eval_sequences=4)
prepare_blocks(config, load_tokenizer("demo"), seed=3)
"""


@pytest.mark.slow
def test_two_packings_at_once_are_harmless(config):
    command = [sys.executable, "-c", PACKING, config.dataset, config.cache_dir]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert len(list((Path(config.cache_dir) / "packed").iterdir())) == 1
    assert np.array_equal(opened(config).blocks, packed_by_hand(config).numpy())


def test_python_text_has_its_own_held_out_blocks(config, monkeypatch):
    from asarm.corpus import Document, held_out_documents

    documents = [Document(f"{i}", "prose" if i % 2 else "code", t) for i, t in enumerate(texts(40))]
    monkeypatch.setattr(finite, "training_documents", lambda: documents)
    python = replace(
        config, dataset="python", repeats={"prose": 3, "code": 1, "test": 0}, eval_sequences=5
    )
    blocks = opened(python)
    tokens = [len(encode_document(DEMO, d.text)) for d in documents]
    assert blocks.statistics["tokens"] == sum(tokens) + 2 * sum(tokens[1::2])
    first = list(blocks.blocks.flatten()[: tokens[finite.document_order(40, 3, 0)[0]]])
    assert first == encode_document(DEMO, documents[finite.document_order(40, 3, 0)[0]].text)
    held_out = [i for d in held_out_documents() for i in encode_document(DEMO, d.text)]
    got = blocks.held_out.blocks
    assert got.input_ids[0].tolist() == held_out[:16]
    rows = [int(name.split()[-1]) for name in got.names]
    assert len(rows) == 5 and rows[0] == 0 and rows[-1] > 0.7 * len(held_out) / 16
    assert 3 < blocks.held_out.bytes_per_token < 5
    assert opened(python, seed=4).fingerprint != blocks.fingerprint
