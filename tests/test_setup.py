"""What a run starts from: settings that cannot be are refused, and weights are what was asked."""

import re
from dataclasses import replace

import pytest
import torch
from fakes import small_model
from hypothesis import given
from hypothesis import strategies as st

from asarm.kernels.dropout import Dropout
from asarm.loading import load_tokenizer
from asarm.training import setup
from asarm.training.config import TrainingConfig
from asarm.training.objectives import objective_of
from asarm.training.setup import (
    accumulation,
    check_config,
    new_model,
    new_optimizer,
    start_model,
)

NEVER_USED = {"r_s_bias", "seg_embed"}  # XLNet's segments
TINY = {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}


@pytest.fixture(autouse=True)
def trackers(monkeypatch):
    """Those that are installed, whatever is."""
    installed = {"tensorboard": True, "wandb": True}
    monkeypatch.setattr(setup, "find_spec", installed.get)
    return installed


def one_line(info):
    message = str(info.value)
    assert len(message.splitlines()) == 1
    return message


def test_defaults_can_be_trained():
    check_config(TrainingConfig(), 1)
    check_config(TrainingConfig(), 4)


REFUSED = [
    *[
        ({name: value}, rf"^{name} is {value}; expected at least 1$")
        for name in (
            "global_batch_size",
            "batch_size",
            "max_steps",
            "log_steps",
            "save_steps",
            "eval_steps",
            "keep_checkpoints",
            "max_bad_steps",
            "head_hidden",
            "head_rank",
            "head_starts",
        )
        for value in (0, -3)
    ],
    *[
        ({name: value}, rf"^{name} is {value}; expected between 0 and 1$")
        for name in ("start_mask_rate", "min_mask_rate", "max_mask_rate")
        for value in (0.0, 1.0, -0.1, 1.5, float("nan"))
    ],
    ({"learn": "head"}, "^learn is 'head'; expected one of model, draft_head, both$"),
    (
        {"learn": "draft_head"},
        "^learn is 'draft_head' and model 'scratch'; give the model that the head drafts for$",
    ),
    *[
        (
            {"learn": learn, "model": "demo", "objective": "parallel"},
            f"^learn is '{learn}' with the parallel objective; a draft head serves joint ones$",
        )
        for learn in ("draft_head", "both")
    ],
    ({"objective": "exact"}, "^objective is 'exact'; expected one of joint, parallel"),
    (
        {"prompt_attention": "none"},
        "^prompt_attention is 'none'; expected one of full, prompt, causal$",
    ),
    ({"loss_scale": "log"}, "^loss_scale is 'log'; expected one of none, mask_rate, snr$"),
    (
        {"min_mask_rate": 0.6, "max_mask_rate": 0.5},
        "^min_mask_rate is 0.6 and max_mask_rate 0.5; expected the lower one first$",
    ),
    (
        {"objective": "parallel", "loss_scale": "snr"},
        "^loss_scale is 'snr' and would do nothing: objective is parallel, which does not read it",
    ),
    *[
        ({"orders": orders}, rf"^orders are {re.escape(str(orders))}; expected weights for asc")
        for orders in (
            {},
            {"span": 0.0},
            {"upwards": 1.0},
            {"span": float("nan")},
            {"ascending": 2.0, "span": -1.0},
        )
    ],
    (
        {"trackers": ["wandb", "mlflow"]},
        "^trackers hold 'mlflow'; expected tensorboard, wandb, both or none$",
    ),
    *[
        ({name: value}, rf"^{name} is {value}; expected above 0$")
        for name in ("learning_rate", "clip_norm")
        for value in (0.0, -1e-5, float("nan"))
    ],
    *[
        ({"dropout": share}, rf"^dropout is {share}; expected at least 0 and below 1, or null$")
        for share in (-0.1, 1.0, 1.5, float("nan"))
    ],
    *[
        ({"adam_betas": betas}, rf"^adam_betas are {re.escape(str(betas))}; expected two numbers")
        for betas in ([0.9], [0.9, 1.0], [-0.1, 0.9], [0.9, 0.99, 0.999])
    ],
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=lambda x: str(x)[:50])
def test_what_cannot_be_trained_is_refused(settings, message):
    with pytest.raises(ValueError, match=message) as info:
        check_config(TrainingConfig(**settings), 1)
    one_line(info)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_mask_rate": 0.5, "max_mask_rate": 0.5},
        {"start_mask_rate": 0.99, "min_mask_rate": 0.01},
        {"objective": "parallel", "prompt_attention": "causal"},
        {"trackers": []},
        {"trackers": ["tensorboard", "wandb"]},
        {"orders": {"ascending": 0.0, "span": 2.0}},
        {"adam_betas": [0.0, 0.99]},
        {"loss_scale": "snr"},
        {"learn": "draft_head", "model": "demo"},
        {"learn": "both"},
        {"learn": "both", "loss_scale": "snr"},
    ],
    ids=str,
)
def test_what_can_be_trained_is_not(settings):
    check_config(TrainingConfig(**settings), 1)


