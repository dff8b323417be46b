"""Wrong input is refused at the door, in one line: the value, what was expected, how to mend it."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from fakes import small_model
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import BertConfig, GPT2Config, T5Config, XLNetConfig, XLNetLMHeadModel

from asarm import Order, load, log_prob, sample
from asarm.loading import DEMO, load_tokenizer
from asarm.training.tokenizer import SPECIAL_TOKENS, save_tokenizer

IDS = torch.arange(10, 18).view(2, 4)
SPLIT = Order(torch.tensor([[0, 2, 1, 3], [3, 0, 1, 2]]), 2)


@pytest.fixture(scope="module")
def model():
    return small_model()


def refused(action, *patterns):
    """`action` raises a ValueError of one line that says all this."""
    with pytest.raises(ValueError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message
    for pattern in patterns:
        assert re.search(pattern, message), message


# --- orders ---


@pytest.mark.parametrize(
    ("order", "num_prompt", "length", "says"),
    [
        ([[0, 1, 1, 3]], 1, None, "sequence 0 holds position 1 2 times.*every position once"),
        ([[0, 1, 2], [2, 2, 2]], 1, None, "sequence 1 holds position 2 3 times"),
        ([[0, 1, 4, 3]], 1, None, "sequence 0 holds position 4.*0 to 3"),
        ([[0, -1, 2, 3]], 1, None, "sequence 0 holds position -1.*0 to 3"),
        ([[0, 1, 2]], 3, None, "sequence 0 has no target.*blank out"),
        ([[0, 1, 2]], 4, None, "num_prompt of sequence 0 is 4.*0 to 2"),
        ([[0, 1, 2]], -1, None, "num_prompt of sequence 0 is -1.*0 to 2"),
        ([[0, 1, 2], [0, 1, 2]], [1, 3], None, "sequence 1 has no target"),
        ([[0, 1, 2]], 2, 2, "sequence 0 has no target"),
        ([[0, 1, 2]], 1, 4, "length of sequence 0 is 4.*1 to 3"),
        ([[0, 1, 2]], 0, 0, "length of sequence 0 is 0.*1 to 3"),
        ([[0, 2, 1]], 1, 2, "sequence 0 decodes padding.*positions 2 to 2"),
        ([0, 1, 2], 1, None, r"shape \(3,\).*\(batch, length\)"),
        ([[0.0, 1.0]], 1, None, "dtype torch.float32.*integers"),
        ([[0, 1, 2]], 1.5, None, "num_prompt has .*dtype torch.float32.*integer"),
        ([[0, 1], [1, 0]], [1, 1, 1], None, r"num_prompt has shape \(3,\).*each of 2"),
        ([[0, 1], [1, 0]], 1, [2, 2, 2], r"length has shape \(3,\).*each of 2"),
    ],
)
def test_orders(order, num_prompt, length, says):
    refused(lambda: Order(torch.tensor(order), num_prompt, length), says)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Order.from_mask(torch.zeros(2, 3)), "sequence 0 has no target"),
        (lambda: Order.from_mask(torch.tensor([[False, True]]), [1]), "sequence 0 has no target"),
        (lambda: Order.from_mask(torch.ones(1, 3), [4]), "length of sequence 0 is 4"),
        (lambda: Order.left_to_right(3, 3), "no target"),
        (lambda: Order.left_to_right(3, 5), "num_prompt of sequence 0 is 5"),
        (lambda: Order.random_split(1, 0.5, seed=0), "length is 1.*at least 2"),
        (lambda: Order.random_split(8, 1.5, seed=0), "prompt_share is 1.5.*0 to 1"),
        (lambda: Order.random_split(8, 0.5, batch=3, seed=[1, 2]), "seed holds 2 values.*3"),
        (lambda: Order.random_permutation(8, 9, seed=0), "num_prompt of sequence 0 is 9"),
        (lambda: Order.random_permutation(8, -1, seed=0), "num_prompt of sequence 0 is -1"),
    ],
)
def test_constructors_of_orders(make, says):
    refused(make, says)


# --- ids and options ---


def both(model, ids, order):
    """The two functions that read ids."""
    return [lambda: sample(model, ids, order), lambda: log_prob(model, ids, order)]


@pytest.mark.parametrize("wrong", [60, -1, 32000])
def test_ids_outside_the_vocabulary(model, wrong):
    ids = IDS.clone()
    ids[1, 3] = wrong  # prompt of the second sequence
    for action in both(model, ids, SPLIT):
        refused(action, f"holds {wrong} at position 3 of sequence 1.*0 to 59.*tokenizer")
    ids = IDS.clone()
    ids[0, 1] = wrong  # a target: read by log_prob alone
    refused(lambda: log_prob(model, ids, SPLIT), f"holds {wrong} at position 1 of sequence 0")
    sample(model, ids, SPLIT)


def test_prompt_that_holds_the_mask_token(model):
    ids = IDS.clone()
    ids[1, 0] = 6
    for action in both(model, ids, SPLIT):
        refused(action, "prompt of sequence 1 holds <mask> .id 6. at position 0.*make .* a target")
    ids = IDS.clone()
    ids[1, 1] = 6
    sample(model, ids, SPLIT)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (IDS[:, :3], r"shape \(2, 3\).*\(2, 4\)"),
        (IDS[:1], r"shape \(1, 4\).*\(2, 4\)"),
        (IDS[0], r"shape \(4,\).*\(2, 4\)"),
        (IDS.float(), "dtype torch.float32.*integers"),
        (IDS.bool(), "dtype torch.bool.*integers"),
    ],
)
def test_shape_and_dtype_of_ids(model, ids, says):
    for action in both(model, ids, SPLIT):
        refused(action, says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sampler": "ancestral"}, "'ancestral'.*sequential, assd, ngram, onepass, parallel"),
        ({"k": 0}, "k is 0.*at least 1"),
        ({"k": -3}, "k is -3.*at least 1"),
        ({"k": "best"}, "k is 'best'.*'auto'"),
        ({"k": 2.5}, "k is 2.5.*at least 1"),
        ({"stride": 0}, "stride is 0.*at least 1"),
        (
            {"sampler": "assd", "stride": 2},
            "sampler 'assd' has no option stride; its options are .*k.*drafter",
        ),
        ({"temperature": -1.0}, "temperature is -1.0.*above 0, or 0 for greedy"),
        ({"temperature": float("nan")}, "temperature is nan.*above 0"),
        ({"temperature": float("inf")}, "temperature is inf.*finite"),
        ({"temperature": "hot"}, "temperature is 'hot'.*finite number"),
        ({"draft_temperature": -1.0}, "draft_temperature is -1.0.*above 0"),
        ({"draft_temperature": float("inf")}, "draft_temperature is inf.*finite"),
        ({"tolerance": float("nan")}, "tolerance is nan.*finite number from 0"),
        ({"tolerance": float("inf")}, "tolerance is inf.*finite number from 0"),
        ({"top_k": 1.5}, "top_k is 1.5.*whole number"),
        ({"top_p": float("nan")}, "top_p is nan.*at most 1"),
        ({"k": True}, "k is True.*at least 1"),
        ({"k": None}, "k is None.*at least 1 draft a round, or 'auto'"),
        ({"stride": "wide"}, "stride is 'wide'.*at least 1"),
        ({"sampler": "parallel", "steps": 2.5}, "steps is 2.5.*at least 1"),
        ({"seed": None}, "seed is None.*whole number"),
        ({"seed": 1.5}, "seed is 1.5.*whole number"),
        ({"seed": [1, None]}, r"seed is \[1, None\].*whole number"),
        ({"top_k": 0}, "top_k is 0.*whole number from 1"),
        ({"top_p": 0.0}, "top_p is 0.0.*above 0 and at most 1"),
        ({"top_p": 1.01}, "top_p is 1.01.*above 0 and at most 1"),
        ({"top_p": -0.2}, "top_p is -0.2.*above 0 and at most 1"),
        ({"verifier": "maximal"}, "'maximal'.*rejection, gumbel"),
        ({"sampler": "parallel"}, "sampler 'parallel' needs steps; give it.*steps=8"),
        ({"sampler": "parallel", "steps": 0}, "steps is 0.*at least 1"),
        ({"sampler": "parallel", "steps": 2, "by": "luck"}, "'luck'.*order, confidence"),
        ({"steps": 2}, "sampler 'onepass' has no option steps; its options are .*stride"),
        ({"tolerance": -0.1}, "tolerance is -0.1.*number from 0"),
        (
            {"tolerance": 0.1, "verifier": "gumbel"},
            "tolerance is 0.1.*0 with verifier 'gumbel'",
        ),
        ({"seed": [1, 2, 3]}, "seed holds 3 values.*2"),
    ],
    ids=str,
)
def test_options_of_sample(model, options, says):
    refused(lambda: sample(model, IDS, SPLIT, **options), says)


@pytest.mark.parametrize("temperature", [-2.0, float("inf"), float("nan"), None])
def test_temperature_of_log_prob(model, temperature):
    refused(
        lambda: log_prob(model, IDS, SPLIT, temperature=temperature), "temperature is .*above 0"
    )


@pytest.mark.parametrize("method", ["sequential", "assd", "ngram", "onepass", "parallel"])
@pytest.mark.parametrize("verifier", ["rejection", "gumbel"])
def test_nan_weights(method, verifier):
    broken = small_model()
    broken.transformer.layer[1].ff.layer_1.weight.data[3, 4] = torch.nan
    options = {"steps": 2} if method == "parallel" else {}
    refused(
        lambda: sample(broken, IDS, SPLIT, sampler=method, verifier=verifier, **options),
        "gives NaN.*check its weights",
    )
    refused(lambda: log_prob(broken, IDS, SPLIT), "gives NaN.*check its weights")


@pytest.mark.parametrize("method", ["sequential", "assd", "ngram", "onepass", "parallel"])
def test_empty_prompt_and_all_positions_targets_are_valid(model, method):
    order = Order.from_mask(torch.ones(2, 4))
    options = {"steps": 2} if method == "parallel" else {}
    result = sample(model, IDS, order, sampler=method, **options)
    assert result.log_probs.isfinite().all() and (result.log_probs < 0).all()
    assert log_prob(model, IDS, order).isfinite().all()


@pytest.mark.parametrize("method", ["sequential", "assd", "ngram", "onepass"])
def test_one_position_and_more_drafts_than_targets_are_valid(model, method):
    options = {} if method == "sequential" else {"k": 9}
    order = Order(torch.zeros(2, 1).long(), 0)
    result = sample(model, IDS[:, :1], order, sampler=method, **options)
    assert result.nfe.tolist() == [1, 1]


# --- loading ---


def write_model(folder: Path, *, vocab_size: int = 8192, tokenizer: bool = True, **config) -> Path:
    """A folder with a small random model, and the demo's tokenizer."""
    small_model(dtype=torch.float32, vocab_size=vocab_size, n_layer=1, **config).save_pretrained(
        folder
    )
    if tokenizer:
        for path in DEMO.glob("tokenizer*.json"):
            shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good, tmp_path):
    """A copy to be damaged."""
    return Path(shutil.copytree(good, tmp_path / "model"))


