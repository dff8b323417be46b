"""Endless streams: every document once, and a place to go on from that is exact to the block."""

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from transformers import AutoTokenizer

from asarm.data import reader
from asarm.data.config import DataConfig
from asarm.data.hub import open_stream
from asarm.data.reader import ReaderTask, WindowReader, is_held_out, part_of_reader
from asarm.data.stream import StreamBlocks
from asarm.data.workers import InlineWorker
from asarm.text import encode_documents

ROOT = Path(__file__).parents[1]
DEMO = AutoTokenizer.from_pretrained(ROOT / "asarm" / "demo")
LENGTH = 16
CONFIG = DataConfig(
    dataset="a stream", length=LENGTH, shuffle_blocks=7, workers=0, eval_sequences=2
)
LAYOUTS = ["jsonl x1", "jsonl x3", "parquet x1", "parquet x3"]


def texts(count: int) -> list[str]:
    return [f"Document {i} " + "words " * (i * 7 % 23) + f"end {i}\n" for i in range(count)]


def write(folder: Path, layout: str, count: int = 240) -> list[str]:
    """`count` documents in the layout's files, cut unevenly; the files."""
    kind, shards = layout.split(" x")
    edges = [0, count // 5, count // 2, count] if shards == "3" else [0, count]
    paths = []
    for index, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        rows = [{"text": text, "number": i} for i, text in enumerate(texts(count))][start:end]
        path = folder / f"{index}.{kind}"
        if kind == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        else:
            datasets.Dataset.from_list(rows).to_parquet(path, batch_size=11)
        paths.append(str(path))
    return paths


def open_files(paths: list[str]) -> datasets.IterableDataset:
    kind = "json" if paths[0].endswith("jsonl") else "parquet"
    return open_stream(kind, data_files=paths)


def blocks_of(paths, *, process=0, processes=1, workers=0, tokenizer=DEMO, **changes):
    return StreamBlocks(
        open_files(paths),
        replace(CONFIG, workers=workers, **changes),
        tokenizer,
        seed=5,
        process_index=process,
        num_processes=processes,
    )


def through_a_file(state: dict) -> dict:
    """The state as a checkpoint keeps it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("readers", [1, 2, 3, 6, 16])
def test_every_record_is_in_exactly_one_share(tmp_path, layout, readers):
    paths = write(tmp_path, layout)
    found: Counter = Counter()
    for index in range(readers):
        part = part_of_reader(open_files(paths), index, readers)
        rows = [r["text"] for i, r in enumerate(part.dataset) if i % part.step == part.offset]
        assert rows
        found.update(rows)
    assert found == Counter(texts(240))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_epoch_of_all_readers_holds_every_document_but_the_held_out_once(tmp_path, layout):
    paths = write(tmp_path, layout)
    expected = Counter(t for t in texts(240) if not is_held_out(t.encode()))
    assert 0 < expected.total() < 240
    num_tokens = 0
    for index in range(3):
        config = replace(CONFIG, shuffle_blocks=10_000)  # a window is then an epoch
        windows = WindowReader(
            open_files(paths), DEMO, ReaderTask(config, 0, index, 3), None
        ).windows()
        window = next(windows)
        num_tokens += window.blocks.size + len(window.place["rest"])
        assert window.place["counts"]["documents"] > 0
    assert num_tokens == sum(map(len, encode_documents(DEMO, list(expected))))


def test_blocks_are_the_packed_documents_in_shuffled_windows(tmp_path):
    paths = write(tmp_path, "jsonl x1")
    kept = [t for t in texts(240) if not is_held_out(t.encode())]
    stream = torch.tensor([i for ids in encode_documents(DEMO, kept * 3) for i in ids])
    packed = stream[: len(stream) // LENGTH * LENGTH].view(-1, LENGTH)
    task = ReaderTask(CONFIG, 0, 0, 1)
    start = 0
    shuffled = False
    for window in WindowReader(open_files(paths), DEMO, task, None).windows():
        blocks = torch.from_numpy(window.blocks).long()
        here = packed[start : start + len(blocks)]
        start += len(blocks)
        if start > len(packed):
            break
        assert sorted(blocks.tolist()) == sorted(here.tolist())
        shuffled |= not torch.equal(blocks, here)
    assert shuffled and start > 0.9 * len(packed)


@pytest.mark.slow_but_one
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("processes", "workers"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 3)])
def test_goes_on_exactly_from_any_block(tmp_path, monkeypatch, layout, processes, workers):
    """Several epochs, cut at many places; readers run in this process, in turns."""
    monkeypatch.setattr(reader, "BULK_DOCUMENTS", 9)  # places are inside files and row groups
    paths = write(tmp_path, layout, count=120)
    for process in range(processes):
        where = {"process": process, "processes": processes, "workers": workers}
        blocks = inline(blocks_of(paths, **where))
        batches, states = [], []
        for _ in range(40):
            states.append(through_a_file(blocks.state_dict()))
            batches.append(blocks.next_batch(range(5)))
        for cut in (*range(0, 12), 17, 23, 31, 39):
            again = inline(blocks_of(paths, **where))
            again.load_state_dict(states[cut])
            for batch in batches[cut : cut + 9]:
                got = again.next_batch(range(5))
                assert got.names == batch.names
                assert torch.equal(got.input_ids, batch.input_ids)


def inline(blocks: StreamBlocks) -> StreamBlocks:
    """The same readers without processes."""
    for supply in blocks.supplies:
        supply.kind = InlineWorker
    return blocks


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_tokenized_is_not_tokenized_again(tmp_path, monkeypatch, layout):
    monkeypatch.setattr(reader, "BULK_DOCUMENTS", 9)
    paths = write(tmp_path, layout)
    seen: list[str] = []

    def noting(tokenizer, documents, **settings):
        seen.extend(documents)
        return encode_documents(tokenizer, documents, **settings)

    monkeypatch.setattr(reader, "encode_documents", noting)
    blocks = blocks_of(paths)
    for _ in range(6):
        blocks.next_batch(range(5))
    state, before = through_a_file(blocks.state_dict()), list(seen)
    blocks = blocks_of(paths)
    blocks.load_state_dict(state)
    del seen[:]
    while len(before) + len(seen) < 200:
        blocks.next_batch(range(5))
    kept = [t for t in texts(240) if not is_held_out(t.encode())]
    assert before and before + seen == kept[: len(before) + len(seen)]


@pytest.mark.slow
def test_held_out_documents_are_the_same_everywhere_and_never_trained_on(tmp_path):
    paths = write(tmp_path, "jsonl x3", count=600)
    sources = [blocks_of(paths, process=p, processes=2) for p in range(2)]
    first, second = (source.held_out for source in sources)
    assert torch.equal(first.blocks.input_ids, second.blocks.input_ids)
    held_out = [t for t in texts(600) if is_held_out(t.encode())]
    packed = [i for ids in encode_documents(DEMO, held_out) for i in ids]
    assert first.blocks.input_ids.shape == (2, LENGTH)
    assert first.blocks.input_ids.flatten().tolist() == packed[: 2 * LENGTH]
    assert 2 < first.bytes_per_token < 8
    sources[0].next_batch(range(400))
    assert sources[0].statistics["held_out"] > 0


def test_statistics_count_what_is_skipped_and_split(tmp_path):
    rows = [*texts(300), "", " \n", "a\0b", "half \ud83d", "line\n" * 30, None]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    datasets_path = tmp_path / "a.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    as_bytes = [r if r is None else r.encode("utf-8", "surrogatepass") for r in rows]
    table = pa.table({"text": pa.array(as_bytes, pa.binary())})
    strings = pa.StringArray.from_buffers(len(rows), *column_buffers(table))
    pq.write_table(pa.table({"text": strings}), datasets_path)
    blocks = blocks_of([str(datasets_path)], max_document_bytes=120, shuffle_blocks=100_000)
    blocks.next_batch(range(1))
    counts = blocks.statistics
    assert counts["documents"] + counts["held_out"] == 301
    assert counts["skipped_empty"] == 3  # two blank ones and null
    assert (counts["skipped_binary"], counts["skipped_not_utf8"]) == (1, 1)
    assert counts["split"] >= 1 and counts["blocks"] * LENGTH <= counts["tokens"]


def column_buffers(table):
    validity, offsets, data = table.column("text").combine_chunks().buffers()
    return offsets, data, validity


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_processes", 2), ("workers", 3), ("process_index", 1), ("length", 32), ("seed", 6)],
)
def test_a_place_of_another_division_or_data_is_refused(tmp_path, name, value):
    paths = write(tmp_path, "jsonl x1", count=600)
    state = blocks_of(paths).state_dict()
    arguments = {"seed": 5, "process_index": 0, "num_processes": 1}
    config = replace(CONFIG, eval_sequences=1)
    if name in arguments:
        arguments[name] = value
    else:
        config = replace(config, **{name: value})
    other = StreamBlocks(open_files(paths), config, DEMO, **arguments)
    shown = {"length": "data", "seed": "data"}.get(name, name)
    with pytest.raises(ValueError, match=shown) as refused:
        other.load_state_dict(state)
    message = str(refused.value)
    assert "\n" not in message
    if shown == name:
        assert str(state[name]) in message and str(value) in message


def test_a_stream_without_documents_is_an_error_and_no_endless_loop(tmp_path):
    path = tmp_path / "a.jsonl"
    held_out = [t for t in texts(2000) if is_held_out(t.encode())]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in held_out), encoding="utf-8")
    for workers in (0, 2):
        blocks = blocks_of([str(path)], workers=workers)
        with pytest.raises(ValueError, match="no usable document"):
            blocks.next_batch(range(1))
        blocks.close()


def test_readers_without_documents_are_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    held_out = [t for t in texts(2000) if is_held_out(t.encode())]
    rows = [*texts(2), *held_out]
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in rows), encoding="utf-8")
    blocks = inline(blocks_of([str(path)], workers=3))
    state = None
    for step in range(20):
        if step == 10:
            state = through_a_file(blocks.state_dict())
        batch = blocks.next_batch(range(4))
    assert state is not None
    again = inline(blocks_of([str(path)], workers=3))
    again.load_state_dict(state)
    for _ in range(10, 20):
        repeated = again.next_batch(range(4))
    assert torch.equal(repeated.input_ids, batch.input_ids)


def test_too_few_held_out_documents_are_refused(tmp_path):
    with pytest.raises(ValueError, match="less than one block of 16"):
        blocks_of(write(tmp_path, "jsonl x1", count=3))


@pytest.mark.slow
def test_an_unknown_column_is_refused_with_those_there_are(tmp_path):
    for layout in ("jsonl x1", "parquet x1"):
        with pytest.raises(ValueError, match="'body'.*text, number"):
            blocks_of(write(tmp_path, layout), dataset_column="body")
        with pytest.raises(ValueError, match="int64 in column 'number'"):
            blocks_of(write(tmp_path, layout), dataset_column="number")
