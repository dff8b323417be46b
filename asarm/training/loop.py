"""The training loop."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, XLNetConfig

from asarm.corpus import Document, training_documents
from asarm.data import pack
from asarm.loading import load_tokenizer
from asarm.model import AnySubsetTransformer
from asarm.objective import joint_loss, keyed_generator, stratified_rates, training_order
from asarm.run import Run
from asarm.text import encode_document
from asarm.training.config import TrainingConfig


def train(config: TrainingConfig) -> Path:
    """Train as told, from the run's last checkpoint if it has one; the folder of the model.

    A run that was stopped goes on to the same result: data, orders and mask rates are keyed by
    the step.
    """
    run = Run.open(config.output_dir, config, overwrite=config.overwrite)
    tokenizer = load_tokenizer(config.tokenizer)
    blocks = training_blocks(tokenizer, config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = new_model(tokenizer, config).to(device).train()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), config.learning_rate, betas=(0.9, 0.98)
    )
    step = restore(run.folder, model, optimizer)
    progress = tqdm(total=config.max_steps, initial=step, unit="step", desc="training")
    started, tokens = perf_counter(), 0
    while step < config.max_steps:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config)
        loss = accumulate(model, blocks, step, config, device)
        if not math.isfinite(loss):
            raise ValueError(f"the loss is {loss} at step {step}; lower the learning_rate")
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        step, tokens = step + 1, tokens + config.batch_size * config.length
        progress.update()
        if step % config.log_steps == 0:
            speed = tokens / (perf_counter() - started)
            progress.set_postfix(loss=f"{loss:.3f}", tokens_per_s=f"{speed:.0f}")
            record = {"step": step, "loss": loss, "grad_norm": float(norm)}
            run.append("metrics.jsonl", {**record, "tokens_per_second": speed})
        if step % config.save_steps == 0 or step == config.max_steps:
            save(run.folder, model, optimizer, step)
    progress.close()
    model.eval().save_pretrained(run.folder / "model")
    tokenizer.save_pretrained(run.folder / "model")
    return run.folder / "model"


def accumulate(
    model: AnySubsetTransformer,
    blocks: Tensor,
    step: int,
    config: TrainingConfig,
    device: torch.device,
) -> float:
    """Add the gradients of one global batch; its mean loss in nats.

    Sequences of like mask rate share a micro-batch, which saves padding.
    """
    rates = stratified_rates(
        config.min_mask_rate, config.max_mask_rate, config.batch_size, seed=config.seed, step=step
    ).sort()
    order = training_order(
        config.length, rates.values, config.orders, seed=config.seed, step=step
    ).to(device)
    input_ids = batch_of(blocks, step, config)[rates.indices].to(device)
    total = 0.0
    for start in range(0, config.batch_size, config.micro_batch_size):
        part = slice(start, start + config.micro_batch_size)
        share = len(input_ids[part]) / config.batch_size
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            loss = share * joint_loss(
                model, input_ids[part], order[part], loss_scale=config.loss_scale
            )
        loss.backward()
        total += loss.item()
    return total


def batch_of(blocks: Tensor, step: int, config: TrainingConfig) -> Tensor:
    """The blocks (B, L) of a step: every epoch goes through all of them in an order of its own."""
    first = step * config.batch_size
    rows = []
    for index in range(first, first + config.batch_size):
        epoch, place = divmod(index, len(blocks))
        rows.append(_epoch_order(config.seed, epoch, len(blocks))[place])
    return blocks[torch.stack(rows)]


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, size: int) -> Tensor:
    return torch.randperm(size, generator=keyed_generator("epoch", seed, epoch, size))


def training_blocks(tokenizer: PreTrainedTokenizerBase, config: TrainingConfig) -> Tensor:
    """Python's own text in blocks (N, length), each kind as often as the config says."""
    counts = {d: config.repeats["test" if d.is_test else d.kind] for d in training_documents()}
    encoded = {d: encode_document(tokenizer, d.text) for d, count in counts.items() if count}
    repeated = (
        encoded[d]
        for repeat in range(max(counts.values()))
        for d in shuffled(list(counts), config.seed, repeat)
        if repeat < counts[d]
    )
    return pack(repeated, config.length)


def shuffled(documents: list[Document], seed: int, repeat: int) -> Iterator[Document]:
    generator = keyed_generator(seed, "documents", repeat)
    return (documents[i] for i in torch.randperm(len(documents), generator=generator).tolist())


def new_model(tokenizer: PreTrainedTokenizerBase, config: TrainingConfig) -> AnySubsetTransformer:
    """Random weights of the size that the config asks for."""
    torch.manual_seed(config.seed)
    return AnySubsetTransformer(
        XLNetConfig(
            vocab_size=len(tokenizer),
            d_model=config.d_model,
            n_layer=config.n_layer,
            n_head=config.n_head,
            d_inner=config.d_inner,
            dropout=config.dropout,
            mem_len=None,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            mask_token_id=tokenizer.mask_token_id,
        )
    )


def parameter_groups(model: AnySubsetTransformer, weight_decay: float) -> list[dict]:
    """Matrices decay; biases, norms and the blank do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1 and p.shape[0] > 1]
    others = [p for p in trained if not (p.ndim > 1 and p.shape[0] > 1)]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def schedule(step: int, config: TrainingConfig) -> float:
    """Share of the highest learning rate: linear warm-up, then linear to 0."""
    rising = (step + 1) / max(1, config.warmup_steps)
    falling = (config.max_steps - step) / max(1, config.max_steps - config.warmup_steps)
    return min(rising, falling, 1.0)


def save(
    folder: Path, model: AnySubsetTransformer, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Write the checkpoint whole, or not at all."""
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, folder / "checkpoint.tmp")
    os.replace(folder / "checkpoint.tmp", folder / "checkpoint.pt")


def restore(folder: Path, model: AnySubsetTransformer, optimizer: torch.optim.Optimizer) -> int:
    """Take up the run's last checkpoint; the step it has reached, 0 if there is none."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]
