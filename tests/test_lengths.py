"""The posterior of lengths: exact evidence where it is exact, unbiased where it is estimated."""

import math
from collections import Counter
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from fakes import ConditionalTable, small_model
from hypothesis import given
from hypothesis import strategies as st

from asarm import Order, log_prob
from asarm.codec import Codec
from asarm.distribution import Allowed
from asarm.infilling import length as lengths_module
from asarm.infilling import posterior as posterior_module
from asarm.infilling.length import (
    POWERS,
    Evidence,
    direct_evidence,
    importance_evidence,
    left_to_right,
    posterior,
)
from asarm.infilling.posterior import LengthPosterior, choose_lengths
from asarm.infilling.prior import length_prior
from asarm.infilling.template import Template, collate, split_at_marker
from asarm.infilling.token_healing import Edge, Part
from asarm.loading import load_tokenizer

TOKENIZER = load_tokenizer("demo")
CODEC = Codec(TOKENIZER)


def template_of(*ids, vocab_size=60, any=None, first=None, last=None, is_extra=False):
    """Parts from their ids; what any, the first and the last piece of a gap may be (all if None).

    Args:
        is_extra: the gaps take in the first piece of the part behind them.
    """
    every = torch.ones(vocab_size, dtype=torch.bool)
    any, first, last = (every if table is None else table for table in (any, first, last))
    parts = [
        Part("part", own, Edge(last, is_extra=is_extra and n > 0), Edge(first))
        for n, own in enumerate(ids)
    ]
    return Template(SimpleNamespace(fillable=any), parts)


THREE_GAPS = template_of([11, 12, 13], [21, 22], [31], [41, 42, 43])
LENGTHS = torch.tensor([[1, 1, 1], [3, 1, 2], [1, 4, 1], [2, 2, 5], [3, 1, 1]])


def unseen_gaps(template, lengths, first):
    """log p(what follows gap `first` | what is before it): an order whose last ranks are gaps."""
    ids = list(template.parts[0].ids)
    for part, length in zip(template.parts[1:], lengths, strict=True):
        ids += [50] * length + part.ids  # whatever stands there
    ids = torch.tensor(ids)
    text, gaps = (ids != 50).nonzero()[:, 0], (ids == 50).nonzero()[:, 0]
    num_prompt = sum(len(part.ids) for part in template.parts[: first + 1])
    order = Order(torch.cat([text, gaps])[None], num_prompt)
    return ids, order, text[num_prompt:]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
@pytest.mark.parametrize("first", [0, 1, 2])
def test_direct_evidence_is_the_density_of_an_order_that_ends_with_the_gaps(first, batch_size):
    model = small_model()
    found = direct_evidence(model, THREE_GAPS, LENGTHS, first=first, batch_size=batch_size)
    for c, lengths in enumerate(LENGTHS.tolist()):
        ids, order, after = unseen_gaps(THREE_GAPS, lengths, first)
        expected = log_prob(model, ids[None], order)[0, after].sum()
        assert float(found.log_probs[c]) == pytest.approx(float(expected), abs=1e-9)
    assert len({round(float(x), 6) for x in found.log_probs}) == len(LENGTHS)


def counted(model, monkeypatch):
    """The rows of all calls of a model."""
    rows, forward = [], model.forward

    def counting(content, query, cache=None):
        rows.append(int((content.limits > 0).sum() + (query.limits > 0).sum()))
        return forward(content, query, cache)

    monkeypatch.setattr(model, "forward", counting)
    return rows


def test_rows_are_those_that_go_through_the_network(monkeypatch):
    model = small_model()
    rows = counted(model, monkeypatch)
    assert direct_evidence(model, THREE_GAPS, LENGTHS, first=1, batch_size=2).rows == sum(rows)
    assert len(rows) == 3
    rows.clear()
    same_size = torch.tensor([[1, 2, 1], [2, 1, 1]])  # no padding, which the network sees too
    found = importance_evidence(model, THREE_GAPS, same_size, num_fills=2)
    assert found.rows == sum(rows)


@pytest.mark.parametrize("first_part", [[], [11]])
def test_text_without_anything_behind_its_gap_says_nothing(first_part):
    found = direct_evidence(small_model(), template_of(first_part, []), LENGTHS[:, :1])
    assert torch.equal(found.log_probs, torch.zeros(len(LENGTHS)).double()) and found.rows == 0


# --- importance weights ---


class Table(ConditionalTable):
    """Serves shorter sequences too."""

    def new_cache(self, batch, length):
        return super().new_cache(batch, self.length)


