"""One training step against the same step with `XLNetLMHeadModel`: time, memory, and its data.

A step is forward and backward, without the optimizer, on float32 weights; on a GPU under bfloat16
autocast. The reference is trained as its authors do: all L positions are query rows and have
logits, and `perm_mask` hides what a position may not see.

Shapes: B batch, L length.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, XLNetLMHeadModel

from asarm.backbones.pretrained import XLNET_MASK_TOKEN_ID
from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import Figure
from asarm.benchmark.memory import (
    MEBIBYTE,
    current_memory,
    in_new_process,
    peak_memory,
)
from asarm.benchmark.models import network_config
from asarm.benchmark.step_products import StepProducts
from asarm.benchmark.timing import alternate, ratio
from asarm.loading import load_tokenizer
from asarm.objective import joint_loss
from asarm.order import Order
from asarm.rows import joint_rows
from asarm.schedule import ascending_orders

if TYPE_CHECKING:
    from asarm.data import BlockSource

MASK_RATES = (0.95, 0.15)
SPREAD = 1.5  # of weights, x width^-0.5: context matters, and no probability is denormal
NEVER = -1e9  # bias of <mask>, which we never predict, and so the reference does not either
# at least this much faster, at most that much memory, the same with checkpointing; by mask rate
CPU_DEMANDS: dict[float, tuple[float | None, ...]] = {
    0.95: (1.4, 1 / 3, 0.2),
    0.15: (1.9, 1 / 3, 0.2),
}
GPU_DEMANDS: dict[float, tuple[float | None, ...]] = {0.95: (2.5, 1 / 3, None), 0.15: (None,) * 3}
DATA_FRACTION = 0.02  # of a step, at most
NUM_BATCHES = 50  # of data, each time


def training_figures(config: BenchmarkConfig) -> list[Figure]:
    """Measure speed, its bound, and memory at a high and a low mask rate; the data pipeline."""
    blocks = open_data(config)  # first: what is missing shows before hours of measuring
    figures, tokens_per_second = [], 0.0
    for mask_rate in MASK_RATES:
        found, speed = step_times(mask_rate, config)
        figures += found
        tokens_per_second = max(tokens_per_second, speed)
    figures += [f for mask_rate in MASK_RATES for f in step_memory(mask_rate, config)]
    if blocks is not None:
        figures.append(data_fraction(blocks, tokens_per_second, config))
    return figures


def step_times(mask_rate: float, config: BenchmarkConfig) -> tuple[list[Figure], float]:
    """Measure time per step over the reference's and the matrix products'; tokens per second."""
    ours, reference = with_xlnet(config)
    ids, order = full_batch(ours, mask_rate, config)
    products = StepProducts(
        ours,
        *joint_rows(ids, order),
        dtype=torch.bfloat16 if is_autocast(config) else torch.float32,
    )
    steps: dict[str, Callable[[], object]] = {
        "reference": partial(step, reference, ids, order, config),
        "ours": partial(step, ours, ids, order, config),
        "products": products,
    }

    def work(name: str, _: int) -> int:
        steps[name]()
        return ids.numel()

    works = {name: partial(work, name) for name in steps}
    alternate(works, 1, config.device)  # a warm-up
    times = alternate(works, config.repeats, config.device)
    seconds = {who: ids.numel() * median(found) for who, found in times.items()}
    speed, _, _ = targets_of(mask_rate, config)
    against = Figure(
        f"{named(mask_rate, config)}: tokens per second, ours / reference",
        ratio(times["reference"], times["ours"]),
        speed,
        detail=f"{seconds['ours']:.3g} s a step / {seconds['reference']:.3g} s",
    )
    bound = Figure(
        f"{named(mask_rate, config)}: time per step, ours / its matrix products",
        ratio(times["ours"], times["products"]),
        detail=f"{seconds['ours']:.3g} s / {seconds['products']:.3g} s",
    )
    return [against, bound], 1 / median(times["ours"])


def step_memory(mask_rate: float, config: BenchmarkConfig) -> list[Figure]:
    """Measure peak memory beyond weights and gradients over the reference's."""
    names = "reference", "ours", "checkpointed"
    peaks = {who: in_new_process(peak_of_step, who, mask_rate, config) for who in names}
    _, *limits = targets_of(mask_rate, config)
    below = max(peaks["reference"], 1)
    return [
        Figure(
            f"{named(mask_rate, config)}{how}: peak memory of a step beyond weights and "
            "gradients, ours / reference",
            peaks[who] / below,
            limit,
            is_limit=True,
            detail=f"{peaks[who] / MEBIBYTE:.0f} MiB / {below / MEBIBYTE:.0f} MiB",
        )
        for who, how, limit in zip(names[1:], ("", ", gradient checkpointing"), limits, strict=True)
    ]


