"""The settings of the benchmark. argparse alone, so that it runs where little is installed."""

from __future__ import annotations

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

SECTIONS = (
    "base",
    "demo",
    "batch",
    "batches",
    "throughput",
    "memory",
    "methods",
    "head",
    "lengths",
    "rivals",
    "training",
)
SIZES = ("base", "demo", "tiny")


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure, and at which sizes; wanted values hold at the defaults.

    Every field is a flag, explained in `parse`.
    """

    sections: list[str] = field(default_factory=lambda: list(SECTIONS))
    output_dir: str = "runs/benchmark"
    device: str = "cpu"
    dtype: str = "float32"
    threads: int | None = None
    repeats: int = 3
    trials: int = 8
    ks: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 8, 12, 16])
    prompt_share: float = 0.05
    base_size: str = "base"
    base_length: int = 512
    demo_size: str = "demo"
    demo_model: str = "demo"
    demo_length: int = 256
    batch: int = 16
    base_batch: int = 8
    large_batch: int = 32
    rounds: int = 12
    lengths: list[int] = field(default_factory=lambda: [2**n for n in range(7, 14)])
    steps: list[int] = field(default_factory=lambda: [32, 64, 128])
    memory_batches: list[int] = field(default_factory=lambda: [1, 8])
    train_size: str = "base"
    train_length: int = 512
    train_batch: int = 2
    dataset: str = "python"
    seed: int = 0


TINY = BenchmarkConfig(
    repeats=1,
    trials=1,
    ks=[1, 2],
    base_size="tiny",
    base_length=24,
    demo_size="tiny",
    demo_length=24,
    batch=2,
    base_batch=2,
    large_batch=3,
    rounds=2,
    lengths=[16, 32],
    steps=[2, 4],
    memory_batches=[1, 2],
    train_size="tiny",
    train_length=24,
    dataset=str(Path(__file__).parents[1] / "demo" / "heldout" / "LICENSE.txt"),
)


def parse(arguments: Sequence[str] | None = None) -> BenchmarkConfig:
    """Parse the command line; the process ends with status 2 where it makes no sense."""
    parser = ArgumentParser(
        description="Time and memory against the original method, in one run.",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    flag = parser.add_argument
    flag("--sections", nargs="+", choices=SECTIONS, help="what to measure")
    flag("--output_dir", help="where benchmark.json, benchmark.md and figures go")
    flag("--device", help="cpu or cuda")
    flag("--dtype", help="of the weights: float32, bfloat16 or float64")
    flag("--threads", type=positive, help="of torch; its own choice if None")
    flag("--repeats", type=positive, help="how often each time is taken, turn by turn")
    flag("--trials", type=positive, help="held-out texts that every method fills")
    flag("--ks", type=positive, nargs="+", help="drafts a round to try for every method")
    flag("--prompt_share", type=float, help="fraction of a text that stays visible")
    flag("--base_size", choices=SIZES, help="network of all other sections, random weights")
    flag("--base_length", type=positive, help="tokens of its texts")
    flag("--demo_size", choices=SIZES, help="network of demo, batch and methods; demo is bundled")
    flag("--demo_model", help="trained network of size demo: bundled (demo), a folder, a hub name")
    flag("--demo_length", type=positive, help="tokens of its texts")
    flag("--batch", type=positive, help="sequences at once, against one, of batch")
    flag("--base_batch", type=positive, help="the same, of batches: at base size")
    flag("--large_batch", type=positive, help="the same, of throughput")
    flag("--rounds", type=positive, help="timed at each place of a text, of batches and lengths")
    flag("--lengths", type=positive, nargs="+", help="of texts whose calls are timed, of lengths")
    flag("--steps", type=positive, nargs="+", help="network calls of parallel, of rivals")
    flag("--memory_batches", type=positive, nargs=2, help="sequences at once, for memory")
    flag("--train_size", choices=SIZES, help="network of training, random weights")
    flag("--train_length", type=positive, help="tokens of its sequences")
    flag("--train_batch", type=positive, help="its sequences at once")
    flag("--dataset", help="whose reading is timed: python, a file or folder, a URL, a hub name")
    flag("--seed", type=int, help="of weights, splits and samples")
    flag("--tiny", action="store_true", help="everything tiny: shows that it runs, times nothing")
    parser.set_defaults(**asdict(BenchmarkConfig()))
    if parser.parse_args(arguments).tiny:
        parser.set_defaults(**asdict(TINY))
    options = vars(parser.parse_args(arguments))
    del options["tiny"]
    return BenchmarkConfig(**options)


def positive(text: str) -> int:
    """Parse an integer of at least 1 from the command line."""
    value = int(text)
    if value < 1:
        raise ArgumentTypeError(f"{value} given, at least 1 expected")
    return value
