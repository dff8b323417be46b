"""Kill a training run at random moments until it is finished; is it an uninterrupted run's twin?

`python tests/kills.py [--kills 20] [--processes 2] [--seed 0]` prints what it did; a difference
ends it with a traceback. Processes are forks of this one, so that an attempt costs no imports.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from accelerate.state import AcceleratorState

from asarm.training.config import TrainingConfig
from asarm.training.loop import train

TIMES = {"tokens_per_second"}
SENTENCE = "the ship left port at dawn and no one on the quay saw where it went"


def tiny(folder: Path, **changes) -> TrainingConfig:
    """A run of seconds on a text of our own."""
    path = folder / "text.txt"
    if not path.exists():
        rng = random.Random(0)
        paragraphs = (
            " ".join(rng.choices(SENTENCE.split(), k=rng.randint(5, 60))) for _ in range(200)
        )
        path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    config = TrainingConfig(
        output_dir=str(folder / "run"),
        dataset=str(path),
        cache_dir=str(folder / "cache"),
        length=24,
        d_model=16,
        n_layer=2,
        n_head=2,
        d_inner=16,
        dropout=0.1,
        global_batch_size=8,
        batch_size=2,
        max_steps=12,
        learning_rate=1e-2,
        warmup_steps=3,
        start_mask_rate=0.3,
        mask_warmup_steps=5,
        orders={"ascending": 0.5, "permuted": 0.25, "span": 0.25},
        bf16=False,
        eval_sequences=4,
        eval_num_decodes=1,
        eval_steps=4,
        log_steps=1,
        save_steps=2,
        trackers=[],
    )
    return replace(config, **changes)


def run_to_the_end(config: TrainingConfig, processes: int = 1) -> None:
    if not attempt(config, processes, lambda: False):
        raise RuntimeError("the uninterrupted run did not end well")


def attempt(config: TrainingConfig, processes: int, is_time: Callable[[], bool]) -> bool:
    """Run in forks, all killed when it is time; whether the run came to its end before."""
    port = free_port()
    children = [start(config, rank, processes, port) for rank in range(processes)]
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        for child in set(children) - set(codes):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        if any(codes.values()) or is_time():
            for child in set(children) - set(codes):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.0005)
    if any(code > 0 for code in codes.values()):
        raise RuntimeError(f"a process ended by itself: {codes}; see {config.output_dir}.log")
    return not any(codes.values())


def after(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds have gone by from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def start(config: TrainingConfig, rank: int, processes: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        log = os.open(f"{config.output_dir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 2)
        AcceleratorState._reset_state(reset_partial_state=True)  # what a run before has left here
        if processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
            os.environ |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"LOCAL_WORLD_SIZE": str(processes)}
        code = 0 if train(config).is_finished else 75
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@dataclass
class Tally:
    """What was done to runs."""

    runs: int = 0
    kills: int = 0
    in_checkpoints: int = 0  # kills that left a checkpoint half written


def kill_until_finished(
    config: TrainingConfig,
    processes: int,
    rng: random.Random,
    tally: Tally,
    *,
    kills: int,
    longest: float,
) -> None:
    """Kill one attempt after another, each after a random time; the last one runs to the end."""
    folder = Path(config.output_dir, "checkpoints")
    tally.runs += 1
    while tally.kills < kills:
        if attempt(config, processes, after(rng.uniform(0, longest))):
            return
        tally.kills += 1
        tally.in_checkpoints += any(folder.glob("*.tmp"))
    run_to_the_end(config, processes)


def outcome(folder: Path) -> dict[str, object]:
    """What has to be the same: weights, the logs without times, the texts that were filled."""
    found: dict[str, object] = {
        "weights": sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    }
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        lines = map(json.loads, (folder / name).read_text().splitlines())
        found[name] = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    for path in sorted((folder / "samples").iterdir()):
        found[path.name] = path.read_text()
    return found


def compare(folder: Path, processes: int, seed: int, *, kills: int) -> Tally:
    """Kill runs until so many attempts died; what was done.

    Raises:
        AssertionError: a run that was killed differs from the one that was not.
    """
    reference = tiny(folder, output_dir=str(folder / "reference"))
    began = time.monotonic()
    run_to_the_end(reference, processes)
    longest = time.monotonic() - began
    expected = outcome(Path(reference.output_dir))
    rng, tally = random.Random(seed), Tally()
    while tally.kills < kills:
        config = tiny(folder, output_dir=str(folder / f"killed-{tally.runs}"))
        kill_until_finished(config, processes, rng, tally, kills=kills, longest=longest)
        assert outcome(Path(config.output_dir)) == expected, config.output_dir
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = compare(Path(folder), options.processes, options.seed, kills=options.kills)
    print(
        f"{tally.kills} kills in {tally.runs} runs of {options.processes} processes, "
        f"{tally.in_checkpoints} of them inside a checkpoint: all as uninterrupted"
    )


if __name__ == "__main__":
    main()
