"""The training objective against plain autograd; its orders and mask rates; exact resume."""

import pytest
import torch
from fakes import mixed_batch, small_model
from torch.autograd import gradcheck

from asarm import Order, density, log_prob
from asarm.density import joint_rows, target_ranks
from asarm.law import Law
from asarm.objective import (
    LOSS_SCALES,
    ORDER_KINDS,
    HeadCrossEntropy,
    joint_loss,
    stratified_rates,
    training_order,
)
from asarm.training import loop
from asarm.training.config import TrainingConfig

SCALES = {"none": lambda m: 1.0, "mask_rate": lambda m: m, "snr": lambda m: m / (1 - m)}


def plain_loss(model, ids, order, scale):
    """The mean over sequences of the scaled mean over targets, in one piece for autograd."""
    content, query = joint_rows(ids, order)
    _, is_row = target_ranks(order)
    log_probs = Law(model.mask_token_id).log_probs(model.logits(model(content, query)))
    picked = log_probs.gather(2, ids.gather(1, query.positions)[..., None])[..., 0]
    per_sequence = -picked.where(is_row, 0).sum(1) / order.num_targets
    return (scale(order.num_targets / order.length) * per_sequence).mean()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rows_at_once", [1, 4, 1000])
@pytest.mark.parametrize("loss_scale", LOSS_SCALES)
def test_joint_loss_and_all_its_gradients(monkeypatch, loss_scale, rows_at_once):
    model, (ids, order) = small_model(), mixed_batch([9, 6, 9], [2, 1, 8], 60)
    monkeypatch.setattr(density, "LOGITS_AT_ONCE", 60 * rows_at_once)
    loss = joint_loss(model, ids, order, loss_scale=loss_scale)
    expected = plain_loss(model, ids, order, SCALES[loss_scale])
    torch.testing.assert_close(loss, expected, check_dtype=False)
    found, wanted = gradients(model, 3 * loss), gradients(model, 3 * expected)
    assert len(found) > 20
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)  # the scales are float32


def test_joint_loss_is_the_mean_density():
    model, (ids, order) = small_model(), mixed_batch([9, 6], [2, 0], 60)
    expected = -(log_prob(model, ids, order).sum(1) / order.num_targets).mean()
    torch.testing.assert_close(joint_loss(model, ids, order).detach(), expected)


def test_weights_that_are_never_used_get_no_gradient():
    model, (ids, order) = small_model(), mixed_batch([9, 6], [2, 1], 60)
    without = {name for name, _ in model.named_parameters()} - gradients(
        model, joint_loss(model, ids, order)
    ).keys()
    assert {name.rsplit(".", 1)[1] for name in without} == {"r_s_bias", "seg_embed"}
    assert not any(dict(model.named_parameters())[name].requires_grad for name in without)


def test_head_cross_entropy_passes_gradcheck():
    rng = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
        for shape in [(5, 3), (7, 3), (7,)]
    )
    tokens, weights = torch.tensor([0, 6, 3, 3, 1]), torch.rand(5, generator=rng).double()

    def loss(hidden, weight, bias):
        return HeadCrossEntropy.apply(hidden, weight, bias, tokens, weights, Law(4))

    assert gradcheck(loss, (hidden, weight, bias))


def test_head_cross_entropy_under_autocast_is_close():
    model, (ids, order) = small_model(dtype=torch.float32), mixed_batch([9, 6], [2, 1], 60)
    exact = joint_loss(model, ids, order)
    with torch.autocast("cpu", torch.bfloat16):
        rough = joint_loss(model, ids, order)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    assert all(g.isfinite().all() for g in gradients(model, rough).values())


# --- orders and mask rates ---


@pytest.mark.parametrize("step", [0, 1, 7])
def test_rates_come_one_from_each_slice_in_a_new_order_each_step(step):
    low, high, batch = 0.1, 0.9, 16
    rates = stratified_rates(low, high, batch, seed=3, step=step)
    slices = ((rates - low) / (high - low) * batch).floor().long()
    assert sorted(slices.tolist()) == list(range(batch))
    assert slices.tolist() != sorted(slices.tolist())
    assert torch.equal(rates, stratified_rates(low, high, batch, seed=3, step=step))
    assert not torch.equal(rates, stratified_rates(low, high, batch, seed=3, step=step + 1))
    assert not torch.equal(rates, stratified_rates(low, high, batch, seed=4, step=step))


