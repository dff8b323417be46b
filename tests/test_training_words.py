"""What training says: of folders that cannot be written, of paths, of the learning rate."""

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from kills import tiny

from asarm.training.checkpoint import Checkpoints, writing
from asarm.training.loop import TrainingResult, train
from asarm.training.summary import summary


@pytest.mark.parametrize("name", ["text.txt", "text.txt/run", "/proc/run", "link/run"])
def test_a_folder_that_cannot_be_made_is_said_in_one_line(tmp_path, name):
    config = tiny(tmp_path)
    (tmp_path / "link").symlink_to("/proc/nowhere")
    before = Path(config.dataset).read_bytes()
    with pytest.raises(OSError, match="cannot write .*take another --output_dir") as info:
        train(replace(config, output_dir=str(tmp_path / name)))
    assert "\n" not in str(info.value) and "Errno" not in str(info.value)
    assert Path(config.dataset).read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OSError, match="cannot write .*take another --output_dir"):
        train(tiny(tmp_path, output_dir=str(tmp_path / "closed" / "run")))


@pytest.mark.parametrize("earlier", [False, True])
def test_a_checkpoint_that_cannot_be_written_says_whether_there_is_another(tmp_path, earlier):
    checkpoints = Checkpoints(tmp_path, keep=1)
    if earlier:
        checkpoints.path(2).mkdir()
    folder = checkpoints.temporary(4)
    folder.mkdir()
    says = "the one before is kept: make room" if earlier else "there is none before it: make room"
    with pytest.raises(OSError, match=rf"step-0000004 \(No space left\); {says}"), writing(folder):
        raise OSError(28, "No space left")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("name", ["a run", "it's", "$HOME", "plain"])
def test_the_last_lines_can_be_typed(tmp_path, name, finished):
    folder = tmp_path / name
    config = tiny(tmp_path, output_dir=str(folder))
    said = summary(TrainingResult(folder, 4, finished, True, "SIGTERM", best_step=2), config)
    flag = "--model" if finished else "--output_dir"
    for typed in re.findall(rf"{flag} ('.*?'(?:\"'\"'.*?')*|\S+)", said):
        assert shlex.split(typed.rstrip(")")) == [str(folder)]
    assert shlex.quote(f"{folder}/checkpoints/step-0000002") in said


@pytest.mark.slow
def test_more_steps_say_that_the_learning_rate_rises_again(tmp_path, capsys):
    config = tiny(tmp_path, max_steps=6, warmup_steps=0)
    result = train(config)
    assert "--max_steps 12, for which the learning rate rises again" in summary(result, config)
    train(config)
    assert "the learning rate was" not in capsys.readouterr().out
    train(replace(config, max_steps=8))
    said = capsys.readouterr().out
    assert "the learning rate was 0.00167 and goes on at 0.0025: it falls to 0 at step 8" in said
