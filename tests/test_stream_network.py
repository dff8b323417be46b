"""Streams from a server that fails: wait and go on, or stop at an exact place; never a silent end.

The server is this process's own, on 127.0.0.1.
"""

import json
import threading
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
import torch
from servers import QuietHandler
from transformers import AutoTokenizer

from asarm.data import DataConfig, DataUnavailable, open_blocks, retry

ROOT = Path(__file__).parents[1]
DEMO = AutoTokenizer.from_pretrained(ROOT / "asarm" / "demo")
CONFIG = DataConfig(length=16, shuffle_blocks=50, workers=0, eval_sequences=2)


class FlakyServer:
    """Serves bytes by name; `plan` says what happens to the next requests of a body."""

    def __init__(self, files: dict[str, bytes], *, ranges: bool = True, sizes: bool = True):
        self.files, self.ranges, self.sizes = files, ranges, sizes
        self.plan: list[str] = []  # "500" or "cut", of the next GETs
        self.always: str | None = None  # of every GET once the plan is used up
        self.failed = 0

    def next_failure(self) -> str | None:
        failure = self.plan.pop(0) if self.plan else self.always
        self.failed += failure is not None
        return failure


class Handler(QuietHandler):
    flaky: FlakyServer

    def answer(self, *, send_body: bool) -> None:
        body = self.flaky.files.get(self.path)
        if body is None:
            return self.send_error(404)
        failure = self.flaky.next_failure() if send_body else None
        if failure == "500":
            return self.send_error(500)
        asked = self.headers.get("Range") if self.flaky.ranges else None
        if asked:
            start, end = asked.removeprefix("bytes=").split("-")
            first, last = int(start), min(int(end or len(body)), len(body) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
            body = body[first : last + 1]
        else:
            self.send_response(200)
        if self.flaky.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send_body:
            self.wfile.write(body[: len(body) // 2] if failure == "cut" else body)
            if failure == "cut":
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)


@contextmanager
def serving(flaky: FlakyServer) -> Iterator[str]:
    handler = type("Bound", (Handler,), {"flaky": flaky})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(retry, "TRIES", 4)


def texts(count: int) -> list[str]:
    return [f"Document {i} " + "words " * (i * 7 % 23) + f"end {i}" for i in range(count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """The same documents as .jsonl, .txt and .parquet."""
    documents = texts(600)
    path = tmp_path_factory.mktemp("files") / "a.parquet"
    rows = [{"text": t} for t in documents]
    datasets.Dataset.from_list(rows).to_parquet(path, batch_size=100)
    return {
        "/a.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "/a.txt": "\n\n".join(documents).encode(),
        "/a.parquet": path.read_bytes(),
        "/mark.jsonl": BOM_UTF8 + "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "/mark.TXT": BOM_UTF8 + "\n\n".join(documents).encode(),
        "/bad.jsonl": b'{"text": "caf\xe9"}\n'
        + "".join(json.dumps(row) + "\n" for row in rows).encode(),
    }


def source(url: str, **changes):
    config = replace(CONFIG, dataset=url, **changes)
    return open_blocks(config, DEMO, seed=1, global_batch_size=4)


def taken(blocks, count: int = 120) -> torch.Tensor:
    return torch.cat([blocks.next_batch(range(4)).input_ids for _ in range(count)])


@pytest.mark.slow_but_one
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.parquet"])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("failure", ["500", "cut"])
def test_a_server_that_recovers_changes_nothing(files, capfd, name, ranges, failure):
    flaky = FlakyServer(files, ranges=ranges)
    with serving(flaky) as address:
        expected = taken(source(f"{address}/{name}"))
        blocks = source(f"{address}/{name}")
        flaky.plan = [failure] * 3
        assert torch.equal(taken(blocks), expected)
        assert flaky.failed == 3
        flaky.plan = [failure] * 2  # the opening too
        assert torch.equal(taken(source(f"{address}/{name}")), expected)
    assert "try 1 of 4" in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("failure", ["500", "cut"])
def test_a_server_that_stays_away_stops_at_an_exact_place(files, capfd, failure, workers):
    flaky = FlakyServer(files)
    with serving(flaky) as address:
        expected = taken(source(f"{address}/a.jsonl"), 300)
        blocks = source(f"{address}/a.jsonl", workers=workers)
        got = [taken(blocks, 10)]
        flaky.always = failure
        with pytest.raises(DataUnavailable, match="after 4 more tries") as stopped:
            while True:
                got.append(taken(blocks, 1))
        assert "\n" not in str(stopped.value)
        state = blocks.state_dict()
        with pytest.raises(DataUnavailable):
            blocks.next_batch(range(4))
        blocks.close()
        flaky.always = None
        again = source(f"{address}/a.jsonl", workers=workers)
        again.load_state_dict(state)
        got.append(taken(again, 300 - sum(map(len, got)) // 4))
        again.close()
    assert torch.equal(torch.cat(got), expected)


def test_bytes_that_are_not_utf8_skip_one_document(files):
    with serving(FlakyServer(files)) as address:
        blocks = source(f"{address}/bad.jsonl", shuffle_blocks=100_000)
        expected = taken(source(f"{address}/a.jsonl", shuffle_blocks=100_000))
        assert torch.equal(taken(blocks), expected)
        assert blocks.statistics["skipped_not_utf8"] == 1


@pytest.mark.parametrize(("marked", "plain"), [("mark.jsonl", "a.jsonl"), ("mark.TXT", "a.txt")])
def test_a_byte_order_mark_is_no_text(files, marked, plain):
    with serving(FlakyServer(files)) as address:
        expected = taken(source(f"{address}/{plain}"))
        assert torch.equal(taken(source(f"{address}/{marked}")), expected)


@pytest.mark.slow
def test_a_text_address_is_cut_as_it_is_asked(files):
    with serving(FlakyServer(files)) as address:
        url = f"{address}/a.txt"
        lines = source(url, txt_documents="line")
        taken(lines)
        assert lines.statistics["skipped_empty"] > 500
        with pytest.raises(ValueError, match="the 0 documents held out of the first 1 of"):
            source(url, txt_documents="file")
        with pytest.raises(ValueError, match="was read with data"):
            source(url).load_state_dict(lines.state_dict())


def test_what_is_not_there_is_refused_at_once(files):
    with serving(FlakyServer(files)) as address:
        with pytest.raises(ValueError, match="HTTP status 404"):
            source(f"{address}/missing.jsonl")
        with pytest.raises(ValueError, match=r"ends in .txt, .jsonl, .parquet"):
            source(f"{address}/a.csv")
