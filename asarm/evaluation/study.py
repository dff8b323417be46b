"""The speculative-decoding study: the same blanks filled by every method, and by every model.

A batch with any missing line is computed whole, and only what is missing is given. So a result
depends neither on interruptions nor on the number of processes.

Shapes: B batch, L length, N blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import perf_counter
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.codec import Codec
from asarm.density import log_prob
from asarm.display.spans import given_spans
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.items import Share
from asarm.evaluation.trials import Batch, Variant, batch_of, headed, item_batches, key, variants
from asarm.metrics.repetition import token_entropy
from asarm.order import Order
from asarm.rows import Backbone
from asarm.run import Record
from asarm.sampling import SampleResult, sample, sampler_of
from asarm.text import decode

Decode = Callable[[list[int]], str]
Result = TypeVar("Result")
WARM_UP_TARGETS = 8


def decode_trials(
    models: Mapping[str, Backbone],
    tokenizer: PreTrainedTokenizerBase,
    blocks: Tensor,
    config: DecodingConfig,
    *,
    done: Iterable[Record] = (),
    share: Share | None = None,
) -> Iterator[Record]:
    """Fill the blanks of every trial by every variant, trial after trial: a record for each.

    Args:
        models: by their `trials.model_names`; all have the same tokenizer.
        blocks: (N, L) tokens to blank out; they come again where there are more trials.
        done: records of an earlier, interrupted run, which are not given again; the others are
            the same, their times apart, as if it had not been interrupted.
        share: this process's part of the batches.
    """
    found = {key(record) for record in done}
    warm: set[tuple[str, str, str | None]] = set()
    planned = variants(config, headed(models))
    text_of = decoder(tokenizer, config)
    for items in (share or Share()).of(item_batches(config)):
        batch = batch_of(items, blocks, config)
        for variant in planned:
            missing = [item for item in items if (item, variant) not in found]
            if not missing:
                continue
            model = models[variant.model]
            about = variant.model, variant.method, variant.draft
            if about not in warm:  # first calls load kernels and fill tables
                warm_up(model, batch, variant, config)
                warm.add(about)
            result, seconds = timed_sample(model, batch, variant, config)
            for row, item in enumerate(items):
                if item in missing:
                    yield record_of(batch, row, variant, result, seconds, text_of)


def decoder(tokenizer: PreTrainedTokenizerBase, config: DecodingConfig) -> Decode:
    """Text from ids, by the whitespace map of code where it is asked for."""
    if config.whitespace_map:
        return Codec(tokenizer, whitespace_map=True).decode
    return lambda ids: decode(tokenizer, ids)


def warm_up(model: Backbone, batch: Batch, variant: Variant, config: DecodingConfig) -> None:
    """Fill a few blanks at the end of the batch's blocks, for nothing."""
    is_target = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    is_target[:, -min(WARM_UP_TARGETS, config.length - 1) :] = True
    steps = None if variant.steps is None else min(variant.steps, WARM_UP_TARGETS)
    few = Batch(batch.items, batch.input_ids, Order.from_mask(is_target), batch.seeds)
    timed_sample(model, few, variant._replace(steps=steps), config)


def timed_sample(
    model: Backbone, batch: Batch, variant: Variant, config: DecodingConfig
) -> tuple[SampleResult, float]:
    """The batch filled by one method, and the seconds a sequence.

    What `parallel` takes to score its text under the joint is no part of its decoding: as long
    as the same scoring takes once more is taken off.
    """
    sampler = sampler_of(
        variant.method,
        k=config.k,
        steps=variant.steps,
        draft_temperature=config.draft_temperature,
        tolerance=config.acceptance_slack,
        verifier=config.coupling,
        drafter=variant.draft,
    )

    def fill() -> SampleResult:
        return sample(
            model,
            batch.input_ids,
            batch.order,
            sampler,
            temperature=config.temperature,
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
    batch: Batch, row: int, variant: Variant, result: SampleResult, seconds: float, text_of: Decode
) -> Record:
    """The line of one trial and variant."""
    tokens = result.tokens[row].tolist()
    num_targets = int(batch.order.num_targets[row])
    log_density = result.log_probs[row].double().sum()
    prompt = batch.order.order[row, : int(batch.order.num_prompt[row])].tolist()
    return {
        "item": batch.items[row],
        **variant._asdict(),
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
        "text": text_of(tokens),
        "given": given_spans(text_of, tokens, prompt),
    }
