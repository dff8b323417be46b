"""Settings of the wrong kind, and settings that would do nothing, are refused by their names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from asarm.data import is_finite
from asarm.run import shown
from asarm.training.config import TrainingConfig
from asarm.training.objectives import OBJECTIVES

DEFAULTS = TrainingConfig()
SIZES = ("d_model", "n_layer", "n_head", "d_inner")
SEEDS = range(-(2**63), 2**64)  # that torch takes


def check_types(config: TrainingConfig) -> None:
    """Refuse values of another kind than their settings have, such as "4" for a number.

    Raises:
        ValueError: names the setting, its value and what is expected.
    """
    hints = get_type_hints(type(config))
    for f in fields(config):
        value = getattr(config, f.name)
        if not _is_of(value, hints[f.name]):
            raise ValueError(
                f"{f.name} is {value!r}; expected {str(f.type).replace('None', 'null')}"
            )
    if config.seed not in SEEDS:
        raise ValueError(f"seed is {config.seed}; expected {SEEDS[0]} to {SEEDS[-1]}")


def _is_of(value: Any, kind: Any) -> bool:
    """Return whether a value is of a kind such as int | None or dict[str, float]."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(_is_of(value, one) for one in inside)
    if origin is list:
        return isinstance(value, list | tuple) and all(_is_of(item, inside[0]) for item in value)
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(_is_of(key, inside[0]) and _is_of(item, inside[1]) for key, item in pairs)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def check_all_count(config: TrainingConfig) -> None:
    """Refuse settings that would do nothing: they would be in the run's records all the same.

    Raises:
        ValueError: names the setting, its value and why nothing follows from it.
    """
    for _, why, names in _idle(config):
        for name in names:
            value, default = getattr(config, name), getattr(DEFAULTS, name)
            if value != default and name not in SIZES:  # these are the model's to know
                raise ValueError(
                    f"{name} is {value!r} and would do nothing: {why}; leave it out (its default "
                    f"is {shown(default)})"
                )


def check_own(name: str, config: TrainingConfig, own: int) -> None:
    """Refuse a size that differs from that of what exists: it would not change it.

    Raises:
        ValueError: names the setting and both values.
    """
    value, default = getattr(config, name), getattr(DEFAULTS, name)
    if value not in (own, default):
        raise ValueError(
            f"{name} is {value} and would do nothing: {config.model} has its own, {own}; take "
            "that, or leave it out"
        )


def without_idle(config: TrainingConfig, flags: Collection[str]) -> TrainingConfig:
    """Drop settings of a file that a flag makes idle, such as those of another --dataset.

    Args:
        config: the settings of files and flags together.
        flags: the names of the settings that were given by flags; these stay.
    """
    dropped = [name for cause, _, names in _idle(config) if cause in flags for name in names]
    defaults = {name: getattr(DEFAULTS, name) for name in dropped if name not in flags}
    return replace(config, **defaults)


def _idle(config: TrainingConfig) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield settings that make others do nothing, why, and which others."""
    model = f"model is {config.model}, which"
    if config.model != "scratch":
        yield "model", f"{model} has its own", ("tokenizer", *SIZES)
    if config.model in ("scratch", "demo") or Path(config.model).expanduser().exists():
        yield "model", f"{model} is not on the hub", ("revision",)
    if config.learn == "model":
        head = ("head_hidden", "head_rank", "head_starts")
        yield "learn", "learn is model, and no draft head learns", head
    if config.learn == "draft_head":
        of_model = ("loss_scale", "dropout") if config.dropout else ("loss_scale",)
        yield "learn", "learn is draft_head, and the model stays as it is", of_model
    for name, objective in OBJECTIVES.items():
        if config.objective == name:
            settings = {s for other in OBJECTIVES.values() for s in other.settings}
            foreign = tuple(sorted(settings - set(objective.settings)))
            yield "objective", f"objective is {name}, which does not read it", foreign
    if config.eval_num_decodes == 0:
        yield "eval_num_decodes", "eval_num_decodes is 0, and no text is filled", ("judge",)
    if config.dataset:
        for why, names in _idle_of_data(config):
            yield "dataset", f"dataset is {config.dataset}, {why}", names


def _idle_of_data(config: TrainingConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    if config.dataset == "python":
        yield "which has no columns", ("dataset_column",)
    else:
        yield "not python", ("repeats",)
    if is_finite(config.dataset) or "://" in config.dataset:
        yield "which is not on the hub", ("dataset_config", "dataset_data_dir", "dataset_split")
    if is_finite(config.dataset):
        yield "which is not a stream", ("workers", "shuffle_blocks")
    else:
        yield "a stream, of which no block is the last", ("last_block",)
