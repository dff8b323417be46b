"""Training of decoders: low-rank changes or all weights, interrupted or not, to the folder."""

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from fakes import FakeHub, decoder_folder
from kills import TIMES, run_to_the_end, tiny
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import asarm
from asarm import loading
from asarm.backbones import lora
from asarm.backbones.decoder import AnySubsetDecoder
from asarm.backbones.pretrained_decoder import BLANK
from asarm.drafting.files import WEIGHTS
from asarm.loading import SMOLLM2_ON_HUB
from asarm.training import export, loop, setup
from asarm.training.card import card
from asarm.training.checkpoint import Checkpoints
from asarm.training.loop import train

peft = pytest.importorskip("peft")
ORDERS = {"span": 0.4, "permuted": 0.3, "ascending": 0.2, "left_to_right": 0.1}
LORA = {"lora_rank": 4}
KINDS = {"lora": LORA, "all": {}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder of transformers."""
    return decoder_folder(tmp_path_factory.mktemp("base"), std=0.2)


def run_of(base: Path, folder: Path, **changes):
    own = {"d_model": 256, "n_layer": 4, "n_head": 4, "d_inner": 1024, "dropout": None}
    changes = own | {"model": str(base), "orders": ORDERS, "max_steps": 8, **changes}
    return tiny(folder, **changes)


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A run of each kind that is over."""
    found = {}
    for kind, changes in KINDS.items():
        found[kind] = run_of(base, tmp_path_factory.mktemp(kind), **changes)
        assert train(found[kind]).is_finished
    return found


def records(config, name="metrics.jsonl"):
    lines = map(json.loads, Path(config.output_dir, name).read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def weights_in(folder: str | Path) -> dict[str, list]:
    paths = sorted(Path(folder).glob("*.safetensors"))
    return {f"{p.name}/{n}": w.tolist() for p in paths for n, w in load_file(p).items()}


def everything(config) -> tuple:
    names = "metrics.jsonl", "evaluations.jsonl"
    return weights_in(config.output_dir), *(records(config, name) for name in names)


# --- what comes out ---


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_falls(finished, kind):
    lines = records(finished[kind], "evaluations.jsonl")
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert [line["step"] for line in records(finished[kind])] == list(range(1, 9))


def test_only_low_rank_changes_and_the_blank_are_learned(base, finished):
    before, (model, _) = load_file(base / "model.safetensors"), setup.start_model(finished["lora"])
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learned == {"blank"} | {n for n, _ in model.named_parameters() if "lora_" in n}
    for name, weight in before.items():
        found = name.replace("_proj.", "_proj.base_layer.")
        assert torch.equal(model.network.get_parameter(found), weight), name
    folder = Path(finished["lora"].output_dir)
    names = {path.name for path in folder.glob("*.safetensors")}
    assert names == {lora.WEIGHTS, BLANK} and not (folder / "config.json").exists()
    assert all("lora_" in name for name in load_file(folder / lora.WEIGHTS))
    assert any(w.any() for n, w in load_file(folder / lora.WEIGHTS).items() if "lora_B" in n)
    assert not torch.equal(load_file(folder / BLANK)["blank"], model.blank.detach())


def test_all_weights_are_learned_otherwise(base, finished):
    before = load_file(base / "model.safetensors")
    after = load_file(Path(finished["all"].output_dir, "model.safetensors"))
    assert before.keys() == after.keys()
    assert not [name for name in before if torch.equal(before[name], after[name])]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's
@pytest.mark.parametrize("kind", KINDS)
def test_the_finished_folder_is_one_of_other_libraries_too(base, finished, kind):
    folder = finished[kind].output_dir
    model, tokenizer = asarm.load(folder)
    assert isinstance(model, AnySubsetDecoder) and len(tokenizer) == model.vocab_size
    if kind == "lora":
        network = AutoModelForCausalLM.from_pretrained(base)
        network = peft.PeftModel.from_pretrained(network, folder)
    else:
        network = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.randint(9, 8192, (2, 12), generator=torch.Generator().manual_seed(0))
    start = torch.full_like(ids[:, :1], model.start_token_id)
    with torch.no_grad():
        logits = network.eval()(torch.cat([start, ids], dim=1)).logits[:, :-1]
    expected = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    order = asarm.Order.from_mask(torch.ones_like(ids, dtype=torch.bool))
    found = asarm.log_prob(model, ids, order)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_checkpoint_is_the_finished_model(finished, kind):
    folder = Path(finished[kind].output_dir)
    assert weights_in(folder) == weights_in(folder / "checkpoints" / "step-0000008" / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_says_where_the_model_loads_and_what_it_began_with(base, finished, kind):
    config = finished[kind]
    text = Path(config.output_dir, "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert "llama" in front["tags"] and "XLNet" not in text and "Yang" not in text
    assert "base_model" not in front  # a folder, which the hub does not know
    assert ("peft.PeftModel" in text) == ("LoRA of rank 4" in text) == (kind == "lora")
    assert ("AutoModelForCausalLM" in text) == (kind == "all")
    model, _ = asarm.load(base)
    named = {"smollm2-base": SMOLLM2_ON_HUB, "someone/something": "someone/something"}
    for name, wanted in named.items():
        front = yaml.safe_load(card(replace(config, model=name), model, None).split("---")[1])
        relation = "adapter" if kind == "lora" else "finetune"
        assert (front["base_model"], front["base_model_relation"]) == (wanted, relation)


def test_an_adapter_goes_to_the_hub_whole(finished, monkeypatch):
    hub = FakeHub()
    monkeypatch.setattr(export, "HfApi", lambda: hub)
    train(replace(finished["lora"], push_to_hub="someone/something"))
    (upload,) = hub.uploads
    folder, patterns = upload["folder_path"], upload["allow_patterns"]
    uploads = {path.name for pattern in patterns for path in folder.glob(pattern)}
    assert {lora.CONFIG, lora.WEIGHTS, BLANK, "README.md", "tokenizer.json"} <= uploads
    train(finished["lora"])


def test_a_finished_adapter_is_not_written_over(finished, tmp_path):
    folder = shutil.copytree(finished["lora"].output_dir, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match="holds a finished model and no checkpoint"):
        train(replace(finished["lora"], output_dir=str(folder)))


def test_a_run_that_is_not_finished_names_its_checkpoint(finished, tmp_path):
    folder = shutil.copytree(finished["lora"].output_dir, tmp_path / "run")
    for path in folder.glob("adapter*"):
        path.unlink()
    with pytest.raises(ValueError, match="not finished: take .*step-0000008/model"):
        asarm.load(folder)
    assert asarm.load(folder / "checkpoints" / "step-0000008" / "model")


# --- stopped, and gone on with ---


@pytest.mark.slow_but_one
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", [[4], [0, 1, 6]], ids=str)
def test_an_interrupted_run_ends_as_one_that_was_not(finished, tmp_path, monkeypatch, kind, stops):
    config = replace(finished[kind], output_dir=str(tmp_path / "run"))
    log = loop.Monitor.log
    for last in stops:
        with monkeypatch.context() as patch:

            def stopping(self, plan, *rest, last=last):
                log(self, plan, *rest)
                if plan.step == last:
                    os.kill(os.getpid(), signal.SIGTERM)

            patch.setattr(loop.Monitor, "log", stopping)
            assert train(config).step == last + 1
    assert train(config).is_finished
    assert everything(config) == everything(finished[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_restored_exactly(finished, kind):
    config = finished[kind]
    checkpoints = Checkpoints(Path(config.output_dir, "checkpoints"), keep=1)
    model, _ = setup.start_model(config)
    optimizer = setup.new_optimizer(model, config)
    checkpoints.restore(8, model, optimizer)
    learned = [p for p in model.parameters() if p.requires_grad]
    assert len(optimizer.state) == len(learned)
    model.save_pretrained(Path(config.output_dir, "again"))
    expected, found = weights_in(config.output_dir), weights_in(Path(config.output_dir, "again"))
    shutil.rmtree(Path(config.output_dir, "again"))
    assert found == expected


@pytest.mark.slow_but_one
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_learns_the_same(finished, tmp_path, kind):
    config = replace(
        finished[kind], output_dir=str(tmp_path / "run"), gradient_checkpointing=True, max_steps=8
    )
    train(config)
    for found, expected in zip(records(config), records(finished[kind]), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_learns(base, tmp_path, kind):
    found = []
    for processes in (1, 2):
        config = run_of(base, tmp_path, **KINDS[kind], max_steps=4)
        config = replace(config, output_dir=str(tmp_path / f"{processes}"))
        run_to_the_end(config, processes)
        found.append([line["loss"] for line in records(config)])
    assert len(found[0]) == 4
    assert found[1] == pytest.approx(found[0], rel=1e-5)


# --- what else is trained ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_draft_head_learns_on_top_of_a_decoder(finished, tmp_path, kind):
    config = replace(
        run_of(Path(finished[kind].output_dir), tmp_path, max_steps=2, learn="draft_head"),
        **{"head_hidden": 16, "head_rank": 8, "head_starts": 6},
    )
    before, _ = asarm.load(finished[kind].output_dir)
    assert train(config).is_finished
    model, tokenizer = asarm.load(config.output_dir)
    assert Path(config.output_dir, WEIGHTS).exists() and model.draft_head is not None
    for name, weight in before.network.state_dict().items():
        assert torch.equal(weight, model.network.state_dict()[name]), name
    assert torch.equal(before.blank, model.blank)
    asarm.infill(model, tokenizer, "The ___ of the ship.", length=4)


@pytest.mark.slow_but_one
@pytest.mark.parametrize(
    "changes",
    [
        {"orders": {"left_to_right": 1.0}},
        {"bf16": True, **LORA},
        {"bf16": True},
        {"learn": "both"},
        {"objective": "parallel", "prompt_attention": "causal"},
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_other_runs(tmp_path, family, changes):
    base = decoder_folder(tmp_path / "base", family, std=0.2)
    config = run_of(base, tmp_path, max_steps=2, eval_num_decodes=0, **changes)
    assert train(config).is_finished
    assert asarm.load(config.output_dir)[0].config.model_type == family.lower()


def test_a_network_with_more_logits_than_pieces_is_trained(tmp_path):
    config = run_of(decoder_folder(tmp_path / "base", vocab_size=8200), tmp_path, max_steps=1)
    assert train(config).is_finished


def test_the_adapter_of_a_fetched_model_names_it_as_the_hub_does(base, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "smollm2_base", lambda: base)
    config = run_of(Path("smollm2-base"), tmp_path, max_steps=1, eval_num_decodes=0, **LORA)
    assert train(config).is_finished
    for folder in (tmp_path / "run", tmp_path / "run/checkpoints/step-0000001/model"):
        assert lora.base_of(folder) == (SMOLLM2_ON_HUB, None)
        assert asarm.load(folder)[0].base is not None
    assert str(base) not in (tmp_path / "run" / lora.CONFIG).read_text()


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "demo"}, "lora_rank is 4, and demo is no decoder"),
        ({"model": "scratch"}, "lora_rank is 4 with learn model and model scratch"),
        ({"lora_rank": 0}, "lora_rank is 0; expected at least 1"),
        ({"learn": "both"}, "lora_rank is 4 with learn both"),
        ({"d_model": 32}, "d_model is 32 and would do nothing"),
        ({"objective": "parallel"}, "prompt_attention is 'full', .* expected 'causal'"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_settings_that_cannot_be(base, tmp_path, changes, says):
    config = replace(run_of(base, tmp_path, **LORA), **changes)
    with pytest.raises(ValueError, match=says) as error:
        train(config)
    assert "\n" not in str(error.value)


def test_an_adapter_takes_no_second_one(finished, tmp_path):
    config = run_of(Path(finished["lora"].output_dir), tmp_path, **LORA)
    with pytest.raises(ValueError, match="lora_rank is 4, and .* is an adapter; train its base"):
        train(config)


def test_without_peft_it_says_what_to_install(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="lora_rank is 4, .* pip install peft"):
        train(run_of(base, tmp_path, **LORA))


def test_texts_longer_than_the_table_of_positions_are_refused(tmp_path):
    base = decoder_folder(tmp_path / "base", "GPT2", n_positions=16)
    with pytest.raises(
        ValueError, match="length is 24, .* for 15 tokens; expected at most 15"
    ) as error:
        train(run_of(base, tmp_path))
    assert "\n" not in str(error.value)
