"""A run whose checkpoints are gone or damaged is not begun anew over what it has."""

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from kills import outcome, tiny

from asarm import load
from asarm.training import loop
from asarm.training.checkpoint import CHECKSUMS, Checkpoints
from asarm.training.loop import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is over."""
    config = tiny(tmp_path_factory.mktemp("finished"), max_steps=6)
    assert train(config).is_finished
    return config


@pytest.fixture
def config(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished.output_dir, tmp_path / "a run")
    return replace(finished, output_dir=str(tmp_path / "a run"))


def remove(checkpoints: Path) -> None:
    shutil.rmtree(checkpoints)


def damage_sums(checkpoints: Path) -> None:
    for folder in checkpoints.iterdir():
        (folder / CHECKSUMS).unlink()


def cut_weights(checkpoints: Path) -> None:
    for weights in checkpoints.glob("*/model/model.safetensors"):
        os.truncate(weights, 100)


def empty(checkpoints: Path) -> None:
    for folder in checkpoints.iterdir():
        shutil.rmtree(folder)


def files(folder: Path) -> dict[str, bytes]:
    """What the folder holds, but for how the run was started and with what settings."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    ours = ("starts.jsonl", "config.yaml", "run.lock")
    return {str(p): p.read_bytes() for p in paths if p.name not in ours}


@pytest.mark.slow
@pytest.mark.parametrize("max_steps", [6, 8])
@pytest.mark.parametrize("damage", [remove, empty, damage_sums, cut_weights])
@pytest.mark.filterwarnings("ignore:.*is damaged")
def test_a_finished_run_is_never_begun_anew_unasked(config, damage, max_steps):
    folder = Path(config.output_dir)
    damage(folder / "checkpoints")
    before = files(folder)
    with pytest.raises(ValueError, match=r"a run holds .*--overwrite to throw") as refused:
        train(replace(config, max_steps=max_steps))
    assert files(folder) == before
    message = str(refused.value)
    assert "\n" not in message and f"--model '{folder}' --output_dir" in message
    kind = "a finished model and no checkpoint" if damage in (remove, empty) else "none of them is"
    assert kind in message
    on = replace(config, model=str(folder), output_dir=f"{folder} on", max_steps=1)
    assert train(on).is_finished  # the way out


@pytest.mark.slow_but_one
@pytest.mark.filterwarnings("ignore:.*is damaged")
@pytest.mark.parametrize("damage", [remove, cut_weights])
def test_overwriting_begins_anew_with_nothing_of_the_old_run(finished, config, monkeypatch, damage):
    folder = Path(config.output_dir)
    damage(folder / "checkpoints")
    asked = replace(config, overwrite=True)
    accumulate = loop.accumulate

    def stopping(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return accumulate(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "accumulate", stopping)
        assert train(asked).step == 1
    with pytest.raises(ValueError, match="the run is not finished"):
        load(folder)  # the old weights would pass for those of this run
    assert Checkpoints(folder / "checkpoints", keep=1).steps() == [1]
    assert train(asked).is_finished  # goes on: a job that is requeued has the same flags
    assert outcome(folder) == outcome(Path(finished.output_dir))


def test_a_run_that_lost_its_checkpoints_halfway_is_not_begun_anew_unasked(config):
    folder = Path(config.output_dir)
    remove(folder / "checkpoints")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    before = files(folder)
    with pytest.raises(ValueError, match="holds the logs of 6 steps and no checkpoint; .*") as info:
        train(config)
    assert "--model" not in str(info.value)  # there is none
    assert files(folder) == before


@pytest.mark.slow_but_one
@pytest.mark.parametrize("save_steps", [2, 1])  # of the next start
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(
    finished, config, save_steps
):
    """Nothing is lost: all of its steps are made again."""
    folder = Path(config.output_dir)
    remove(folder / "checkpoints")
    for path in [*folder.glob("*.safetensors"), folder / "README.md"]:
        path.unlink()
    lines = (folder / "metrics.jsonl").read_bytes().splitlines(True)
    (folder / "metrics.jsonl").write_bytes(b"".join(lines[: config.save_steps]))
    assert train(replace(config, save_steps=save_steps)).is_finished
    assert outcome(folder) == outcome(Path(finished.output_dir))
