"""The files of a draft head in the folder of its model, beside the model's weights.

`draft_head.safetensors` holds the head's weights. `draft_head.json` says what the head is made of,
with a fingerprint of the weights that it was trained on top of: it drafts badly on top of others.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from asarm.drafting.head import DraftHead, DraftHeadConfig

WEIGHTS, CONFIG = "draft_head.safetensors", "draft_head.json"


@torch.no_grad()
def fingerprint(backbone: nn.Module) -> list[float]:
    """Give the middle entry of each of a backbone's weights: no two models have the same ones."""
    entries = [weight.flatten()[weight.numel() // 2] for _, weight in _weights(backbone)]
    return [float(f"{float(entry):.3g}") for entry in entries]


def fits(head: DraftHead, backbone: nn.Module) -> bool:
    """Whether a head was trained on top of these weights, as far as bfloat16 can tell."""
    return is_near(fingerprint(backbone), head.config.backbone)


def is_near(ours: list[float], theirs: list[float]) -> bool:
    """Whether two fingerprints are of the same weights, as far as bfloat16 can tell."""
    one, other = (torch.tensor(entries, dtype=torch.float32) for entries in (ours, theirs))
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.01, atol=1e-4)


def _weights(backbone: nn.Module) -> list[tuple[str, Tensor]]:
    """List a backbone's weights by their names."""
    return sorted(backbone.named_parameters())


def save_draft_head_of(backbone: nn.Module, head: DraftHead | None, folder: str | Path) -> None:
    """Have a backbone's folder hold the backbone's draft head, or none where it has none.

    A head that was left there by another model would be refused when the folder is loaded.
    """
    if head is not None:
        head.config.backbone = fingerprint(backbone)
        save_draft_head(head, folder)
        return
    for name in (WEIGHTS, CONFIG):
        Path(folder, name).unlink(missing_ok=True)


def save_draft_head(head: DraftHead, folder: str | Path) -> None:
    """Write a head into its backbone's folder: its weights, and what it is made of."""
    weights = {name: weight.contiguous() for name, weight in head.state_dict().items()}
    save_file(weights, str(Path(folder, WEIGHTS)))
    Path(folder, CONFIG).write_text(json.dumps(asdict(head.config), indent=2) + "\n")


def load_draft_head(folder: str | Path, backbone: nn.Module) -> DraftHead:
    """Load the head in a model's folder.

    Raises:
        ValueError: it was trained on top of other weights, or its files do not fit one another.
    """
    try:
        config = DraftHeadConfig(**json.loads(Path(folder, CONFIG).read_text(encoding="utf-8")))
        head = DraftHead(config).to(torch.float32)
        head.load_state_dict(load_file(str(Path(folder, WEIGHTS))))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the draft head in {folder} cannot be read ({reason}); train it anew, or remove "
            f"{WEIGHTS} and {CONFIG}"
        ) from None
    for name, weight in head.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"weight {name} of the draft head in {folder} holds NaN or infinity")
    if not fits(head, backbone):
        raise ValueError(
            f"the draft head in {folder} was trained on top of other weights than those beside it; "
            f"train it anew, or remove {WEIGHTS}"
        )
    return head
