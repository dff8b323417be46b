"""One batch of trials decoded by one variant, and the record of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from asarm.codec import Codec
from asarm.density import log_prob
from asarm.display.spans import given_spans
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.engine import timed
from asarm.evaluation.trials import TrialBatch
from asarm.evaluation.variants import Variant
from asarm.metrics.repetition import token_entropy
from asarm.order import Order
from asarm.rows import Backbone
from asarm.run import Record
from asarm.sampling import Sampler, SampleResult, sample, sampler_of
from asarm.text import decode

Decode = Callable[[list[int]], str]
WARM_UP_TARGETS = 8


def decoder(tokenizer: PreTrainedTokenizerBase, config: DecodingConfig) -> Decode:
    """Return a function that decodes ids, by the whitespace map of code if it is requested."""
    if config.whitespace_map:
        return Codec(tokenizer, whitespace_map=True).decode
    return lambda ids: decode(tokenizer, ids)


def warm_up(model: Backbone, batch: TrialBatch, variant: Variant, config: DecodingConfig) -> None:
    """Fill a few blanks at the end of the batch's blocks, whose result is dropped."""
    is_target = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    is_target[:, -min(WARM_UP_TARGETS, config.length - 1) :] = True
    steps = None if variant.steps is None else min(variant.steps, WARM_UP_TARGETS)
    few = TrialBatch(batch.items, batch.input_ids, Order.from_mask(is_target), batch.seeds)
    timed_sample(model, few, replace(variant, steps=steps), config)


def variant_sampler(variant: Variant, config: DecodingConfig) -> Sampler:
    """Return the sampler of a variant, with those of the settings that it has."""
    return sampler_of(
        variant.method,
        k=config.k,
        steps=variant.steps,
        draft_temperature=config.draft_temperature,
        tolerance=config.acceptance_slack,
        verifier=config.coupling,
        drafter=variant.draft,
    )


def timed_sample(
    model: Backbone, batch: TrialBatch, variant: Variant, config: DecodingConfig
) -> tuple[SampleResult, float]:
    """Fill the batch by one variant; return the result and the seconds per sequence.

    `sample` scores the text of a sampler that draws no conditionals in one further call, which is
    no part of the decoding: the time of the same call, made once more, is subtracted.
    """
    sampler, order = variant_sampler(variant, config), batch.order
    options: dict[str, Any] = {"temperature": config.temperature}
    fill = partial(sample, model, batch.input_ids, order, sampler, seed=batch.seeds, **options)
    result, seconds = timed(fill, model.device)
    if not sampler.draws_conditionals:
        score = partial(log_prob, model, result.tokens, order, **options)
        seconds = max(0.0, seconds - timed(score, model.device)[1])
    return result, seconds / len(batch.items)


def record_of(
    batch: TrialBatch,
    row: int,
    variant: Variant,
    result: SampleResult,
    seconds: float,
    text_of: Decode,
) -> Record:
    """Make the record of one trial and variant."""
    tokens = result.tokens[row].tolist()
    num_targets = int(batch.order.num_targets[row])
    log_density = result.log_probs[row].double().sum()
    prompt = batch.order.order[row, : int(batch.order.num_prompt[row])].tolist()
    return {
        "item": batch.items[row],
        **variant.settings,
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
