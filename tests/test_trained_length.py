"""A trained model says in its config how long the blocks were that it learned."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from kills import tiny
from transformers import AutoConfig, XLNetLMHeadModel

from asarm import load
from asarm.loading import DEMO
from asarm.training import setup
from asarm.training.loop import train

PRESET = Path(__file__).parent.parent / "configs/train/demo.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is over."""
    config = tiny(tmp_path_factory.mktemp("finished"), max_steps=1)
    assert train(config).is_finished
    return config


@pytest.mark.slow_but_one
@pytest.mark.parametrize(("length", "kept"), [(12, 24), (24, 24), (32, 32)])
def test_the_model_says_how_long_the_blocks_were_that_it_learned(finished, tmp_path, length, kept):
    assert AutoConfig.from_pretrained(finished.output_dir).trained_length == 24
    reference = XLNetLMHeadModel.from_pretrained(finished.output_dir)
    assert reference.config.trained_length == 24
    config = tiny(tmp_path, model=finished.output_dir, length=length, max_steps=1)
    train(config)
    assert load(config.output_dir)[0].config.trained_length == kept
    saved = json.loads(
        Path(config.output_dir, "checkpoints/step-0000001/model/config.json").read_text()
    )
    assert saved["trained_length"] == kept


def test_a_head_that_learns_leaves_the_length_of_its_model(finished, tmp_path):
    config = replace(finished, output_dir=str(tmp_path / "run"), model=finished.output_dir)
    model, _ = setup.start_model(replace(config, learn="draft_head", length=99))
    assert model.config.trained_length == 24


def test_the_bundled_model_says_its_length_and_loads_as_transformers_do():
    assert load()[0].config.trained_length == 256
    assert XLNetLMHeadModel.from_pretrained(DEMO).config.trained_length == 256
    assert yaml.safe_load(PRESET.read_text())["length"] == 256


def test_a_model_that_does_not_say_it_says_what_it_learned_here(finished, tmp_path):
    model, tokenizer = load(finished.output_dir)
    del model.config.trained_length
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "trained_length" not in json.loads((tmp_path / "config.json").read_text())
    config = replace(finished, model=str(tmp_path), length=12)
    assert setup.start_model(config)[0].config.trained_length == 12
    frozen = setup.start_model(replace(config, learn="draft_head"))[0]
    assert not hasattr(frozen.config, "trained_length")
