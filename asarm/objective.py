"""The joint training objective, and the orders and mask rates it is averaged over.

Everything random is keyed by (seed, step, index in the global batch), so that it depends
neither on the number of processes nor on how the batch is cut.

Shapes: B batch, L length, T most targets of a sequence, C model width, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from asarm.density import chunks, joint_rows, target_ranks
from asarm.law import Law
from asarm.order import Order

LOSS_SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": torch.ones_like,
    "mask_rate": lambda rate: rate,
    "snr": lambda rate: rate / (1 - rate),
}


def joint_loss(
    model: PreTrainedModel, input_ids: Tensor, order: Order, *, loss_scale: str = "none"
) -> Tensor:
    """Mean over sequences of the scaled mean over their targets of -log p(x_r | x_<r), in nats.

    The scale is a function of the sequence's mask rate m: 1 for "none", m for "mask_rate"
    (every target then weighs the same), m / (1 - m) for "snr".
    """
    content, query = joint_rows(input_ids, order)
    hidden = model(content, query)  # (B, T, C)
    _, is_row = target_ranks(order)
    tokens = input_ids.gather(1, query.positions)[is_row]  # (rows,)
    scale = LOSS_SCALES[loss_scale](order.num_targets / order.length)
    weights = (scale / (order.num_targets * len(order)))[:, None].expand_as(is_row)[is_row]
    head = model.get_output_embeddings()
    return HeadCrossEntropy.apply(
        hidden[is_row], head.weight, head.bias, tokens, weights, Law(model.mask_token_id)
    )


class HeadCrossEntropy(torch.autograd.Function):
    """Weighted sum of -log p(token) over rows, from hidden states: logits exist a chunk at a time.

    The gradient of the logits, p - onehot, is known as soon as they are, so each chunk goes
    through the head, forward and backward, before the next one.
    """

    @staticmethod
    def forward(
        ctx, hidden: Tensor, weight: Tensor, bias: Tensor, tokens: Tensor, weights: Tensor, law: Law
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        rows, matrix = hidden.to(dtype), weight.to(dtype)  # (rows, C), (V, C)
        loss = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        grad_bias = torch.zeros_like(bias)
        with torch.autocast(device, enabled=False):
            for chunk in chunks(len(rows), len(weight)):
                log_probs = law.log_probs(F.linear(rows[chunk], matrix, bias.to(rows.dtype)))
                picked = tokens[chunk, None]
                loss -= (log_probs.gather(1, picked)[:, 0] * weights[chunk]).sum()
                grad = log_probs.exp_()
                grad.scatter_add_(1, picked, grad.new_full(picked.shape, -1))
                grad *= weights[chunk, None]
                grad_bias += grad.sum(0)
                grad = grad.to(rows.dtype)
                grad_hidden[chunk] = (grad @ matrix).to(hidden.dtype)
                grad_weight += grad.T @ rows[chunk]
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss

    @staticmethod
    def backward(ctx, grad_loss: Tensor):
        scaled = (grad_loss * grad for grad in ctx.saved_tensors)
        return *scaled, None, None, None


def stratified_rates(low: float, high: float, batch: int, *, seed: int, step: int) -> Tensor:
    """Mask rates (batch,): one from each of `batch` equal slices of [low, high], shuffled."""
    generator = keyed_generator(seed, "rates", step)
    slices = torch.randperm(batch, generator=generator)
    return low + (high - low) * (slices + torch.rand(batch, generator=generator)) / batch


def ascending_split(length: int, num_targets: int, generator: torch.Generator) -> Tensor:
    """A random prompt and the other positions, both left to right, (L,)."""
    is_target = torch.zeros(length, dtype=torch.bool)
    is_target[torch.randperm(length, generator=generator)[:num_targets]] = True
    return is_target.long().argsort(stable=True)


def permuted_split(length: int, num_targets: int, generator: torch.Generator) -> Tensor:
    """A random prompt, then the other positions in random order, (L,)."""
    return torch.randperm(length, generator=generator)


def contiguous_span(length: int, num_targets: int, generator: torch.Generator) -> Tensor:
    """Everything around a random span, then the span left to right, (L,)."""
    start = int(torch.randint(length - num_targets + 1, (), generator=generator))
    span = torch.arange(start, start + num_targets)
    return torch.cat([torch.arange(start), torch.arange(start + num_targets, length), span])


ORDER_KINDS = {
    "ascending": ascending_split,
    "permuted": permuted_split,
    "span": contiguous_span,
}


def training_order(
    length: int, mask_rates: Tensor, weights: dict[str, float], *, seed: int, step: int
) -> Order:
    """One order for each mask rate (B,), of a kind drawn by weight.

    Every sequence has at least one target and at least one visible position.
    """
    kinds = _draw_kinds(weights, len(mask_rates), seed=seed, step=step)
    num_targets = (mask_rates * length).round().long().clamp(1, length - 1)
    rows = [
        ORDER_KINDS[kind](length, int(count), keyed_generator(seed, "order", step, index))
        for index, (kind, count) in enumerate(zip(kinds, num_targets, strict=True))
    ]
    return Order(torch.stack(rows), length - num_targets)


def _draw_kinds(weights: dict[str, float], batch: int, *, seed: int, step: int) -> Sequence[str]:
    unknown = set(weights) - set(ORDER_KINDS)
    if unknown or not sum(weights.values()) > 0:
        raise ValueError(
            f"order kinds are {weights}; expected weights for {', '.join(ORDER_KINDS)}"
        )
    names = list(weights)
    shares = torch.tensor([float(weights[name]) for name in names])
    generator = keyed_generator(seed, "kinds", step)
    drawn = torch.multinomial(shares, batch, replacement=True, generator=generator)
    return [names[i] for i in drawn.tolist()]


def keyed_generator(*key: int | str) -> torch.Generator:
    """A generator whose stream depends on nothing but the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest))
