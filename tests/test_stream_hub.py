"""Names on the hub, against a small stand-in of its interface on 127.0.0.1.

The hub's address is read when its library is imported, so what asks it is another process.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path

import datasets
import pytest
from servers import QuietHandler

ROOT = Path(__file__).parents[1]
COMMIT = "a" * 40
API = f"/api/datasets/user/set/tree/{COMMIT}"
FILES = f"/datasets/user/set/resolve/{COMMIT}"

ASKING = """
import json, sys
from asarm.data import DataConfig, open_blocks, retry
from asarm.loading import load_tokenizer
retry.TRIES = 0  # the hub's own library tries several times already
tokenizer = load_tokenizer("demo")
for settings in json.loads(sys.argv[1]):
    config = DataConfig(length=16, workers=0, eval_sequences=2, **settings)
    try:
        blocks = open_blocks(config, tokenizer, seed=0, global_batch_size=4)
        print(hash(tuple(blocks.next_batch(range(200)).input_ids.flatten().tolist())))
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}")
"""


class Hub(QuietHandler):
    parquet: bytes
    cuts: list[int]  # one is taken for each file that breaks off

    def answer(self, *, send_body: bool) -> None:
        path = self.path.split("?")[0]
        if "/gated/" in path:
            self.refuse(403, "GatedRepo")
        elif "/missing/" in path:
            self.refuse(401, "RepoNotFound")
        elif path in ("/api/datasets/user/set", f"/api/datasets/user/set/revision/{COMMIT}"):
            self.say({"id": "user/set", "sha": COMMIT, "siblings": []})
        elif path == API:
            size = len(self.parquet)
            self.say([{"type": "file", "oid": "b" * 40, "size": size, "path": "0.parquet"}])
        elif path.startswith(API):  # no other folder
            self.say([])
        elif path == f"{FILES}/0.parquet":
            self.give_part(send_body)
        else:
            self.refuse(404, "EntryNotFound")

    def give_part(self, send_body: bool) -> None:
        start, end = self.headers["Range"].removeprefix("bytes=").split("-")
        body = self.parquet[int(start) : int(end) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(self.parquet)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.cuts:
            self.cuts.pop()
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.say({"error": code}, status, {"X-Error-Code": code, "X-Repo-Commit": COMMIT})

    def say(self, content, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def hub(parquet: bytes, cuts: int = 0) -> Iterator[str]:
    handler = type("Bound", (Hub,), {"parquet": parquet, "cuts": [1] * cuts})
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


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("parquet") / "0.parquet"
    rows = [{"text": f"Document {i} " + "words " * (i * 7 % 23)} for i in range(600)]
    datasets.Dataset.from_list(rows).to_parquet(path)
    return path.read_bytes()


def ask(address: str, home: Path, *settings: dict[str, str]) -> list[str]:
    """What comes of each of the settings, a line each."""
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HOME": str(home),
    }
    command = [sys.executable, "-c", ASKING, json.dumps(settings)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_hub_set_is_read_and_a_cut_connection_changes_nothing(parquet, tmp_path):
    with hub(parquet) as address:
        (expected,) = ask(address, tmp_path, {"dataset": "user/set"})
    with hub(parquet, cuts=2) as address:
        assert ask(address, tmp_path, {"dataset": "user/set"}) == [expected]
    assert int(expected)


@pytest.mark.slow
def test_what_the_hub_refuses_is_said_in_one_line(parquet, tmp_path):
    settings = [
        {"dataset": "user/gated"},
        {"dataset": "user/missing"},
        {"dataset": "user/set", "dataset_split": "nope"},
        {"dataset": "user/set", "dataset_config": "nope"},
        {"dataset": "user/set", "dataset_data_dir": "nope"},
        {"dataset": "user/set", "dataset_column": "body"},
    ]
    messages = [
        "ValueError: dataset user/gated is gated: accept its terms at https://.* hf auth login",
        "ValueError: dataset user/missing is neither a local file .* hf auth login",
        "ValueError: cannot open dataset user/set .Bad split: nope",
        "ValueError: cannot open dataset user/set .*'nope' not found",
        "ValueError: cannot open dataset user/set .*nope doesn't contain any data",
        "ValueError: user/set has no column 'body', only: text",
    ]
    with hub(parquet) as address:
        said = ask(address, tmp_path, *settings)
    for line, message in zip(said, messages, strict=True):
        assert re.match(message, line), line
