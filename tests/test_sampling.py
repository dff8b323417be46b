"""What `sample` promises whatever the sampler: invariances, counts, traces, options."""

import math

import pytest
import torch
from fakes import ConditionalTable, Uncached, mixed_batch, small_model

from asarm import Order, sample
from asarm.sampling import SAMPLERS, has_option, lossless_names
from asarm.sampling.cost import COSTS
from asarm.sampling.randomness import HashedRandomness

LOSSLESS = lossless_names()
DRAFTING = [name for name in SAMPLERS if has_option(name, "k")]
CALLS = [
    *({"sampler": method} for method in LOSSLESS if method not in DRAFTING),
    *({"sampler": method, "k": k} for method in DRAFTING for k in (1, 2, 5, "auto")),
    {"sampler": "onepass", "k": 4, "stride": 2},
    {"sampler": "parallel", "steps": 3},
    {"sampler": "parallel", "steps": 3, "by": "confidence"},
]
LENGTHS, PROMPTS = [14, 9, 14, 3], [4, 0, 13, 1]
COUNTS = ("nfe", "rows", "rounds", "drafted", "accepted")

every_call = pytest.mark.parametrize(
    "call", CALLS, ids=lambda call: "-".join(map(str, call.values()))
)
both_verifiers = pytest.mark.parametrize("verifier", ["rejection", "gumbel"])


@pytest.fixture(scope="module")
def model():
    return small_model(seed=3)


@pytest.fixture(scope="module")
def problem():
    return mixed_batch(LENGTHS, PROMPTS, 60)


def same(found, expected):
    """Two results agree in everything."""
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-10, rtol=0)
    for name in COUNTS:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert (found.k, found.lossless) == (expected.k, expected.lossless)


# --- invariances ---


@both_verifiers
@every_call
def test_batch_mates_and_padding_change_nothing(model, problem, call, verifier):
    ids, order = problem
    together = sample(model, ids, order, verifier=verifier, seed=40, **call)
    for b, length in enumerate(LENGTHS):
        one = Order(order.order[[b], :length], PROMPTS[b])
        alone = sample(model, ids[[b], :length], one, verifier=verifier, seed=40 + b, **call)
        assert torch.equal(alone.tokens[0], together.tokens[b, :length])
        torch.testing.assert_close(alone.log_probs[0], together.log_probs[b, :length])
        for name in COUNTS:
            assert getattr(alone, name) == getattr(together, name)[b], name


@both_verifiers
@every_call
def test_sequences_that_leave_change_nothing(model, problem, call, verifier, monkeypatch):
    """They leave one by one here, and the network sees no more of them."""
    stay, leave = Batches(model), Batches(model)
    options = {"verifier": verifier, "trace": True, **call}
    monkeypatch.setattr("asarm.sampling.rounds.STAYS", 0.0)
    expected = sample(stay, *problem, **options)
    monkeypatch.setattr("asarm.sampling.rounds.STAYS", 0.99)
    found = sample(leave, *problem, **options)
    same(found, expected)
    assert found.trace == expected.trace
    assert set(stay.sizes) == {4}
    if call["sampler"] not in LOSSLESS:  # the exact density of what it drew, of all sequences
        assert leave.sizes.pop() == 4
    assert leave.sizes == sorted(leave.sizes, reverse=True)
    assert leave.sizes[-1] < 4


class Batches(Uncached):
    def __init__(self, model):
        super().__init__(model)
        self.sizes = []

    def __call__(self, content, query, cache=None):
        self.sizes.append(len(query.positions))
        return super().__call__(content, query, cache)


@every_call
def test_cache_changes_nothing(model, problem, call):
    same(sample(Uncached(model), *problem, **call), sample(model, *problem, **call))


@every_call
def test_what_stands_at_targets_and_padding_is_not_read(model, problem, call):
    ids, order = problem
    is_prompt = order.rank < order.num_prompt[:, None]
    for filler in (6, -100, 10**9):
        found = sample(model, ids.where(is_prompt, filler), order, **call)
        expected = sample(model, ids, order, **call)
        assert torch.equal(
            found.tokens.where(order.is_target, 0), expected.tokens.where(order.is_target, 0)
        )
        assert torch.equal(found.log_probs, expected.log_probs)


@every_call
def test_the_seed_decides_and_nothing_else(model, problem, call):
    torch.manual_seed(0)
    first = sample(model, *problem, seed=5, **call)
    torch.manual_seed(1)
    same(sample(model, *problem, seed=5, **call), first)
    same(sample(model, *problem, seed=[5, 6, 7, 8], **call), first)
    assert not torch.equal(sample(model, *problem, seed=6, **call).tokens, first.tokens)


