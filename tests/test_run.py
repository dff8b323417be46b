"""A run's folder: what is in it is whole, however the run ended."""

import errno
import json
import os
from dataclasses import dataclass, field

import pytest
import yaml

from asarm.lock import LOCK
from asarm.run import CONFIG, STARTS, Run


@dataclass
class Settings:
    seed: int = 0
    methods: list[str] = field(default_factory=lambda: ["assd"])
    sizes: tuple[int, ...] = (1, 2)
    judge: str | None = None
    output_dir: str = "runs"
    overwrite: bool = False


def test_open_writes_the_settings_and_how_it_was_started(tmp_path):
    run = Run.open(tmp_path / "a" / "b", Settings(seed=3))
    settings = yaml.safe_load((run.folder / CONFIG).read_text())
    assert list(settings) == ["seed", "methods", "sizes", "judge", "output_dir", "overwrite"]
    assert settings["seed"] == 3
    Run.open(run.folder, Settings(seed=3))
    starts = run.read(STARTS)
    assert len(starts) == 2
    assert {"command", "python", "torch", "transformers", "platform", "device"} <= set(starts[0])
    assert "git_commit" in starts[0]


def test_records_come_back_as_they_were(tmp_path):
    run = Run.open(tmp_path, Settings())
    records = [{"a": 0.1, "text": 'é\u2028\n"'}, {"a": None}]
    for record in records:
        run.append("samples.jsonl", record)
    assert run.read("samples.jsonl") == Run(tmp_path).read("samples.jsonl") == records
    assert run.read("nothing.jsonl") == []


@pytest.mark.parametrize("torn", [b'{"a": 2', b'{"a": 2}', b'{"t": "\xc3', b"\x00\x00"])
def test_a_torn_last_line_is_dropped_and_written_anew(tmp_path, torn):
    run = Run.open(tmp_path, Settings())
    run.append("samples.jsonl", {"a": 1})
    with open(tmp_path / "samples.jsonl", "ab") as file:
        file.write(torn)
    run = Run.open(tmp_path, Settings())
    assert run.read("samples.jsonl") == [{"a": 1}]
    run.append("samples.jsonl", {"a": 2})
    assert run.read("samples.jsonl") == [{"a": 1}, {"a": 2}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "samples.jsonl").write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    with pytest.raises(ValueError, match="samples.jsonl is damaged: line 2"):
        Run(tmp_path).read("samples.jsonl")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed = 0, not 1"),
        ({"methods": ["assd", "ngram"]}, r"methods = \['assd'\], not \['assd', 'ngram'\]"),
        ({"judge": "gpt2"}, "judge = null, not gpt2"),
        ({"seed": 2, "judge": "gpt2"}, "seed = 0, not 2"),
    ],
)
def test_results_of_other_settings_are_refused_unless_overwritten(tmp_path, change, named):
    run = Run.open(tmp_path, Settings())
    run.append("samples.jsonl", {"a": 1})
    with pytest.raises(ValueError, match=f"{tmp_path} .*{named}; .*--output_dir.*--overwrite"):
        Run.open(tmp_path, Settings(**change))
    assert run.read("samples.jsonl") == [{"a": 1}]
    (tmp_path / "kept").mkdir()
    run = Run.open(tmp_path, Settings(**change), overwrite=True)
    assert run.read("samples.jsonl") == []
    assert {path.name for path in tmp_path.iterdir()} == {CONFIG, STARTS, LOCK, "kept"}
    run.close()
    assert not (tmp_path / LOCK).exists()


def test_what_changes_no_result_may_differ(tmp_path):
    run = Run.open(tmp_path, Settings())
    run.append("samples.jsonl", {"a": 1})
    Run.open(tmp_path, Settings(output_dir="elsewhere", overwrite=True))
    Run.open(tmp_path, Settings(judge="gpt2"), may_change=("judge",))
    assert run.read("samples.jsonl") == [{"a": 1}]
    assert yaml.safe_load((tmp_path / CONFIG).read_text())["judge"] == "gpt2"


