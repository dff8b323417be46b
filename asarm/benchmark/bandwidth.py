"""The second bound of a call's time: its weights have to come from memory."""

from __future__ import annotations

import torch

from asarm.backbones.xlnet import AnySubsetTransformer

NUM_READS = 4  # of the buffer, in a row
# what a call reads nothing of: distances were projected before, segments are never used
UNREAD = ("rel_attn.r", "rel_attn.r_s_bias", "rel_attn.seg_embed")


class Reading:
    """Memory read from end to end, as fast as all threads can: a work of `alternate`.

    A sum adds far faster than memory gives; only a buffer beyond the caches shows that speed.
    """

    def __init__(self, num_bytes: int, device: torch.device):
        self._buffer = torch.ones(num_bytes // 4, device=device)

    def __call__(self, _: int) -> int:
        """Return how often the buffer was read."""
        for _ in range(NUM_READS):
            self._buffer.sum()
        return NUM_READS


def weights_of_a_call(model: AnySubsetTransformer) -> int:
    """Count bytes of the weights that a call reads, logits included; of the embedding its rows."""
    names = dict(model.named_parameters())  # of tied weights one
    head, embedding = model.lm_loss.weight, model.transformer.word_embedding.weight
    if head is not embedding:
        names = {name: weight for name, weight in names.items() if weight is not embedding}
    return sum(weight.nbytes for name, weight in names.items() if not name.endswith(UNREAD))