def named(mask_rate: float, config: BenchmarkConfig) -> str:
    precision = ", bf16 autocast" if is_autocast(config) else ""
    return (
        f"training, {config.train_size} size, L = {config.train_length}, "
        f"batch {config.train_batch}, mask rate {mask_rate}{precision}"
    )


def targets_of(mask_rate: float, config: BenchmarkConfig) -> tuple[float | None, ...]:
    """Return the wanted speed, memory, and memory with gradient checkpointing."""
    return (GPU_DEMANDS if is_autocast(config) else CPU_DEMANDS)[mask_rate]


def is_autocast(config: BenchmarkConfig) -> bool:
    return config.device.startswith("cuda")


def with_xlnet(config: BenchmarkConfig) -> tuple[AnySubsetTransformer, XLNetLMHeadModel]:
    """Make a network and an `XLNetLMHeadModel` of the same weights, in training mode.

    Raises:
        ValueError: their losses or gradients differ.
    """
    ours = new_network("ours", config)
    reference = new_network("reference", config)
    reference.load_state_dict(ours.state_dict())
    check_same_loss(ours, reference)
    return ours, reference


def new_network(who: str, config: BenchmarkConfig) -> PreTrainedModel:
    """Make the reference or ours (also "checkpointed"), random weights, in training mode."""
    torch.manual_seed(config.seed)
    make = XLNetLMHeadModel if who == "reference" else AnySubsetTransformer
    network = make(network_config(config.train_size, SPREAD)).to(config.device).train()
    if who == "checkpointed":
        network.transformer.gradient_checkpointing = True
    with torch.no_grad():
        network.lm_loss.bias[XLNET_MASK_TOKEN_ID] = NEVER
    return network


def check_same_loss(ours: AnySubsetTransformer, reference: XLNetLMHeadModel) -> None:
    """Refuse to compare what does not do the same.

    Raises:
        ValueError: with dropout off, the losses differ, or the norms of the gradients.
    """
    ids, order = training_batch(ours, 0.5, batch=2, length=24)
    found = {}
    for name, network in ("ours", ours), ("reference", reference):
        network.eval()
        loss = loss_of(network, ids, order)
        loss.backward()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        found[name] = float(loss.detach()), float(nn.utils.get_total_norm(gradients))
        network.train().zero_grad()
    for what, mine, theirs in zip(("loss", "gradients"), *found.values(), strict=True):
        if not abs(mine - theirs) <= 1e-4 * abs(theirs):
            raise ValueError(
                f"{what} of a step: asarm has {mine:.6g}, the reference {theirs:.6g}; expected "
                "the same with dropout off, so times are not compared"
            )


