"""A sampler's drafter, by its name or a user's, whose distributions are checked."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from asarm.checks import one_of
from asarm.drafting.drafters import Drafter, Drafts, HeadDrafter, Request, has_head, self_drafter


def drafter_for(model: object, drafter: str | Drafter | None) -> Drafter:
    """Return the drafter that is meant: "self", "head" or a user's; the head, if any, if None.

    Raises:
        ValueError: an unknown name, or a head that the model has not.
    """
    if callable(drafter):
        return CheckedDrafter(drafter)
    if drafter is not None:
        one_of("drafter", drafter, ("self", "head"))
    if drafter == "head" and not has_head(model):
        raise ValueError("drafter is 'head', and the model has no draft head; train one, or 'self'")
    return HeadDrafter.of(model) if has_head(model) and drafter != "self" else self_drafter


class CheckedDrafter:
    """Normalises a drafter's distributions, and notes what is not a distribution.

    Verification keeps the target distribution only if every draft was drawn from the probabilities
    that come with it. What it gives has exactly `request.size` columns: where the drafter gave
    fewer, the others are padding; where it gave more, they are left out.
    """

    def __init__(self, drafter: Drafter):
        self.drafter = drafter

    def __call__(self, request: Request) -> Drafts:
        found = self.drafter(request)
        check_shapes(found, len(request.count), request.vocab_size)
        num_given = found.tokens.shape[1]
        missing = request.size - num_given  # a negative one cuts
        tokens = F.pad(found.tokens.long(), (0, missing))
        probs = F.pad(found.probs.to(request.dtype), (0, 0, 0, missing))
        count = found.count.clamp(min=0).minimum(request.count).clamp(max=num_given)
        steps = torch.arange(request.size, device=tokens.device)
        is_draft = steps < count[:, None]
        is_token = (tokens >= 0) & (tokens < request.vocab_size)
        total = probs.sum(2)
        is_right = total.isfinite() & (total > 0) & (probs >= 0).all(2) & is_token
        request.refuse(is_draft & ~is_right)
        request.refuse(found.count != count)
        probs = torch.where((is_draft & is_right)[..., None], probs / total[..., None], 0)
        return Drafts(tokens.where(is_token & is_draft, 0), probs, count)


def check_shapes(found: Drafts, batch: int, vocab_size: int) -> None:
    """Refuse drafts of other shapes than (B, K), (B, K, V) and (B,).

    Raises:
        ValueError: a shape is another.
    """
    shapes = [tuple(part.shape) for part in (found.tokens, found.probs, found.count)]
    size = found.tokens.shape[-1]
    if shapes != [(batch, size), (batch, size, vocab_size), (batch,)]:
        raise ValueError(
            f"the drafter gives tokens of shape {shapes[0]}, probs of {shapes[1]} and count of "
            f"{shapes[2]}; expected (B, K), (B, K, V) and (B,), with a batch of {batch} and a "
            f"vocabulary of {vocab_size}"
        )
