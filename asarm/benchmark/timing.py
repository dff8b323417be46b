"""Taking times so that they can be compared, and saying on which machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
import transformers

Name = TypeVar("Name")
# how glibc gives memory back: on a CPU that decides about a third of a training step's time
MALLOC_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def alternate(
    works: Mapping[Name, Callable[[int], int]], repeats: int, device: str
) -> dict[Name, list[float]]:
    """Time every work, in seconds per unit, `repeats` times, turn by turn: drift hits all alike.

    A work gets the number of the repeat and returns how many units (calls, tokens) it did.
    """
    found: dict[Name, list[float]] = {name: [] for name in works}
    for repeat in range(repeats):
        for name, work in works.items():
            _wait_for(device)
            start = time.perf_counter()
            units = work(repeat)
            _wait_for(device)
            found[name].append((time.perf_counter() - start) / units)
    return found


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios of two works, repeat by repeat."""
    return median(a / b for a, b in zip(above, below, strict=True))


def machine(device: str, dtype: str) -> dict[str, str | int | float]:
    """Describe what the figures were taken on."""
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "load before": round(os.getloadavg()[0], 2),  # above 1 something else was running
        "dtype": dtype,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        **{name: os.environ.get(name, "not set") for name in MALLOC_SETTINGS},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
