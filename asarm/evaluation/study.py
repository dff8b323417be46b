"""The speculative-decoding study: the same blanks filled by every method.

A trial is one block of text with one random split into prompt and blanks; every method fills it
from the same seed. Everything random is keyed by (run seed, item), so that neither batches nor
interruptions change a result.

Shapes: B batch, L length, N blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.density import log_prob
from asarm.evaluation.config import DecodingConfig
from asarm.order import Order
from asarm.rows import Backbone
from asarm.sampling import METHODS, SampleResult, sample
from asarm.schedule import keyed_generator
from asarm.text import decode

Record = dict[str, Any]
Result = TypeVar("Result")
DRAFTING = ("assd", "ngram", "onepass")
WARM_UP_TARGETS = 8


class Variant(NamedTuple):
    """A method with its settings: one row of the table."""

    method: str
    steps: int | None = None

    @property
    def name(self) -> str:
        return self.method if self.steps is None else f"{self.method} {self.steps}"


def variants(config: DecodingConfig) -> list[Variant]:
    """What the study compares, each once.

    Raises:
        ValueError: an unknown method, or a number outside its range.
    """
    unknown = [method for method in config.methods if method not in METHODS]
    if unknown or not config.methods:
        raise ValueError(
            f"methods holds {unknown[0]!r}; expected some of {', '.join(METHODS)}"
            if unknown
            else f"methods is empty; expected some of {', '.join(METHODS)}"
        )
    numbers = {name: getattr(config, name) for name in ("num_trials", "batch_size", "k")}
    numbers["parallel_steps"] = min(config.parallel_steps, default=None)
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    num_targets = int(trial_order(config, [0]).num_targets)
    steps = [count for count in config.parallel_steps if count <= num_targets]
    found = [
        Variant(method, count)
        for method in config.methods
        for count in (steps if method == "parallel" else [None])
    ]
    return list(dict.fromkeys(found))


def describe(blocks: Tensor, config: DecodingConfig) -> str:
    """What lies ahead, in a line or two."""
    num_targets = int(trial_order(config, [0]).num_targets)
    lines = [f"{config.num_trials} trials: {num_targets} of {config.max_length} tokens blank"]
    if config.num_trials > len(blocks):
        again = "they come again with other blanks"
        lines.append(f"the text has {len(blocks)} blocks of {config.max_length} tokens: {again}")
    return "\n".join(lines)


def trial_order(config: DecodingConfig, items: Iterable[int]) -> Order:
    """The random split of each item, (B, L)."""
    seeds = [hashed_seed(config.seed, "split", item) for item in items]
    return Order.random_split(config.max_length, config.prompt_share, batch=len(seeds), seed=seeds)


def hashed_seed(*key: int | str) -> int:
    """A seed that depends on nothing but the key."""
    return keyed_generator(*key).initial_seed()


@dataclass(frozen=True)
class Batch:
    """Items that are decoded together."""

    items: list[int]
    input_ids: Tensor  # (B, L), 0 where blank
    order: Order
    seeds: list[int]


def batches(blocks: Tensor, config: DecodingConfig) -> Iterator[Batch]:
    """The trials in batches by item index, from blocks (N, L) in a random order, again and again.

    The blanks hold nothing that a sampler could peek at.
    """
    generator = keyed_generator(config.seed, "blocks")
    shuffled = blocks[torch.randperm(len(blocks), generator=generator)]
    for start in range(0, config.num_trials, config.batch_size):
        items = list(range(start, min(start + config.batch_size, config.num_trials)))
        order = trial_order(config, items)
        input_ids = shuffled[[item % len(blocks) for item in items]]
        seeds = [hashed_seed(config.seed, "sample", item) for item in items]
        yield Batch(items, input_ids.masked_fill(order.is_target, 0), order, seeds)


def key(record: Record) -> tuple[int, Variant]:
    """What a record is about: trial and variant."""
    return record["item"], Variant(record["method"], record["steps"])


def decode_trials(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    blocks: Tensor,
    config: DecodingConfig,
    *,
    done: Iterable[Record] = (),
) -> Iterator[Record]:
    """Fill the blanks of every trial by every method, trial after trial: a record for each.

    Args:
        blocks: (N, L) tokens to blank out; they come again where there are more trials.
        done: records of an earlier, interrupted run, which are not given again; the others are
            the same, their times apart, as if it had not been interrupted.
    """
    found = {key(record) for record in done}
    warm: set[str] = set()
    for batch in batches(blocks, config):
        for variant in variants(config):
            missing = [item for item in batch.items if (item, variant) not in found]
            if not missing:
                continue
            if variant.method not in warm:  # first calls load kernels and fill tables
                warm_up(model, batch, variant, config)
                warm.add(variant.method)
            result, seconds = timed_sample(model, batch, variant, config)
            for row, item in enumerate(batch.items):
                if item in missing:
                    yield record_of(batch, row, variant, result, seconds, tokenizer)


def warm_up(model: Backbone, batch: Batch, variant: Variant, config: DecodingConfig) -> None:
    """Fill a few blanks at the end of the batch's blocks, for nothing."""
    is_target = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    is_target[:, -min(WARM_UP_TARGETS, config.max_length - 1) :] = True
    steps = None if variant.steps is None else min(variant.steps, WARM_UP_TARGETS)
    few = Batch(batch.items, batch.input_ids, Order.from_mask(is_target), batch.seeds)
    timed_sample(model, few, Variant(variant.method, steps), config)


