"""How many drafts a round is given: what pays, by the outcome of earlier ones."""

from types import SimpleNamespace

import pytest
import torch
from fakes import Uncached, mixed_batch, small_model

from asarm import sample
from asarm.sampling import ASSD, SAMPLERS, NGram, OnePass, calibration, has_option
from asarm.sampling.api import RoundRecorder, prepare
from asarm.sampling.calibration import calibrate
from asarm.sampling.cost import EVENNESS, GRID, MAX_DRAFTS, Costs, best_lengths
from asarm.sampling.lengths import PRIOR, AutoLength
from asarm.sampling.randomness import HashedRandomness
from asarm.sampling.rounds import Decoding

DRAFTING = [name for name in SAMPLERS if has_option(name, "k")]
PLAIN = Costs(call=1.0, row=0.03, draft=0.1)


def best(method, costs):
    return best_lengths(SAMPLERS[method]().work_by_length(), costs)


def time_per_token(method, k, acceptance, costs):
    return SAMPLERS[method]().work(k).time_per_token(acceptance, costs)


@pytest.mark.parametrize("method", DRAFTING)
def test_the_more_is_accepted_the_more_is_drafted(method):
    found = best(method, PLAIN)
    assert found.shape == (GRID,)
    assert (found.diff() >= 0).all() and found[-1] == MAX_DRAFTS
    assert found[0] == (3 if method == "assd" else 1)  # with fewer, assd is sequential
    assert (best(method, Costs(1.0, 0.0, 0.0))[1:].diff() >= 0).all()
    assert (best("onepass", Costs(1.0, 10.0, 0.0))[: GRID // 2] == 1).all()


@pytest.mark.parametrize("method", DRAFTING)
@pytest.mark.parametrize("acceptance", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_time_of_a_token_is_that_of_rounds_played_at_random(method, acceptance, k):
    rng, tokens, rounds = torch.Generator().manual_seed(0), 0, 20_000
    drafts = k - 1 if method == "assd" else k
    if 0 < acceptance < 1:  # of each round: a draw from a Beta distribution of this mean
        a = torch.full((rounds, 1), EVENNESS * acceptance)
        gammas = torch._standard_gamma(torch.stack([a, EVENNESS - a]), generator=rng)
        acceptance_of_round = gammas[0] / gammas.sum(0)
    else:
        acceptance_of_round = torch.full((rounds, 1), acceptance)
    is_accepted = torch.rand(rounds, drafts, generator=rng) < acceptance_of_round
    tokens = rounds + int(is_accepted.long().cumprod(1).sum())
    time = time_per_token(method, k, acceptance, Costs(call=1.0, row=0.0, draft=0.0))
    calls = 2 if method == "assd" and k > 1 else 1
    assert time == pytest.approx(calls * rounds / tokens, rel=0.02)


@pytest.mark.parametrize(
    "sampler",
    [
        *(ASSD(k=k) for k in (1, 2, 4)),
        NGram(k=4, tolerance=1.0),
        *(OnePass(k=k) for k in (1, 4)),
        *(OnePass(k=4, stride=stride) for stride in (1, 3)),
    ],
    ids=repr,
)
def test_calls_and_rows_of_a_round_are_those_of_the_sampler(sampler):
    """All drafts are accepted; texts of two lengths are alike but for rounds in their middle."""
    found = []
    for length in (60, 100):
        ids, order = mixed_batch([length], [20], 60)
        found.append(sample(small_model(std=0.0), ids, order, sampler))
        assert torch.equal(found[-1].accepted, found[-1].drafted)
    work = sampler.work(sampler.k)
    rounds = 40 // (work.drafts + 1)
    assert int(found[1].nfe - found[0].nfe) == rounds * work.calls
    assert int(found[1].rows - found[0].rows) == rounds * work.rows


def test_what_was_accepted_so_far_decides():
    state = SimpleNamespace(accepted=torch.zeros(2).long(), rejected=torch.zeros(2).long())
    length = AutoLength(OnePass().work_by_length(), PLAIN, torch.device("cpu"))
    accepted, rejected = [0, 0], [0, 0]
    for more_accepted, more_rejected in [((0, 0), (0, 0)), ((2, 3), (1, 0)), ((0, 5), (1, 0))]:
        state.accepted += torch.tensor(more_accepted)
        state.rejected += torch.tensor(more_rejected)
        found = length(state)
        for b in range(2):
            accepted[b], rejected[b] = (
                accepted[b] + more_accepted[b],
                rejected[b] + more_rejected[b],
            )
            rate = (accepted[b] + PRIOR[0]) / (accepted[b] + rejected[b] + sum(PRIOR))
            assert found[b] == best("onepass", PLAIN)[round(rate * (GRID - 1))]
    assert found[1] > found[0]


@pytest.mark.parametrize("method", DRAFTING)
def test_a_draft_is_rejected_at_most_once_a_round(method):
    model, (ids, order) = small_model(std=0.3), mixed_batch([40, 31, 12], [2, 9, 3], 60)
    sampler, watch = SAMPLERS[method](k=4), RoundRecorder(3, trace=True, on_round=None)
    net, state = prepare(model, ids, order, sampler, HashedRandomness(torch.arange(3)))
    state = Decoding(sampler, net, state, after_round=watch).run()
    rejected = [sum(not all(r.accepted) for r in rounds) for rounds in watch.trace]
    assert state.rejected.tolist() == rejected and sum(rejected) > 3


@pytest.mark.parametrize("costs", [(0.0, 1.0, 1.0), (1.0, -1.0, 0.0), (1.0, 0.0, float("nan"))])
def test_costs_that_cannot_be_are_refused(costs):
    with pytest.raises(ValueError, match="expected that of a call above 0"):
        Costs(*costs)


def test_recorded_costs_decide_and_give_the_text_again():
    model, (ids, order) = small_model(std=0.3), mixed_batch([40], [2], 60)
    few, many = Costs(1.0, 1.0, 1.0), Costs(1.0, 0.0, 0.0)
    first, second = (sample(model, ids, order, costs=costs, trace=True) for costs in (few, many))
    most = [max(len(r.drafted) for r in found.trace[0]) for found in (first, second)]
    assert most[0] < most[1]
    again = sample(model, ids, order, costs=first.costs)
    assert torch.equal(again.tokens, first.tokens)


def test_calibration_finds_what_calls_rows_and_drafts_take(monkeypatch):
    """On a clock that knows nothing else."""
    clock, true = [0.0], Costs(call=2.0, row=0.05, draft=0.3)

    def counted(*arguments, **options):
        found = sample(*arguments, **options)
        milliseconds = true.call * found.nfe + true.row * found.rows + true.draft * found.drafted
        clock[0] += float(milliseconds) / 1000
        return found

    monkeypatch.setattr(calibration, "sample", counted)
    monkeypatch.setattr(calibration, "perf_counter", lambda: clock[0])
    found = calibrate(small_model(std=0.3), length=80, num_targets=40, repeats=2)
    assert (found.call, found.row, found.draft) == pytest.approx((2.0, 0.05, 0.3))


def test_calibration_needs_no_more_than_a_backbone_has():
    """Such as a padding token, which not every one knows."""
    found = calibrate(Uncached(small_model(std=0.3)), length=40, num_targets=30, repeats=1)
    assert found.call > 0


def test_calibration_on_too_few_targets_is_refused():
    with pytest.raises(ValueError, match="num_targets is 1; .* expected more of them, such as 64"):
        calibrate(small_model(std=0.3), length=20, num_targets=1, repeats=1)