@pytest.mark.parametrize("length", [2, 3, 10])
@pytest.mark.parametrize("kind", ORDER_KINDS)
def test_training_orders_have_a_target_and_a_visible_position(kind, length):
    rates = torch.tensor([0.0, 0.01, 0.3, 0.5, 0.99, 1.0])
    order = training_order(length, rates, {kind: 1.0}, seed=0, step=0)
    expected = [min(max(round(float(m) * length), 1), length - 1) for m in rates]
    assert order.num_targets.tolist() == expected
    for b, count in enumerate(expected):
        check_kind(kind, order.order[b, : length - count], order.order[b, length - count :])


def check_kind(kind, prompt, targets):
    if kind != "permuted":
        assert (prompt.diff() > 0).all() and (targets.diff() > 0).all()
    if kind == "span":
        assert (targets.diff() == 1).all()


def test_kinds_of_order_come_by_weight():
    rates = torch.full((4000,), 0.5)
    order = training_order(12, rates, {"ascending": 3, "permuted": 0, "span": 1}, seed=0, step=0)
    is_span = (order.order[:, 6:].diff(dim=1) == 1).all(1).double()
    assert is_span.mean() == pytest.approx(0.25, abs=0.03)
    assert (order.order[:, 6:].diff(dim=1) > 0).all()


def test_orders_are_keyed_by_seed_step_and_index():
    rates, weights = torch.full((8,), 0.6), {"ascending": 0.5, "permuted": 0.25, "span": 0.25}
    first, again, other = (
        training_order(10, rates, weights, seed=1, step=step).order for step in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(row) for row in first.tolist()}) == 8


@pytest.mark.parametrize("weights", [{}, {"ascending": 0.0}, {"upwards": 1.0}])
def test_unknown_kinds_of_order_are_refused(weights):
    with pytest.raises(ValueError, match="expected weights for ascending, permuted, span"):
        training_order(10, torch.tensor([0.5]), weights, seed=0, step=0)


# --- the loop ---


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A run of six steps on random blocks."""
    blocks = torch.randint(9, 8192, (11, 12), generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(loop, "training_blocks", lambda tokenizer, config: blocks)
    return TrainingConfig(
        output_dir=str(tmp_path / "run"),
        d_model=16,
        n_layer=1,
        n_head=2,
        d_inner=16,
        length=12,
        batch_size=4,
        micro_batch_size=2,
        max_steps=6,
        warmup_steps=2,
        bf16=False,
        log_steps=1,
        save_steps=2,
    )


def trained_weights(config):
    return loop.AnySubsetTransformer.from_pretrained(loop.train(config)).state_dict()


def test_training_that_was_stopped_ends_with_the_same_weights(config, tmp_path, monkeypatch):
    expected = trained_weights(config)
    config.output_dir = str(tmp_path / "stopped")
    accumulate = loop.accumulate

    def stopping(model, blocks, step, *rest):
        if step == 5:
            raise KeyboardInterrupt
        return accumulate(model, blocks, step, *rest)

    monkeypatch.setattr(loop, "accumulate", stopping)
    with pytest.raises(KeyboardInterrupt):
        loop.train(config)
    monkeypatch.setattr(loop, "accumulate", accumulate)
    found = trained_weights(config)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("micro_batch_size", [1, 3, 4])
def test_the_cut_into_micro_batches_changes_no_gradient(config, micro_batch_size):
    tokenizer = loop.load_tokenizer()
    blocks = loop.training_blocks(tokenizer, config)

    def accumulated():
        model = loop.new_model(tokenizer, config).double()
        loss = loop.accumulate(model, blocks, 1, config, torch.device("cpu"))
        return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    expected = accumulated()
    config.micro_batch_size = micro_batch_size
    torch.testing.assert_close(accumulated(), expected)


def test_every_epoch_goes_through_all_blocks_once(config):
    blocks = torch.arange(11)[:, None]
    config.batch_size = 5
    seen = torch.cat([loop.batch_of(blocks, step, config)[:, 0] for step in range(11)])
    epochs = seen.view(5, 11)
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 5


def test_learning_rate_rises_then_falls(config):
    config.warmup_steps, config.max_steps = 4, 12
    shares = [loop.schedule(step, config) for step in range(13)]
    assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
    assert shares[4:] == [1 - i / 8 for i in range(9)]


def test_loss_falls(config):
    config.max_steps, config.learning_rate, config.save_steps = 30, 1e-2, 30
    model = loop.AnySubsetTransformer.from_pretrained(loop.train(config)).double()
    start = loop.new_model(loop.load_tokenizer(), config).eval().double()
    ids = loop.training_blocks(None, config)
    order = Order.random_split(12, 0.3, batch=11, seed=0)
    assert log_prob(model, ids, order).mean() > log_prob(start, ids, order).mean() + 0.5