def timed_sample(
    model: Backbone, batch: Batch, variant: Variant, config: DecodingConfig
) -> tuple[SampleResult, float]:
    """The batch filled by one method, and the seconds a sequence.

    What `parallel` takes to score its text under the joint is no part of its decoding: as long
    as the same scoring takes once more is taken off.
    """

    def fill() -> SampleResult:
        return sample(
            model,
            batch.input_ids,
            batch.order,
            method=variant.method,
            k=config.k if variant.method in DRAFTING else None,
            steps=variant.steps,
            temperature=config.temperature,
            coupling=config.coupling,
            seed=batch.seeds,
        )

    def score() -> Tensor:
        return log_prob(model, result.tokens, batch.order, temperature=config.temperature)

    result, seconds = timed(fill, model.device)
    if variant.method == "parallel":
        seconds = max(0.0, seconds - timed(score, model.device)[1])
    return result, seconds / len(batch.items)


def timed(call: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """What `call` gives, and the seconds until the device has finished it."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start = perf_counter()
    result = call()
    synchronize()
    return result, perf_counter() - start


def record_of(
    batch: Batch,
    row: int,
    variant: Variant,
    result: SampleResult,
    seconds: float,
    tokenizer: PreTrainedTokenizerBase,
) -> Record:
    """The line of one trial and method."""
    tokens = result.tokens[row].tolist()
    num_targets = int(batch.order.num_targets[row])
    log_density = result.log_probs[row].double().sum()
    prompt = batch.order.order[row, : int(batch.order.num_prompt[row])].tolist()
    return {
        "item": batch.items[row],
        "method": variant.method,
        "steps": variant.steps,
        "k": result.k,
        "lossless": result.lossless,
        "seed": batch.seeds[row],
        "num_targets": num_targets,
        **{name: int(getattr(result, name)[row]) for name in ("nfe", "rows", "rounds")},
        **{name: int(getattr(result, name)[row]) for name in ("drafted", "accepted")},
        "seconds": seconds,
        "log_prob": float(log_density),
        "self_perplexity": float((-log_density / num_targets).exp()),
        "entropy": token_entropy(tokens),
        "prompt": prompt,
        "tokens": tokens,
        "text": decode(tokenizer, tokens),
    }


def token_entropy(tokens: list[int]) -> float:
    """Entropy in bits of the frequencies of the tokens of one text."""
    shares = torch.tensor(tokens).unique(return_counts=True)[1].double() / len(tokens)
    return float((shares * -shares.log2()).sum())
