"""One training step: which sequences, which orders, which gradients."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from asarm.data import Batch
from asarm.schedule import (
    draw_kinds,
    keyed_seed,
    mask_window,
    micro_batches,
    stratified_rates,
    warm_up_then_decay,
)
from asarm.training.config import TrainingConfig
from asarm.training.objectives import objective_of


@dataclass(frozen=True)
class StepPlan:
    """What a step has drawn for the whole global batch; the same in every process."""

    step: int
    learning_rate: float
    mask_window: tuple[float, float]
    rates: Tensor  # (G,)
    kinds: list[str]  # (G)
    parts: Tensor  # (accumulation, processes, batch_size) places in the global batch

    def indices(self, process: int) -> list[int]:
        """Return a process's places in the global batch, micro-step by micro-step."""
        places: list[int] = self.parts[:, process].flatten().tolist()
        return places


def plan_step(step: int, config: TrainingConfig, num_processes: int) -> StepPlan:
    """Draw everything about a step that does not depend on the data."""
    window = mask_window(
        step,
        start=config.start_mask_rate,
        final_min=config.min_mask_rate,
        final_max=config.max_mask_rate,
        warmup_steps=config.mask_warmup_steps,
    )
    size, seed = config.global_batch_size, config.seed
    rates = stratified_rates(*window, size, seed=seed, step=step)
    warmth = warm_up_then_decay(step, warmup_steps=config.warmup_steps, max_steps=config.max_steps)
    return StepPlan(
        step,
        config.learning_rate * warmth,
        window,
        rates,
        draw_kinds(config.orders, size, seed=seed, step=step),
        micro_batches(rates, num_processes, config.batch_size),
    )


def accumulate(
    objective: torch.nn.Module,
    batch: Batch,
    plan: StepPlan,
    config: TrainingConfig,
    accelerator: Accelerator,
    *,
    bf16: bool,
) -> Tensor:
    """Add up the gradients of this process's part of a global batch.

    What is returned is each micro-step's part of the mean loss, (accumulation,).
    Gradients are averaged over the processes in the last micro-step.
    """
    device, process = accelerator.device, accelerator.process_index
    losses = []
    for micro, part in enumerate(plan.parts[:, process]):
        is_last = micro == len(plan.parts) - 1
        mine = slice(micro * len(part), (micro + 1) * len(part))
        arguments = micro_batch(batch.input_ids[mine], batch.lengths[mine], part, plan, config)
        torch.manual_seed(keyed_seed(config.seed, "dropout", plan.step, micro, process))
        context = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
        with accelerator.no_sync(objective) if not is_last else nullcontext():
            with context:
                loss = objective(*(argument.to(device) for argument in arguments))
            loss = loss / len(plan.parts)
            loss.backward()
        losses.append(loss.detach())
    return torch.stack(losses)


def micro_batch(
    input_ids: Tensor, lengths: Tensor, part: Tensor, plan: StepPlan, config: TrainingConfig
) -> tuple[Any, ...]:
    """Return the objective's arguments for some sequences: ids (B, L), and what it draws."""
    indices = part.tolist()
    drawn = objective_of(config).draw(
        lengths,
        plan.rates[part],
        [plan.kinds[i] for i in indices],
        config,
        seed=config.seed,
        step=plan.step,
        indices=indices,
    )
    return input_ids[:, : int(lengths.max())], *drawn


@torch.no_grad()
def apply_gradients(
    objective: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Tensor,
    plan: StepPlan,
    clip_norm: float,
) -> tuple[float, bool]:
    """Take the step unless loss or gradients are NaN or infinite.

    This returns the gradients' norm before it was cut, and whether the step was taken. The loss is
    that of all processes, so that they do the same.
    """
    norm = torch.nn.utils.clip_grad_norm_(objective.parameters(), clip_norm)
    is_good = bool(norm.isfinite() & loss.isfinite())
    if is_good:
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate
        optimizer.step()
    optimizer.zero_grad()
    return float(norm), is_good
