"""Products with packed weights are those with the weights themselves."""

import pickle
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from fakes import mixed_batch, small_model
from torch import nn

from asarm import log_prob, sample
from asarm.products import HAS_ONEDNN, _packed, linear, pack

needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason="torch has no oneDNN here")
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def a_weight(dtype=torch.bfloat16, shape=(24, 16)):
    rng = torch.Generator().manual_seed(0)
    return nn.Parameter(torch.randn(shape, generator=rng).to(dtype))


def some_rows(dtype=torch.bfloat16, shape=(2, 3, 16)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("rows", [(16,), (1, 16), (0, 16), (2, 5, 16), (2, 0, 16), (300, 16)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_packed_and_plain_weights_give_the_same(dtype, with_bias, rows):
    weight, x = a_weight(dtype), some_rows(dtype, rows)
    bias = some_rows(dtype, (24,)) if with_bias else None
    expected, error = F.linear(x, weight, bias), CLOSE.get(dtype, 0)
    torch.testing.assert_close(linear(x, weight, bias), expected, atol=error, rtol=error)
    pack(weight)
    torch.testing.assert_close(linear(x, weight, bias), expected, atol=error, rtol=error)


@pytest.mark.parametrize("shape", [(16, 24), (16, 4, 6)])
def test_a_transposed_weight_of_any_shape(shape):
    weight, x = a_weight(shape=shape), some_rows()
    expected = x @ weight.flatten(1)
    error = {"atol": 2e-2, "rtol": 2e-2}
    torch.testing.assert_close(linear(x, weight, transposed=True), expected, **error)
    pack(weight, transposed=True)
    assert weight in _packed
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, transposed=True), expected, **error)


@torch.inference_mode()
def test_a_weight_without_a_version_is_not_packed():
    weight = a_weight()
    pack(weight)
    assert weight not in _packed


@needs_onednn
@torch.no_grad()
def test_a_weight_that_changed_is_not_read_from_its_old_copy():
    changes = {
        "in place": lambda w: w.mul_(2),
        "other data": lambda w: setattr(w, "data", 2 * w.data),
        "a view of it": lambda w: w[0].zero_(),
        "dtype": lambda w: setattr(w, "data", w.data.float()),
    }
    for name, change in changes.items():
        weight = a_weight()
        pack(weight)
        assert _packed[weight].is_of(weight)
        change(weight)
        x = some_rows(weight.dtype)
        error = CLOSE[weight.dtype]
        found, expected = linear(x, weight), F.linear(x, weight)
        torch.testing.assert_close(found, expected, atol=error, rtol=error, msg=name)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("learns", ["all", "rows", "weight", "weight and bias", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_those_of_the_plain_product(dtype, learns, transposed):
    def gradients(multiply):
        x, bias = some_rows(dtype), some_rows(dtype, (24,))
        weight = a_weight(dtype, (16, 4, 6) if transposed else (24, 16)).requires_grad_(False)
        named = {"rows": x, "weight": weight, "bias": bias}
        for name, tensor in named.items():
            tensor.requires_grad_(learns == "all" or name in learns)
        out = multiply(x, weight, bias)
        (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum().backward()
        return [tensor.grad for tensor in named.values()]

    def plain(x, weight, bias):
        return x @ (weight.flatten(1) if transposed else weight.t()) + bias

    found = gradients(lambda x, weight, bias: linear(x, weight, bias, transposed=transposed))
    for own, expected in zip(found, gradients(plain), strict=True):
        assert (own is None) == (expected is None)
        if own is not None:
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_a_packed_weight_learns():
    weight, x = a_weight(), some_rows()
    pack(weight)
    linear(x, weight).sum().backward()
    expected = x.flatten(0, 1).sum(0).expand(24, -1)
    torch.testing.assert_close(weight.grad, expected, atol=5e-2, rtol=5e-2)


@needs_onednn
def test_autocast_has_its_own_dtype():
    weight, x = a_weight(torch.float32), some_rows(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16


@needs_onednn
def test_copies_go_with_their_weights():
    before = len(_packed)
    weight = a_weight()
    pack(weight)
    assert len(_packed) == before + 1
    other = pickle.loads(pickle.dumps(deepcopy(weight)))
    assert torch.equal(other, weight) and other not in _packed
    del weight
    assert len(_packed) == before


@needs_onednn
def test_a_packed_model_is_the_same_model():
    model = small_model(dtype=torch.bfloat16, std=0.3)
    ids, order = mixed_batch([14, 9, 14, 3], [4, 0, 13, 1], 60)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    plain = log_prob(model, ids, order)
    found = log_prob(model.pack(), ids, order)
    torch.testing.assert_close(found, plain, atol=0.3, rtol=0.1)
    assert len([w for w in model.parameters() if w in _packed]) == 1 + 2 * 6
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    model.to(torch.float64)
    exact = sample(deepcopy(model), ids, order, method="sequential", coupling="gumbel")
    again = sample(model, ids, order, method="sequential", coupling="gumbel")
    assert torch.equal(again.tokens, exact.tokens)
    assert torch.equal(again.log_probs, exact.log_probs)