class JointTable(Table):
    """Conditionals that are those of one joint over all sequences, whatever is seen of it."""

    def __init__(self, *, length, vocab_size=3, seed=0):
        super().__init__(length=length, vocab_size=vocab_size, seed=seed)
        every = torch.cartesian_prod(*[torch.arange(vocab_size)] * length)  # (V**L, L)
        rng = torch.Generator().manual_seed(seed)
        self.joint = torch.rand(len(every), generator=rng, dtype=torch.float64) ** 3 + 0.01
        self.every = every
        for digits in product(range(vocab_size + 1), repeat=length):
            seen = {i: digit - 1 for i, digit in enumerate(digits) if digit}
            weights = self.joint * self.agrees(seen)
            code = sum(digit * int(self.places[i]) for i, digit in enumerate(digits))
            for position in set(range(length)) - set(seen):
                distribution = torch.bincount(every[:, position], weights, minlength=vocab_size)
                self.table[position, code] = (distribution / distribution.sum()).log()

    def agrees(self, seen):
        return torch.stack(
            [self.every[:, i] == token for i, token in seen.items()]
            or [torch.ones(len(self.every), dtype=torch.bool)]
        ).all(0)

    def log_marginal(self, seen):
        return math.log(self.joint[self.agrees(seen)].sum())


def small(*ids, **edges):
    return template_of(*ids, vocab_size=3, **edges)


FIRST, LAST, ANY = torch.tensor([[False, True, True], [True, True, False], [True, False, True]])
FREE = small([1], [0, 2])
FEW = small([1], [0, 2], any=ANY, first=FIRST)
FEW_AND_EXTRA = small([1], [0, 2], any=ANY, first=FIRST, last=LAST, is_extra=True)


@pytest.mark.parametrize("template", [FREE, small([], [0, 2]), small([2, 1], [1])])
def test_with_one_joint_both_are_exact(template):
    model, lengths = JointTable(length=5), torch.tensor([[1], [2]])
    direct = direct_evidence(model, template, lengths)
    weights = importance_evidence(model, template, lengths, num_fills=3)
    before, after = (part.ids for part in template.parts)
    for c, m in enumerate([1, 2]):
        seen = dict(enumerate(before))
        following = {len(before) + m + i: token for i, token in enumerate(after)}
        expected = model.log_marginal(seen | following) - model.log_marginal(seen)
        assert float(direct.log_probs[c]) == pytest.approx(expected, abs=1e-9)
        assert float(weights.log_probs[c]) == pytest.approx(expected, abs=1e-9)
    assert abs(float(direct.log_probs.diff())) > 1e-3


def enumerated(model, template, lengths, monkeypatch):
    """The mean of the weight, over all fillings that `sample` may give."""
    ids, allowed, order = collate([template.with_gaps(template.sizes(lengths))])
    fillings = [range(model.vocab_size)] * int(order.num_targets)
    mean = 0.0
    for filling in product(*fillings):
        filled = ids.masked_scatter(order.is_target, torch.tensor(filling))
        log_probs = log_prob(model, filled, order, allowed=allowed)
        if log_probs.isinf().any():
            continue
        drawn = SimpleNamespace(tokens=filled, log_probs=log_probs, rows=torch.tensor([0]))
        monkeypatch.setattr(lengths_module, "sample", lambda *_, drawn=drawn, **__: drawn)
        weight = importance_evidence(model, template, torch.tensor([lengths]), num_fills=1)
        mean += math.exp(log_probs.sum() + weight.log_probs)
    return mean


def left_to_right_mean(model, template, lengths):
    """The sum over all allowed fillings of p(filling and what follows | what stands before)."""
    ids, allowed, order = collate([template.with_gaps(template.sizes(lengths))])
    every = torch.cartesian_prod(*[torch.arange(model.vocab_size)] * int(order.num_targets))
    every = every.view(-1, int(order.num_targets))
    filled = ids.repeat(len(every), 1)
    filled[:, order.is_target[0]] = every
    wide = Allowed(allowed.tables, allowed.kinds.expand(len(every), -1))
    onward = left_to_right(order, len(template.parts[0].ids))[[0] * len(every)]
    is_allowed = log_prob(model, filled, onward, allowed=wide).sum(1).isfinite()
    return float(log_prob(model, filled, onward).sum(1).exp()[is_allowed].sum())


@pytest.mark.parametrize("template", [FREE, FEW, FEW_AND_EXTRA], ids=["free", "few", "extra"])
@pytest.mark.parametrize("lengths", [[1], [2], [3]])
def test_the_mean_weight_is_unbiased_whatever_the_conditionals(lengths, template, monkeypatch):
    model = Table(length=6, seed=4)
    expected = left_to_right_mean(model, template, lengths)
    found = enumerated(model, template, lengths, monkeypatch)
    assert found == pytest.approx(expected, rel=1e-9)
    direct = direct_evidence(model, template, torch.tensor([lengths]))
    assert math.exp(direct.log_probs) != pytest.approx(expected, rel=1e-3)  # no joint: they differ


