"""The training command, whole, on a tiny model: train, stop, go on, load, bundle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import XLNetLMHeadModel

from asarm import load
from asarm.training.config import TrainingConfig

ROOT = Path(__file__).parent.parent
TINY = [
    "--d_model=32",
    "--n_layer=2",
    "--n_head=2",
    "--d_inner=64",
    "--length=32",
    "--batch_size=4",
    "--micro_batch_size=2",
    "--warmup_steps=1",
    "--log_steps=1",
    "--save_steps=2",
    "--bf16=false",
    '--repeats={"prose":1,"code":0,"test":0}',
]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / script), *arguments]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "train").glob("*.yaml")), ids=str)
def test_presets_hold_settings_that_exist(path):
    TrainingConfig(**yaml.safe_load(path.read_text(encoding="utf-8")))


def test_train_load_and_bundle(tmp_path):
    folder = tmp_path / "run"
    done = run("train.py", *TINY, "--max_steps=3", f"--output_dir={folder}")
    assert done.returncode == 0, done.stderr
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3]
    model, tokenizer = load(folder / "model")
    assert len(tokenizer) == model.vocab_size == 8192
    reference = XLNetLMHeadModel.from_pretrained(folder / "model")
    for name, weight in reference.named_parameters():
        assert torch.equal(weight, model.get_parameter(name))

    done = run("bundle_demo.py", str(folder), str(tmp_path / "bundle"))
    assert done.returncode == 0, done.stderr
    bundled, _ = load(tmp_path / "bundle")
    assert bundled.dtype == torch.float32
    card = (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "| left to right |" in card and "| `xz -9` |" in card and "3 steps" in card


def test_another_config_in_the_same_folder_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "# The settings of this asarm run, defaults included.\nseed: 1\n"
    )
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    done = run("train.py", *TINY, f"--output_dir={tmp_path}")
    assert done.returncode == 2
    assert "--output_dir" in done.stderr and len(done.stderr.strip().splitlines()) == 1
