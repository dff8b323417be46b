"""`log_prob` is the log-density of one joint distribution, however it is computed."""

from itertools import product

import pytest
import torch
from fakes import mixed_batch, small_model

from asarm import Order, log_prob, sample
from asarm.distribution import Allowed
from asarm.rows import joint_rows
from asarm.sampling import has_option, lossless_names

LOSSLESS = lossless_names()


@pytest.mark.parametrize("temperature", [1.0, 0.4, 3.0])
@pytest.mark.parametrize("mask_token_id", [6, 2])
@pytest.mark.parametrize("num_prompt", [0, 1, 2])
def test_completions_sum_to_one(num_prompt, mask_token_id, temperature):
    model = small_model(vocab_size=5)
    model.config.mask_token_id = mask_token_id
    order = Order(torch.tensor([[3, 1, 0, 4, 2]]), num_prompt)
    targets = order.order[0, num_prompt:]
    texts = torch.tensor(list(product(range(5), repeat=len(targets))))
    ids = torch.tensor([[4, 1, 0, 3, 1]]).repeat(len(texts), 1)
    ids[:, targets] = texts
    probs = log_prob(model, ids, order[[0] * len(ids)], temperature=temperature).sum(1).exp()
    assert probs.sum() == pytest.approx(1, abs=1e-9)
    assert torch.equal((texts == mask_token_id).any(1), probs == 0)
    assert probs.max() > 2 / len(texts)  # the distribution is far from uniform


def test_temperature_divides_the_logits():
    model, (ids, order) = small_model(vocab_size=9), mixed_batch([7], [0], 9)
    content, query = joint_rows(ids, order)
    with torch.no_grad():
        logits = model.logits(model(content, query))[0]  # (L, V) by rank
    logits[:, 6] = -torch.inf
    tokens = ids[0, order.order[0], None]
    expected = (logits / 0.3).log_softmax(-1).gather(1, tokens)[:, 0]
    found = log_prob(model, ids, order, temperature=0.3)[0, order.order[0]]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("rows_at_once", [1, 2, 7])
def test_chunks_of_rows_change_nothing(monkeypatch, rows_at_once):
    model, (ids, order) = small_model(), mixed_batch([9, 6, 9], [2, 0, 8], 60)
    expected = log_prob(model, ids, order)
    held = []
    monkeypatch.setattr("asarm.rows.LOGITS_AT_ONCE", rows_at_once * 60 + 59)
    monkeypatch.setattr(
        model, "logits", lambda rows: (held.append(len(rows)), model.lm_loss(rows))[1]
    )
    torch.testing.assert_close(log_prob(model, ids, order), expected)
    assert max(held) == rows_at_once
    assert sum(held) == 7 + 6 + 1


def test_one_network_call_gives_them_all(monkeypatch):
    model, (ids, order) = small_model(), mixed_batch([9, 6], [2, 0], 60)
    calls, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda *rows: (calls.append(rows), forward(*rows))[1])
    log_prob(model, ids, order)
    assert len(calls) == 1


def test_batch_mates_and_padding_change_nothing():
    model, (ids, order) = small_model(), mixed_batch([9, 4, 6], [3, 0, 5], 60)
    together = log_prob(model, ids, order)
    for b, length in enumerate([9, 4, 6]):
        alone = Order(order.order[[b], :length], order.num_prompt[[b]])
        torch.testing.assert_close(
            log_prob(model, ids[[b], :length], alone)[0], together[b, :length]
        )
        torch.testing.assert_close(together[b, length:], torch.zeros(9 - length).double())


def test_prompt_and_padding_have_zero_and_their_padding_is_not_read():
    model, (ids, order) = small_model(), mixed_batch([9, 4], [3, 1], 60)
    odd = ids.where(torch.arange(9) < order.length[:, None], -100)
    found = log_prob(model, odd, order)
    assert torch.equal(found, log_prob(model, ids, order))
    assert torch.equal(found != 0, order.is_target)


