"""What a user would take instead: every sampler fills one text, in the same run and size class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.calls import PAPERS_SAMPLER, first_rounds
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.measured import PAPER_K, Baseline
from asarm.benchmark.midway import KNOWN_FRACTIONS, Midway, orders_along
from asarm.benchmark.models import NETWORKS, random_ids, with_reference
from asarm.benchmark.reference import RecomputingXLNet
from asarm.benchmark.report import Report
from asarm.benchmark.speed import warm_up
from asarm.benchmark.timing import alternate
from asarm.loading import resolve_device, resolve_dtype
from asarm.order import Order
from asarm.sampling import Parallel, sample, sampler_of
from asarm.sampling.commit import Outcome
from asarm.sampling.network import Net
from asarm.sampling.state import State

WHOLE = 2**30  # rounds: more than there are
OURS = {  # heading, method, k
    "asarm, sequential": ("sequential", None),
    f"asarm, assd k = {PAPER_K}": ("assd", PAPER_K),
    "asarm, onepass k = auto (default)": ("onepass", None),
}
SAME_CALLS = f"asarm, assd k = {PAPER_K}"  # as many as the original method makes

Fill = Callable[[], int]  # fills one text; how many network calls that took


class Recomputing(Parallel):
    """Fills a text by computing all L positions in every call, as masked diffusion has to.

    There every position sees every other, so none can be kept while others are filled.
    """

    def round(self, net: Net, state: State) -> Outcome:
        state.cached = torch.zeros_like(state.cached)
        return super().round(net, state)


def measure_baselines(report: Report, config: BenchmarkConfig) -> None:
    """Put into the report what every sampler takes for one text, turn by turn.

    The two that compute everything in every call are timed at a few places of a text; their time
    per call hardly depends on the place.
    """
    ours, reference = with_reference(config.base_size, config)
    order = Order.random_split(config.base_length, config.prompt_share, seed=config.seed)
    ids, num_targets = random_ids(ours, config.base_length), int(order.num_targets)
    fills: dict[str, Fill] = {
        **{name: partial(fill, ours, ids, order, *how, config) for name, how in OURS.items()},
        f"transformers, {gpt2_name(config)}": gpt2_fill(int(order.num_prompt), num_targets, config),
        **{
            f"asarm, parallel, {steps} steps, with the cache": partial(
                fill_in_parallel, ours, ids, order, steps
            )
            for steps in config.steps
        },
    }
    warm_up([ours, reference], ids)
    calls: dict[str, int] = {}

    def whole(name: str, _: int) -> int:
        calls[name] = fills[name]()
        return 1

    works: dict[str, Callable[[int], int]] = {name: partial(whole, name) for name in fills}
    works |= {
        "original": lambda _: calls_of_original(reference, ids, config),
        "recomputing": lambda _: recomputing_calls(ours, ids, config),
    }
    times = alternate(works, 1, config.device)
    timed = f"{1 + len(KNOWN_FRACTIONS)} places of a text, time per call x calls"
    report.baselines = [
        Baseline(
            f"original method, assd k = {PAPER_K}",
            times["original"][0] * calls[SAME_CALLS],
            calls[SAME_CALLS],
            num_targets,
            "yes",
            f"{timed} of {SAME_CALLS}",
        ),
        *(
            Baseline(name, times[name][0], calls[name], num_targets, lossless(name), "whole text")
            for name in fills
        ),
        *(
            Baseline(
                f"asarm, parallel, {steps} steps, recomputing all positions",
                times["recomputing"][0] * steps,
                steps,
                num_targets,
                "no",
                timed,
            )
            for steps in config.steps
        ),
    ]


def lossless(name: str) -> str:
    """Say whether a sampler draws from its model's distribution."""
    if Parallel.name in name:
        return "no"
    return "yes" if name in OURS else "yes; left to right only"


def fill(
    model: AnySubsetTransformer,
    ids: Tensor,
    order: Order,
    method: str,
    k: int | None,
    config: BenchmarkConfig,
) -> int:
    """Fill a text by a lossless method, drafts of the network's own rows; return its calls."""
    sampler = sampler_of(method, k=k, drafter="self")
    return int(sample(model, ids, order, sampler, seed=config.seed).nfe)


def fill_in_parallel(model: AnySubsetTransformer, ids: Tensor, order: Order, steps: int) -> int:
    """Fill a text by `parallel`, without the call that scores it; return its calls."""
    return int(Midway(model, ids, order, num_rounds=WHOLE).fill(Parallel(steps)).nfe)


def recomputing_calls(model: AnySubsetTransformer, ids: Tensor, config: BenchmarkConfig) -> int:
    """Make calls of a masked-diffusion style sampler: L rows, and probabilities of every blank."""
    sampler = Recomputing(1, by="confidence")
    orders = orders_along(config)
    return sum(int(Midway(model, ids, o, num_rounds=1).fill(sampler).nfe) for o in orders)


def calls_of_original(reference: RecomputingXLNet, ids: Tensor, config: BenchmarkConfig) -> int:
    """Make calls of the original method, a round at each place."""
    return sum(
        first_rounds(reference, ids, order, PAPERS_SAMPLER, num_rounds=1)
        for order in orders_along(config)
    )


def gpt2_config(config: BenchmarkConfig) -> GPT2Config:
    """Return GPT-2's config at base size, or with the other size's width, depth, vocabulary."""
    if config.base_size == "base":
        return GPT2Config(n_positions=max(1024, config.base_length))
    network = NETWORKS[config.base_size]
    return GPT2Config(
        vocab_size=network["vocab_size"],
        n_positions=config.base_length,
        n_embd=network["d_model"],
        n_layer=network["n_layer"],
        n_head=network["n_head"],
        bos_token_id=0,
        eos_token_id=0,
    )


def gpt2_name(config: BenchmarkConfig) -> str:
    size = "GPT-2 (124M)" if config.base_size == "base" else f"GPT-2 of size {config.base_size}"
    return f"{size}, generate with its cache"


def gpt2_fill(num_prompt: int, num_targets: int, config: BenchmarkConfig) -> Fill:
    """Continue a prompt by as many tokens, sampled from the whole vocabulary, random weights."""
    torch.manual_seed(config.seed)
    model = GPT2LMHeadModel(gpt2_config(config)).eval()
    model = model.to(resolve_device(config.device), resolve_dtype(config.dtype))
    model.generation_config.eos_token_id = None  # it shall not stop early
    prompt = torch.randint(1, model.config.vocab_size, (1, num_prompt), device=model.device)

    def generate(num_tokens: int) -> int:
        made = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=num_tokens,
            do_sample=True,
            top_k=0,
            use_cache=True,
            pad_token_id=0,
        )
        return made.shape[1] - num_prompt  # a call for each

    generate(2)  # a warm-up
    return partial(generate, num_targets)
