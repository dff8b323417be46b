"""The training objectives: those of `transformers.XLNetLMHeadModel`, to every gradient.

Shapes: B batch, L length, T targets, V vocabulary.
"""

import pytest
import torch
import torch.nn.functional as F
from fakes import mixed_batch, small_model
from torch.autograd import gradcheck
from torch.autograd.graph import saved_tensors_hooks

from asarm import log_prob
from asarm.benchmark.reference import RecomputingXLNet
from asarm.distribution import Distribution
from asarm.kernels import plain
from asarm.kernels.cross_entropy import HeadCrossEntropy
from asarm.objective import (
    LOSS_SCALES,
    PROMPT_ATTENTION,
    joint_loss,
    parallel_loss,
)
from asarm.rows import joint_rows, target_ranks
from asarm.schedule import ORDER_KINDS, joint_orders, parallel_orders
from asarm.training.config import TrainingConfig
from asarm.training.objectives import OBJECTIVES

LENGTH, VOCAB, MASK = 20, 60, 6
ONE_TARGET = 1 / LENGTH
SCALES = {"none": lambda m: 1.0, "mask_rate": lambda m: m, "snr": lambda m: m / (1 - m)}
EXACT = {"rtol": 1e-9, "atol": 1e-9}
NEVER_USED = {"r_s_bias", "seg_embed"}  # XLNet's segments
# transformers 5.23 has another name for it as well
RENAMED = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")

# The rank below which a visible token at rank r sees; transformers adds the token itself.
VISIBLE_SEES = {
    "full": lambda rank, num_prompt, num_visible: num_visible,
    "prompt": lambda rank, num_prompt, num_visible: max(num_prompt, rank),
    "causal": lambda rank, num_prompt, num_visible: rank,
}


def problem(rates, kind="ascending", lengths=None, seed=0):
    """A network in training mode, ids (B, L) and what draws orders for them, at mask rates."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(MASK + 1, VOCAB, (len(rates), LENGTH), generator=rng)
    lengths = torch.tensor(lengths or [LENGTH] * len(rates))
    drawn = (lengths, torch.tensor(rates), [kind] * len(rates))
    model = small_model(std=0.25, dropout=0.0).train()
    return model, ids, drawn, {"seed": seed, "step": 1, "indices": range(len(rates))}


def joint_problem(rates, **options):
    model, ids, drawn, key = problem(rates, **options)
    return model, ids, joint_orders(*drawn, **key)


def parallel_problem(rates, **options):
    model, ids, drawn, key = problem(rates, **options)
    return model, ids, *parallel_orders(*drawn, **key)


def reference_of(model):
    """transformers' network of the same weights."""
    return RecomputingXLNet.of(model).xlnet.train()


def reference_loss(xlnet, tokens, order, first, sees):
    """Mean of -log p of the tokens (L,) at ranks from `first`, where a row at rank r sees sees[r].

    perm_mask is 1 where position i may not see position j.
    """
    rank, sees = order.argsort(), torch.tensor(sees)
    perm_mask = rank[None, :] >= sees[rank][:, None]
    target_mapping = F.one_hot(order[first:], len(order))
    logits = xlnet(
        tokens[None],
        perm_mask=perm_mask[None].to(xlnet.dtype),
        target_mapping=target_mapping[None].to(xlnet.dtype),
        use_mems=False,
    ).logits[0]
    logits = logits.index_fill(1, torch.tensor([MASK]), -torch.inf)  # <mask> is never predicted
    return F.cross_entropy(logits, tokens[order[first:]])


def joint_reference(xlnet, ids, order, loss_scale="none"):
    """Sequence by sequence, without padding: prompts see themselves, targets what precedes them."""
    losses = []
    for b, length in enumerate(order.length.tolist()):
        num_prompt = int(order.num_prompt[b])
        sees = [max(rank, num_prompt) for rank in range(length)]
        sequence = order.order[b, :length]
        loss = reference_loss(xlnet, ids[b, :length], sequence, num_prompt, sees)
        losses.append(SCALES[loss_scale]((length - num_prompt) / length) * loss)
    return torch.stack(losses).mean()