def test_ascending_targets_need_no_later_rank():
    """The factor of a rank is the same whatever comes after it."""
    model, (ids, order) = small_model(), mixed_batch([8], [2], 60)
    found = log_prob(model, ids, order)
    changed = ids.clone()
    changed[0, order.order[0, 5:]] = 11
    seen = order.order[0, :5]
    assert torch.equal(log_prob(model, changed, order)[0, seen], found[0, seen])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("method", LOSSLESS)
def test_log_probs_of_a_sample_are_its_density(method, temperature):
    model = small_model()
    ids, order = mixed_batch([12, 7, 12], [3, 0, 11], 60)
    drafting = {"k": 3, "draft_temperature": 1.5} if has_option(method, "k") else {}
    result = sample(model, ids, order, sampler=method, temperature=temperature, **drafting)
    expected = log_prob(model, result.tokens, order, temperature=temperature)
    torch.testing.assert_close(result.log_probs, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("by", ["order", "confidence"])
def test_log_probs_of_parallel_are_the_density_in_the_order_asked_for(by):
    model = small_model()
    ids, order = mixed_batch([12, 7], [3, 0], 60)
    result = sample(model, ids, order, sampler="parallel", steps=2, by=by)
    torch.testing.assert_close(result.log_probs, log_prob(model, result.tokens, order))


def test_nothing_carries_a_gradient():
    model, (ids, order) = small_model(), mixed_batch([5], [2], 60)
    assert not log_prob(model, ids, order).requires_grad
    for method in (*LOSSLESS, "parallel"):
        options = {"steps": 2} if method == "parallel" else {}
        assert not sample(model, ids, order, method, **options).log_probs.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("dtype", "found"),
    [("float64", "float64"), ("float32", "float32"), ("bfloat16", "float32")],
)
def test_dtype_of_densities(dtype, found):
    model, (ids, order) = small_model(dtype=getattr(torch, dtype)), mixed_batch([5], [2], 60)
    assert log_prob(model, ids, order).dtype == getattr(torch, found)


# --- positions that may hold some tokens only ---


def some_allowed(batch, length, vocab_size, *, kinds=3, seed=0):
    """About half of the tokens, others for each kind; the last one always."""
    rng = torch.Generator().manual_seed(seed)
    tables = torch.rand(kinds, vocab_size, generator=rng) < 0.5
    tables[:, -1] = True
    return Allowed(tables, torch.randint(kinds, (batch, length), generator=rng))


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_what_is_allowed_shares_all_of_the_distribution(temperature):
    """At every rank in turn all tokens, under both: one distribution is the other, renormalised."""
    model, (ids, order) = small_model(vocab_size=9), mixed_batch([6], [2], 9)
    allowed, tokens = some_allowed(1, 6, 9), torch.arange(9)
    for position in order.order[0, 2:].tolist():
        every = ids.repeat(9, 1)
        every[:, position] = tokens
        orders, wide = order[[0] * 9], Allowed(allowed.tables, allowed.kinds.repeat(9, 1))
        options = {"temperature": temperature}
        free = log_prob(model, every, orders, **options)[:, position]
        found = log_prob(model, every, orders, allowed=wide, **options)[:, position]
        kept = allowed.tables[allowed.kinds[0, position]]
        kept = kept & (tokens != model.mask_token_id)
        torch.testing.assert_close(found[kept], free[kept] - free[kept].logsumexp(0))
        assert (found[~kept] == -torch.inf).all()
        assert 1 < kept.sum() < 8


