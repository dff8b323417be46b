"""What drafts are worth: calls with each part of what lowers them, and acceptance by lag.

Shapes: B texts, L length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import PAPER_K, LagAcceptance, PartCost
from asarm.drafting.drafters import Drafter, HeadDrafter
from asarm.drafting.head import DraftHead
from asarm.order import Order
from asarm.sampling import OnePass, SampleResult, sample
from asarm.sampling.result import Round


class LeftOnlyHead(DraftHead):
    """A head that learns of no new token but the left neighbour."""

    def by_neighbour(self, embedding: Tensor) -> Tensor:
        found = super().by_neighbour(embedding)
        for place, offset in enumerate(self.config.offsets):
            if offset != -1:
                found[place, :-2] = found[place, -2]  # as if nothing had seen it
        return found


@dataclass(frozen=True)
class Part:
    """Some of what lowers the number of calls: what drafts, and how drafts are verified."""

    name: str
    drafter: Drafter | str
    verifier: str


def parts_of(model: AnySubsetTransformer, head: DraftHead) -> list[Part]:
    """List what lowers the number of calls, from the paper's drafts and verification on."""
    left = drafter_of(model, copy_of(head, LeftOnlyHead))
    return [
        Part("self, rejection", "self", "rejection"),
        Part("self, block", "self", "block"),
        Part("head, left neighbour alone, block", left, "block"),
        Part("head, rejection", "head", "rejection"),
        Part("head, block", "head", "block"),
    ]


def copy_of(head: DraftHead, kind: type[DraftHead]) -> DraftHead:
    """Copy the weights into a head of some kind."""
    made = kind(head.config).to(head.up.device, head.up.dtype)
    made.load_state_dict(head.state_dict())
    return made.eval().requires_grad_(False)


@torch.no_grad()
def drafter_of(model: AnySubsetTransformer, head: DraftHead) -> Drafter:
    """Make the drafter of a model with a head that is not its own."""
    return HeadDrafter(head, model.transformer.word_embedding.weight, model.lm_loss.weight)


def measure_parts(
    model: AnySubsetTransformer, blocks: Tensor, prompt_share: float, config: BenchmarkConfig
) -> tuple[list[PartCost], list[LagAcceptance]]:
    """Count calls of onepass with each part at each k; acceptance by lag with blocks verified.

    The texts, blocks (B, L), are filled as `methods` fills them one by one, but at once.
    """
    if model.draft_head is None:
        return [], []
    costs, acceptance = [], []
    ks = sorted({*config.ks, PAPER_K})
    for part, k in product(parts_of(model, model.draft_head), ks):
        order = Order.random_split(
            config.demo_length, prompt_share, batch=len(blocks), seed=[*range(len(blocks))]
        )
        deepest = k == ks[-1] and part.name in ("self, block", "head, block")
        found = fill(model, blocks, order, part, k, trace=deepest)
        nfe = float((found.nfe.cpu() / order.num_targets).mean())
        costs.append(PartCost(1 - prompt_share, part.name, k, nfe))
        if found.trace is not None:
            rounds = [r for text in found.trace for r in text]
            name = part.name.split(",")[0]
            acceptance += acceptance_by_lag(rounds, 1 - prompt_share, name)
    return costs, acceptance


def fill(
    model: AnySubsetTransformer, blocks: Tensor, order: Order, part: Part, k: int, *, trace: bool
) -> SampleResult:
    return sample(
        model,
        blocks,
        order,
        OnePass(k=k, drafter=part.drafter, verifier=part.verifier),
        seed=[*range(len(blocks))],
        trace=trace,
    )


def acceptance_by_lag(
    rounds: Sequence[Round], target_fraction: float, draft: str
) -> list[LagAcceptance]:
    """Compute the acceptance rates of drafts at each lag from the rounds of a trace."""
    found = []
    for lag in range(1, max((len(r.accepted) for r in rounds), default=0) + 1):
        verified = [r for r in rounds if len(r.accepted) >= lag]
        accepted = sum(r.accepted[lag - 1] for r in verified)
        after = sum(all(r.accepted[: lag - 1]) for r in verified)
        found.append(
            LagAcceptance(
                target_fraction,
                draft,
                lag,
                drafts=len(verified),
                rate=accepted / len(verified),
                rate_after=accepted / after if after else None,
            )
        )
    return found