def parallel_reference(xlnet, ids, order, num_visible, prompt_attention):
    """Sequence by sequence, without padding: targets see all visible tokens and no other."""
    losses = []
    for b, length in enumerate(order.length.tolist()):
        num_prompt, visible = int(order.num_prompt[b]), int(num_visible[b])
        rule = VISIBLE_SEES[prompt_attention]
        sees = [rule(rank, num_prompt, visible) for rank in range(visible)]
        sees += [visible] * (length - visible)
        sequence = order.order[b, :length]
        losses.append(reference_loss(xlnet, ids[b, :length], sequence, visible, sees))
    return torch.stack(losses).mean()


def gradients(model, loss):
    """Of every parameter that gets one, by name."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_same(model, loss, reference, expected):
    """The same loss, and the same gradient of every parameter but those of segments."""
    torch.testing.assert_close(loss, expected, **EXACT)
    found, wanted = gradients(model, 3 * loss), gradients(reference, 3 * expected)
    names = {name for name, _ in reference.named_parameters()}
    assert {name.rsplit(".", 1)[1] for name in names - wanted.keys()} == NEVER_USED
    assert {name for name, _ in model.named_parameters()} == names
    assert sum(gradient.abs().max() > 1e-6 for gradient in wanted.values()) > 20
    torch.testing.assert_close(found, wanted, **EXACT)


# --- against transformers ---


@pytest.mark.parametrize("kind", ORDER_KINDS)
@pytest.mark.parametrize("rate", [ONE_TARGET, 0.15, 0.5, 0.95])
def test_joint_loss_and_all_gradients_are_those_of_transformers(rate, kind):
    model, ids, order = joint_problem([rate, rate], kind=kind)
    assert order.num_targets.tolist() == [round(rate * LENGTH)] * 2
    reference = reference_of(model)
    expected = joint_reference(reference, ids, order)
    check_same(model, joint_loss(model, ids, order), reference, expected)


@pytest.mark.parametrize("loss_scale", LOSS_SCALES)
def test_scaled_joint_loss_of_mixed_rates_and_its_gradients_are_those_of_transformers(loss_scale):
    model, ids, order = joint_problem([ONE_TARGET, 0.15, 0.5, 0.95], kind="permuted")
    reference = reference_of(model)
    expected = joint_reference(reference, ids, order, loss_scale)
    loss = joint_loss(model, ids, order, loss_scale=loss_scale)
    check_same(model, loss, reference, expected)


@pytest.mark.parametrize("kind", ORDER_KINDS)
@pytest.mark.parametrize("rates", [[ONE_TARGET] * 2, [0.15] * 2, [0.95] * 2, [0.15, 0.5, 0.95]])
@pytest.mark.parametrize("prompt_attention", PROMPT_ATTENTION)
def test_parallel_loss_and_all_gradients_are_those_of_transformers(prompt_attention, rates, kind):
    model, ids, order, num_visible = parallel_problem(rates, kind=kind)
    reference = reference_of(model)
    expected = parallel_reference(reference, ids, order, num_visible, prompt_attention)
    loss = parallel_loss(model, ids, order, num_visible, prompt_attention=prompt_attention)
    check_same(model, loss, reference, expected)


def test_prompt_attention_makes_a_difference():
    """Else the equalities above would not tell one variant from another."""
    model, ids, order, num_visible = parallel_problem([0.2])
    assert 1 < int(order.num_prompt) < int(num_visible) - 1
    losses = [
        parallel_loss(model, ids, order, num_visible, prompt_attention=name).item()
        for name in PROMPT_ATTENTION
    ]
    assert len({round(loss, 4) for loss in losses}) == 3


@pytest.mark.parametrize("loss_scale", LOSS_SCALES)
def test_padding_changes_neither_the_joint_loss_nor_a_gradient(loss_scale):
    model, ids, order = joint_problem([0.15, 0.5, 0.95, 0.5], lengths=[7, LENGTH, 13, 2])
    reference = reference_of(model)
    for padding in (ids, ids.masked_fill(order.rank >= order.length[:, None], 5)):
        loss = joint_loss(model, padding, order, loss_scale=loss_scale)
        expected = joint_reference(reference, ids, order, loss_scale)
        check_same(model, loss, reference, expected)


@pytest.mark.parametrize("prompt_attention", PROMPT_ATTENTION)
def test_padding_changes_neither_the_parallel_loss_nor_a_gradient(prompt_attention):
    options = {"lengths": [7, LENGTH, 13, 2]}
    model, ids, order, num_visible = parallel_problem([0.15, 0.5, 0.95, 0.5], **options)
    reference = reference_of(model)
    for padding in (ids, ids.masked_fill(order.rank >= order.length[:, None], 5)):
        loss = parallel_loss(model, padding, order, num_visible, prompt_attention=prompt_attention)
        expected = parallel_reference(reference, ids, order, num_visible, prompt_attention)
        check_same(model, loss, reference, expected)


# --- identities ---


@pytest.mark.parametrize("loss_scale", LOSS_SCALES)
def test_joint_loss_is_the_mean_density(loss_scale):
    model, ids, order = joint_problem([0.15, 0.5, 0.95], lengths=[13, LENGTH, 9])
    rates = (order.num_targets.double() / order.length).tolist()
    scales = torch.tensor([SCALES[loss_scale](rate) for rate in rates], dtype=torch.float64)
    expected = -(scales * log_prob(model, ids, order).sum(1) / order.num_targets).mean()
    found = joint_loss(model, ids, order, loss_scale=loss_scale).detach()
    torch.testing.assert_close(found, expected, **EXACT)


def test_one_target_after_a_prompt_costs_the_same_under_both_objectives():
    model, ids, order = joint_problem([ONE_TARGET] * 2)
    for prompt_attention in ("full", "prompt"):
        found = parallel_loss(
            model, ids, order, order.num_prompt, prompt_attention=prompt_attention
        )
        torch.testing.assert_close(found, joint_loss(model, ids, order), **EXACT)


def test_targets_of_the_parallel_loss_do_not_see_one_another():
    """What one target's token costs does not depend on another's."""
    model, ids, order, num_visible = parallel_problem([0.5])
    first, second = order.order[0, -2:]
    differences = []
    for token in (10, 11):
        changed = ids.clone()
        changed[0, first] = token
        losses = []
        for other in (20, 21):
            changed[0, second] = other
            losses.append(parallel_loss(model, changed, order, num_visible))
        differences.append(losses[0] - losses[1])
    assert differences[0].abs() > 1e-3
    torch.testing.assert_close(*differences, **EXACT)


@pytest.mark.parametrize("loss_scale", LOSS_SCALES)
def test_the_joint_objective_is_the_function(loss_scale):
    model, ids, order, _ = parallel_problem([0.15, 0.5, 0.95])
    objective = OBJECTIVES["joint"](model, TrainingConfig(loss_scale=loss_scale))
    assert torch.equal(objective(ids, order), joint_loss(model, ids, order, loss_scale=loss_scale))
    assert [*objective.parameters()] == [*model.parameters()]


@pytest.mark.parametrize("prompt_attention", PROMPT_ATTENTION)
def test_the_parallel_objective_is_the_function(prompt_attention):
    model, ids, order, num_visible = parallel_problem([0.15, 0.5, 0.95])
    objective = OBJECTIVES["parallel"](model, TrainingConfig(prompt_attention=prompt_attention))
    assert torch.equal(
        objective(ids, order, num_visible),
        parallel_loss(model, ids, order, num_visible, prompt_attention=prompt_attention),
    )
    assert [*objective.parameters()] == [*model.parameters()]


def test_a_text_without_a_prompt_has_no_snr_weight():
    model, (ids, order) = small_model(), mixed_batch([9, 6], [2, 0], VOCAB)
    with pytest.raises(ValueError, match="^loss_scale is 'snr' and a sequence has no prompt"):
        joint_loss(model, ids, order, loss_scale="snr")
    assert joint_loss(model, ids, order, loss_scale="mask_rate").isfinite()


def test_orders_that_were_checked_are_not_checked_again(monkeypatch):
    """A check copies them to the CPU, which would wait for the device in every training step."""
    model, ids, order, num_visible = parallel_problem([0.15, 0.5])
    monkeypatch.setattr(type(order), "_check", lambda order: pytest.fail("checked again"))
    joint_loss(model, ids, order)
    parallel_loss(model, ids, order, num_visible)


# --- which weights learn, and at what cost ---


def test_weights_that_are_never_used_get_no_gradient():
    model, ids, order, num_visible = parallel_problem([0.5, 0.95])
    for loss in (joint_loss(model, ids, order), parallel_loss(model, ids, order, num_visible)):
        found = gradients(model, loss)
        for name, parameter in model.named_parameters():
            is_used = name.rsplit(".", 1)[1] not in NEVER_USED
            assert parameter.requires_grad == is_used, name
            assert (name in found) == is_used, name
        embedding = found["transformer.word_embedding.weight"]
        assert (embedding[MASK] == 0).all()  # neither read nor predicted


@RENAMED
@pytest.mark.parametrize("how", ["attribute", "method"])
@pytest.mark.parametrize("objective", ["joint", "parallel"])
def test_gradient_checkpointing_changes_no_bit(objective, how):
    _, ids, order, num_visible = parallel_problem([0.15, 0.5, 0.95])
    arguments = (ids, order, num_visible) if objective == "parallel" else (ids, order)

    def found(seed, how=None):
        model = small_model(std=0.25, dropout=0.2, dtype=torch.float32).train()
        if how == "attribute":
            model.transformer.gradient_checkpointing = True
        elif how == "method":
            model.gradient_checkpointing_enable()
        torch.manual_seed(seed)
        loss = OBJECTIVES[objective](model, TrainingConfig())(*arguments)
        return loss.detach(), gradients(model, loss), torch.rand(())

    plain, grads, after = found(3)
    assert not torch.equal(plain, found(4)[0])  # dropout is on
    other, other_grads, other_after = found(3, how)
    assert torch.equal(plain, other) and torch.equal(after, other_after)
    assert grads.keys() == other_grads.keys()
    assert all(torch.equal(grads[name], other_grads[name]) for name in grads)


@RENAMED
def test_gradient_checkpointing_keeps_no_layer():
    model, ids, order = joint_problem([0.95] * 2)

    def floats_kept():
        kept = []
        with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            joint_loss(model, ids, order)
        weights = {p.data_ptr() for p in model.parameters()}
        return sum(t.numel() for t in kept if t.is_floating_point() and t.data_ptr() not in weights)

    plain = floats_kept()
    model.gradient_checkpointing_enable()
    assert floats_kept() < plain / 3


# --- the head ---


def plain_loss(model, ids, order, scale):
    """The mean over sequences of the scaled mean over targets, in one piece for autograd."""
    content, query = joint_rows(ids, order)
    _, is_row = target_ranks(order)
    log_probs = Distribution(model.mask_token_id).log_probs(model.logits(model(content, query)))
    picked = log_probs.gather(2, ids.gather(1, query.positions)[..., None])[..., 0]
    per_sequence = -picked.where(is_row, 0).sum(1) / order.num_targets
    return (scale(order.num_targets.double() / order.length) * per_sequence).mean()


@pytest.mark.parametrize("rows_at_once", [1, 4, 1000])
@pytest.mark.parametrize("loss_scale", LOSS_SCALES)
def test_logits_in_chunks_of_any_size_give_the_same_gradients(
    monkeypatch, loss_scale, rows_at_once
):
    model, (ids, order) = small_model(), mixed_batch([9, 6, 9], [2, 1, 8], VOCAB)
    monkeypatch.setattr("asarm.rows.LOGITS_AT_ONCE", VOCAB * rows_at_once)
    loss = joint_loss(model, ids, order, loss_scale=loss_scale)
    expected = plain_loss(model, ids, order, SCALES[loss_scale])
    torch.testing.assert_close(loss, expected, **EXACT)
    found, wanted = gradients(model, 3 * loss), gradients(model, 3 * expected)
    assert len(found) > 20
    torch.testing.assert_close(found, wanted, **EXACT)


def random_head(num_rows, width, vocab_size):
    """Hidden states, weight, bias, tokens and weights of the rows; token 4 is never drawn."""
    rng = torch.Generator().manual_seed(0)
    shapes = (num_rows, width), (vocab_size, width), (vocab_size,)
    matrices = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    tokens = torch.randint(5, vocab_size, (num_rows,), generator=rng)
    tokens[0] = 0
    weights = torch.rand(num_rows, generator=rng, dtype=torch.float64)
    return *(matrix.requires_grad_() for matrix in matrices), tokens, weights


WITHOUT_MASK = Distribution(4).filter


def head_cross_entropy(hidden, weight, bias, tokens, weights, rows_at_once=1000):
    chunks = [slice(i, i + rows_at_once) for i in range(0, len(hidden), rows_at_once)]
    return HeadCrossEntropy.apply(hidden, weight, bias, tokens, weights, WITHOUT_MASK, chunks)


@pytest.mark.parametrize("rows_at_once", [1, 2, 5, 1000])
def test_head_cross_entropy_and_its_gradients_are_those_of_the_plain_one(rows_at_once):
    *matrices, tokens, weights = random_head(5, 3, 7)
    found = head_cross_entropy(*matrices, tokens, weights, rows_at_once)
    expected = plain.head_cross_entropy(*matrices, tokens, weights, WITHOUT_MASK)
    torch.testing.assert_close(found, expected, **EXACT)
    mine, wanted = (torch.autograd.grad(3 * loss, matrices) for loss in (found, expected))
    torch.testing.assert_close(mine, wanted, **EXACT)


@pytest.mark.parametrize("rows_at_once", [2, 1000])
def test_head_cross_entropy_passes_gradcheck(rows_at_once):
    *matrices, tokens, weights = random_head(5, 3, 7)

    def loss(hidden, weight, bias):
        return head_cross_entropy(hidden, weight, bias, tokens, weights, rows_at_once)

    assert gradcheck(loss, matrices)


@pytest.mark.parametrize("shift", [-5000.0, 5000.0])
def test_head_cross_entropy_is_finite_for_large_logits(shift):
    hidden, weight, bias, tokens, weights = (x.detach() for x in random_head(5, 3, 7))
    unshifted = head_cross_entropy(hidden, weight, bias, tokens, weights)
    shifted = head_cross_entropy(hidden, weight, bias + shift, tokens, weights)
    torch.testing.assert_close(shifted, unshifted)


def test_head_cross_entropy_keeps_no_logits():
    *matrices, tokens, weights = random_head(500, 4, 60)
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        head_cross_entropy(*matrices, tokens, weights)
    assert kept and max(t.numel() for t in kept) < 500 * 60 / 10


def test_head_cross_entropy_under_autocast_is_close():
    model, ids, order = joint_problem([0.5, 0.95])
    model.float()
    exact = joint_loss(model, ids, order)
    with torch.autocast("cpu", torch.bfloat16):
        rough = joint_loss(model, ids, order)
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    found, wanted = gradients(model, rough), gradients(model, exact)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert F.cosine_similarity(gradient.flatten(), wanted[name].flatten(), 0) > 0.95, name