@pytest.mark.parametrize("num_prompt", [0, 2])
def test_allowed_completions_sum_to_one(num_prompt):
    model, order = small_model(vocab_size=4), Order(torch.tensor([[3, 1, 0, 4, 2]]), num_prompt)
    targets = order.order[0, num_prompt:]
    texts = torch.tensor(list(product(range(4), repeat=len(targets))))
    ids = torch.tensor([[3, 1, 0, 3, 1]]).repeat(len(texts), 1)
    ids[:, targets] = texts
    allowed = some_allowed(len(ids), 5, 4, seed=2)
    allowed = Allowed(allowed.tables, allowed.kinds[:1].expand(len(ids), -1))
    found = log_prob(model, ids, order[[0] * len(ids)], allowed=allowed).sum(1).exp()
    assert found.sum() == pytest.approx(1, abs=1e-9)
    is_allowed = allowed.at(torch.arange(5).expand(len(ids), -1))  # (B, L, V)
    is_kept = is_allowed.gather(2, ids[..., None])[..., 0][:, targets].all(1)
    assert torch.equal(found > 0, is_kept)
    assert 1 < is_kept.sum() < len(texts)


def test_all_allowed_and_what_is_allowed_elsewhere_change_nothing():
    model, (ids, order) = small_model(), mixed_batch([9, 4], [3, 1], 60)
    expected = log_prob(model, ids, order)
    kinds = torch.where(order.is_target, 0, 1)  # prompt and padding may hold what they hold
    tables = torch.ones(2, 60, dtype=torch.bool)
    tables[1, 1:] = False
    assert torch.equal(log_prob(model, ids, order, allowed=Allowed(tables, kinds)), expected)


@pytest.mark.parametrize("rows_at_once", [1, 3])
def test_chunks_of_rows_change_nothing_of_what_is_allowed(monkeypatch, rows_at_once):
    model, (ids, order) = small_model(), mixed_batch([9, 6, 9], [2, 0, 8], 60)
    allowed = some_allowed(3, 9, 60)
    expected = log_prob(model, ids, order, allowed=allowed)
    assert expected.isinf().any() and (expected[order.is_target] > -100).any()
    monkeypatch.setattr("asarm.rows.LOGITS_AT_ONCE", rows_at_once * 60)
    torch.testing.assert_close(log_prob(model, ids, order, allowed=allowed), expected)


@pytest.mark.parametrize("method", [*LOSSLESS, "parallel"])
def test_samples_hold_what_is_allowed_and_their_density_is_that_distribution(method):
    model, (ids, order) = small_model(), mixed_batch([12, 7, 12], [3, 0, 11], 60)
    allowed = some_allowed(3, 12, 60, seed=1)
    options = {"steps": 3} if method == "parallel" else {"k": 3} if has_option(method, "k") else {}
    result = sample(model, ids, order, sampler=method, allowed=allowed, temperature=0.7, **options)
    expected = log_prob(model, result.tokens, order, temperature=0.7, allowed=allowed)
    torch.testing.assert_close(result.log_probs, expected, atol=1e-10, rtol=0)
    assert expected.isfinite().all()
    free = sample(model, ids, order, sampler=method, temperature=0.7, **options)
    assert log_prob(model, free.tokens, order, allowed=allowed).isinf().any()


@pytest.mark.parametrize("call", [log_prob, sample])
def test_tables_and_kinds_that_do_not_fit_are_refused(call):
    model, (ids, order) = small_model(), mixed_batch([5], [2], 60)
    for allowed in (some_allowed(1, 5, 59), some_allowed(1, 4, 60), some_allowed(2, 5, 60)):
        with pytest.raises(ValueError, match=r"allowed has kinds .* expected \(1, 5\) and 60$"):
            call(model, ids, order, allowed=allowed)


def test_a_kind_needs_a_table_and_a_table_tokens():
    tables, kinds = torch.eye(2, 5) > 0, torch.tensor([[0, 1]])
    for wrong in ([[0, 2]], [[-1, 0]]):
        with pytest.raises(ValueError, match="kinds holds .*expected kinds from 0 to 1"):
            Allowed(tables, torch.tensor(wrong))
    tables[1] = False
    with pytest.raises(ValueError, match="may hold no token; allow at least one"):
        Allowed(tables, kinds)