def test_a_tracker_that_is_not_installed_is_refused(trackers):
    del trackers["wandb"]
    check_config(TrainingConfig(trackers=["tensorboard"]), 1)
    with pytest.raises(
        ValueError, match="wandb, which is not installed; pip install wandb"
    ) as info:
        check_config(TrainingConfig(trackers=["tensorboard", "wandb"]), 1)
    one_line(info)


# --- the global batch ---


@pytest.mark.parametrize(
    ("processes", "batch_size", "steps"),
    [(1, 8, 4), (16, 12, 2), (4, 32, 2), (1, 1, 1), (8, 4, 1), (1, 32, 1)],
)
def test_accumulation_makes_up_the_global_batch(processes, batch_size, steps):
    """Those of the paper among them: 8 x 4, 16 GPUs x 12 x 2, 4 x 32 x 2."""
    size = processes * batch_size * steps
    config = TrainingConfig(global_batch_size=size, batch_size=batch_size)
    assert accumulation(config, processes) == steps
    check_config(config, processes)


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 9))
def test_accumulation_comes_out_even_or_says_what_does(size, batch_size, processes):
    config = TrainingConfig(global_batch_size=size, batch_size=batch_size)
    if size % (batch_size * processes) == 0:
        assert accumulation(config, processes) * batch_size * processes == size
        return
    with pytest.raises(ValueError) as info:
        accumulation(config, processes)
    message = one_line(info)
    assert f"global_batch_size is {size}" in message
    assert f"batch_size {batch_size} x {processes} devices" in message
    if size % processes:
        assert message.endswith("take another number of devices, or another global_batch_size")
        return
    offered = [int(n) for n in message.rpartition("take a batch_size of ")[2].split(", ")]
    assert offered == [n for n in range(1, size + 1) if size % (n * processes) == 0]
    for n in offered:
        accumulation(TrainingConfig(global_batch_size=size, batch_size=n), processes)


def test_a_global_batch_that_does_not_come_out_even_is_refused_with_the_config():
    with pytest.raises(ValueError, match="take a batch_size of 1, 2, 4, 8, 16$"):
        check_config(TrainingConfig(global_batch_size=32, batch_size=12), 2)
    with pytest.raises(ValueError, match="take another number of devices"):
        check_config(TrainingConfig(global_batch_size=32, batch_size=4), 3)


# --- model and optimizer ---


def shares(model):
    return {module.rate for module in model.modules() if isinstance(module, Dropout)}


def test_a_new_model_is_what_the_config_asks_for():
    config = TrainingConfig(**TINY, seed=3)
    model, tokenizer = start_model(config)
    assert model.training and model.dtype == torch.float32 and model.device.type == "cpu"
    assert model.vocab_size == len(tokenizer)
    assert model.mask_token_id == tokenizer.mask_token_id
    for name, value in TINY.items():
        assert getattr(model.config, name) == value
    again, _ = start_model(config)
    other, _ = start_model(TrainingConfig(**TINY, seed=4))
    weights = [m.transformer.word_embedding.weight for m in (model, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(("asked", "share"), [(None, 0.1), (0.0, 0.0), (0.25, 0.25)])
def test_dropout_of_a_new_model(asked, share):
    model = new_model(load_tokenizer(), TrainingConfig(**TINY, dropout=asked))
    assert shares(model) == {Dropout(share).rate}
    assert model.config.dropout == share


@pytest.mark.parametrize(("asked", "share"), [(None, 0.25), (0.0, 0.0), (0.5, 0.5)])
def test_dropout_of_a_model_that_exists(tmp_path, asked, share):
    """Its own where nothing is asked for; every dropout of the network, and what is saved."""
    tokenizer = load_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "dropout": 0.25, "dtype": torch.float32}
    small_model(**sizes).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = start_model(TrainingConfig(model=str(tmp_path), dropout=asked))
    assert model.training and shares(model) == {share}
    assert model.config.dropout == share


def test_set_dropout_changes_what_is_dropped():
    model = small_model(dropout=0.0).train()
    assert shares(model) == {0.0}
    model.set_dropout(0.3)
    assert shares(model) == {round(0.3 * 2**16) / 2**16}
    assert len([m for m in model.modules() if isinstance(m, Dropout)]) == 2 * 2 + 1
    model.set_dropout(0.0)
    assert shares(model) == {0.0} and model.config.dropout == 0.0


@pytest.mark.parametrize("source", ["scratch", "folder"])
def test_weights_that_are_never_used_are_frozen(tmp_path, source):
    config = TrainingConfig(**TINY)
    if source == "folder":
        model, tokenizer = start_model(config)
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        config.model = str(tmp_path)
    model, _ = start_model(config)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.rsplit(".", 1)[1] for name in frozen} == NEVER_USED
    assert len(frozen) == 2 * TINY["n_layer"]