def test_settings_may_change_before_the_first_result(tmp_path):
    Run.open(tmp_path, Settings(seed=0))
    Run.open(tmp_path, Settings(seed=1))
    assert yaml.safe_load((tmp_path / CONFIG).read_text())["seed"] == 1


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", CONFIG])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path, name, overwrite):
    (tmp_path / name).write_text("seed: 0\n")
    with pytest.raises(ValueError, match=f"{tmp_path}.*another --output_dir"):
        Run.open(tmp_path, Settings(), overwrite=overwrite)
    assert (tmp_path / name).read_text() == "seed: 0\n"
    assert len(list(tmp_path.iterdir())) == 1


def test_disk_full_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    run = Run.open(tmp_path, Settings())
    run.append("samples.jsonl", {"a": 1})
    run.write("summary.json", {"old": True})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        patch.setattr("os.replace", full)
        with pytest.raises(OSError, match=r"samples.jsonl \(No space left on device\)") as refused:
            run.append("samples.jsonl", {"a": 2})
        with pytest.raises(OSError, match="summary.json"):
            run.write("summary.json", {"old": False})
    assert "\n" not in str(refused.value)
    assert run.read("samples.jsonl")[0] == {"a": 1}
    assert json.loads((tmp_path / "summary.json").read_text()) == {"old": True}


def test_a_device_that_is_really_full(tmp_path):
    run = Run.open(tmp_path, Settings())
    (tmp_path / "samples.jsonl").symlink_to("/dev/full")
    run._mended.add("samples.jsonl")
    with pytest.raises(OSError, match="No space left on device"):
        run.append("samples.jsonl", {"a": 2})


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write .*file"):
        Run.open(tmp_path / "file" / "run", Settings())


def test_write_replaces_text_bytes_and_json(tmp_path):
    run = Run(tmp_path)
    run.write("a.md", "é")
    run.write("a.png", b"\x00")
    run.write("a.json", {"a": [1]})
    assert (tmp_path / "a.md").read_bytes() == "é".encode()
    assert (tmp_path / "a.png").read_bytes() == b"\x00"
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1]}
    assert not list(tmp_path.glob("*.tmp"))


def test_lines_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    run = Run(tmp_path)
    first, second = [{"a": 'é\u2028\n"'}, {"a": None}], [{"a": 2}]
    run.write_lines("samples.jsonl", first)
    assert run.read("samples.jsonl") == first
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        with pytest.raises(OSError, match="cannot write .*samples.jsonl"):
            run.write_lines("samples.jsonl", second)
    assert run.read("samples.jsonl") == first
    run.write_lines("samples.jsonl", second)
    run.append("samples.jsonl", {"a": 3})
    assert run.read("samples.jsonl") == [{"a": 2}, {"a": 3}]
    run.write_lines("samples.jsonl", [])
    assert run.read("samples.jsonl") == []


def test_several_jobs_write_the_same_file_at_once(tmp_path, monkeypatch):
    """Another job's whole writing falls between the two steps of this one's."""
    run, other, replace = Run(tmp_path), Run(tmp_path), os.replace

    def interrupted(*paths):
        monkeypatch.setattr("os.replace", replace)
        monkeypatch.setattr("os.getpid", lambda: 1)
        other.write("summary.json", {"by": "the other"})
        assert json.loads((tmp_path / "summary.json").read_text()) == {"by": "the other"}
        replace(*paths)

    monkeypatch.setattr("os.replace", interrupted)
    run.write("summary.json", {"by": "this one"})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"by": "this one"}
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_each_task_writes_down_its_own_starts_which_are_no_results(tmp_path):
    for task in (0, 2, 2):
        Run.open(tmp_path, Settings(seed=0), task=task)
    run = Run.open(tmp_path, Settings(seed=1), task=1)  # nothing was computed yet
    assert [len(run.read(f"starts{n}.jsonl")) for n in ("", ".1", ".2")] == [1, 1, 2]
    run.append("samples.jsonl", {"a": 1})
    with pytest.raises(ValueError, match="seed = 1, not 2"):
        Run.open(tmp_path, Settings(seed=2), task=1)
    Run.open(tmp_path, Settings(seed=2), task=1, overwrite=True)
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"starts.1.jsonl"}