def publish(hub: Path, name: str, good: Path, revisions: dict[str, str]) -> Path:
    """Lay out a model as the hub's cache does, under branches; the folder of its last commit."""
    root = hub / f"models--{name.replace('/', '--')}"
    for revision, commit in revisions.items():
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / revision).write_text(commit)
        shutil.copytree(good, root / "snapshots" / commit, dirs_exist_ok=True)
    return root / "snapshots" / commit


def test_a_folder_loads_as_path_and_as_text(good):
    for name in (good, str(good)):
        model, tokenizer = load(name, device="cpu")
        assert not model.training
        assert model.dtype == torch.float32
        assert tokenizer.padding_side == "right"
        assert model.mask_token_id == tokenizer.mask_token_id == 6


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", torch.float64, None])
def test_dtype_is_the_one_asked_for(good, dtype):
    names = {"bfloat16": torch.bfloat16, None: torch.float32}
    expected = names.get(dtype, torch.float64)
    assert load(good, device="cpu", dtype=dtype)[0].dtype == expected


def test_mask_token_is_the_tokenizers(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["mask_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    text = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(text.replace('"<mask>"', '"<eod>"'))
    model, tokenizer = load(folder, device="cpu")
    assert model.mask_token_id == tokenizer.mask_token_id == 7


def test_missing_folder(tmp_path):
    refused(lambda: load(tmp_path / "nowhere"), "nowhere does not exist.*config.json")
    refused(lambda: load("./nowhere"), "./nowhere does not exist.*hub name")
    (tmp_path / "file").touch()
    refused(lambda: load(tmp_path / "file"), "file is a file.*give a folder")


def test_folder_without_a_file(folder):
    (folder / "model.safetensors").unlink()
    refused(lambda: load(folder), "no model.safetensors.*expected a checkpoint")
    (folder / "tokenizer.json").unlink()
    refused(lambda: load(folder), "no tokenizer.json.*put it")
    (folder / "config.json").unlink()
    refused(lambda: load(folder), "no config.json.*expected a model's folder")


def test_only_spiece_model_is_there(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    (folder / "spiece.model").write_bytes(b"pieces")
    refused(lambda: load(folder), "only spiece.model.*put tokenizer.json beside it")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (T5Config(), "type t5; expected XLNet or a causal language model"),
        (BertConfig(), "type 'bert' cannot be any-subset models"),
        (GPT2Config(n_layer=1), "lacks [0-9]+ weights"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_weights_of_no_decoder_and_of_another_network(folder, config, says):
    config.save_pretrained(folder)
    refused(lambda: load(folder), says)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_broken_config(folder, text):
    (folder / "config.json").write_text(text)
    refused(lambda: load(folder), "config.json|expected xlnet")


def test_tokenizer_and_model_of_different_sizes(tmp_path):
    write_model(tmp_path, vocab_size=100)
    refused(lambda: load(tmp_path), "tokenizer of 8192 pieces and a model of 100.*own tokenizer")


@pytest.mark.parametrize("setting", [{"bi_data": True}, {"attn_type": "uni"}], ids=str)
def test_settings_that_no_any_subset_model_can_have(folder, setting):
    config = json.loads((folder / "config.json").read_text()) | setting
    (folder / "config.json").write_text(json.dumps(config))
    refused(lambda: load(folder), f"{next(iter(setting))} is .*expected")


def test_weights_that_hold_nan(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["transformer.mask_emb"][0, 0, 3] = torch.nan
    save_file(weights, path, {"format": "pt"})
    refused(lambda: load(folder), "transformer.mask_emb.*NaN or infinity")


def test_weights_that_are_missing(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["transformer.layer.0.rel_attn.o"]
    save_file(weights, path, {"format": "pt"})
    refused(lambda: load(folder), "lacks 1 weights.*transformer.layer.0.rel_attn.o")


def test_pickled_weights_load_with_a_warning(folder):
    weights = load_file(folder / "model.safetensors")
    expected = load(folder, device="cpu")[0].state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.warns(UserWarning, match="pickle"):
        model, _ = load(folder, device="cpu")
    assert all(torch.equal(model.state_dict()[name], expected[name]) for name in expected)


def test_unknown_dtype_and_device(good):
    refused(lambda: load(good, dtype="float8"), "dtype is 'float8'.*float32, bfloat16, float64")
    refused(lambda: load(good, dtype=torch.int8), "dtype is torch.int8.*float32")
    refused(lambda: load(good, device="teapot"), "'teapot'.*take 'cpu'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpu_asked_for_where_there_is_none(good):
    refused(lambda: load(good, device="cuda"), "device 'cuda' cannot be used here.*take 'cpu'")


# --- the hub ---

XLNET = "xlnet/xlnet-base-cased"


def test_a_name_loads_from_the_hubs_cache(hub, good):
    publish(hub, XLNET, good, {"main": "a" * 40})
    model, tokenizer = load(XLNET, device="cpu")
    expected = load(good, device="cpu")[0].state_dict()
    assert all(torch.equal(model.state_dict()[name], expected[name]) for name in expected)
    assert len(tokenizer) == 8192


def test_a_revision_is_the_one_asked_for(hub, good, tmp_path):
    name = "therealgabeguo/ASARM"
    publish(hub, name, good, {"main": "a" * 40})
    other = write_model(tmp_path / "other", seed=5)
    publish(hub, name, other, {"nlp": "b" * 40, "code": "c" * 40})
    main, nlp = (load(name, device="cpu", revision=r)[0].lm_loss.bias for r in (None, "nlp"))
    assert torch.equal(main, load(good, device="cpu")[0].lm_loss.bias)
    assert torch.equal(nlp, load(other, device="cpu")[0].lm_loss.bias)
    refused(lambda: load(name, revision="poetry"), "therealgabeguo/ASARM.*hub")


def test_a_subfolder_is_the_one_asked_for(folder, good):
    shutil.copytree(good, folder / "inner" / "model")
    (folder / "model.safetensors").unlink()
    model, _ = load(folder, subfolder="inner/model", device="cpu")
    assert torch.equal(model.lm_loss.bias, load(good, device="cpu")[0].lm_loss.bias)


def test_released_models_without_tokenizer_take_xlnets(hub, tmp_path):
    name = "therealgabeguo/AO-ARM-generative"
    bare = write_model(tmp_path / "bare", vocab_size=32000, tokenizer=False)
    publish(hub, name, bare, {"main": "a" * 40})
    with pytest.warns(UserWarning, match="has no tokenizer; taking that of xlnet"):
        refused(lambda: load(name), XLNET)
    words = {word: i for i, word in enumerate([*SPECIAL_TOKENS, *map(str, range(31991))])}
    (tmp_path / "xlnet").mkdir()
    save_tokenizer(Tokenizer(WordLevel(words, "<unk>")), tmp_path / "xlnet")
    XLNetConfig().save_pretrained(tmp_path / "xlnet")
    publish(hub, XLNET, tmp_path / "xlnet", {"main": "b" * 40})
    with pytest.warns(UserWarning, match="has no tokenizer; taking that of xlnet"):
        _, tokenizer = load(name, device="cpu")
    assert (len(tokenizer), tokenizer.mask_token_id) == (32000, 6)


def test_hub_offline_is_one_line():
    refused(lambda: load(XLNET), f"{XLNET} from the hub.*check .*network.*folder")


def test_hub_unreachable_is_one_line(monkeypatch):
    nowhere = "http://127.0.0.1:9"  # a port where nothing answers
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", nowhere)
    template = nowhere + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between five attempts
    refused(lambda: load(XLNET), f"{XLNET} from the hub.*check .*network.*folder")


@pytest.mark.parametrize("name", ["no such model", "a/b/c", "", "xlnet", "x" * 200 + "/y"])
def test_names_that_can_be_no_model(name):
    refused(lambda: load(name), "folder")


def test_tokenizer_alone_loads(good):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_tokenizer(good)) == len(load_tokenizer("demo")) == 8192


def test_checkpoints_of_transformers_load(tmp_path):
    """As published: no mask token in the config, memory settings, transformers' own file."""
    config = XLNetConfig(vocab_size=8192, d_model=32, n_layer=1, n_head=4, d_inner=64, mem_len=512)
    reference = XLNetLMHeadModel(config)
    reference.save_pretrained(tmp_path)
    for path in DEMO.glob("tokenizer*.json"):
        shutil.copy(path, tmp_path)
    model, _ = load(tmp_path, device="cpu")
    assert model.config.mem_len == 512
    weights = reference.state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())
