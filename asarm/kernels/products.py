"""Products of rows with weights, by oneDNN on a CPU: `plain.linear`, tuned.

torch multiplies in float32 by MKL, which is two to three times slower on some processors. And the
time of a network call of few rows is that of reading the weights: in bfloat16 they are read faster
from a packed copy, in a layout of oneDNN's own.

Shapes: I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Packed(NamedTuple):
    """A copy of a weight, and what tells whether the weight is still the same."""

    copy: Tensor  # opaque: oneDNN alone reads it
    transposed: bool
    address: int
    version: int
    content: tuple[int, int]

    def is_of(self, weight: Tensor) -> bool:
        """Tell whether the weight was not written since, but for writes through its `.data`."""
        return (self.address, self.version) == (weight.data_ptr(), weight._version)


_packed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # of weights that are alive


def pack(weight: Tensor, *, transposed: bool = False) -> None:
    """Keep a packed copy of a weight, for `linear`, where that helps: in bfloat16, on a CPU.

    It takes as much memory as the weight, and is not used once the weight was written.
    """
    is_packable = weight.dtype == torch.bfloat16 and not weight.is_inference()  # has a version
    if HAS_ONEDNN and weight.device.type == "cpu" and is_packable:
        plain = _matrix(weight.detach(), transposed).contiguous()
        copy = torch.ops.mkldnn._reorder_linear_weight(plain, 1)
        address, version = weight.data_ptr(), weight._version
        _packed[weight] = Packed(copy, transposed, address, version, content_of(weight))


def pack_again(weight: Tensor) -> None:
    """Renew the packed copy of a weight, if it has one and its content is another."""
    packed = _packed.get(weight)
    if packed is not None and not (packed.is_of(weight) and packed.content == content_of(weight)):
        del _packed[weight]
        pack(weight, transposed=packed.transposed)


def pack_all_again(weights: Iterable[Tensor]) -> None:
    """Renew the packed copies of a network's weights; only those in bfloat16 have any."""
    if not torch.compiler.is_compiling():
        for weight in weights:
            if weight.dtype == torch.bfloat16:
                pack_again(weight)


def content_of(weight: Tensor) -> tuple[int, int]:
    """Return two numbers that tell a weight's content: torch does not count what `.data` writes.

    The sums of its rows and of its columns, as integers, each weighed by its place.
    """
    bits = torch.atleast_2d(weight.detach()).flatten(1).contiguous()
    is_even = bits.shape[1] * bits.element_size() % 8 == 0
    bits = bits.view(torch.int64 if is_even else INTEGERS[bits.element_size()])
    by_row, by_column = (_weighed(bits.sum(dim, dtype=torch.int64)) for dim in (1, 0))
    return int(by_row), int(by_column)


def _weighed(sums: Tensor) -> Tensor:
    """Add up sums, each times its place from 1 on, so that two that change places are noticed."""
    return (sums * torch.arange(1, len(sums) + 1, device=sums.device)).sum()


def linear(
    rows: Tensor, weight: Tensor, bias: Tensor | None = None, *, transposed: bool = False
) -> Tensor:
    """Multiply rows (..., I) by a weight: (..., O).

    Args:
        rows: of the weight's dtype, unless autocast sees to it.
        weight: (O, I), or (I, O) where it is `transposed`; further dimensions count as one.
        bias: (O,).
    """
    matrix = _matrix(weight, transposed)
    if not _is_for_onednn(rows, weight):
        return F.linear(rows, matrix, bias)
    learned = (tensor for tensor in (rows, weight, bias) if tensor is not None)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learned):
        return _Linear.apply(rows, matrix, bias)
    copy = _packed_copy(weight)
    return _multiply(rows, matrix if copy is None else copy, bias)


def linear_after(
    function: Callable[[Tensor, Tensor | None], Tensor],
    rows: Tensor,
    extra: Tensor | None,
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """Compute `linear` of function(rows, extra), which is recomputed in the backward pass.

    The function is to depend on what it is given alone, entry by entry.
    """
    is_learning = torch.is_grad_enabled() and rows.requires_grad
    if is_learning and not torch.compiler.is_compiling():
        return _LinearAfter.apply(function, rows, extra, weight, bias)
    return linear(function(rows, extra), weight, bias)


class _LinearAfter(torch.autograd.Function):
    """`linear_after`, which keeps for its backward pass what the function was given, alone."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[[Tensor, Tensor | None], Tensor],
        rows: Tensor,
        extra: Tensor | None,
        weight: Tensor,
        bias: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(rows, extra, weight)
        ctx.function = function
        with torch.autocast(rows.device.type, enabled=False):
            return linear(function(rows, extra), weight.to(rows.dtype), bias.to(rows.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, extra, weight = ctx.saved_tensors
        (grad,) = grads
        with torch.enable_grad():
            rows = rows.detach().requires_grad_()
            inputs = ctx.function(rows, extra)
        of_inputs, of_weight, of_bias = _linear_backward(
            grad, inputs.detach(), weight.to(rows.dtype), (True, *ctx.needs_input_grad[3:])
        )
        inputs.backward(of_inputs)
        found = (None if x is None else x.to(weight.dtype) for x in (of_weight, of_bias))
        return None, rows.grad, None, *found


class _Linear(torch.autograd.Function):
    """`F.linear` and its backward pass, all three products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, matrix)
        return _multiply(rows, matrix, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, matrix = ctx.saved_tensors
        return _linear_backward(grads[0], rows, matrix, ctx.needs_input_grad)


def _linear_backward(
    grad: Tensor, rows: Tensor, matrix: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute the gradients `needed` of rows (..., I), matrix and bias from that of the product."""
    flat = grad.flatten(0, -2)
    of_rows = linear(grad, matrix.t()) if needed[0] else None
    of_matrix = linear(columns(flat), columns(rows.flatten(0, -2))) if needed[1] else None
    of_bias = flat.sum(0) if needed[2] else None
    return of_rows, of_matrix, of_bias


def columns(rows: Tensor) -> Tensor:
    """Return rows (R, I) as (I, R), in memory too where oneDNN reads them."""
    return rows.t().contiguous() if rows.device.type == "cpu" else rows.t()


def _is_for_onednn(rows: Tensor, weight: Tensor) -> bool:
    """Tell whether torch would take longer; it calls oneDNN itself for plain bfloat16 weights."""
    return (
        HAS_ONEDNN
        and weight.device.type == "cpu"
        and rows.dtype == weight.dtype
        and (weight.dtype == torch.float32 or _packed_copy(weight) is not None)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # it multiplies as it sees fit
    )


def _packed_copy(weight: Tensor) -> Tensor | None:
    """Find the packed copy of a weight, unless the weight was written since."""
    packed = _packed.get(weight) if weight.dtype == torch.bfloat16 else None
    return packed.copy if packed is not None and packed.is_of(weight) else None


def _multiply(rows: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply by oneDNN: rows (..., I) with a matrix (O, I), or with a packed copy of one."""
    return torch.ops.mkldnn._linear_pointwise(rows, matrix, bias, "none", [], "")


def _matrix(weight: Tensor, transposed: bool) -> Tensor:
    """View a weight as a matrix (O, I)."""
    flat = weight.flatten(1)
    return flat.t() if transposed else flat
