"""Folders of decoders and of adapters: what is saved is loaded, and what is damaged is one line."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from fakes import decoder_folder, randomize
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import asarm
from asarm import loading
from asarm.backbones import lora
from asarm.backbones.decoder import AnySubsetDecoder
from asarm.backbones.pretrained_decoder import BLANK
from asarm.codec import Codec
from asarm.drafting.files import CONFIG, WEIGHTS
from asarm.drafting.head import DraftHead, DraftHeadConfig
from asarm.infilling.continuation import Stopping, continue_texts

peft = pytest.importorskip("peft")
FAMILIES = ["Llama", "GPT2"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A folder of transformers of each family."""
    return {f: decoder_folder(tmp_path_factory.mktemp(f), f) for f in FAMILIES}


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory):
    """An adapter of each family, whose changes are not small."""
    return {f: adapter_of(bases[f], tmp_path_factory.mktemp(f"{f}-adapter")) for f in FAMILIES}


def adapter_of(base: Path, folder: Path) -> Path:
    model, _ = asarm.load(base)
    torch.manual_seed(1)
    model.add_lora(4, str(base))
    changed = [p for name, p in model.named_parameters() if "lora_" in name]
    assert changed and all(p.requires_grad for p in changed)
    for weight in changed:
        torch.nn.init.normal_(weight, std=0.1)
    learn_blank(model)
    model.trained_length = 24
    model.save_pretrained(folder)
    return folder


def learn_blank(model: AnySubsetDecoder) -> None:
    with torch.no_grad():
        model.blank.normal_(generator=torch.Generator().manual_seed(3))


def texts(length: int = 12) -> torch.Tensor:
    return torch.randint(9, 8192, (2, length), generator=torch.Generator().manual_seed(7))


def scattered(length: int = 12) -> asarm.Order:
    is_target = torch.rand(2, length, generator=torch.Generator().manual_seed(1)) < 0.6
    return asarm.Order.from_mask(is_target)


def refused(folder: Path, door=asarm.load) -> str:
    """The line in which a folder is refused."""
    with pytest.raises(ValueError) as error:
        door(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


# --- whole folders ---


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_is_loaded_bit_for_bit(bases, tmp_path, family):
    model, tokenizer = asarm.load(bases[family])
    learn_blank(model)
    model.start_token_id, model.prompt, model.trained_length = 7, "full", 24
    head = DraftHead(DraftHeadConfig(16, hidden=8, rank=4))
    randomize(head, seed=5, std=0.4)
    model.set_draft_head(head)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, same_tokenizer = asarm.load(tmp_path)
    assert (again.start_token_id, again.prompt, again.trained_length) == (7, "full", 24)
    assert same_tokenizer.get_vocab() == tokenizer.get_vocab()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, again.draft_head.state_dict()[name]), name
    own = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, weight in own.state_dict().items():
        assert torch.equal(weight, model.network.state_dict()[name]), name
    again.set_draft_head(None)
    again.save_pretrained(tmp_path)
    assert not (tmp_path / WEIGHTS).exists() and not (tmp_path / CONFIG).exists()


def test_no_start_token_is_kept_too(bases, tmp_path):
    network = AutoModelForCausalLM.from_pretrained(bases["Llama"], attn_implementation="sdpa")
    AnySubsetDecoder(network, start_token_id=None).save_pretrained(tmp_path)
    assert AnySubsetDecoder.from_pretrained(tmp_path).start_token_id is None


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_loads_without_a_tokenizer_in_any_dtype(bases, adapters, family):
    for folder in (bases[family], adapters[family]):
        found = AnySubsetDecoder.from_pretrained(folder, dtype=torch.bfloat16)
        assert {weight.dtype for weight in found.parameters()} == {torch.bfloat16}
        exact = AnySubsetDecoder.from_pretrained(folder, dtype=torch.float64)
        ids, order = texts(), scattered()
        expected = asarm.log_prob(asarm.load(folder, dtype="float64")[0], ids, order)
        torch.testing.assert_close(asarm.log_prob(exact, ids, order), expected, rtol=0, atol=0)