@pytest.mark.parametrize("asked", [True, False])
def test_gradient_checkpointing_is_as_asked(asked):
    model, _ = start_model(TrainingConfig(**TINY, gradient_checkpointing=asked))
    assert model.transformer.gradient_checkpointing == asked


def names_of_groups(model, config):
    names = {id(p): name for name, p in model.named_parameters()}
    groups = new_optimizer(model, config).param_groups
    return groups, [[names[id(p)] for p in group["params"]] for group in groups]


@pytest.mark.parametrize("n_head", [1, 2])
def test_every_trained_weight_is_in_one_group(n_head):
    config = TrainingConfig(**TINY | {"n_head": n_head})
    model = new_model(load_tokenizer(), config)
    _, names = names_of_groups(model, config)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(sum(names, [])) == sorted(trained)


@pytest.mark.parametrize("n_head", [1, 2])
def test_matrices_decay_and_biases_norms_and_the_blank_do_not(n_head):
    config = TrainingConfig(
        **TINY | {"n_head": n_head}, weight_decay=0.3, learning_rate=2e-4, adam_betas=[0.8, 0.95]
    )
    model = new_model(load_tokenizer(), config)
    groups, (matrices, others) = names_of_groups(model, config)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert all(group["betas"] == (0.8, 0.95) and group["lr"] == 2e-4 for group in groups)
    for name in matrices:
        assert re.search(r"word_embedding|rel_attn\.[qkvor]$|layer_[12]\.weight$", name), name
    for name in others:
        assert re.search(r"bias|layer_norm|mask_emb", name), name


# --- what learns ---


def parts(config):
    """A new model that has or lacks a head, and the objective's weights that are trained."""
    model, _ = start_model(config)
    objective = objective_of(config)(model, config)
    trained = {name for name, p in objective.named_parameters() if p.requires_grad}
    return model, objective, trained


@pytest.fixture
def folder(tmp_path):
    model, tokenizer = start_model(TrainingConfig(**TINY))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return str(tmp_path)


def test_a_head_learns_behind_a_frozen_model(folder):
    config = TrainingConfig(model=folder, learn="draft_head", head_hidden=12, head_rank=5, seed=1)
    model, objective, trained = parts(config)
    assert trained == {f"head.{name}" for name, _ in model.draft_head.named_parameters()}
    head = model.draft_head.config
    assert (head.d_model, head.hidden, head.rank) == (TINY["d_model"], 12, 5)
    _, names = names_of_groups(objective, config)
    assert sorted(sum(names, [])) == sorted(trained)
    assert set(names[1]) == {"head.row.bias", "head.down.bias"}  # do not decay
    again, _, _ = parts(config)
    other, _, _ = parts(replace(config, seed=2))
    weights = [m.draft_head.neighbours.weight for m in (model, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_both_learn_and_what_is_never_used_does_not(folder):
    model, objective, trained = parts(TrainingConfig(model=folder, learn="both"))
    frozen = {name for name, _ in objective.named_parameters()} - trained
    assert {name.rsplit(".", 1)[1] for name in frozen} == NEVER_USED
    assert "head.up" in trained and "model.transformer.mask_emb" in trained
    assert parts(TrainingConfig(**TINY, learn="both"))[0].draft_head is not None  # from scratch


@pytest.mark.slow
def test_the_head_of_a_model_is_taught_on_and_dropped_where_the_model_learns_alone(folder):
    model, _, _ = parts(TrainingConfig(model=folder, learn="draft_head", head_hidden=12))
    torch.nn.init.normal_(model.draft_head.up)
    model.save_pretrained(folder)
    again, _, _ = parts(TrainingConfig(model=folder, learn="draft_head", head_hidden=12))
    assert torch.equal(again.draft_head.up, model.draft_head.up)
    for name, own in (("head_hidden", 12), ("head_rank", 64)):
        with pytest.raises(ValueError, match=f"^{name} is 99 and would do nothing: .*, {own};"):
            parts(TrainingConfig(model=folder, learn="draft_head", **{name: 99}))
    assert again.draft_head.config.hidden == 12 and again.draft_head.training
    alone, _, trained = parts(TrainingConfig(model=folder))
    assert alone.draft_head is None and "model.lm_loss.bias" in trained
