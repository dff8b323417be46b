"""Peak memory beyond the weights, each measured in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVarTuple

import torch
from transformers import XLNetLMHeadModel

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.calls import PAPERS_SAMPLER, first_rounds
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import PAPER_K, Figure
from asarm.benchmark.models import network_config, random_ids
from asarm.benchmark.reference import RecomputingXLNet
from asarm.loading import resolve_dtype
from asarm.order import Order
from asarm.rows import Backbone

Arguments = TypeVarTuple("Arguments")
MEBIBYTE = 2**20


def memory_figures(config: BenchmarkConfig) -> list[Figure]:
    """Measure peak memory beyond the weights over the reference's, in small and large batches."""
    figures = []
    for batch, wanted in zip(config.memory_batches, (1.2, 0.7), strict=True):
        ours, reference = (
            in_new_process(peak_beyond_weights, who, batch, config) for who in ("ours", "reference")
        )
        figures.append(
            Figure(
                f"{config.base_size} size, L = {config.base_length}, assd k = {PAPER_K}, "
                f"batch {batch}: peak memory beyond the weights, ours / reference",
                ours / max(reference, 1),
                wanted,
                is_limit=True,
                detail=f"{ours / MEBIBYTE:.0f} MiB / {reference / MEBIBYTE:.0f} MiB",
            )
        )
    return figures


def in_new_process(measure: Callable[[*Arguments], int], *arguments: *Arguments) -> int:
    """Return what a function measures where nothing else has used memory before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def peak_beyond_weights(who: str, batch: int, config: BenchmarkConfig) -> int:
    """Return the bytes that the first rounds of `batch` sequences take at most.

    No later round takes more: the cache is whole from the start, and the call with the prompt has
    the most rows. What libraries allocate once for themselves does not count: a tiny warm-up
    precedes.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    make = AnySubsetTransformer if who == "ours" else XLNetLMHeadModel
    network = make(network_config(config.base_size)).eval()
    network = network.to(config.device, resolve_dtype(config.dtype))
    model = network if who == "ours" else RecomputingXLNet(network)
    start_decoding(model, 8, 1, config)
    before = current_memory(config.device)
    start_decoding(model, config.base_length, batch, config)
    return peak_memory(config.device) - before


def start_decoding(model: Backbone, length: int, batch: int, config: BenchmarkConfig) -> None:
    order = Order.random_split(length, config.prompt_share, batch=batch, seed=config.seed)
    ids = random_ids(model, length, batch=batch)
    first_rounds(model, ids, order, PAPERS_SAMPLER, num_rounds=2)


def current_memory(device: str) -> int:
    """Return the bytes in use now; the peak counts from here."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM = VmRSS: proc_pid_clear_refs(5)
    return _status("VmRSS")


def peak_memory(device: str) -> int:
    """Return the largest number of bytes in use since `current_memory`."""
    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))
