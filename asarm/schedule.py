"""What a training step is averaged over: mask rates, orders, and how high the learning rate is.

Everything random is keyed by (seed, step, index in the global batch), so that it depends neither
on the number of processes nor on how the batch is cut, and a run that is taken up again goes on
with what an uninterrupted one would have drawn.

Shapes: G global batch, B batch, L length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asarm.order import Order


def warm_up_then_decay(step: int, *, warmup_steps: int, max_steps: int) -> float:
    """Return the learning rate over its maximum: linear up over `warmup_steps`, then down to 0."""
    rising = (step + 1) / max(1, warmup_steps)
    falling = (max_steps - step) / max(1, max_steps - warmup_steps)
    return min(rising, falling, 1.0)


def mask_window(
    step: int, *, start: float, final_min: float, final_max: float, warmup_steps: int
) -> tuple[float, float]:
    """Return the lowest and highest mask rate at a step: both go linearly from `start` on.

    Section 4 of arXiv 2504.20456; the final values are reached at step `warmup_steps`.
    """
    done = min(1.0, step / warmup_steps) if warmup_steps > 0 else 1.0
    return start + done * (final_min - start), start + done * (final_max - start)


def stratified_rates(low: float, high: float, batch: int, *, seed: int, step: int) -> Tensor:
    """Draw mask rates (G,): one from each of `batch` equal slices of [low, high], shuffled."""
    generator = keyed_generator(seed, "rates", step)
    slices = torch.randperm(batch, generator=generator)
    return low + (high - low) * (slices + torch.rand(batch, generator=generator)) / batch


def micro_batches(rates: Tensor, num_processes: int, batch_size: int) -> Tensor:
    """Choose which sequences of the batch go together, (accumulation, process, batch_size).

    Neighbours in mask rate are in one micro-step, over all processes: that saves padding, and
    processes wait little for one another.
    """
    return rates.argsort(stable=True).view(-1, num_processes, batch_size)


Split = Callable[[int, int, int, torch.Generator], Tensor]


def ascending_split(length: int, prompt: int, visible: int, generator: torch.Generator) -> Tensor:
    """Draw a prompt, other visible positions, and the targets, each left to right, (L,)."""
    drawn = torch.randperm(length, generator=generator)
    parts = drawn[:prompt], drawn[prompt:visible], drawn[visible:]
    return torch.cat([part.sort().values for part in parts])


def permuted_split(length: int, prompt: int, visible: int, generator: torch.Generator) -> Tensor:
    """Draw a prompt, then the other positions in random order, (L,)."""
    return torch.randperm(length, generator=generator)


def contiguous_span(length: int, prompt: int, visible: int, generator: torch.Generator) -> Tensor:
    """Draw a span; return everything around it, then the span left to right, (L,)."""
    start = int(torch.randint(visible + 1, (), generator=generator))
    end = start + length - visible
    span = torch.arange(start, end)
    return torch.cat([torch.arange(start), torch.arange(end, length), span])


def left_to_right(length: int, prompt: int, visible: int, generator: torch.Generator) -> Tensor:
    """Return all positions left to right, (L,): the prompt is the text's beginning."""
    return torch.arange(length)


ORDER_KINDS: dict[str, Split] = {
    "ascending": ascending_split,
    "permuted": permuted_split,
    "span": contiguous_span,
    "left_to_right": left_to_right,
}


def check_kinds(weights: dict[str, float]) -> None:
    """Refuse weights that name no kind of order or that cannot be drawn from.

    Raises:
        ValueError: a kind that there is not, a weight below 0, or none above.
    """
    values = weights.values()
    if set(weights) - set(ORDER_KINDS) or not sum(values) > 0 or min(values) < 0:
        raise ValueError(f"orders are {weights}; expected weights for {', '.join(ORDER_KINDS)}")


