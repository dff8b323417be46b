"""The bundled adapter of SmolLM2: its files; and, where its base was fetched, what it is worth."""

import pytest
import torch
from safetensors.torch import load_file

import asarm
from asarm.backbones import lora
from asarm.fetch import cache_folder
from asarm.loading import SMOLLM2, SMOLLM2_ON_HUB

STORY = "Anna left home without an umbrella. The rain began. She came to work completely wet."
needs_base = pytest.mark.skipif(
    not (cache_folder() / "smollm2-135m-instruct").is_dir(),
    reason="the base of smollm2 is not in the cache: asarm.load('smollm2') fetches it",
)


def test_the_adapter_is_small_and_names_its_base():
    assert (SMOLLM2 / lora.WEIGHTS).stat().st_size <= 10e6
    assert lora.base_of(SMOLLM2) == (SMOLLM2_ON_HUB, None)
    weights = load_file(SMOLLM2 / lora.WEIGHTS)
    assert len(weights) == 30 * 7 * 2  # layers, products, factors
    assert all(
        weight.dtype == torch.float16 and weight.isfinite().all() for weight in weights.values()
    )


@needs_base
@pytest.mark.slow
@torch.no_grad()
def test_the_right_side_tells_it_something():
    """The sentence in the middle is more probable where the end of the story is known."""
    model, tokenizer = asarm.load("smollm2")
    ids = torch.tensor([tokenizer(STORY)["input_ids"]])
    start = len(tokenizer(STORY[:35])["input_ids"])
    is_target = torch.zeros_like(ids, dtype=torch.bool)
    is_target[:, start : start + 4] = True  # " The rain began."
    both = asarm.log_prob(model, ids, asarm.Order.from_mask(is_target)).sum()
    left = slice(0, start + 4)
    alone = asarm.log_prob(model, ids[:, left], asarm.Order.from_mask(is_target[:, left])).sum()
    assert both > alone + 0.5
    text = asarm.infill(
        model, tokenizer, "The cat ___ on the mat.", length=2, best_of=4
    ).candidates[0]
    assert text.text.startswith("The cat ") and text.text.endswith(" on the mat.")
    assert "<|" not in text.text
