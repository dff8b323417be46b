"""A training that is refused leaves its folder as it was; one that overwrites begins anew."""

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from kills import tiny

from asarm.lock import RunLock
from asarm.run import CONFIG, STARTS
from asarm.training.loop import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is over."""
    config = tiny(tmp_path_factory.mktemp("finished"), max_steps=2)
    assert train(config).is_finished
    return config


@pytest.fixture
def config(finished, tmp_path):
    """A copy of it."""
    folder = shutil.copytree(finished.output_dir, tmp_path / "run")
    return replace(finished, output_dir=str(folder))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def steps(folder: Path) -> list[int]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def other_text(tmp_path: Path) -> str:
    path = tmp_path / "other.txt"
    path.write_text("\n\n".join(f"paragraph {n} of another text, a short one" for n in range(200)))
    return str(path)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "/no/such/folder", "max_steps": 9}, "/no/such/folder"),
        ({"dataset": "/no/such/text.txt", "max_steps": 9}, "/no/such/text.txt"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"length": 10**6, "eval_sequences": 1}, "length|blocks"),
    ],
)
def test_what_cannot_be_trained_changes_nothing(config, change, says, overwrite):
    before = files(Path(config.output_dir))
    with pytest.raises(ValueError, match=says):
        train(replace(config, **change, overwrite=overwrite))
    assert files(Path(config.output_dir)) == before


def test_fewer_steps_change_nothing(config):
    before = files(Path(config.output_dir))
    with pytest.raises(ValueError, match="max_steps is 1, and the run has made 2 steps"):
        train(replace(config, max_steps=1, log_steps=2))
    assert files(Path(config.output_dir)) == before


@pytest.mark.slow
def test_other_data_under_the_same_name_change_nothing(finished, tmp_path):
    config = replace(finished, dataset=str(tmp_path / "text.txt"), output_dir=str(tmp_path / "run"))
    shutil.copy(finished.dataset, config.dataset)
    train(config)
    shutil.copy(other_text(tmp_path), config.dataset)
    before = files(tmp_path / "run")
    with pytest.raises(ValueError, match="data"):
        train(replace(config, max_steps=4, log_steps=2))
    assert files(tmp_path / "run") == before


def test_a_run_in_use_is_left_alone_even_by_who_would_overwrite_it(config):
    folder = Path(config.output_dir)
    before, (reading, writing) = files(folder), os.pipe()
    child = os.fork()
    if not child:
        with RunLock(folder):
            os.write(writing, b"s")
            signal.pause()
    assert os.read(reading, 1)
    with pytest.raises(ValueError, match=f"in use by process {child} on"):
        train(replace(config, overwrite=True))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (folder / "run.lock").unlink()
    assert files(folder) == before


def test_overwriting_begins_anew_with_equal_settings_too(config):
    folder = Path(config.output_dir)
    (folder / "checkpoints" / "kept").mkdir()
    assert train(replace(config, overwrite=True)).step == 2
    assert steps(folder) == [1, 2]
    assert not (folder / "checkpoints" / "kept").exists()
    (start,) = map(json.loads, (folder / STARTS).read_text().splitlines())
    assert start["anew"]


@pytest.mark.slow
def test_a_requeued_job_goes_on_although_it_was_told_to_overwrite(config, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    folder = Path(config.output_dir)
    assert train(replace(config, overwrite=True)).step == 2
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    result = train(replace(config, overwrite=True, max_steps=3))
    assert (result.step, steps(folder)) == (3, [1, 2, 3])
    assert len((folder / STARTS).read_text().splitlines()) == 2
    assert "max_steps: 3" in (folder / CONFIG).read_text()


def test_the_same_text_at_another_place_goes_on_and_another_text_does_not(tmp_path):
    """Another copy, checkout or mount: what a file holds decides, not what it is called."""
    text = Path(other_text(tmp_path))
    (tmp_path / "run").mkdir()
    config = tiny(tmp_path / "run", dataset=str(text), max_steps=2)
    assert train(config).is_finished
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(text, tmp_path / "elsewhere" / text.name)
    assert train(replace(config, dataset=str(copy), max_steps=3)).step == 3
    Path(copy).write_text(Path(copy).read_text().replace("paragraph", "part"))
    with pytest.raises(ValueError, match="trained on packed data.*other.txt changed"):
        train(replace(config, dataset=str(copy), max_steps=4))
