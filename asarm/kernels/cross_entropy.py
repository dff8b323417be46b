"""Cross entropy of hidden states through the output layer: `plain.head_cross_entropy`, tuned.

Shapes: R rows, C model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from asarm.kernels.products import columns, linear


class HeadCrossEntropy(torch.autograd.Function):
    """`plain.head_cross_entropy`, where logits exist a chunk of rows at a time.

    The gradient of the logits, p - onehot, is known as soon as they are, so each chunk goes
    through the head, forward and backward, before the next one.

    Args:
        hidden, weight, bias, tokens, row_weights, filter_logits: see `plain.head_cross_entropy`.
        chunks: slices of rows whose logits may be held at once; together they are all rows.
    """

    @staticmethod
    def forward(
        ctx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        tokens: Tensor,
        row_weights: Tensor,
        filter_logits: Callable[[Tensor], Tensor],
        chunks: Iterable[slice],
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        rows, matrix = hidden.to(dtype), weight.to(dtype)  # (rows, C), (V, C)
        loss = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        is_learned = ctx.needs_input_grad[1]  # an adapter's base is not
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if is_learned else None
        grad_bias = torch.zeros_like(bias)
        with torch.autocast(device, enabled=False):
            for chunk in chunks:
                logits = filter_logits(linear(rows[chunk], matrix, bias.to(rows.dtype)))
                logits -= logits.amax(1, keepdim=True)
                picked, weight_of = tokens[chunk, None], row_weights[chunk, None]
                log_mass = logits.gather(1, picked)
                probs = logits.exp_()
                total = probs.sum(1, keepdim=True)
                loss -= ((log_mass - total.log()) * weight_of).sum()
                # p - onehot, times the row's weight: p first, then 1 less at the token itself
                grad = probs.mul_(weight_of / total)
                grad.scatter_add_(1, picked, -weight_of.to(grad.dtype))
                grad_bias += grad.sum(0)
                grad = grad.to(rows.dtype)
                grad_hidden[chunk] = linear(grad, matrix, transposed=True)
                if grad_weight is not None:
                    grad_weight += linear(columns(grad), columns(rows[chunk]))
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss

    @staticmethod
    def backward(ctx, grad_loss: Tensor):
        scaled = (grad if grad is None else grad_loss * grad for grad in ctx.saved_tensors)
        return *scaled, None, None, None, None
