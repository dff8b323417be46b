"""Drafts accepted as often as a trained model's, on top of a network of random weights.

Such a network accepts nearly everything or nearly nothing; what a round takes does not depend on
that, but how many drafts are best does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import Figure
from asarm.benchmark.methods import SLOWER
from asarm.benchmark.midway import Midway
from asarm.benchmark.speed import held_out_blocks
from asarm.benchmark.timing import alternate, ratio
from asarm.drafting.drafters import Drafts
from asarm.order import Order
from asarm.sampling import Costs, OnePass, sample
from asarm.sampling.cost import MAX_DRAFTS
from asarm.sampling.lengths import AutoLength, DraftLengths, FixedLength
from asarm.sampling.randomness import HashedRandomness
from asarm.sampling.verify import RejectionVerifier


@dataclass(frozen=True)
class ReplayedAcceptance(RejectionVerifier):
    """Accepts drafts with given probabilities by their lag, whatever the distributions are."""

    rates: tuple[float, ...] = ()  # of each draft of a round, if those before it are accepted

    def keep_probs(self, drafts: Drafts, target_probs: Tensor) -> Tensor:
        rates = torch.tensor(self.rates, device=drafts.tokens.device)
        return rates[: drafts.tokens.shape[1]].expand(drafts.tokens.shape)


def replay_acceptance(places: list[Midway], rates: tuple[float, ...]) -> None:
    """Give the drafts of these decodings such acceptance rates."""
    for place in places:
        seeds = torch.arange(len(place.order), device=place.model.device)
        place.verifier = ReplayedAcceptance(HashedRandomness(seeds), rates=rates)


def acceptance_by_lag(
    model: AnySubsetTransformer, prompt_share: float, config: BenchmarkConfig
) -> tuple[float, ...]:
    """Return the rates at which 16 drafts are accepted, each if those before it are."""
    accepted: list[tuple[int, int]] = []  # and drafted
    for trial, ids in enumerate(held_out_blocks(config, config.trials).unsqueeze(1)):
        order = Order.random_split(config.demo_length, prompt_share, seed=trial)
        found = sample(model, ids, order, OnePass(k=MAX_DRAFTS), seed=trial, trace=True)
        accepted += [(sum(r.accepted), len(r.drafted)) for r in (found.trace or [[]])[0]]
    return tuple(
        sum(a > lag for a, _ in accepted) / max(1, sum(a >= lag and d > lag for a, d in accepted))
        for lag in range(MAX_DRAFTS)
    )


def auto_figure(
    places: list[Midway], prompt_share: float, costs: Costs, config: BenchmarkConfig
) -> Figure:
    """Measure time per token of onepass, k chosen by costs, against the fastest fixed k."""
    device = places[0].model.device
    lengths: dict[str, DraftLengths] = {f"k = {k}": FixedLength(k) for k in config.ks if k > 1}
    lengths["auto"] = AutoLength(OnePass().work_by_length(), costs, device)

    def fill(length: DraftLengths, _: int) -> int:
        return sum(p.next_rounds(p.num_prompt, OnePass(), length) for p in places)

    works = {name: partial(fill, length) for name, length in lengths.items()}
    for work in works.values():
        work(0)  # a warm-up
    times = alternate(works, config.repeats, config.device)
    fixed = [name for name in times if name != "auto"]
    best = min(fixed, key=lambda name: median(times[name]))
    chosen, fastest = (1000 * median(times[name]) for name in ("auto", best))
    return Figure(
        f"{config.base_size} size, L = {config.base_length}, onepass, drafts accepted as often as "
        f"the {config.demo_size} model's at {1 - prompt_share:.0%} targets: time per target, "
        "k = auto / the fastest k",
        ratio(times["auto"], times[best]),
        SLOWER,
        is_limit=True,
        detail=f"{chosen:.2f} ms / {fastest:.2f} ms ({best}); costs {costs.call:.3g} a call, "
        f"{costs.row:.3g} a row, {costs.draft:.3g} a draft",
    )