def test_a_network_may_have_more_logits_than_its_tokenizer_has_pieces_but_not_fewer(tmp_path):
    more = decoder_folder(tmp_path / "more", vocab_size=8200)
    model, tokenizer = asarm.load(more)
    assert (model.vocab_size, len(tokenizer)) == (8200, 8192)
    found = asarm.infill(model, tokenizer, "The ___ of it.", length=3, num_samples=4)
    for own in found.candidates:
        assert max(own.fills[0].tokens) < 8192
    for evidence in ("importance", "direct"):
        asarm.infill(model, tokenizer, "The ___ of it.", length=(1, 3), evidence=evidence)
    (scored,) = asarm.score(model, tokenizer, "The sh___ of it.", ["ip"])
    assert scored.log_prob < 0
    options = {"seeds": [0], "max_length": 64}
    assert continue_texts(model, Codec.of(tokenizer), ["The"], Stopping(max_tokens=4), **options)
    fewer = decoder_folder(tmp_path / "fewer", vocab_size=8000)
    assert "a tokenizer of 8192 pieces and a model of 8000" in refused(fewer)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_weights_give_the_same(bases, family):
    ids, order = texts(), scattered()
    packed, apart = (
        asarm.load(bases[family], dtype="bfloat16", packed=p)[0] for p in (True, False)
    )
    expected = asarm.log_prob(apart, ids, order)
    torch.testing.assert_close(asarm.log_prob(packed, ids, order), expected, rtol=0, atol=0.05)
    found = [
        asarm.sample(model, ids, order, seed=2, verifier="gumbel") for model in (packed, apart)
    ]
    torch.testing.assert_close(found[0].log_probs, found[1].log_probs, rtol=0, atol=0.05)


# --- adapters ---


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's
@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_adapter_is_pefts_own(bases, adapters, family):
    ids = texts()
    model, _ = asarm.load(adapters[family])
    base = AutoModelForCausalLM.from_pretrained(bases[family])
    adapted = peft.PeftModel.from_pretrained(base, adapters[family]).eval()
    start = torch.full_like(ids[:, :1], model.start_token_id)
    with torch.no_grad():
        logits = adapted(torch.cat([start, ids], dim=1)).logits[:, :-1]
        unchanged = AutoModelForCausalLM.from_pretrained(bases[family])(
            torch.cat([start, ids], dim=1)
        ).logits[:, :-1]
    expected = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    everything = asarm.Order.from_mask(torch.ones_like(ids, dtype=torch.bool))
    found = asarm.log_prob(model, ids, everything)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, check_dtype=False)
    assert (logits - unchanged).abs().max() > 0.01
    assert model.trained_length == 24
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_a_merged_adapter_is_the_model_that_learned(bases, tmp_path):
    """Before it is saved its low-rank changes stand beside the weights."""
    model, _ = asarm.load(bases["Llama"])
    model.add_lora(4, str(bases["Llama"]))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    learn_blank(model)
    model.save_pretrained(tmp_path)
    ids, order = texts(), scattered()
    expected = asarm.log_prob(model, ids, order)
    found = asarm.log_prob(asarm.load(tmp_path)[0], ids, order)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_an_adapter_folder_needs_no_peft(adapters, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert asarm.load(adapters["Llama"])[0].base is not None


def test_a_merged_model_is_saved_whole(adapters, tmp_path):
    model, tokenizer = asarm.load(adapters["Llama"])
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = asarm.load(tmp_path)
    assert not (tmp_path / lora.CONFIG).exists()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_a_draft_head_lies_beside_an_adapter(adapters, tmp_path):
    folder = shutil.copytree(adapters["Llama"], tmp_path / "adapter")
    model, _ = asarm.load(folder)
    model.set_draft_head(DraftHead(DraftHeadConfig(16, hidden=8, rank=4)))
    model.save_pretrained(tmp_path / "whole")
    for name in (WEIGHTS, CONFIG):
        shutil.copy(tmp_path / "whole" / name, folder)
    assert asarm.load(folder)[0].draft_head is not None


@pytest.fixture
def damaged(adapters, tmp_path):
    """A copy of an adapter's folder."""
    return shutil.copytree(adapters["Llama"], tmp_path / "adapter")


def with_config(folder: Path, **changes) -> Path:
    path = folder / lora.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_an_adapter_of_another_base_is_refused(damaged, tmp_path):
    other = decoder_folder(tmp_path / "other", std=0.2)
    says = refused(with_config(damaged, base_model_name_or_path=str(other)))
    assert "was trained on other weights" in says and str(other) in says


@pytest.mark.parametrize("changes", [{"hidden_size": 32}, {"num_hidden_layers": 1}])
def test_an_adapter_that_says_nothing_of_its_base_is_refused_on_others(damaged, tmp_path, changes):
    """As peft itself writes it."""
    blank = load_file(damaged / BLANK)
    if "hidden_size" in changes:
        blank["blank"] = torch.zeros(32)
    save_file(blank, damaged / BLANK)
    other = decoder_folder(tmp_path / "other", **changes)
    says = refused(with_config(damaged, base_model_name_or_path=str(other)))
    assert "which its base does not have" in says


def test_an_adapter_of_no_decoder_is_refused(damaged):
    assert "expected one of a decoder" in refused(
        with_config(damaged, base_model_name_or_path="demo")
    )


def test_a_base_that_is_not_there_is_named(damaged, tmp_path):
    gone = tmp_path / "gone"
    with pytest.raises(ValueError, match=f"model folder {gone} does not exist"):
        asarm.load(with_config(damaged, base_model_name_or_path=str(gone)))


@pytest.mark.parametrize("file", [lora.WEIGHTS, BLANK])
def test_a_file_that_is_not_there_is_named(damaged, file):
    (damaged / file).unlink()
    assert f"no {file}" in refused(damaged)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}},
        {"alpha_pattern": {"q_proj": 2}},
        {"peft_type": "LOHA"},
        {"bias": "all"},
        {"modules_to_save": ["lm_head"]},
        {"fan_in_fan_out": "yes", "peft_type": None},
    ],
    ids=str,
)
def test_adapters_of_another_kind_are_refused(damaged, changes):
    assert "an adapter of another kind" in refused(with_config(damaged, **changes))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b"[1]", b"\xff\xfe", b'{"peft_type": "LORA"}'], ids=ascii
)
def test_configs_of_adapters_that_cannot_be_read(damaged, content):
    (damaged / lora.CONFIG).write_bytes(content)
    assert refused(damaged)
    assert refused(damaged, AnySubsetDecoder.from_pretrained)


