"""Settings of the wrong kind, and settings that would do nothing, are refused by their names."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from kills import tiny

from asarm.training import setup
from asarm.training.checks import without_idle
from asarm.training.config import TrainingConfig
from asarm.training.loop import train
from asarm.training.setup import check_config, remarks, start_model

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def trackers(monkeypatch):
    """All are installed."""
    monkeypatch.setattr(setup, "find_spec", lambda name: name)


def refusal(config: TrainingConfig) -> str:
    with pytest.raises(ValueError) as info:
        check_config(config, 1)
    message = str(info.value)
    assert len(message.splitlines()) == 1
    return message


# --- kinds ---

WRONG = [
    ({"max_steps": "4"}, "max_steps is '4'; expected int"),
    ({"max_steps": 4.0}, "max_steps is 4.0; expected int"),
    ({"max_steps": None}, "max_steps is None; expected int"),
    ({"max_steps": True}, "max_steps is True; expected int"),
    ({"max_steps": np.int64(4)}, "max_steps is "),
    ({"learning_rate": "1e-3"}, "learning_rate is '1e-3'; expected float"),
    ({"dropout": "no"}, "dropout is 'no'; expected float | null"),
    ({"bf16": 1}, "bf16 is 1; expected bool | null"),
    ({"overwrite": "yes"}, "overwrite is 'yes'; expected bool"),
    ({"model": Path("x")}, "expected str"),
    ({"output_dir": None}, "output_dir is None; expected str"),
    ({"trackers": "both"}, "trackers is 'both'; expected list[str]"),
    ({"adam_betas": [0.9, "b"]}, "adam_betas is [0.9, 'b']; expected list[float]"),
    ({"orders": ["span"]}, "orders is ['span']; expected dict[str, float]"),
    ({"orders": {"span": "1"}}, "orders is {'span': '1'}; expected dict[str, float]"),
    ({"repeats": {"prose": 1.5, "code": 1, "test": 1}}, "repeats is "),
    ({"length": "24"}, "length is '24'; expected int"),
    ({"seed": 12345678901234567890123}, "seed is 12345678901234567890123; expected -9223"),
    ({"seed": -(2**63) - 1}, "seed is -9223372036854775809; expected"),
]


@pytest.mark.parametrize(("settings", "says"), WRONG, ids=str)
def test_a_value_of_another_kind_is_refused(settings, says):
    assert says in refusal(TrainingConfig(**settings))


def test_the_function_refuses_it_before_anything_is_written(tmp_path):
    config = tiny(tmp_path, max_steps="4")
    with pytest.raises(ValueError, match="^max_steps is '4'; expected int$"):
        train(config)
    assert not Path(config.output_dir).exists()


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": 1}, {"adam_betas": (0, 0.9)}, {"bf16": False}, {"orders": {"span": 1}}]
    + [{"seed": seed} for seed in (-(2**63), 2**64 - 1)],
    ids=str,
)
def test_a_value_of_the_right_kind_is_not(settings):
    check_config(TrainingConfig(**settings), 1)


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1])
def test_the_largest_seeds_train(tmp_path, seed):
    assert train(tiny(tmp_path, seed=seed, max_steps=1)).is_finished


@pytest.mark.parametrize(
    ("written", "meant"),
    [(["both"], ["tensorboard", "wandb"]), (["none"], []), ([], []), (["wandb"], ["wandb"])],
)
def test_trackers_may_be_written_as_the_help_says(written, meant):
    config = TrainingConfig(trackers=written)
    check_config(config, 1)
    assert config.trackers == meant


@pytest.mark.parametrize("written", [["both", "wandb"], ["all"], [""], ["None"]])
def test_other_trackers_are_refused(written):
    assert "expected tensorboard, wandb, both or none" in refusal(TrainingConfig(trackers=written))


# --- settings that would do nothing ---

HUB = {"dataset": "someone/something"}
IDLE = [
    ({"model": "demo"}, {"tokenizer": "nosuch"}),
    ({"model": "scratch"}, {"revision": "nlp"}),
    ({"model": "demo"}, {"revision": "nlp"}),
    ({"model": str(ROOT)}, {"revision": "nlp"}),
    ({}, {"head_hidden": 9}),
    ({"model": "demo"}, {"head_rank": 9}),
    ({"objective": "parallel"}, {"head_starts": 9}),
    ({"model": "demo", "learn": "draft_head"}, {"loss_scale": "snr"}),
    ({"model": "demo", "learn": "draft_head"}, {"dropout": 0.5}),
    ({}, {"prompt_attention": "causal"}),
    ({"eval_num_decodes": 0}, {"judge": "gpt2"}),
    ({}, {"dataset_column": "content"}),
    ({"dataset": "text.txt"}, {"repeats": {"prose": 1, "code": 1, "test": 1}}),
    (HUB, {"repeats": {"prose": 1, "code": 1, "test": 1}}),
    *[
        ({"dataset": data}, {name: "x"})
        for data in ("python", "text.txt", str(ROOT), "https://example.org/a.jsonl")
        for name in ("dataset_config", "dataset_data_dir", "dataset_split")
    ],
    *[
        ({"dataset": data}, {name: 0 if name == "workers" else 7})
        for data in ("python", "text.jsonl")
        for name in ("workers", "shuffle_blocks")
    ],
    (HUB, {"last_block": "pad"}),
]


@pytest.mark.parametrize(("beside", "idle"), IDLE, ids=str)
def test_a_setting_that_would_do_nothing_is_refused(beside, idle):
    check_config(TrainingConfig(**beside), 1)
    ((name, value),) = idle.items()
    message = refusal(TrainingConfig(**beside | idle))
    assert message.startswith(f"{name} is {value!r} and would do nothing: ")
    assert "; leave it out (its default is " in message


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "someone/else", "revision": "nlp"},
        {"tokenizer": "someone/else", "d_model": 64},
        {"learn": "both", "head_hidden": 9, "head_rank": 8, "head_starts": 7, "dropout": 0.5},
        {"model": "demo", "learn": "draft_head", "dropout": 0.0},
        {"objective": "parallel", "prompt_attention": "causal"},
        {"judge": "gpt2", "eval_num_decodes": 1},
        {"dataset": "text.jsonl", "dataset_column": "content", "last_block": "pad"},
        {**HUB, "dataset_config": "a", "dataset_split": "b", "workers": 0, "shuffle_blocks": 1},
        {"dataset": "https://example.org/a.jsonl", "dataset_column": "content", "workers": 0},
    ],
    ids=str,
)
def test_settings_that_do_something_are_not(settings):
    check_config(TrainingConfig(**settings), 1)


@pytest.mark.slow_but_one
@pytest.mark.parametrize("size", ["d_model", "n_layer", "n_head", "d_inner"])
def test_sizes_beside_a_model_that_exists_are_its_own(tmp_path, size):
    own = tiny(tmp_path)
    model, tokenizer = start_model(own)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config = replace(own, model=str(tmp_path / "model"))
    start_model(config)  # says what is so
    start_model(TrainingConfig(model=config.model))  # says nothing
    value = getattr(own, size)
    with pytest.raises(ValueError, match=f"^{size} is {8 * value} and would .* own, {value}; take"):
        start_model(replace(config, **{size: 8 * value}))


def test_what_a_flag_makes_idle_of_a_file_is_left_out_and_not_recorded():
    preset = yaml.safe_load((ROOT / "configs/train/smoke.yaml").read_text())
    config = TrainingConfig(**preset | {"dataset": "mine.txt", "model": "demo"})
    found = without_idle(config, {"dataset", "model"})
    default = TrainingConfig()
    assert (found.repeats, found.d_model, found.n_head) == (default.repeats, 256, 4)
    assert found.learning_rate == config.learning_rate
    check_config(found, 1)


def test_what_a_file_or_the_flags_make_idle_themselves_stays_to_be_refused():
    config = TrainingConfig(dataset="mine.txt", repeats={"prose": 1, "code": 0, "test": 0})
    assert without_idle(config, set()) == config  # all of it of one file
    assert without_idle(config, {"dataset", "repeats"}) == config
    assert without_idle(config, {"dataset"}).repeats == TrainingConfig().repeats


def test_a_first_mask_rate_that_no_step_has_is_remarked():
    (said,) = remarks(TrainingConfig(start_mask_rate=0.5))
    assert re.match("start_mask_rate is 0.5 and mask_warmup_steps 0: no step has it", said)
    assert not remarks(TrainingConfig(start_mask_rate=0.5, mask_warmup_steps=5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--model", "demo", "--tokenizer", "nosuch"],
            "tokenizer is 'nosuch' and would do nothing",
        ),
        (["--learning_rate", "-1e-3"], "learning_rate is -0.001; expected above 0"),
        (["--seed", "1" * 23], "seed is 11111111111111111111111; expected"),
        (["--dataset_split", "validation"], "dataset_split is 'validation' and would do nothing"),
    ],
)
def test_the_command_says_so_in_one_line(tmp_path, arguments, says):
    command = [sys.executable, str(ROOT / "scripts/train.py"), *arguments]
    done = subprocess.run(
        [*command, f"--output_dir={tmp_path / 'run'}", "--trackers", "none"],
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {says}") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
