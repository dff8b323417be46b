"""Sampling from any-subset models: `sample` and its result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from asarm.checks import is_real, is_whole
from asarm.inputs import answering, check_model, checked_inputs
from asarm.law import Allowed, Law, check_temperature
from asarm.order import Order, per_sequence_seeds
from asarm.rows import Backbone
from asarm.sampling import samplers
from asarm.sampling.costs import COSTS, Costs
from asarm.sampling.decoding import EXECUTIONS, Decoding
from asarm.sampling.draft import CheckedDraft, Draft, head_draft, self_draft
from asarm.sampling.draft_length import AutoLength, DraftLength, FixedLength
from asarm.sampling.randomness import HashedRandomness, signed
from asarm.sampling.result import Round, SampleResult
from asarm.sampling.verify import BlockCoupling, Coupling, GumbelCoupling, RejectionCoupling

__all__ = ["DRAFTING", "METHODS", "Costs", "Round", "SampleResult", "sample"]

METHODS = ("sequential", "assd", "ngram", "onepass", "parallel")
COUPLINGS = ("block", "rejection", "gumbel")
DRAFTING = ("assd", "ngram", "onepass")  # methods that draft
ONE_LIMIT = 2**30  # a stride with which onepass prepares rows that see what is known, and no others


def sample(
    model: Backbone,
    input_ids: Tensor,
    order: Order,
    *,
    method: str = "onepass",
    k: int | Literal["auto"] | None = "auto",
    costs: Costs | None = None,
    temperature: float = 1.0,
    draft_temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    acceptance_slack: float = 0.0,
    coupling: str = "block",
    draft: str | Draft | None = None,
    stride: int | None = None,
    steps: int | None = None,
    by: str = "order",
    allowed: Allowed | None = None,
    seed: int | Sequence[int] = 0,
    trace: bool = False,
    progress: bool = False,
    execution: str | None = None,
) -> SampleResult:
    """Fill the targets of a batch from the model's joint law, given the prompts.

    `sequential`, `assd`, `ngram` and `onepass` are lossless: their samples have the same law,
    whatever k and the drafts are, and they never make more network calls than there are targets.
    A sequence's sample depends on its own seed, not on its batch mates; in bfloat16 as far as
    rounding, which depends on a batch's shape, makes no difference. The model computes in eval
    mode and in its own dtype, and is left as it was.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        input_ids: (B, L) token ids; what stands at targets and padding is not read. Any integers:
            a tensor, an array or nested lists.
        order: which positions are targets, and in which order they are decoded.
        method: "sequential", one target a call; "assd" and "ngram", algorithms 1 and 2 of
            arXiv 2504.20456; "onepass", which verifies and drafts in the same call; "parallel",
            the lossy comparator, which fills many targets a call as if they were independent.
        k: most drafts of a round, the exact first token of assd included; "auto" chooses them
            round by round, from what was accepted so far and `costs`.
        costs: for k = "auto", what calls, rows and drafts take; those of `asarm.calibrate` for a
            model and device. If None, usual ones of the device's type: the same seed gives the
            same text wherever costs are the same.
        temperature: of target and draft law alike; 0 is greedy decoding, which takes the lowest
            id of equally probable tokens.
        draft_temperature: of the draft law instead; changes the cost, never the law.
        top_k: keep exactly the k most probable tokens of both laws, the lowest ids of equal ones.
        top_p: keep the most probable tokens that together reach this share, in both laws.
        acceptance_slack: added to the probability of accepting a draft; above 0 it is lossy.
        coupling: "block", which accepts most (arXiv 2403.10444); "rejection", one draft after the
            other (the paper's); or "gumbel", with which every lossless method, k and batch gives
            the same text.
        draft: what drafts for assd and onepass: "self", the network's own rows; "head", the learned
            head of the model; any `Draft`, whose distributions are checked; the head if None and
            the model has one.
        stride: of the numbers of drafts that may stand for which onepass prepares rows of their
            own; the more, the more calls and the fewer rows. If None, 1 where k is 1 or 2, and
            no number but 0 otherwise.
        steps: network calls of "parallel".
        by: which targets "parallel" fills first: by "order" or by "confidence".
        allowed: which tokens each position may hold, a filter of the target law; any if None.
        seed: sequence b uses seed + b, or its own where one int per sequence is given.
        trace: record every round.
        progress: show a bar of committed tokens.
        execution: "eager": every call has as few rows and slots as it needs; "static": all rounds
            have the same shapes and never wait for the device, as a GPU likes it; "graph": such a
            round is recorded once and replayed as a CUDA graph. If None, "static" on a GPU unless
            rounds are to be traced, and "eager" elsewhere. The text is the same.

    Raises:
        ValueError: an option or an input that cannot be served; the message says which.
    """
    check_options(method, k, steps, by, coupling, acceptance_slack, draft_temperature, stride)
    check_model(model)
    execution = _execution(execution, method, model.device, trace)
    if method not in DRAFTING:
        k = None
    elif k != "auto":
        k = "auto" if k is None else int(k)
    costs = costs or COSTS.get(model.device.type, COSTS["cuda"])
    ids, order = checked_inputs(model, input_ids, order, reads_targets=False, allowed=allowed)
    seeds = [signed(s) for s in per_sequence_seeds(seed, len(ids))]
    randomness = HashedRandomness(torch.tensor(seeds, device=model.device))
    draft_temperature = temperature if draft_temperature is None else draft_temperature
    total = int(order.num_targets.sum())
    if allowed and method == "parallel":
        allowed = allowed.without_moves()  # what stands beside a token is not known yet
    with answering(model), tqdm(total=total, unit="token", disable=not progress) as bar:
        decoding = Decoding(
            model,
            ids,
            order,
            law=Law(model.mask_token_id, temperature, top_k, top_p),
            draft_law=Law(model.mask_token_id, draft_temperature, top_k, top_p),
            coupling=_coupling(coupling, randomness, acceptance_slack),
            allowed=allowed and allowed.to(model.device),
            trace=trace,
            execution=execution,
            on_commit=bar.update,
        )
        if stride is None:
            stride = 1 if k in (1, 2) else ONE_LIMIT
        decode(
            decoding,
            method,
            k=AutoLength(method, costs, model.device) if k == "auto" else k,
            draft=_draft(draft, model),
            stride=stride,
            steps=steps,
            by=by,
        )
    return _result(
        decoding,
        k=k,
        costs=costs if k == "auto" else None,
        lossless=method != "parallel" and acceptance_slack == 0,
    )


@torch.inference_mode()
def decode(
    decoding: Decoding,
    method: str,
    *,
    k: int | DraftLength | None = None,
    draft: Draft = self_draft,
    stride: int = 1,
    steps: int | None = None,
    by: str = "",
) -> None:
    """Run a sampler to the end."""
    # no round can have more drafts than there are targets
    length = k if callable(k) else FixedLength(min(k or 1, decoding.most_targets))
    match method:
        case "sequential":
            samplers.sequential(decoding)
        case "assd":
            samplers.assd(decoding, length, draft)
        case "ngram":
            samplers.ngram(decoding, length)
        case "onepass":
            samplers.onepass(decoding, length, draft, stride)
        case "parallel":
            samplers.parallel(decoding, steps or 1, by)
            decoding.score_jointly()
    decoding.restore()


def check_options(
    method: str,
    k: int | Literal["auto"] | None,
    steps: int | None,
    by: str,
    coupling: str,
    acceptance_slack: float,
    draft_temperature: float | None,
    stride: int | None,
) -> None:
    """Refuse options of `sample` that no model could serve.

    Raises:
        ValueError: the message says which.
    """
    _one_of("method", method, METHODS)
    _one_of("by", by, ("order", "confidence"))
    _one_of("coupling", coupling, COUPLINGS)
    if k is not None and k != "auto" and not _is_count(k):
        raise ValueError(f"k is {k!r}; expected at least 1 draft a round, or 'auto'")
    if stride is not None and not (_is_count(stride) and method == "onepass"):
        raise ValueError(
            f"stride is {stride!r} with method {method!r}; expected at least 1, for 'onepass' only"
        )
    if method == "parallel" and not _is_count(steps):
        raise ValueError(f"steps is {steps!r}; method 'parallel' needs at least 1 network call")
    if method != "parallel" and steps is not None:
        raise ValueError(f"steps is {steps}; only method 'parallel' has a number of steps")
    is_slack = is_real(acceptance_slack) and 0 <= acceptance_slack < math.inf
    if not is_slack or (acceptance_slack > 0 and coupling == "gumbel"):
        raise ValueError(
            f"acceptance_slack is {acceptance_slack!r} with coupling {coupling!r}; "
            "expected a finite number from 0, and 0 with coupling 'gumbel'"
        )
    if draft_temperature is not None:
        check_temperature("draft_temperature", draft_temperature)


def _is_count(value: object) -> bool:
    return is_whole(value) and value >= 1  # type: ignore[operator]


def _execution(asked: str | None, method: str, device: torch.device, trace: bool) -> str:
    """How rounds are made."""
    if asked is None:
        return "static" if device.type == "cuda" and method != "parallel" and not trace else "eager"
    _one_of("execution", asked, EXECUTIONS)
    if asked != "eager" and (method == "parallel" or trace):
        raise ValueError(
            f"execution is {asked!r} with method {method!r} and trace={trace}; expected 'eager': "
            "what is traced, and 'parallel', waits for the device in every round"
        )
    if asked == "graph" and device.type != "cuda":
        raise ValueError(
            f"execution is 'graph' on {device.type!r}; expected 'static': no CUDA there"
        )
    return asked


def _coupling(name: str, randomness: HashedRandomness, slack: float) -> Coupling:
    match name:
        case "block" if slack == 0:
            return BlockCoupling(randomness)
        case "block" | "rejection":
            return RejectionCoupling(randomness, slack)
    return GumbelCoupling(randomness)


def _draft(draft: str | Draft | None, model: Backbone) -> Draft:
    """What drafts for a model."""
    if callable(draft):
        return CheckedDraft(draft)
    if draft is not None:
        _one_of("draft", draft, ("self", "head"))
    if draft == "head" and getattr(model, "draft_head", None) is None:
        raise ValueError("draft is 'head', and the model has no draft head; train one, or 'self'")
    return self_draft if draft == "self" else default_draft(model)


def default_draft(model: Backbone) -> Draft:
    """The model's own head, if it has one."""
    return self_draft if getattr(model, "draft_head", None) is None else head_draft(model)


def _one_of(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(valid)}")


def _result(
    decoding: Decoding, *, k: int | Literal["auto"] | None, costs: Costs | None, lossless: bool
) -> SampleResult:
    tokens, log_probs = decoding.by_position()
    return SampleResult(
        tokens=tokens,
        log_probs=log_probs,
        nfe=decoding.nfe,
        rows=decoding.rows,
        rounds=decoding.rounds,
        drafted=decoding.drafted,
        accepted=decoding.accepted,
        k=k,
        costs=costs,
        lossless=lossless,
        trace=decoding.trace,
    )