def test_seeds_may_be_any_64_bits(model, problem):
    same(
        sample(model, *problem, seed=[2**64 - 1, 2**63, -1, 0]),
        sample(model, *problem, seed=[-1, -(2**63), 2**64 - 1, 2**64]),
    )


def test_inputs_are_left_as_they_are(model, problem):
    ids, order = problem
    inputs = ids, order.order, order.rank, order.num_prompt, order.length
    copies, writes = [t.clone() for t in inputs], [t._version for t in inputs]
    for call in CALLS:
        sample(model, ids, order, **call)
    for copy, tensor in zip(copies, inputs, strict=True):
        assert torch.equal(copy, tensor)
    assert [t._version for t in inputs] == writes


# --- results ---


@both_verifiers
@every_call
def test_result_is_consistent(model, problem, call, verifier):
    ids, order = problem
    result = sample(model, ids, order, verifier=verifier, **call)
    assert torch.equal(
        result.tokens.where(order.is_target, 0), result.tokens - ids.where(~order.is_target, 0)
    )
    assert not (result.tokens == 6).logical_and(order.is_target).any()
    assert torch.equal(result.log_probs != 0, order.is_target)
    assert (result.log_probs <= 0).all()
    assert (result.nfe <= order.num_targets).all()
    assert (result.rounds <= result.nfe).all()
    assert (result.accepted <= result.drafted).all()
    least = order.length - 1 + result.nfe  # all tokens but the last, and a query a call
    assert (result.rows >= least.where(order.num_targets > 1, 0)).all()
    assert result.lossless == (call["sampler"] in LOSSLESS)
    assert result.k == call.get("k")
    assert result.trace is None


def test_costs_of_sequential_are_known(model, problem):
    ids, order = problem
    result = sample(model, ids, order, sampler="sequential")
    assert torch.equal(result.nfe, order.num_targets)
    assert torch.equal(result.rounds, order.num_targets)
    assert torch.equal(result.rows, order.num_prompt + order.num_targets * 2 - 1)
    assert not result.drafted.any()


def test_calls_of_a_round_are_known(model, problem):
    assert torch.equal(*(getattr(sample(model, *problem, k=3), name) for name in ("nfe", "rounds")))
    ngram = sample(model, *problem, sampler="ngram", k=3)
    assert torch.equal(ngram.nfe, ngram.rounds)
    assd = sample(model, *problem, sampler="assd", k=3)
    assert (assd.nfe >= 2 * assd.rounds - 1).all()  # one call when one target is left
    parallel = sample(model, *problem, sampler="parallel", steps=4)
    assert parallel.nfe.tolist() == [4, 4, 1, 2]  # no more than there are targets


def test_nfe_is_the_number_of_network_calls(model):
    ids, order = mixed_batch([14], [4], 60)
    for call in CALLS:
        counting = Counting(model)
        result = sample(counting, ids, order, **call)
        scored = int(call["sampler"] not in LOSSLESS)  # the exact density of what it drew
        assert counting.calls == int(result.nfe) + scored


class Counting(Uncached):
    calls = 0

    def __call__(self, content, query, cache=None):
        self.calls += 1
        return super().__call__(content, query, cache)


def test_defaults_are_those_documented(model, problem):
    same(sample(model, *problem), sample(model, *problem, sampler="onepass", verifier="block"))
    for method in SAMPLERS:
        options = {"steps": 2} if method == "parallel" else {}
        found = sample(model, *problem, sampler=method, **options)
        drafts = method in DRAFTING
        assert (found.k, found.costs) == (("auto", COSTS["cpu"]) if drafts else (None, None))
    same(sample(model, *problem, k="auto", costs=COSTS["cpu"]), sample(model, *problem))


@both_verifiers
@every_call
def test_trace_replays_the_decoding(model, problem, call, verifier):
    ids, order = problem
    result = sample(model, ids, order, verifier=verifier, trace=True, **call)
    same(result, sample(model, ids, order, verifier=verifier, **call))
    for b, rounds in enumerate(result.trace):
        num_prompt, length = int(order.num_prompt[b]), int(order.length[b])
        replayed = [pair for step in rounds for pair in step.committed]
        targets = order.order[b, num_prompt:length].tolist()
        if call.get("by") == "confidence":
            replayed, targets = sorted(replayed), sorted(targets)
        assert [position for position, _ in replayed] == targets
        assert [token for _, token in replayed] == result.tokens[b, targets].tolist()
        assert len(rounds) == result.rounds[b] and (not rounds or rounds[-1].nfe == result.nfe[b])
        assert all(step.is_verified == result.lossless for step in rounds)
        if result.lossless:
            assert sum(len(step.drafted) for step in rounds) == result.drafted[b]
            assert sum(sum(step.accepted) for step in rounds) == result.accepted[b]
        for step in rounds:
            check_round(step)


