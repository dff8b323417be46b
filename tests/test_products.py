"""Products with packed weights are those with the weights themselves."""

import pickle
import shutil
from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fakes import mixed_batch, small_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from asarm import log_prob, sample
from asarm.kernels import plain
from asarm.kernels.products import HAS_ONEDNN, _packed, linear, linear_after, pack

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
    expected, error = plain.linear(x, weight, bias), CLOSE.get(dtype, 0)
    torch.testing.assert_close(linear(x, weight, bias), expected, atol=error, rtol=error)
    pack(weight)
    torch.testing.assert_close(linear(x, weight, bias), expected, atol=error, rtol=error)


@pytest.mark.parametrize("shape", [(16, 24), (16, 4, 6)])
def test_a_transposed_weight_of_any_shape(shape):
    weight, x = a_weight(shape=shape), some_rows()
    expected = plain.linear(x, weight, transposed=True)
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
        found, expected = linear(x, weight), plain.linear(x, weight)
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

    found, wanted = (gradients(partial(f, transposed=transposed)) for f in (linear, plain.linear))
    for own, expected in zip(found, wanted, strict=True):
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
    unpacked = log_prob(model, ids, order)
    found = log_prob(model.pack(), ids, order)
    torch.testing.assert_close(found, unpacked, atol=0.3, rtol=0.1)
    assert len([w for w in model.parameters() if w in _packed]) == 1 + 2 * 6
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    model.to(torch.float64)
    exact = sample(deepcopy(model), ids, order, sampler="sequential", verifier="gumbel")
    again = sample(model, ids, order, sampler="sequential", verifier="gumbel")
    assert torch.equal(again.tokens, exact.tokens)
    assert torch.equal(again.log_probs, exact.log_probs)


def half_of_gelu(rows, is_kept):
    return F.gelu(rows) if is_kept is None else F.gelu(rows) * is_kept / 2


@pytest.mark.parametrize("with_extra", [True, False])
@pytest.mark.parametrize("learned", [(True, True, True), (True, False, True), (False, True, True)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_linear_after_a_function_has_the_gradients_of_both(dtype, learned, with_extra):
    rows, weight, bias = some_rows(dtype), a_weight(dtype).detach(), some_rows(dtype, (24,))
    is_kept = rows > 0 if with_extra else None
    inputs = [x.requires_grad_(yes) for x, yes in zip((rows, weight, bias), learned, strict=True)]
    wanted = [x for x in inputs if x.requires_grad]
    found = linear_after(half_of_gelu, rows, is_kept, weight, bias)
    expected = plain.linear(half_of_gelu(rows, is_kept), weight, bias)
    error = {"atol": CLOSE.get(dtype, 1e-12), "rtol": CLOSE.get(dtype, 1e-12)}
    torch.testing.assert_close(found, expected, **error)
    grad = some_rows(dtype, found.shape)
    mine, theirs = (torch.autograd.grad(y, wanted, grad) for y in (found, expected))
    for gradient, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, other, **error)


def test_linear_after_a_function_keeps_what_comes_before_it_and_not_what_comes_after():
    rows, weight = some_rows(torch.float32).requires_grad_(), a_weight(torch.float32)
    bias = some_rows(torch.float32, (24,))
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        linear_after(half_of_gelu, rows, None, weight, bias)
    assert {t.data_ptr() for t in saved} == {rows.data_ptr(), weight.data_ptr()}


def test_linear_after_a_function_under_autocast_gives_gradients_of_the_weights_dtype():
    weight, bias = a_weight(torch.float32), some_rows(torch.float32, (24,)).requires_grad_()
    rows = some_rows(torch.bfloat16).requires_grad_()  # as a product under autocast gives them
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_after(half_of_gelu, rows, None, weight, bias)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert (rows.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
    expected = half_of_gelu(rows.float(), None).sum((0, 1)).expand(24, -1)
    torch.testing.assert_close(weight.grad, expected.detach(), atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(bias.grad, torch.full((24,), 6.0))


@pytest.mark.slow
@needs_onednn
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler here")
@pytest.mark.filterwarnings("ignore")  # of torch itself
def test_a_compiler_multiplies_as_it_sees_fit():
    weight, x = a_weight(torch.float32), some_rows(torch.float32)
    bias = some_rows(torch.float32, (24,))

    @torch.compile
    def forward(x):
        return linear_after(half_of_gelu, linear(x, weight[:16]), None, weight, bias)

    x.requires_grad_()
    found = forward(x)
    expected = plain.linear(half_of_gelu(plain.linear(x, weight[:16]), None), weight, bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    mine, theirs = (torch.autograd.grad(y.sum(), [x, weight]) for y in (found, expected))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)
