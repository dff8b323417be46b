"""The card of a trained model: what it saw, how good it is, how to use and to cite it."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from asarm.loading import SMOLLM2_ON_HUB, Model
from asarm.metrics.densities import RATES
from asarm.training.config import TrainingConfig

TEMPLATE = """\
---
license: {licence}
library_name: asarm
{base}tags: [any-subset autoregressive, {architecture}, infilling, speculative decoding]
---
# {name}

An any-subset autoregressive language model of {millions:.1f}M parameters: it predicts any tokens \
from any others, in any order, and gives exact joint densities.{also_loads}

Trained {start}{how} on {data}. {steps:,} steps of {batch} x {length} tokens, {tokens:.1f}M \
tokens in all; {objective} objective; mask rates from {first} to {low}..{high} over {warmup:,} \
steps; orders: {orders}.

## Held-out text

{figures}

## Use

```python
import asarm

model, tokenizer = asarm.load("{use}")
```

{rights}
Cite: {cite}.

## Training config

```yaml
{config}```
"""
PYTHON_RIGHTS = """\
Weights: MIT, like the code that made them. The text is part of Python (PSF licence)."""
OTHER_RIGHTS = "Weights: as the licences of the data and of the starting point allow."
ASARM = "Guo & Ermon 2025, arXiv 2504.20456"
XLNET, LORA = "Yang et al. 2019, arXiv 1906.08237", "Hu et al. 2021, arXiv 2106.09685"
NOT_OF_THE_MODEL = ("output_dir", "overwrite", "cache_dir")  # but of the machine it was made on


def card(
    config: TrainingConfig,
    model: Model,
    evaluation: dict[str, Any] | None,
    *,
    use: str | None = None,
    more_figures: str = "",
) -> str:
    """Write the card: Markdown with the hub's front matter.

    Args:
        config: the settings of the run.
        model: the trained model.
        evaluation: the last record of `evaluations.jsonl`.
        use: the name to load it by; the hub's or the run's if None.
        more_figures: Markdown that comes after the held-out figures.
    """
    settings = {k: v for k, v in asdict(config).items() if k not in NOT_OF_THE_MODEL}
    name = use or config.push_to_hub or config.output_dir
    is_python = config.dataset == "python"
    is_ours = is_python and config.model in ("scratch", "demo")
    python = ".".join(platform.python_version_tuple()[:2])
    return TEMPLATE.format(
        architecture=model.config.model_type,
        base=base_of(config),
        how=f" by LoRA of rank {config.lora_rank}" if config.lora_rank else "",
        cite="; ".join(
            [ASARM]
            + [XLNET] * (model.config.model_type == "xlnet")
            + [LORA] * (config.lora_rank is not None)
        ),
        also_loads=f" {note}" if (note := getattr(model, "loads_elsewhere", "")) else "",
        name=name,
        use=name,
        millions=sum(weight.numel() for weight in model.parameters()) / 1e6,
        start="from scratch" if config.model == "scratch" else f"on from {config.model}",
        data=f"the text that ships with Python {python}: documentation topics and docstrings "
        "(prose), the standard library and its tests (code)"
        if is_python
        else f"`{config.dataset}`",
        steps=config.max_steps,
        batch=config.global_batch_size,
        length=config.length,
        tokens=config.max_steps * config.global_batch_size * config.length / 1e6,
        objective=config.objective,
        first=config.start_mask_rate,
        low=config.min_mask_rate,
        high=config.max_mask_rate,
        warmup=config.mask_warmup_steps,
        orders=", ".join(f"{weight:.0%} {kind}" for kind, weight in config.orders.items()),
        figures="\n\n".join(filter(None, [densities_table(evaluation), more_figures]))
        or "Not evaluated.",
        licence="mit" if is_ours else "other",
        rights=PYTHON_RIGHTS if is_ours else OTHER_RIGHTS,
        config=yaml.safe_dump(settings, sort_keys=False),
    )


def base_of(config: TrainingConfig) -> str:
    """Return the front matter's lines about the model that training began with.

    The hub takes only names on the hub: none of a folder, or of a model that comes with asarm.
    """
    name = SMOLLM2_ON_HUB if config.model == "smollm2-base" else config.model
    if "/" not in name or Path(name).expanduser().exists():
        return ""
    relation = "finetune" if config.lora_rank is None else "adapter"
    return f"base_model: {name}\nbase_model_relation: {relation}\n"


def densities_table(evaluation: dict[str, Any] | None) -> str:
    """Make a table of the exact joint densities at each mask rate."""
    if evaluation is None:
        return ""
    lines = ["| mask rate | bits per token | bits per byte |", "|---|---|---|"]
    for rate in RATES:
        figures = (evaluation[f"bits_per_{unit}_{rate}"] for unit in ("token", "byte"))
        lines.append(f"| {rate:.0%} | {' | '.join(map(number, figures))} |")
    return "\n".join(lines)


def number(figure: float | str) -> str:
    """Return a figure as the records have it, where NaN and infinity are words."""
    return f"{figure:.3f}" if isinstance(figure, float) else figure
