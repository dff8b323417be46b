"""The trials of the study: which blanks of which blocks are filled, and by which variants.

A trial is one block of text with one split into prompt and blanks. Everything random is keyed by
(run seed, item), so that neither batches nor interruptions nor processes change a trial.

Shapes: B batch, L length, N blocks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import torch
from torch import Tensor

from asarm.distribution import check_temperature
from asarm.drafting.drafters import has_head
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.variants import Variant, check_numbers, check_words
from asarm.order import Order
from asarm.rows import Backbone
from asarm.run import Record
from asarm.sampling import SAMPLERS, VERIFIERS, has_option
from asarm.schedule import keyed_generator, keyed_seed, recorded_seed

ORDERS = ("random_split", "left_to_right", "random_permutation")
DRAFTS = ("head", "self")
ENDLESS = "openwebtext"  # a data set that is read only as far as the trials need


def names(variants: Iterable[Variant]) -> dict[Variant, str]:
    """Return the name of each variant in tables and figures; with its model, if there are several.

    "self" is added where a head drafts for the same model and method as well.
    """
    found = list(variants)
    models = list(dict.fromkeys(variant.model for variant in found))
    with_head = {replace(v, draft=None) for v in found if v.draft == "head"}
    called = {
        v: v.name + " self" * (v.draft == "self" and replace(v, draft=None) in with_head)
        for v in found
    }
    if len(models) == 1:
        return called
    shown = short_names(models)
    return {variant: f"{name}, {shown[variant.model]}" for variant, name in called.items()}


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Return the last parts of the models' names, as many as tell them apart, by model."""
    parts = [PurePath(model).parts for model in models]
    for count in range(1, max(map(len, parts), default=0)):
        short = ["/".join(found[-count:]) for found in parts]
        if len(set(short)) == len(models):
            return dict(zip(models, short, strict=True))
    return {model: model for model in models}


def model_names(config: DecodingConfig) -> list[str]:
    """Return the models of the study, each once; the first is the main one."""
    own = config.model if config.revision is None else f"{config.model}@{config.revision}"
    return list(dict.fromkeys([own, *config.compare]))


def headed(models: Mapping[str, Backbone]) -> set[str]:
    """Return the names of the models that have a draft head."""
    return {name for name, model in models.items() if has_head(model)}


def variants_of(config: DecodingConfig, heads: Collection[str] = ()) -> list[Variant]:
    """Return the variants that the study compares, each once.

    Args:
        heads: the models that have a draft head.

    Raises:
        ValueError: an unknown method, order or draft, or a number outside its range.
    """
    check(config)
    num_targets = int(trial_order(config, [0]).num_targets)
    steps = [count for count in config.parallel_steps if count <= num_targets]
    found = [
        Variant(model, method, count, draft)
        for model in model_names(config)
        for method in config.method
        for count in (steps if has_option(method, "steps") else [None])
        for draft in (_drafts(config, model in heads) if has_option(method, "drafter") else [None])
    ]
    return list(dict.fromkeys(found))


def _drafts(config: DecodingConfig, has_head: bool) -> list[str]:
    return [draft for draft in config.drafts if draft != "head" or has_head]


def check(config: DecodingConfig) -> None:
    """Refuse a setting that cannot be served, by an error that names it.

    Raises:
        ValueError: an unknown word, or a number outside its range.
    """
    _check_some("method", config.method, [*SAMPLERS])
    _check_some("drafts", config.drafts, DRAFTS)
    check_words("order", config.order, ORDERS)
    check_words("coupling", config.coupling, [*VERIFIERS])
    check_numbers(config)
    tolerance = config.acceptance_slack
    if not 0 <= tolerance < math.inf or (tolerance > 0 and config.coupling == "gumbel"):
        raise ValueError(
            f"acceptance_slack is {tolerance} with coupling {config.coupling!r}; expected a finite "
            "number from 0, and 0 with coupling 'gumbel'"
        )
    if config.draft_temperature is not None:
        check_temperature("draft_temperature", config.draft_temperature)


def _check_some(name: str, values: Sequence[str], valid: Sequence[str]) -> None:
    """Refuse a list that is empty, or holds an unknown word."""
    if not values:
        raise ValueError(f"{name} is empty; expected some of {', '.join(valid)}")
    check_words(name, values, valid)


def trial_order(config: DecodingConfig, items: Iterable[int]) -> Order:
    """Make the decoding order of each item, (B, L); all kinds of order have prompts of one size."""
    seeds = [keyed_seed(config.seed, "split", item) for item in items]
    split = Order.random_split(config.length, config.prompt_share, batch=len(seeds), seed=seeds)
    num_prompt = int(split.num_prompt[0])
    if config.order == "left_to_right":
        return Order.left_to_right(config.length, num_prompt)[[0] * len(seeds)]
    if config.order == "random_permutation":
        return Order.random_permutation(config.length, num_prompt, batch=len(seeds), seed=seeds)
    return split


def describe(blocks: Tensor, config: DecodingConfig) -> str:
    """Describe the trials in a line or two."""
    num_targets = int(trial_order(config, [0]).num_targets)
    lines = [f"{config.num_trials} trials: {num_targets} of {config.length} tokens blank"]
    if config.num_trials > len(blocks):
        again = "they are repeated with other blanks"
        lines.append(f"the text has {len(blocks)} blocks of {config.length} tokens: {again}")
    return "\n".join(lines)


@dataclass(frozen=True)
class TrialBatch:
    """Trials that are decoded together."""

    items: list[int]
    input_ids: Tensor  # (B, L), 0 where blank
    order: Order
    seeds: list[int]


def batch_of(items: Sequence[int], blocks: Tensor, config: DecodingConfig) -> TrialBatch:
    """Make a batch of some items, from blocks (N, L) that are repeated in one random order.

    An endless text keeps its order, so that further trials read on in it and change no earlier one.
    The blanks hold 0, so that no sampler can read the true tokens.
    """
    generator = keyed_generator(config.seed, "blocks")
    shuffled = torch.randperm(len(blocks), generator=generator)
    if config.dataset == ENDLESS:
        shuffled = torch.arange(len(blocks))
    order = trial_order(config, items)
    input_ids = blocks[shuffled[[item % len(blocks) for item in items]]]
    seeds = [recorded_seed(config.seed, "sample", item) for item in items]
    return TrialBatch(list(items), input_ids.masked_fill(order.is_target, 0), order, seeds)


def key(record: Record) -> tuple[int, Variant]:
    """Return the trial and the variant of a record. Those of earlier versions name no draft."""
    draft, method = record.get("draft"), record["method"]
    if "draft" not in record and has_option(method, "drafter"):
        draft = "self"
    return record["item"], Variant(record["model"], method, record["steps"], draft)
