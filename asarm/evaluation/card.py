"""The card of a model that was trained on Python's own text: what it is, and how good it is."""

from __future__ import annotations

import platform
from dataclasses import asdict
from pathlib import Path

import yaml

from asarm.corpus import KINDS, Kind, held_out_documents, training_documents
from asarm.evaluation.compression import order2_bits_per_byte, xz_bits_per_byte
from asarm.evaluation.held_out import PROTOCOLS, bits_per_byte
from asarm.loading import load
from asarm.training.config import TrainingConfig

TEMPLATE = """\
---
license: mit
library_name: asarm
tags: [any-subset autoregressive, xlnet, infilling, speculative decoding]
---
# {name}

An any-subset autoregressive language model of {millions:.1f}M parameters: it predicts any tokens \
from any others, in any order, and gives exact joint densities. XLNet's architecture, so \
`transformers.XLNetLMHeadModel` loads it too.

Trained from scratch with `bash _run_training.sh --config configs/train/demo.yaml` on text that \
ships with Python {python}: documentation topics and docstrings (prose), the standard library and \
its tests (code). {steps:,} steps of {batch} x {length} tokens, {tokens:.1f}M tokens in all; mask \
rates {low} to {high}; orders: {orders}.

## Held-out text, bits per byte

Whole modules and topics that training never saw, in blocks of 256 tokens. Below the model: \
`xz -9` of the same text, and an order-2 byte model of the training text.

{table}

## Use

```python
import asarm

model, tokenizer = asarm.load("{use}")
```

Weights: MIT, like the code that made them. The text is part of Python (PSF licence).
Cite: Guo & Ermon 2025, arXiv 2504.20456; Yang et al. 2019, arXiv 1906.08237.

## Training config

```yaml
{config}```
"""


def write_card(
    folder: Path, config: TrainingConfig, *, use: str | None = None
) -> dict[str, dict[Kind, float]]:
    """Write README.md into a model folder; the held-out figures, bits per byte by row and kind."""
    model, _ = load(folder)
    figures = held_out_figures(folder)
    settings = asdict(config)
    del settings["output_dir"], settings["overwrite"]
    card = TEMPLATE.format(
        name=use or folder.name,
        use=use or str(folder),
        millions=sum(weight.numel() for weight in model.parameters()) / 1e6,
        python=".".join(platform.python_version_tuple()[:2]),
        steps=config.max_steps,
        batch=config.batch_size,
        length=config.length,
        tokens=config.max_steps * config.batch_size * config.length / 1e6,
        low=config.min_mask_rate,
        high=config.max_mask_rate,
        orders=", ".join(f"{share:.0%} {kind}" for kind, share in config.orders.items()),
        table=markdown_table(figures),
        config=yaml.safe_dump(settings, sort_keys=False),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return figures


def held_out_figures(folder: Path) -> dict[str, dict[Kind, float]]:
    """Bits per byte of the model under each protocol, and of the byte-level baselines."""
    model, tokenizer = load(folder)
    texts = {kind: "".join(d.text for d in held_out_documents(kind)) for kind in KINDS}
    training = "".join(document.text for document in training_documents())
    figures = {
        name: {
            kind: bits_per_byte(model, tokenizer, held_out_documents(kind), protocol)
            for kind in KINDS
        }
        for name, protocol in PROTOCOLS.items()
    }
    figures["`xz -9`"] = {kind: xz_bits_per_byte(text) for kind, text in texts.items()}
    figures["order-2 byte model"] = {
        kind: order2_bits_per_byte(training, text) for kind, text in texts.items()
    }
    return figures


def markdown_table(figures: dict[str, dict[Kind, float]]) -> str:
    lines = [f"| | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for name, row in figures.items():
        lines.append(f"| {name} | {' | '.join(f'{row[kind]:.2f}' for kind in KINDS)} |")
    return "\n".join(lines)