def training_batch(
    network: PreTrainedModel, mask_rate: float, *, batch: int, length: int, seed: int = 0
) -> tuple[Tensor, Order]:
    """Draw random ids (B, L), none of them special, and ascending splits as training draws them."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(9, network.config.vocab_size, (batch, length), generator=rng)
    lengths = torch.full((batch,), length)
    order = ascending_orders(lengths, mask_rate, seed=seed, step=0, indices=range(batch))
    return ids.to(network.device), order.to(network.device)


def full_batch(
    network: PreTrainedModel, mask_rate: float, config: BenchmarkConfig
) -> tuple[Tensor, Order]:
    """Return the batch whose step is measured."""
    sizes = {"batch": config.train_batch, "length": config.train_length}
    return training_batch(network, mask_rate, **sizes, seed=config.seed)


def step(network: PreTrainedModel, ids: Tensor, order: Order, config: BenchmarkConfig) -> None:
    """Go forward and backward, from no gradients to none."""
    add_gradients(network, ids, order, config)
    network.zero_grad()


def add_gradients(
    network: PreTrainedModel, ids: Tensor, order: Order, config: BenchmarkConfig
) -> None:
    """Go forward and backward."""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=is_autocast(config)):
        loss = loss_of(network, ids, order)
    loss.backward()


def loss_of(network: PreTrainedModel, ids: Tensor, order: Order) -> Tensor:
    """Compute the joint loss of ids (B, L), a scalar."""
    if isinstance(network, AnySubsetTransformer):
        return joint_loss(network, ids, order)
    return reference_loss(network, ids, order)


def reference_loss(xlnet: XLNetLMHeadModel, ids: Tensor, order: Order) -> Tensor:
    """Compute the joint loss of ids (B, L) by XLNet's means, where all have as many targets.

    transformers lets every content row see itself, whatever `perm_mask` says.
    """
    batch, length = ids.shape
    limits = torch.maximum(order.num_prompt[:, None], order.rank)  # of query rows, (B, L)
    is_hidden = order.rank[:, None, :] >= limits[:, :, None]  # (B, L, L)
    every_position = torch.eye(length, device=ids.device).expand(batch, -1, -1)
    return xlnet(
        ids,
        perm_mask=is_hidden.float(),
        target_mapping=every_position,
        labels=ids.masked_fill(~order.is_target, -100),  # no loss there
        use_mems=False,
    ).loss


def peak_of_step(who: str, mask_rate: float, config: BenchmarkConfig) -> int:
    """Return the bytes that one step takes at most beyond weights and gradients.

    What libraries allocate once for themselves does not count: a tiny warm-up precedes.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    network = new_network(who, config)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 0)  # written to, so that it is in memory
    add_gradients(network, *training_batch(network, 0.5, batch=1, length=8), config)
    ids, order = full_batch(network, mask_rate, config)
    give_back_freed_memory()
    before = current_memory(config.device)
    add_gradients(network, ids, order, config)
    return peak_memory(config.device) - before


def give_back_freed_memory() -> None:
    """Give back what the C library keeps of freed memory: it would hide as much of the peak."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
        if trim:
            trim(0)


def open_data(config: BenchmarkConfig) -> BlockSource | None:
    """Open the blocks that training would read; if it cannot be, say why, and return None."""
    try:
        from asarm.data import DataConfig, open_blocks  # need packages that a GPU node may lack
    except ImportError as error:
        print(f"skipped: the data pipeline ({error})", flush=True)
        return None
    data = DataConfig(dataset=config.dataset, length=config.train_length)
    tokenizer = load_tokenizer("demo")
    return open_blocks(data, tokenizer, seed=config.seed, global_batch_size=config.train_batch)


def data_fraction(blocks: BlockSource, tokens_per_second: float, config: BenchmarkConfig) -> Figure:
    """Measure the time that data take, relative to our fastest step with as many tokens."""

    def read(_: int) -> int:
        return sum(blocks.next_batch(indices).input_ids.numel() for _ in range(NUM_BATCHES))

    indices = range(config.train_batch)
    try:
        read(0)  # a warm-up
        (times,) = alternate({"data": read}, config.repeats, config.device).values()
    finally:
        blocks.close()
    return Figure(
        f"training, {config.dataset}: time to read data, fraction of the fastest step above",
        median(times) * tokens_per_second,
        DATA_FRACTION,
        is_limit=True,
        detail=f"{1 / median(times):,.0f} / {tokens_per_second:,.0f} tokens per second",
    )