@pytest.mark.parametrize("part", [0, 7, 0.5, -1])
@pytest.mark.parametrize("file", [lora.WEIGHTS, BLANK])
def test_damaged_weights_of_adapters(damaged, file, part):
    cut(damaged / file, part)
    assert "cannot be read" in refused(damaged)


@pytest.mark.parametrize("end", ["lora_A.weight", "lora_B.weight"])
def test_half_of_an_adapters_weights(damaged, end):
    weights = load_file(damaged / lora.WEIGHTS)
    kept = {name: w for name, w in weights.items() if not (name.endswith(end) and "0.mlp" in name)}
    assert len(kept) < len(weights)
    save_file(kept, damaged / lora.WEIGHTS)
    assert "mlp" in refused(damaged)


@pytest.mark.parametrize("file", [lora.WEIGHTS, BLANK])
def test_weights_of_adapters_that_are_not_finite(damaged, file):
    weights = load_file(damaged / file)
    next(iter(weights.values())).flatten()[0] = torch.nan
    save_file(weights, damaged / file)
    assert "holds NaN or infinity" in refused(damaged)


def cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content)) if part == 0.5 else int(part)])


# --- the vector that is learned ---


@pytest.fixture
def whole(bases, tmp_path):
    """A copy of a decoder's folder, with what was learned."""
    folder = shutil.copytree(bases["Llama"], tmp_path / "folder")
    asarm.load(folder)[0].save_pretrained(folder)
    return folder


@pytest.mark.parametrize("part", [0, 7, 0.5, -1])
def test_half_a_file(whole, part):
    cut(whole / BLANK, part)
    assert "cannot be read" in refused(whole)


@pytest.mark.parametrize(
    ("weights", "settings", "says"),
    [
        ({"blank": torch.zeros(8)}, {}, r"has shape \(8,\); expected \(16,\)"),
        ({"other": torch.zeros(16)}, {}, "cannot be read"),
        ({"blank": torch.full((16,), torch.inf)}, {}, "holds NaN or infinity"),
        ({"blank": torch.zeros(16)}, [1], "cannot be read"),
        ({"blank": torch.zeros(16)}, {"start_token_id": 9999}, "start_token_id is 9999"),
        ({"blank": torch.zeros(16)}, {"start_token_id": "one"}, "start_token_id is 'one'"),
        ({"blank": torch.zeros(16)}, {"prompt": "half"}, "prompt is 'half'"),
        ({"blank": torch.zeros(16)}, {"trained_length": "long"}, "trained_length is 'long'"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_files_of_something_else(whole, weights, settings, says):
    save_file(weights, whole / BLANK, {"any_subset": json.dumps(settings)})
    with pytest.raises(ValueError, match=says) as error:
        asarm.load(whole)
    assert "\n" not in str(error.value)


def test_a_file_without_settings_is_a_vector_alone(whole):
    save_file({"blank": torch.ones(16)}, whole / BLANK)
    model, _ = asarm.load(whole)
    assert model.blank.eq(1).all() and (model.start_token_id, model.prompt) == (1, "causal")


def test_several_shards_are_one_model(bases, tmp_path):
    model, tokenizer = asarm.load(bases["Llama"])
    learn_blank(model)
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    tokenizer.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again, _ = asarm.load(tmp_path)
    restored = AnySubsetDecoder.from_pretrained(bases["Llama"])
    restored.load_weights(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
        assert torch.equal(weight, restored.state_dict()[name]), name


def test_an_adapter_names_the_revision_of_its_base(bases, damaged, monkeypatch):
    model, _ = asarm.load(bases["Llama"])
    model.add_lora(2, "someone/base", "v2")
    model.save_pretrained(damaged)

    def load_model(name, source, where, dtype):
        raise ValueError(f"{name} at {where['revision']} is wanted")

    monkeypatch.setattr(loading, "_load_model", load_model)
    with pytest.raises(ValueError, match="someone/base at v2 is wanted"):
        asarm.load(damaged)
