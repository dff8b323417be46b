"""Packed data belong to what files hold, not to names, dates or places; and where they lie."""

import errno
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from transformers import AutoTokenizer

from asarm.data import DataConfig, contents, finite, open_blocks, prepare_blocks
from asarm.data.contents import changes

ROOT = Path(__file__).parents[1]
DEMO = AutoTokenizer.from_pretrained(ROOT / "asarm" / "demo")


def rows(mark: str, count: int = 60) -> str:
    texts = [f"Document {mark} {i} " + "words " * (i * 7 % 23) for i in range(count)]
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "data" / "more").mkdir(parents=True)
    (tmp_path / "data" / "a.jsonl").write_text(rows("a"))
    (tmp_path / "data" / "more" / "b.jsonl").write_text(rows("b"))
    cache = str(tmp_path / "cache")
    return DataConfig(dataset=str(tmp_path / "data"), length=16, cache_dir=cache, eval_sequences=4)


def opened(config):
    return open_blocks(config, DEMO, seed=3, global_batch_size=4)


def refusal(config, state) -> str:
    with pytest.raises(ValueError, match="the run was trained on packed data") as refused:
        opened(config).load_state_dict(state)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_dates_copies_names_and_mounts_are_the_same_data(config, tmp_path):
    state = opened(config).state_dict()
    data = Path(config.dataset)
    os.utime(data / "a.jsonl", (1, 1))
    opened(config).load_state_dict(state)
    shutil.copytree(data, tmp_path / "elsewhere" / "copy")
    (tmp_path / "elsewhere" / "copy" / "a.jsonl").rename(tmp_path / "elsewhere/copy/aa.jsonl")
    opened(replace(config, dataset=str(tmp_path / "elsewhere/copy"))).load_state_dict(state)
    (tmp_path / "link").symlink_to(data)
    opened(replace(config, dataset=str(tmp_path / "link"))).load_state_dict(state)
    assert len(list(Path(config.cache_dir, "packed").iterdir())) == 1


def test_one_file_is_the_same_under_another_name(config, tmp_path):
    file = Path(config.dataset, "a.jsonl")
    state = opened(replace(config, dataset=str(file))).state_dict()
    shutil.copy(file, tmp_path / "b.jsonl")
    opened(replace(config, dataset=str(tmp_path / "b.jsonl"))).load_state_dict(state)


def test_a_saved_folder_is_known_by_its_rows(tmp_path, config):
    table = datasets.Dataset.from_list([json.loads(line) for line in rows("x").splitlines()])
    for name in ("one", "two"):
        table.save_to_disk(tmp_path / name, num_shards=2)
    saved = replace(config, dataset=str(tmp_path / "one"))
    state = opened(saved).state_dict()
    opened(replace(config, dataset=str(tmp_path / "two"))).load_state_dict(state)
    table.select(range(59)).save_to_disk(tmp_path / "two", num_shards=2)
    assert "two" in refusal(replace(config, dataset=str(tmp_path / "two")), state)