@pytest.mark.slow
def test_the_mean_of_many_real_weights_comes_near():
    template = small([1], [0, 2], any=ANY)  # whose weights do not differ by much
    model, lengths = Table(length=6, seed=4), torch.tensor([[1], [2]])
    few = importance_evidence(model, template, lengths, num_fills=2)
    many = importance_evidence(model, template, lengths, num_fills=20_000, batch_size=20_000)
    expected = [left_to_right_mean(model, template, [m]) for m in (1, 2)]
    assert many.log_probs.exp().tolist() == pytest.approx(expected, rel=0.05)
    assert few.log_probs.exp().tolist() != pytest.approx(expected, rel=0.01)


def test_importance_weights_depend_on_their_seed_and_on_no_batch():
    model, options = small_model(), {"num_fills": 3}
    found = importance_evidence(model, THREE_GAPS, LENGTHS, **options)
    for batch_size in (1, 4, 100):
        other = importance_evidence(model, THREE_GAPS, LENGTHS, batch_size=batch_size, **options)
        torch.testing.assert_close(other.log_probs, found.log_probs)
        assert other.rows == found.rows
    other = importance_evidence(model, THREE_GAPS, LENGTHS, seed=1, **options)
    assert (other.log_probs - found.log_probs).abs().min() > 1e-6


# --- posterior ---


def test_posterior_is_bayes_rule_with_a_tempered_evidence():
    prior, evidence = torch.tensor([0.2, 0.5, 0.3]).double(), torch.tensor([-3.0, -7, -2])
    for power in (1.0, 0.25):
        found = posterior(prior.log(), evidence, power).exp()
        weights = prior * evidence.double().exp() ** power
        torch.testing.assert_close(found, weights / weights.sum())
        torch.testing.assert_close(posterior(prior.log(), evidence - 5000, power).exp(), found)
    torch.testing.assert_close(posterior(prior.log(), evidence, 0.0).exp(), prior)


log_weights = st.lists(st.floats(-12, 0), min_size=1, max_size=8)


@given(log_weights, st.integers(1, 60), st.integers(0, 2**40))
def test_lengths_come_as_often_as_they_should(weights, count, seed):
    log_probs = torch.tensor(weights).double().log_softmax(0)
    own = LengthPosterior(torch.arange(len(weights))[:, None] + 1, log_probs, [], 0)
    drawn = own.draw(count, seed)
    assert drawn == own.draw(count, seed)
    times = Counter(lengths[0] for lengths, _ in drawn)
    for c, log_p in enumerate(log_probs.tolist()):
        assert abs(times[c + 1] - count * math.exp(log_p)) < 1 + 1e-9
    assert all(log_p == float(log_probs[lengths[0] - 1]) for lengths, log_p in drawn)


def test_which_lengths_are_drawn_hangs_on_the_seed():
    own = LengthPosterior(torch.arange(9)[:, None], torch.full((9,), 1 / 9).double().log(), [], 0)
    assert len({own.draw(1, seed)[0][0][0] for seed in range(60)}) == 9


# --- the choice ---


def choose(text, asked, model=None, **options):
    template = Template.of(CODEC, split_at_marker(text, "___"), closed=options.pop("closed", True))
    return choose_lengths(model, template, asked, **{"evidence": "direct", **options})


def tell(monkeypatch, says):
    """Evidence whose power is as `says` has it of lengths (C, G); what it was asked is noted."""
    asked = []

    def evidence(model, template, lengths, *, first=0):
        asked.append((len(template.parts), lengths.shape[1], first))
        said = torch.tensor([float(says(row)) for row in lengths.tolist()]) / POWERS["direct"]
        return Evidence(said, len(lengths))

    monkeypatch.setattr(posterior_module, "direct_evidence", evidence)
    return asked


def test_known_lengths_cost_nothing():
    found = choose("a ___ b ___ c", [(3, 3), (5, 5)])  # there is no model to ask
    assert found.lengths.tolist() == [[3, 5]] and found.rows == 0
    assert found.log_probs.tolist() == [0] and found.by_gap == [{3: 0.0}, {5: 0.0}]


def test_one_gap_has_bayes_posterior(monkeypatch):
    tell(monkeypatch, lambda row: -2.0 * abs(row[0] - 4))
    found = choose("a ___ b", [(2, 9)])
    evidence = torch.tensor([-2.0 * abs(m - 4) for m in range(2, 10)])
    expected = posterior(length_prior(TOKENIZER, 2, 9).log(), evidence, 1.0)
    assert found.by_gap[0] == pytest.approx(dict(zip(range(2, 10), expected.tolist(), strict=True)))
    assert found.log_probs.tolist() == pytest.approx(expected.sort(descending=True)[0].tolist())
    assert sorted(found.lengths[:, 0].tolist()) == [*range(2, 10)]
    assert found.rows == 8
    assert float(found.log_probs.exp().sum()) == pytest.approx(1)


