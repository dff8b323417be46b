"""The whole benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch

from asarm.benchmark.baselines import measure_baselines
from asarm.benchmark.batches import batches_figures
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.head import head_figures
from asarm.benchmark.lengths import measure_lengths
from asarm.benchmark.measured import Figure
from asarm.benchmark.memory import memory_figures
from asarm.benchmark.methods import measure_methods
from asarm.benchmark.report import Report
from asarm.benchmark.speed import base_figures, batch_figures, demo_figures
from asarm.benchmark.throughput import throughput_figures
from asarm.benchmark.timing import machine
from asarm.benchmark.training import training_figures

MEASURE: dict[str, Callable[[BenchmarkConfig], list[Figure]]] = {
    "base": base_figures,
    "demo": demo_figures,
    "batch": batch_figures,
    "batches": batches_figures,
    "throughput": throughput_figures,
    "memory": memory_figures,
    "head": head_figures,
    "training": training_figures,
}
# these give tables as well
REPORT: dict[str, Callable[[Report, BenchmarkConfig], None]] = {
    "methods": measure_methods,
    "lengths": measure_lengths,
    "rivals": measure_baselines,
}


def run(config: BenchmarkConfig) -> Report:
    """Measure the requested sections, writing the report after each of them."""
    if config.threads:
        torch.set_num_threads(config.threads)
    report = Report(asdict(config), machine(config.device, config.dtype))
    for section in config.sections:
        print(f"measuring: {section}", flush=True)
        if section in REPORT:
            REPORT[section](report, config)
        else:
            report.figures += MEASURE[section](config)
        report.write(config.output_dir)
    return report
