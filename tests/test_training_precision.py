"""What a run chooses for itself when it begins is written down and kept: precision, W&B's id."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from accelerate import Accelerator
from kills import outcome, tiny

from asarm.training import precision
from asarm.training.loop import train


@pytest.fixture(params=[True, False], ids=["bfloat16", "float32"])
def is_fast(request, monkeypatch):
    """Whether the machine on which a run begins is fast in bfloat16."""
    on_machine(monkeypatch, request.param)
    return request.param


def on_machine(monkeypatch, is_fast: bool) -> None:
    monkeypatch.setattr(precision, "is_bf16_fast", lambda device: is_fast)


def settings(config) -> dict:
    return yaml.safe_load(Path(config.output_dir, "config.yaml").read_text())


@pytest.mark.slow
def test_the_precision_is_written_down_and_kept_on_another_machine(
    is_fast, tmp_path, monkeypatch, capsys
):
    config = tiny(tmp_path, bf16=None, max_steps=2)
    train(config)
    assert settings(config)["bf16"] is is_fast
    assert f"bf16: {str(is_fast).lower()}" in Path(config.output_dir, "README.md").read_text()
    on_machine(monkeypatch, not is_fast)
    assert "bf16 stays" not in capsys.readouterr().out
    train(replace(config, max_steps=6))
    said = capsys.readouterr().out
    assert f"bf16 stays {str(is_fast).lower()}, as the run began; this machine is faster in" in said
    assert settings(config)["bf16"] is is_fast
    told = tiny(tmp_path, bf16=is_fast, max_steps=2, output_dir=str(tmp_path / "told"))
    train(told)
    train(replace(told, max_steps=6))
    assert outcome(Path(config.output_dir)) == outcome(Path(told.output_dir))


@pytest.mark.slow_but_one
def test_another_precision_is_refused_where_one_is_given(is_fast, tmp_path):
    config = tiny(tmp_path, bf16=None, max_steps=1)
    train(config)
    with pytest.raises(ValueError, match=f"bf16 = {is_fast}, not {not is_fast}"):
        train(replace(config, bf16=not is_fast))
    assert train(replace(config, bf16=is_fast)).is_finished


@pytest.mark.slow
def test_a_run_of_a_version_that_did_not_write_it_down_goes_on_and_says_so(
    is_fast, tmp_path, capsys
):
    config = tiny(tmp_path, bf16=is_fast, max_steps=1)
    train(config)
    path = Path(config.output_dir, "config.yaml")
    path.write_text(path.read_text().replace(f"bf16: {str(is_fast).lower()}", "bf16: null"))
    train(replace(config, bf16=None))
    assert f"bf16 was null and is {is_fast} from here on" in capsys.readouterr().out
    assert settings(config)["bf16"] is is_fast


@pytest.mark.slow_but_one
def test_a_run_that_is_thrown_away_leaves_no_precision_behind(is_fast, tmp_path, monkeypatch):
    train(tiny(tmp_path, bf16=None, max_steps=1))
    on_machine(monkeypatch, not is_fast)
    anew = tiny(tmp_path, bf16=None, max_steps=1, seed=1, overwrite=True)
    train(anew)
    assert settings(anew)["bf16"] is not is_fast


needs_no_wandb = pytest.mark.filterwarnings("ignore:.*no supported trackers")


@pytest.fixture
def ids(monkeypatch):
    """By what name each start is known to W&B, which is not asked."""
    found = []

    def note(self, project, init_kwargs):
        found.append(init_kwargs["wandb"])

    monkeypatch.setattr("asarm.training.setup.find_spec", lambda name: name)
    monkeypatch.setattr(Accelerator, "init_trackers", note)
    return found


@pytest.mark.slow
@needs_no_wandb
def test_a_run_keeps_its_id_of_wandb_and_another_in_its_place_has_its_own(ids, tmp_path):
    config = tiny(tmp_path, trackers=["wandb"], max_steps=2)
    train(config)
    train(replace(config, max_steps=3))
    train(replace(config, seed=1, overwrite=True))
    train(replace(config, output_dir=str(tmp_path / "elsewhere")))
    names = [options["id"] for options in ids]
    assert names[0] == names[1] and len(set(names)) == 3
    assert all(options["resume"] == "allow" for options in ids)
    kept = json.loads(Path(config.output_dir, "wandb.json").read_text())
    assert kept == {"id": names[2]}


@pytest.mark.slow
@needs_no_wandb
def test_a_new_run_at_the_path_of_an_old_one_has_its_own_id(ids, tmp_path):
    config = tiny(tmp_path, trackers=["wandb"], max_steps=1)
    train(config)
    Path(config.output_dir).rename(tmp_path / "put aside")
    train(replace(config, learning_rate=1e-3))
    assert ids[0]["id"] != ids[1]["id"]