@pytest.mark.parametrize("says", ["nothing behind it", "little"])
def test_weak_evidence_takes_the_priors_mean(monkeypatch, says):
    prior = length_prior(TOKENIZER, 1, 12)
    mean = round(float((prior * torch.arange(1, 13)).sum()))
    if says == "little":
        tell(monkeypatch, lambda row: 0.3 * (row[0] == 12))
        found = choose("a ___ b", [(1, 12)])
    else:
        found = choose("a ___", [(1, 12)], small_model(vocab_size=8192, d_model=16), closed=False)
        assert found.by_gap[0] == pytest.approx(
            dict(zip(range(1, 13), prior.log().tolist(), strict=True))
        )
    assert found.lengths.tolist() == [[mean]]
    assert found.log_probs.tolist() == pytest.approx([found.by_gap[0][mean]])


def test_several_gaps_are_weighed_together(monkeypatch):
    """Each by itself says little of the other; together they want the same length."""
    asked = tell(
        monkeypatch,
        lambda row: -3.0 * abs(row[0] - 3) if len(row) == 1 else -3.0 * abs(row[0] - row[1]),
    )
    found = choose("a ___ b ___ c", [(1, 9), (1, 9)])
    assert asked == [(2, 1, 0), (3, 2, 1), (3, 2, 0)]
    assert found.lengths.shape == (16, 2) and found.rows == 9 + 9 + 16
    priors = [length_prior(TOKENIZER, 1, 9).log()] * 2
    expected = [
        float(priors[0][a - 1] + priors[1][b - 1]) - 3.0 * abs(a - b)
        for a, b in found.lengths.tolist()
    ]
    torch.testing.assert_close(found.log_probs, torch.tensor(expected).double().log_softmax(0))


def test_a_known_gap_beside_an_unknown_one_is_passed_over(monkeypatch):
    asked = tell(monkeypatch, lambda row: -2.0 * abs(row[1] - 4) - 10 * (row[0] != 2))
    found = choose("a ___ b ___ c ___ d ___ e", [(2, 2), (1, 8), (3, 3), (1, 8)])
    assert asked[0] == (4, 3, 1)  # up to the next gap of unknown length
    assert asked[1][0] == 5 and asked[1][2] == 3
    assert set(found.lengths[:, 0].tolist()) == {2} and set(found.lengths[:, 2].tolist()) == {3}
    assert found.by_gap[0] == {2: 0.0}


def test_many_gaps_have_few_combinations(monkeypatch):
    tell(monkeypatch, lambda row: -2.0 * abs(row[-1] - 4))
    found = choose("a ___ b ___ c ___ d ___ e ___ f ___ g", [(1, 8)] * 6)
    assert found.lengths.shape == (64, 6)
    assert float(found.log_probs.exp().sum()) == pytest.approx(1)
    found = choose(" ".join(["___ a"] * 8), [(1, 8)] * 8)
    assert found.lengths.shape == (1, 8)


@pytest.mark.parametrize("evidence", ["direct", "importance"])
def test_a_network_weighs_two_gaps(evidence):
    model = small_model(vocab_size=8192, d_model=16, n_head=2, d_inner=32, std=1.5, seed=1)
    text = "The ship ___ the harbour ___ of June."
    found = choose(text, [(1, 5), (1, 5)], model, evidence=evidence)
    again = choose(text, [(1, 5), (1, 5)], model, evidence=evidence)
    assert torch.equal(found.log_probs, again.log_probs) and found.rows == again.rows > 0
    template = Template.of(CODEC, split_at_marker(text, "___"), closed=True)
    prior = length_prior(TOKENIZER, 1, 5).log()
    sums = prior[found.lengths - 1].sum(1)
    if evidence == "direct":
        expected = direct_evidence(model, template, found.lengths).log_probs
    else:
        expected = importance_evidence(model, template, found.lengths).log_probs
    assert found.lengths.shape == (16, 2)
    torch.testing.assert_close(found.log_probs, posterior(sums, expected, POWERS[evidence]))


def test_far_text_is_not_weighed(monkeypatch):
    seen = []

    def evidence(model, template, lengths, *, first=0):
        seen.append([len(part.ids) for part in template.parts])
        return Evidence(torch.zeros(len(lengths)), 0)

    monkeypatch.setattr(posterior_module, "direct_evidence", evidence)
    choose("word " * 900 + "___ between___" + " word" * 900, [(1, 3), (1, 3)])
    assert seen[0] == [posterior_module.LEFT, 1] and seen[1] == [
        posterior_module.LEFT,
        1,
        posterior_module.RIGHT,
    ]