def test_an_edit_that_keeps_size_and_date_is_seen(config, monkeypatch):
    monkeypatch.setattr(contents, "SETTLED", 0)
    state = opened(config).state_dict()
    path = Path(config.dataset, "a.jsonl")
    before = path.stat()
    path.write_text(path.read_text().replace("Document", "Dokument"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert "a.jsonl changed;" in refusal(config, state)


def test_digests_are_computed_once_and_again_where_that_is_not_safe(config, monkeypatch):
    real, asked = contents._digest, []
    monkeypatch.setattr(
        contents, "_digest", lambda path, progress: asked.append(path) or real(path, progress)
    )
    prepare_blocks(config, DEMO, seed=3)
    asked.clear()
    opened(config)
    assert len(asked) == 2  # another edit within the clock's tick would not be seen
    monkeypatch.setattr(contents, "SETTLED", 0)
    opened(config)
    asked.clear()
    opened(config)
    assert not asked
    os.utime(Path(config.dataset, "a.jsonl"))
    opened(config)
    assert [path.name for path in asked] == ["a.jsonl"]


def test_a_cache_that_cannot_be_written_serves_what_it_has(config, monkeypatch):
    opened(config)

    def full(path, content):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(contents, "_write", full)
    opened(config)


def test_the_message_names_what_changed(config):
    data = Path(config.dataset)
    state = opened(config).state_dict()
    with (data / "a.jsonl").open("a") as file:
        file.write(rows("one more", 1))
    assert ": a.jsonl changed; put it back or start a new run" in refusal(config, state)
    (data / "c.jsonl").write_text(rows("c", 3))
    (data / "more" / "b.jsonl").unlink()
    said = refusal(config, state)
    assert "a.jsonl changed, c.jsonl is new, more/b.jsonl is gone;" in said
    for name in "defgh":
        (data / f"{name}.jsonl").write_text(rows(name, 1))
    assert "a.jsonl changed, c.jsonl is new, d.jsonl is new and 5 more;" in refusal(config, state)


def test_the_message_names_the_setting_that_changed(config):
    state = opened(config).state_dict()
    assert "length was 16 and is 24;" in refusal(replace(config, length=24), state)
    before = {"tokenizer": "1", "files": {"a": "1"}}
    assert changes(before, before | {"tokenizer": "2"}) == "the tokenizer changed"
    python = {"python": "3.11", "repeats": {"prose": 1}, "seed": 0}
    assert changes(python, python | {"seed": 1}) == "seed was 0 and is 1"


def test_packed_data_of_what_is_no_more_are_named(config, capsys):
    opened(config)
    opened(replace(config, length=24))
    assert not capsys.readouterr().err
    stale = {path.name for path in Path(config.cache_dir, "packed").iterdir()}
    Path(config.dataset, "a.jsonl").write_text(rows("changed"))
    opened(config)
    said = capsys.readouterr().err
    assert "held before; remove what" in said and all(name in said for name in stale)
    assert said.count("\n") == 1


def test_what_is_left_out_is_said_when_it_is_packed(config, capsys):
    Path(config.dataset, "image.png").touch()
    blocks = opened(config)
    said = "2 files are read, 1 left out: 1 of a kind that is not read (image.png)\n"
    assert said in capsys.readouterr().err
    assert (blocks.statistics["files"], blocks.statistics["left_out"]) == (2, 1)


def test_the_cache_inside_a_data_folder_is_no_data(config):
    inside = replace(config, cache_dir=str(Path(config.dataset, "cache")))
    state = opened(inside).state_dict()
    opened(replace(inside, length=24))
    opened(inside).load_state_dict(state)
    assert opened(inside).statistics["files"] == 2


def test_files_that_are_written_while_they_are_packed_are_refused(config, monkeypatch):
    real = finite.write_blocks

    def slow(*arguments):
        count = real(*arguments)
        with Path(config.dataset, "a.jsonl").open("a") as file:
            file.write(rows("late", 1))
        return count

    monkeypatch.setattr(finite, "write_blocks", slow)
    with pytest.raises(ValueError, match=r"a\.jsonl changed while it was packed"):
        opened(config)
    assert not list(Path(config.cache_dir, "packed").iterdir())


def packing_error(config) -> str:
    with pytest.raises(OSError, match="cannot keep packed data in .*--cache_dir") as refused:
        prepare_blocks(config, DEMO, seed=3)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_full_disk_is_said_in_a_line_and_nothing_stays(config):
    prepare_blocks(replace(config, length=24), DEMO, seed=3)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        said = packing_error(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert config.cache_dir in said and "File too large" in said
    assert len(list(Path(config.cache_dir, "packed").iterdir())) == 1


def test_a_cache_that_cannot_be_made_is_said_in_a_line(config, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert "Not a directory" in packing_error(replace(config, cache_dir=str(tmp_path / "file/x")))
    monkeypatch.delenv("ASARM_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/proc")
    assert "/proc/.cache/asarm" in packing_error(replace(config, cache_dir=None))

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ValueError, match="name a folder with --cache_dir"):
        prepare_blocks(replace(config, cache_dir=None), DEMO, seed=3)