def draw_kinds(weights: dict[str, float], batch: int, *, seed: int, step: int) -> list[str]:
    """Draw the kind of order of each sequence of a global batch, by weight."""
    check_kinds(weights)
    names, probs = list(weights), list(weights.values())
    generator = keyed_generator(seed, "kinds", step)
    drawn = torch.multinomial(
        torch.tensor(probs).float(), batch, replacement=True, generator=generator
    )
    return [names[i] for i in drawn.tolist()]


def joint_orders(
    lengths: Tensor,
    mask_rates: Tensor,
    kinds: Sequence[str],
    *,
    seed: int,
    step: int,
    indices: Sequence[int],
) -> Order:
    """Draw an order for each sequence: a prompt, and round(mask rate x length) targets.

    Every sequence has at least one target and at least one visible position.

    Args:
        lengths: (B,) tokens that are not padding, at least 2 each.
        mask_rates: (B,) fractions of positions that are targets.
        kinds: (B) names of `ORDER_KINDS`.
        seed: the seed of the run.
        step: the step of the run.
        indices: (B) places in the global batch: they and nothing else make the draws differ.
    """
    num_targets = torch.minimum((mask_rates * lengths).round().long().clamp(min=1), lengths - 1)
    num_prompt = lengths - num_targets
    return _orders(lengths, num_prompt, num_prompt, kinds, seed=seed, step=step, indices=indices)


def ascending_orders(
    lengths: Tensor, mask_rate: float, *, seed: int, step: int, indices: Sequence[int]
) -> Order:
    """Draw `joint_orders` of ascending splits, all at one mask rate: what evaluations measure."""
    count = len(lengths)
    rates, kinds = torch.full((count,), mask_rate), ["ascending"] * count
    return joint_orders(lengths, rates, kinds, seed=seed, step=step, indices=indices)


def parallel_orders(
    lengths: Tensor,
    mask_rates: Tensor,
    kinds: Sequence[str],
    *,
    seed: int,
    step: int,
    indices: Sequence[int],
) -> tuple[Order, Tensor]:
    """Draw orders for the parallel objective, and how many ranks are visible in each, (B,).

    As in the original: num_visible = L - int(L m), and a prompt of int(U (1 - m) L) + 1 of them,
    U uniform; at least one target and one visible position. Arguments as for `joint_orders`.
    """
    num_targets = torch.minimum((mask_rates * lengths).long().clamp(min=1), lengths - 1)
    num_visible = lengths - num_targets
    uniform = torch.stack(
        [torch.rand((), generator=keyed_generator(seed, "prompt", step, i)) for i in indices]
    )
    num_prompt = (uniform * (1 - mask_rates) * lengths).long() + 1
    num_prompt = torch.minimum(num_prompt, num_visible)
    order = _orders(lengths, num_prompt, num_visible, kinds, seed=seed, step=step, indices=indices)
    return order, num_visible


def _orders(
    lengths: Tensor,
    num_prompt: Tensor,
    num_visible: Tensor,
    kinds: Sequence[str],
    *,
    seed: int,
    step: int,
    indices: Sequence[int],
) -> Order:
    rows = torch.arange(int(lengths.max())).repeat(len(lengths), 1)  # padding stays in place
    for b, (kind, index) in enumerate(zip(kinds, indices, strict=True)):
        length, generator = int(lengths[b]), keyed_generator(seed, "order", step, index)
        split = ORDER_KINDS[kind](length, int(num_prompt[b]), int(num_visible[b]), generator)
        rows[b, :length] = split
    return Order(rows, num_prompt, lengths)


def keyed_seed(*key: int | str) -> int:
    """Return a seed that depends on nothing but the key."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest())


def recorded_seed(*key: int | str) -> int:
    """Return a keyed seed below 2**53, which JSON keeps in whatever reads it: JavaScript, jq, R."""
    return keyed_seed(*key) >> 3


def keyed_generator(*key: int | str) -> torch.Generator:
    """Return a generator whose stream depends on nothing but the key."""
    return torch.Generator().manual_seed(keyed_seed(*key))
