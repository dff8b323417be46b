"""`sample`: fill the targets of a batch by a sampler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from asarm.checks import described, one_of
from asarm.density import joint_log_probs
from asarm.distribution import Allowed, Distribution
from asarm.inputs import check_model, checked_inputs, inference_mode_of
from asarm.order import Order, per_sequence_seeds
from asarm.rows import Backbone, ContentCache
from asarm.sampling.base import Sampler
from asarm.sampling.commit import Outcome
from asarm.sampling.network import Net
from asarm.sampling.randomness import HashedRandomness, Randomness, signed
from asarm.sampling.result import Round, SampleResult
from asarm.sampling.rounds import EXECUTIONS, Decoding
from asarm.sampling.samplers import SAMPLERS, option_names
from asarm.sampling.state import State
from asarm.sampling.verify import make_verifier

OnRound = Callable[[Mapping[int, Round]], object]


def sample(
    model: Backbone,
    input_ids: Tensor | Sequence[Sequence[int]],
    order: Order,
    sampler: str | Sampler = "onepass",
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    allowed: Allowed | None = None,
    seed: int | Sequence[int] = 0,
    trace: bool = False,
    on_round: OnRound | None = None,
    progress: bool = False,
    execution: str | None = None,
    **options: Any,
) -> SampleResult:
    """Fill the targets of a batch from the model's joint distribution, given the prompts.

    All samplers but "parallel" are lossless unless a tolerance is above 0: their samples have the
    same distribution, whatever k and the drafts are, and they never make more network calls than
    there are targets. A sequence's sample depends on its own seed, not on its batch mates; in
    bfloat16 as far as rounding, which depends on a batch's shape, makes no difference. The model
    computes in eval mode and in its own dtype, and is left as it was.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        input_ids: (B, L) token ids; ids at targets and padding are not read. Any integers:
            a tensor, an array or nested lists.
        order: which positions are targets, and in which order they are decoded.
        sampler: "sequential", one target a call; "assd" and "ngram", algorithms 1 and 2 of
            arXiv 2504.20456; "onepass", which verifies and drafts in the same call; "parallel",
            the lossy comparator, which fills many targets a call as if they were independent. Or a
            value: `ASSD(k=5)`, for example.
        temperature: of the target and the draft distribution; 0 is greedy decoding, which takes
            the lowest id of equally probable tokens.
        top_k: keep exactly the k most probable tokens, the lowest ids of equal ones.
        top_p: keep the most probable tokens that together reach this probability.
        allowed: which tokens each position may hold, a filter of the target distribution; any if
            None.
        seed: sequence b uses seed + b, or its own where one int per sequence is given.
        trace: record every round.
        on_round: called after every round with what it did to each unfinished sequence, by its
            place in the batch: what was drafted, accepted and committed.
        progress: show a bar of committed tokens.
        execution: "eager": every call has as few rows and slots as it needs; "static": all rounds
            have the same shapes and never wait for the device, as a GPU likes it; "graph": such a
            round is recorded once and replayed as a CUDA graph. If None, "static" on a GPU unless
            rounds are looked at, and "eager" elsewhere. The text is the same.
        **options: of the sampler that is named, such as k: those of `Sequential`, `ASSD`, `NGram`,
            `OnePass` and `Parallel`.

    Raises:
        ValueError: an option or an input that cannot be served; the message says which.
    """
    sampler = make_sampler(sampler, options)
    check_model(model)
    target = Distribution(model.mask_token_id, temperature, top_k, top_p)
    execution = _execution(execution, sampler, model.device, trace or on_round is not None)
    ids, order = checked_inputs(model, input_ids, order, reads_targets=False, allowed=allowed)
    seeds = [signed(s) for s in per_sequence_seeds(seed, len(ids))]
    randomness = HashedRandomness(torch.tensor(seeds, device=model.device))
    recorder = RoundRecorder(len(ids), trace, on_round)
    total = int(order.num_targets.sum())
    with inference_mode_of(model), tqdm(total=total, unit="token", disable=not progress) as bar:
        net, state = prepare(
            model,
            ids,
            order,
            sampler,
            randomness,
            target=target,
            allowed=allowed,
            is_static=execution != "eager",
        )
        state = Decoding(
            sampler,
            net,
            state,
            execution=execution,
            after_round=recorder if recorder.is_on else None,
            on_commit=bar.update,
        ).run()
        tokens, log_probs = state.by_position(ids, order)
        if not sampler.draws_conditionals:  # one call, not counted
            log_probs = joint_log_probs(model, tokens, order, target, net.allowed)
    return SampleResult(
        tokens=tokens,
        log_probs=log_probs,
        nfe=state.nfe,
        rows=state.rows,
        rounds=state.rounds,
        drafted=state.drafted,
        accepted=state.accepted,
        k=sampler.k,
        costs=sampler.costs_on(model.device),
        lossless=sampler.is_lossless,
        trace=recorder.trace,
    )


def make_sampler(sampler: str | Sampler, options: Mapping[str, Any]) -> Sampler:
    """Make a sampler from its name and options, or take the one that is given.

    Raises:
        ValueError: an unknown name, what is no sampler, or an option that the sampler has not.
    """
    if not isinstance(sampler, str):
        if not (isinstance(sampler, Sampler) and hasattr(sampler, "name")):
            raise ValueError(
                f"sampler is {described(sampler)}; expected one of {', '.join(SAMPLERS)}, or a "
                "value such as asarm.ASSD(k=5), of a class with a name that inherits asarm.Sampler"
            )
        if options:
            raise ValueError(
                f"{next(iter(options))} is given together with the sampler {sampler!r}; expected "
                "its options within it"
            )
        return sampler
    one_of("sampler", sampler, tuple(SAMPLERS))
    names = option_names(sampler)
    for name in options:
        if name not in names:
            has = f"its options are {', '.join(names)}" if names else "it has no options"
            raise ValueError(f"sampler {sampler!r} has no option {name}; {has}")
    for parameter in inspect.signature(SAMPLERS[sampler]).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ValueError(
                f"sampler {sampler!r} needs {parameter.name}; give it, as in {parameter.name}=8"
            )
    return SAMPLERS[sampler](**options)


def prepare(
    model: Backbone,
    ids: Tensor,
    order: Order,
    sampler: Sampler,
    randomness: Randomness,
    *,
    target: Distribution | None = None,
    allowed: Allowed | None = None,
    is_static: bool = False,
    cache: ContentCache | None = None,
) -> tuple[Net, State]:
    """Bring a model and a batch into the form that a sampler's rounds need.

    Args:
        model: the backbone.
        ids: (B, L) checked ids.
        order: the decoding order.
        sampler: whose rounds they are to be.
        randomness: where draws come from.
        target: the target distribution; the model's own, at temperature 1, if None.
        allowed: which tokens each position may hold; any if None.
        is_static: whether all rounds are to have the same shapes.
        cache: one that is there already.
    """
    target = target or Distribution(model.mask_token_id)
    temperature = sampler.draft_temperature
    cache = cache or model.new_cache(*ids.shape)
    if is_static:
        cache.fix_shapes()
    if allowed and not sampler.draws_conditionals:
        allowed = allowed.without_moves()  # the tokens to the left may not be known yet
    net = Net(
        model,
        target,
        target if temperature is None else replace(target, temperature=temperature),
        make_verifier(sampler.verifier, randomness, sampler.tolerance),
        cache,
        drafter=sampler.make_drafter(model),
        lengths=sampler.make_lengths(model.device, int(order.num_targets.max())),
        allowed=allowed and allowed.to(model.device),
        is_static=is_static,
        prompt_size=int(order.num_prompt.max()),
    )
    return net, State.of(ids, order, model.vocab_size, net.dtype, counts_on_device=is_static)


def _execution(
    execution: str | None, sampler: Sampler, device: torch.device, is_watched: bool
) -> str:
    """Choose how rounds are executed, where the caller did not."""
    is_waiting = is_watched or not sampler.can_be_static
    if execution is None:
        return "static" if device.type == "cuda" and not is_waiting else "eager"
    one_of("execution", execution, EXECUTIONS)
    if execution != "eager" and is_waiting:
        raise ValueError(
            f"execution is {execution!r} with sampler {sampler.name!r}; expected 'eager': rounds "
            "that are traced or watched, and those of samplers such as 'parallel', read the device"
        )
    if execution == "graph" and device.type != "cuda":
        raise ValueError(
            f"execution is 'graph' on {device.type!r}; expected 'static': no CUDA there"
        )
    return execution


class RoundRecorder:
    """Records rounds, and passes them to `on_round`."""

    def __init__(self, batch: int, trace: bool, on_round: OnRound | None):
        self.trace: list[list[Round]] | None = [[] for _ in range(batch)] if trace else None
        self.on_round = on_round

    @property
    def is_on(self) -> bool:
        return self.trace is not None or self.on_round is not None

    def __call__(self, state: State, outcome: Outcome) -> None:
        records = dict(outcome.records(state))
        for sequence, record in records.items():
            if self.trace is not None:
                self.trace[sequence].append(record)
        if self.on_round is not None:
            self.on_round(records)
