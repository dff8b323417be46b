"""Models whose files are damaged, or do not fit one another, end in one line; judges too."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fakes import small_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from asarm import load
from asarm.loading import resolve_device
from asarm.metrics.judge import load_judge

DEMO = Path(__file__).parents[1] / "asarm" / "demo"
DOORS = {"model": load, "judge": load_judge}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder of each kind."""
    found = {kind: tmp_path_factory.mktemp(kind) for kind in DOORS}
    small_model(vocab_size=8192, d_model=16, n_head=2, d_inner=32).save_pretrained(found["model"])
    sizes = {"vocab_size": 8192, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(found["judge"])
    for folder in found.values():
        for path in DEMO.glob("tokenizer*"):
            shutil.copy(path, folder)
    return found


@pytest.fixture(params=DOORS)
def damaged(request, whole, tmp_path):
    """Damages a copy of a folder, and says in which line it is refused."""
    folder = shutil.copytree(whole[request.param], tmp_path / "folder")

    def refused(damage) -> str:
        damage(folder)
        with pytest.raises(ValueError) as error:
            DOORS[request.param](str(folder))
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
        return str(error.value)

    return refused


@pytest.mark.parametrize("kind", DOORS)
def test_whole_folders_load(whole, kind, capsys):
    verbosity = logging.get_verbosity()
    assert DOORS[kind](str(whole[kind]))
    assert logging.get_verbosity() == verbosity
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("size", [0, 7, 100, 0.5, -1])
def test_truncated_weights(damaged, size, capfd):
    def cut(folder):
        content = (folder / "model.safetensors").read_bytes()
        end = int(size * len(content)) if size == 0.5 else size
        (folder / "model.safetensors").write_bytes(content[:end])

    assert "SafetensorError" in damaged(cut)
    assert capfd.readouterr() == ("", "")


def test_a_pointer_instead_of_weights(damaged):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
    assert "SafetensorError" in damaged(lambda f: (f / "model.safetensors").write_text(text))


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_truncated_pickles(damaged, size):
    def cut(folder):
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        content = (folder / "pytorch_model.bin").read_bytes()
        (folder / "pytorch_model.bin").write_bytes(content[:size])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        assert "cannot be" in damaged(cut)


@pytest.mark.parametrize(
    "index", ["{", "{}", '{"metadata": {}, "weight_map": {"a": "b.safetensors"}}']
)
def test_shards_that_are_not_there(damaged, index):
    def cut(folder):
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(index)

    assert "cannot be" in damaged(cut)


def changed(**settings):
    """A damage: other settings in config.json, where it has them."""

    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        config |= {name: value for name, value in settings.items() if name in config}
        (folder / "config.json").write_text(json.dumps(config))

    return change


def test_weights_of_another_width(damaged):
    assert "has shape (" in damaged(changed(d_inner=64, n_positions=32))


def test_weights_of_fewer_and_of_more_layers(damaged):
    assert "lacks" in damaged(changed(n_layer=3))
    assert "of layers that its config.json does not have" in damaged(changed(n_layer=1))


@pytest.mark.parametrize(
    "content",
    ['{"a": "é"}'.encode("latin-1"), "{}".encode("utf-16"), b"", b"{", b"[1]", b"{}", b"\xff\xfe"],
    ids=ascii,
)
def test_configs_that_cannot_be_read(damaged, content):
    assert "config" in damaged(lambda folder: (folder / "config.json").write_bytes(content))


def test_a_setting_of_another_kind(damaged):
    assert "expected int, got str" in damaged(changed(n_layer="two"))


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe{", b"[]"], ids=ascii)
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_tokenizers_that_cannot_be_read(damaged, file, content):
    if (file, content) == ("tokenizer_config.json", b"{}"):
        pytest.skip("it is a tokenizer without special tokens")
    assert "cannot be" in damaged(lambda folder: (folder / file).write_bytes(content))


@pytest.mark.parametrize("device", ["mps", "mps:0", torch.device("mps")])
def test_a_device_without_float64_is_refused(device):
    with pytest.raises(ValueError, match="device is 'mps.*no float64.*take 'cpu'"):
        resolve_device(device)
