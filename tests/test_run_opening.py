"""Opening a run: what does not fit is refused before anything changes; what fits is kept."""

import json
from dataclasses import dataclass

import pytest
import yaml

from asarm.lock import LOCK
from asarm.run import CONFIG, HEADER, STARTS, SUMMARY, Run

PRINTS = {"model m": "a" * 32, "dataset d": "b" * 32}
OTHER = {**PRINTS, "dataset d": "c" * 32}
GROWING = ("items", "trials")


@dataclass
class Settings:
    seed: int = 0
    items: int | None = 3
    trials: int = 2
    judge: str | None = None
    output_dir: str = "runs"
    overwrite: bool = False


def opened(folder, fingerprints=PRINTS, **options):
    """A run with a result, its folder free for others."""
    run = Run.open(folder, Settings(), fingerprints=fingerprints, **options)
    run.append("samples.jsonl", {"a": 1})
    run.write(SUMMARY, {"rows": 1})
    run.close()
    return run


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(autouse=True)
def no_job(monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


# --- what a run depends on besides its settings ---


def test_fingerprints_lie_in_the_config_and_are_no_settings(tmp_path):
    run = opened(tmp_path)
    assert run.fingerprints() == PRINTS
    assert set(yaml.safe_load((tmp_path / CONFIG).read_text())) == set(vars(Settings()))
    assert run.holds(Settings(output_dir="elsewhere")) and not run.holds(Settings(seed=1))
    assert not Run(tmp_path / "nowhere").holds(Settings())


def test_other_contents_are_refused_with_both_fingerprints_and_nothing_changes(tmp_path):
    opened(tmp_path)
    before = content(tmp_path)
    says = f"{tmp_path} .* dataset d with fingerprint b{{12}}, not c{{12}}: .*; .*--overwrite"
    with pytest.raises(ValueError, match=says) as refused:
        Run.open(tmp_path, Settings(), fingerprints=OTHER)
    assert "\n" not in str(refused.value)
    assert content(tmp_path) == before
    run = Run.open(tmp_path, Settings(), fingerprints=OTHER, overwrite=True)
    assert run.read("samples.jsonl") == [] and run.fingerprints() == OTHER


def test_contents_may_change_before_the_first_result(tmp_path):
    Run.open(tmp_path, Settings(), fingerprints=PRINTS).close()
    assert Run.open(tmp_path, Settings(), fingerprints=OTHER).fingerprints() == OTHER


def test_a_model_that_joins_is_known_from_then_on_and_stays_known(tmp_path):
    opened(tmp_path)
    more = {**PRINTS, "model n, off the shelf": "d" * 32}
    assert Run.open(tmp_path, Settings(), fingerprints=more).fingerprints() == more
    assert Run.open(tmp_path, Settings(), fingerprints=PRINTS).fingerprints() == more
    with pytest.raises(ValueError, match="model n, off the shelf with fingerprint d{12}, not e"):
        Run.open(tmp_path, Settings(), fingerprints={**PRINTS, "model n, off the shelf": "e" * 32})


def test_results_of_a_version_without_fingerprints_are_never_misread(tmp_path):
    opened(tmp_path, fingerprints=None)
    before = content(tmp_path)
    with pytest.raises(ValueError, match="an earlier version, which kept no fingerprints .*--over"):
        Run.open(tmp_path, Settings(), fingerprints=PRINTS)
    assert content(tmp_path) == before
    run = Run.open(tmp_path, Settings(), fingerprints=PRINTS, overwrite=True)
    assert run.read("samples.jsonl") == []


# --- what may change, and what may only grow ---


@pytest.mark.parametrize("change", [{"items": 4}, {"items": None}, {"trials": 9, "items": 3}])
def test_a_longer_plan_keeps_what_is_there_and_waits_for_its_summary(tmp_path, change):
    opened(tmp_path)
    run = Run.open(tmp_path, Settings(**change), fingerprints=PRINTS, may_grow=GROWING)
    assert run.read("samples.jsonl") == [{"a": 1}]
    assert run.holds(Settings(**change)) and set(run.changed) <= set(change)
    assert not (tmp_path / SUMMARY).exists()  # of the shorter plan


def test_the_same_plan_keeps_its_summary(tmp_path):
    opened(tmp_path)
    Run.open(tmp_path, Settings(), fingerprints=PRINTS, may_grow=GROWING)
    assert (tmp_path / SUMMARY).exists()


@pytest.mark.parametrize(("before", "now"), [(None, 3), (5, 4), (None, 10**6)])
def test_a_shorter_plan_is_refused(tmp_path, before, now):
    run = Run.open(tmp_path, Settings(items=before))
    run.append("samples.jsonl", {"a": 1})
    shown = "null" if before is None else before
    with pytest.raises(ValueError, match=f"items = {shown}, not {now} .it may only grow.; take"):
        Run.open(tmp_path, Settings(items=now), may_grow=GROWING)
    with pytest.raises(ValueError, match="items = "):
        Run.open(tmp_path, Settings(items=10**7 if before else 1))  # where nothing may grow


# --- first all is checked, then something is written ---


def test_nothing_is_written_until_the_run_begins(tmp_path):
    opened(tmp_path)
    before = content(tmp_path)
    run = Run.prepare(tmp_path, Settings(judge="j"), fingerprints=PRINTS, may_change=("judge",))
    run.close()
    assert content(tmp_path) == before
    run = Run.prepare(tmp_path, Settings(), fingerprints=PRINTS, overwrite=True)
    assert run.is_anew and content(tmp_path).items() >= before.items()
    run.begin()
    assert sorted(content(tmp_path)) == [CONFIG, LOCK, STARTS]


def test_damaged_results_are_named_before_anything_is_written(tmp_path):
    opened(tmp_path)
    (tmp_path / "samples.jsonl").write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
    before = content(tmp_path)
    with pytest.raises(ValueError, match="samples.jsonl is damaged: line 2"):
        Run.open(tmp_path, Settings(trials=3), fingerprints=PRINTS, may_grow=GROWING)
    assert content(tmp_path) == before
    Run.open(tmp_path, Settings(), fingerprints=PRINTS, overwrite=True)


def test_a_refused_run_leaves_no_folder_behind(tmp_path):
    Run.prepare(tmp_path / "new", Settings()).close()
    assert not (tmp_path / "new").exists()


# --- beginning anew ---


def test_overwriting_begins_anew_where_settings_are_equal_too(tmp_path):
    opened(tmp_path)
    run = Run.open(tmp_path, Settings(), fingerprints=PRINTS, overwrite=True)
    assert run.read("samples.jsonl") == [] and len(run.read(STARTS)) == 1
    assert not (tmp_path / SUMMARY).exists() and run.changed == {}


def test_tasks_of_an_array_begin_anew_once(tmp_path, monkeypatch):
    opened(tmp_path)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    runs = [
        Run.open(tmp_path, Settings(), fingerprints=PRINTS, overwrite=True, task=1, tasks=2),
    ]
    runs[0].append("samples.1-0.jsonl", {"a": 2})
    runs[0].close()
    runs.append(
        Run.open(tmp_path, Settings(), fingerprints=PRINTS, overwrite=True, task=0, tasks=2)
    )
    assert [run.is_anew for run in runs] == [True, False]
    assert runs[1].read("samples.1-0.jsonl") == [{"a": 2}]
    assert not (tmp_path / "samples.jsonl").exists()
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    again = Run.open(tmp_path, Settings(), fingerprints=PRINTS, overwrite=True, tasks=2)
    assert again.is_anew and not (tmp_path / "samples.1-0.jsonl").exists()


def test_a_requeued_job_goes_on_with_what_it_has_begun_anew(tmp_path, monkeypatch):
    opened(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def start():
        run = Run.open(tmp_path, Settings(), fingerprints=PRINTS, overwrite=True)
        found = run.read("samples.jsonl")
        run.append("samples.jsonl", {"a": len(found)})
        run.close()
        return found

    assert start() == []
    assert start() == []  # the same command again, by hand
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert start() == [{"a": 0}]
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert start() == []  # a job that was requeued before it began


def test_starts_say_which_job_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    run = Run.open(tmp_path, Settings(), overwrite=True)
    (start,) = run.read(STARTS)
    assert (start["job"], start["anew"]) == ("7", True)
    assert json.dumps(start)


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"a: [1", b"- 1\n- 2\n"])
def test_damaged_settings_are_named(tmp_path, damage):
    folder = tmp_path / "run"
    opened(folder)
    (folder / CONFIG).write_bytes(HEADER.encode() + damage)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged.*put them back"):
        Run.open(folder, Settings())