def check_round(step):
    """Accepted drafts are a prefix and committed; the first rejected one is replaced."""
    kept = sum(step.accepted)
    assert step.accepted == [True] * kept + [False] * (len(step.drafted) - kept)
    assert set(step.drafted[:kept]) <= set(step.committed)
    if kept == len(step.drafted):
        assert step.replacement is None
    else:
        assert step.replacement == step.committed[-1]
        assert step.replacement[0] == step.drafted[kept][0]


def test_progress_shows_a_bar_only_when_asked_for(model, problem, capsys):
    sample(model, *problem, progress=True)
    assert f"{14 - 4 + 9 + 1 + 2}/22" in capsys.readouterr().err
    sample(model, *problem)
    assert capsys.readouterr() == ("", "")


# --- options ---


@pytest.mark.parametrize("call", CALLS[:-2], ids=str)
def test_top_k_of_one_is_the_most_probable_text(model, problem, call):
    greedy = sample(model, *problem, sampler="sequential", top_k=1, seed=1)
    found = sample(model, *problem, top_k=1, seed=2, **call)
    assert torch.equal(found.tokens, greedy.tokens)
    assert not found.log_probs.any()


@pytest.mark.parametrize("method", LOSSLESS)
def test_low_temperature_is_the_most_probable_text(model, problem, method):
    greedy = sample(model, *problem, sampler="sequential", top_k=1)
    found = sample(model, *problem, sampler=method, temperature=1e-4, seed=2)
    assert torch.equal(found.tokens, greedy.tokens)


@pytest.mark.parametrize("draft_temperature", [0.3, 4.0])
@pytest.mark.parametrize("method", DRAFTING)
def test_draft_temperature_never_changes_the_text_of_the_gumbel_verifier(
    model, problem, method, draft_temperature
):
    found, plain = (
        sample(model, *problem, sampler=method, verifier="gumbel", draft_temperature=t)
        for t in (draft_temperature, None)
    )
    assert torch.equal(found.tokens, plain.tokens)


@pytest.mark.parametrize("method", DRAFTING)
def test_tolerance_accepts_more_and_says_that_it_is_lossy(model, problem, method):
    exact, all_kept = (
        sample(model, *problem, sampler=method, k=3, tolerance=t) for t in (0.0, 1.0)
    )
    assert exact.lossless and (exact.accepted < exact.drafted).any()
    assert not all_kept.lossless and torch.equal(all_kept.accepted, all_kept.drafted)


def test_parallel_with_a_call_for_every_target_is_sequential(model, problem):
    sequential = sample(model, *problem, sampler="sequential", verifier="gumbel")
    found = sample(model, *problem, sampler="parallel", steps=13, verifier="gumbel")
    assert torch.equal(found.tokens, sequential.tokens)
    assert torch.equal(found.nfe, sequential.nfe)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_parallel_by_confidence_fills_the_surest_targets_first(steps):
    table = ConditionalTable(length=6, seed=4)
    order = Order(torch.tensor([[4, 2, 0, 5, 1, 3]]), 2)
    ids = torch.tensor([[1, 1, 2, 1, 0, 1]])
    gumbel = HashedRandomness(torch.tensor([0])).gumbel(order.rank, 3)[0]  # of each position
    known, left = {4: 0, 2: 2}, [0, 5, 1, 3]
    for step in range(steps):
        distributions = {i: table.conditional(i, known).softmax(0) for i in left}
        drawn = {i: int((distributions[i].log() + gumbel[i]).argmax()) for i in left}
        by_confidence = sorted((-distributions[i][drawn[i]], i) for i in left)
        surest = [i for _, i in by_confidence[: math.ceil(len(left) / (steps - step))]]
        known |= {i: drawn[i] for i in surest}
        left = [i for i in left if i not in surest]
    options = {"sampler": "parallel", "by": "confidence", "verifier": "gumbel"}
    found = sample(table, ids, order, steps=steps, **options)
    assert found.tokens[0].tolist() == [known[i] for i in range(6)]
