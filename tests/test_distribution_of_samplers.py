"""What samplers give, summed over every random outcome: the sequential joint distribution."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from covering import covering
from fakes import ConditionalTable, randomize, small_model

from asarm import Order
from asarm.density import joint_log_probs
from asarm.distribution import Allowed, Distribution
from asarm.drafting.drafters import Drafts, HeadDrafter, neighbours
from asarm.drafting.head import DraftHead, DraftHeadConfig, Seen
from asarm.sampling import OnePass, has_option, lossless_names, sampler_of
from asarm.sampling.api import prepare
from asarm.sampling.cost import GRID, Costs
from asarm.sampling.lengths import AutoLength
from asarm.sampling.rounds import Decoding
from asarm.sampling.verify import BlockVerifier, RejectionVerifier

LENGTH = 6
IDS = torch.tensor([[2, 0, 1, 1, 2, 0]])  # what is given where a position is prompt
LOSSLESS = lossless_names()
DRAFTING = [name for name in LOSSLESS if has_option(name, "k")]
PLAIN = [name for name in LOSSLESS if name not in DRAFTING]
TEST_OPTIONS = {"stride": 1}  # of the samplers that have them: rows for every outcome

# order, num_prompt, length: 4 targets each
ORDERS = {
    "ascending": ([0, 3, 1, 2, 4, 5], 2, 6),
    "permuted": ([2, 4, 5, 0, 3, 1], 2, 6),
    "backwards": ([4, 5, 3, 2, 1, 0], 2, 6),
    "padded": ([1, 4, 3, 0, 2, 5], 1, 5),
    "empty prompt": ([1, 3, 0, 2, 4, 5], 0, 4),
}
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "draft_temperature": {"draft_temperature": 2.5},
    "top_k": {"top_k": 2},
    "top_p": {"top_p": 0.7},
    "all": {"temperature": 1.4, "draft_temperature": 0.5, "top_k": 2, "top_p": 0.9},
}
FILTERS = [name for name in OPTIONS if name != "draft_temperature"]
FAKES = {
    "no mask": ConditionalTable(length=LENGTH),
    "mask inside": ConditionalTable(length=LENGTH, vocab_size=4, mask_token_id=3, seed=1),
}
VERIFIERS = pytest.mark.parametrize("verifier", [RejectionVerifier, BlockVerifier])
KINDS = [0, 1, 1, 0, 2, 2]  # of the positions; what is given at position 2 is not of its kind
KEPT = [{0, 1, 2, 3}, {0, 2}, {1, 3}]  # the tokens of each kind, 3 being <mask> or beyond


class EnumeratingRandomness:
    """Row b takes the outcomes of script b, and then the first possible one at every turn.

    `probability` is that of each row's path; `unexplored` are scripts for the turns not taken.
    """

    def __init__(self, scripts: list[list[int]]):
        self.scripts, self.turn = [list(script) for script in scripts], [0] * len(scripts)
        self.probability = [1.0] * len(scripts)
        self.unexplored: list[list[int]] = []

    def select(self, sequences):
        """A view: what rows of those that are left take is noted here."""
        return Selected(self, sequences.tolist())

    def take(self, b: int, probs: list[float]) -> int:
        script, turn = self.scripts[b], self.turn[b]
        if turn == len(script):
            first, *others = (outcome for outcome, prob in enumerate(probs) if prob > 0)
            self.unexplored += [[*script, other] for other in others]
            script.append(first)
        self.turn[b] += 1
        self.probability[b] *= probs[script[turn]]
        return script[turn]

    def categorical(self, probs, ranks, purpose, round, needed):
        distributions, tokens = probs.tolist(), torch.zeros_like(ranks).tolist()
        for b, j in needed.nonzero().tolist():
            tokens[b][j] = self.take(b, distributions[b][j])
        return torch.tensor(tokens, dtype=torch.long).view(ranks.shape)

    def bernoulli(self, prob, ranks, round, needed):
        yes, answers = prob.clamp(0, 1).tolist(), torch.zeros_like(needed).tolist()
        stopped = set()
        for b, j in needed.nonzero().tolist():
            if b not in stopped:
                answers[b][j] = self.take(b, [1 - yes[b][j], yes[b][j]]) == 1
                stopped |= set() if answers[b][j] else {b}
        return torch.tensor(answers, dtype=torch.bool).view(needed.shape)


class Selected(EnumeratingRandomness):
    """Some rows of another one."""

    def __init__(self, whole, rows):
        self.whole, self.chosen = whole, rows

    def take(self, b, probs):
        return self.whole.take(self.chosen[b], probs)


def allowed_tokens(model, batch):
    kept = [[token in tokens for token in range(model.vocab_size)] for tokens in KEPT]
    return Allowed(torch.tensor(kept), torch.tensor(KINDS).expand(batch, -1))


def output_distribution(
    model,
    order,
    method,
    *,
    verifier=BlockVerifier,
    restricted=False,
    drafter=None,
    lengths=None,
    temperature=1.0,
    top_k=None,
    top_p=None,
    **options,
):
    """Probability of every text that a sampler can give, over all its paths: rows of a batch."""
    target = Distribution(model.mask_token_id, temperature, top_k, top_p)
    sampler = sampler_of(method, **TEST_OPTIONS | options)
    probability, scripts = Counter(), [[]]
    while scripts:
        randomness = EnumeratingRandomness(scripts)
        ids, orders = IDS.expand(len(scripts), -1), order[[0] * len(scripts)]
        allowed = allowed_tokens(model, len(ids)) if restricted else None
        net, state = prepare(
            model, ids, orders, sampler, randomness, target=target, allowed=allowed
        )
        if not options.get("tolerance"):
            net = replace(net, verifier=verifier(randomness))
        net = replace(net, drafter=drafter or net.drafter, lengths=lengths or net.lengths)
        state = Decoding(sampler, net, state).run()
        assert (state.nfe <= order.num_targets).all()
        texts = state.by_position(ids, orders)[0].tolist()
        for text, weight in zip(texts, randomness.probability, strict=True):
            probability[tuple(text)] += weight
        scripts = randomness.unexplored
    return probability


def plain_distribution(logits, removed, temperature=1.0, top_k=None, top_p=1.0):
    """Token probabilities, filtered step by step in plain Python."""
    weights = [math.exp(score / temperature) for score in logits]
    weights = [0.0 if token in removed else w for token, w in enumerate(weights)]
    likely = sorted(range(len(weights)), key=lambda token: -weights[token])[:top_k]
    total, reached, kept = sum(weights[token] for token in likely), 0.0, {}
    for token in likely:
        if reached < top_p:
            kept[token] = weights[token]
        reached += weights[token] / total
    return {token: w / sum(kept.values()) for token, w in kept.items() if w > 0}


def sequential_joint(model, order, restricted=False, **options):
    """Probability of every text, rank after rank from the conditionals themselves."""
    ranks = order.order[0].tolist()[: int(order.length)]
    prompt, targets = ranks[: int(order.num_prompt)], ranks[int(order.num_prompt) :]
    texts = [({position: int(IDS[0, position]) for position in prompt}, 1.0)]
    for position in targets:
        forbidden = {0, 1, 2, 3} - KEPT[KINDS[position]] if restricted else set()
        texts = [
            (seen | {position: token}, weight * prob)
            for seen, weight in texts
            for token, prob in plain_distribution(
                model.conditional(position, seen).tolist(),
                forbidden | {model.mask_token_id},
                **options,
            ).items()
        ]
    given = dict(enumerate(IDS[0].tolist()))
    return {tuple((given | seen).values()): weight for seen, weight in texts}


def make_order(name, targets=4):
    order, num_prompt, length = ORDERS[name]
    return Order(torch.tensor([order]), num_prompt + 4 - targets, length)


@cache
def expected_distribution(fake, order, options, targets=4, restricted=False):
    options = {name: value for name, value in OPTIONS[options].items() if "draft" not in name}
    return sequential_joint(FAKES[fake], make_order(order, targets), restricted, **options)


def error(fake, order, options, method, *, targets=4, restricted=False, **how):
    """How far the distribution of a sampler is from the sequential joint, at the worst text."""
    expected = expected_distribution(fake, order, options, targets, restricted)
    asked = make_order(order, targets)
    filters = OPTIONS[options]
    found = output_distribution(FAKES[fake], asked, method, restricted=restricted, **filters, **how)
    assert sum(expected.values()) == pytest.approx(1, abs=1e-9)
    assert sum(found.values()) == pytest.approx(1, abs=1e-9)
    return max(abs(found[text] - expected.get(text, 0)) for text in found | expected)


@covering(2, method=PLAIN, options=FILTERS, order=ORDERS, fake=FAKES, restricted=[False, True])
def test_the_sequential_joint_of_plain_python(method, options, order, fake, restricted):
    assert error(fake, order, options, method, restricted=restricted) < 1e-9


@covering(
    3,
    method=DRAFTING,
    k=[1, 2, 3],
    options=OPTIONS,
    order=ORDERS,
    fake=FAKES,
    restricted=[False, True],
    targets=[3, 4],
)
def test_every_sampler_has_this_distribution(method, k, options, order, fake, restricted, targets):
    """Orders and prompts, filters, <mask> in the vocabulary or beyond, allowed tokens; one round of
    three drafts for three targets, and drafts that are more than what is left."""
    how = {"restricted": restricted, "targets": targets, "k": k}
    assert error(fake, order, options, method, **how) < 1e-9


@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize(("k", "stride"), [(1, 2), (2, 2), (3, 2), (3, 9)])
def test_rows_that_saw_fewer_of_the_drafts(k, stride, options):
    assert error("no mask", "permuted", options, "onepass", k=k, stride=stride) < 1e-9


def test_parallel_has_this_distribution_only_with_a_call_for_every_target():
    assert error("no mask", "permuted", "plain", "parallel", steps=4, by="order") < 1e-9
    assert error("no mask", "permuted", "plain", "parallel", steps=2, by="order") > 0.01


def test_tolerance_loses_this_distribution():
    assert error("no mask", "permuted", "plain", "assd", k=2, tolerance=0.3) > 0.001


# --- positions that may hold some tokens only ---


@pytest.mark.parametrize("order", ORDERS)
def test_parallel_has_the_distribution_of_allowed_tokens_only_with_a_call_for_every_target(order):
    call = {"restricted": True, "by": "order"}
    assert error("no mask", order, "plain", "parallel", steps=4, **call) < 1e-9
    assert error("no mask", order, "plain", "parallel", steps=1, **call) > 0.001


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *(("parallel", {"steps": s, "by": b}) for s in (1, 2) for b in ("order", "confidence")),
        ("assd", {"k": 2, "tolerance": 0.3}),
        ("onepass", {"k": 2, "tolerance": 0.3}),
        ("ngram", {"k": 2, "tolerance": 0.3}),
    ],
)
def test_lossy_samplers_never_give_what_is_not_allowed_either(method, options):
    for order in ORDERS:
        asked = make_order(order)
        model = FAKES["mask inside"]
        found = output_distribution(model, asked, method, restricted=True, **options)
        targets = asked.is_target[0].nonzero()[:, 0].tolist()
        assert all(text[i] in KEPT[KINDS[i]] - {3} for text in found for i in targets)
        assert sum(found.values()) == pytest.approx(1, abs=1e-9)


# --- as many drafts as pay ---


class Capricious(AutoLength):
    """1 to 3 drafts, by the rate at which earlier ones were accepted."""

    def __init__(self):
        super().__init__(OnePass().work_by_length(), Costs(1, 0, 0), torch.device("cpu"))
        self.best = 1 + torch.arange(GRID) * 7 % 3
        self.lengths = set()

    def __call__(self, state):
        found = super().__call__(state)
        self.lengths |= set(found.tolist())
        return found


@covering(
    2,
    method=DRAFTING,
    verifier=[RejectionVerifier, BlockVerifier],
    options=["plain", "draft_temperature", "all"],
    order=["permuted", "ascending", "empty prompt"],
)
def test_as_many_drafts_as_earlier_ones_suggest(method, order, options, verifier):
    """The number of drafts follows from the outcome of earlier ones; the distribution does not."""
    lengths = Capricious()
    how = {"stride": 9}  # of onepass
    found = error("no mask", order, options, method, lengths=lengths, verifier=verifier, **how)
    assert found < 1e-9
    assert len(lengths.lengths) > 1


# --- drafts that depend on one another ---

OFFSETS = torch.tensor([-1, 1])


class TableDrafter:
    """Changes the row's distribution at random by the tokens on either side, and `twists` it.

    As a head does it: a neighbour that was committed since, or drafted just now, counts.
    """

    def __init__(self, twist=lambda probs: probs, seed: int = 0, gives: str = "what it draws from"):
        rng = torch.Generator().manual_seed(seed)
        self.table = 2 * torch.randn(LENGTH, 12, 12, 4, generator=rng, dtype=torch.float64)
        self.twist, self.gives = twist, gives

    def __call__(self, request):
        logits, tokens = request.logits(), request.tokens.clone()
        beside, seen = neighbours(request, OFFSETS)  # (B, K, N)
        drawn, probs = [], []
        for step in range(request.size):
            rank = request.ranks(step)
            known = tokens.gather(1, beside[:, step]).where(seen[:, step] == Seen.BY_HEAD, 0)
            left, right = (4 * seen[:, step] + known).unbind(1)
            places = request.positions.gather(1, rank)[:, 0]

            def changed_by(left, step=step, places=places, right=right):
                return logits[:, step] + self.table[places, left, right][:, : logits.shape[-1]]

            own = self.twist(request.probs(changed_by(left)[:, None], rank, tokens))
            drawn.append(request.draw(own, rank))
            tokens.scatter_(1, rank, drawn[-1])
            if self.gives == "the distribution of another neighbour":
                own = request.probs(changed_by((left + 1) % 12)[:, None], rank, tokens)
            if self.gives == "the row's own distribution":
                own = request.probs(logits[:, step, None].clone(), rank, tokens)
            probs.append(own)
        return Drafts.of_steps(drawn, probs, request.count, request)


def without_its_best(distribution):
    """Nothing where the distribution has most, unless that is all."""
    cut = distribution.scatter(-1, distribution.argmax(-1, keepdim=True), 0)
    total = cut.sum(-1, keepdim=True)
    return torch.where(total > 0, cut / total, distribution)


def sure_of_its_worst(distribution):
    """The least probable token of those that can be, and no other."""
    worst = distribution.where(distribution > 0, 2).argmin(-1, keepdim=True)
    return torch.zeros_like(distribution).scatter(-1, worst, 1)


def sure_of_what_cannot_be(distribution):
    """A token that the distribution excludes, where there is one."""
    return torch.zeros_like(distribution).scatter(-1, distribution.argmin(-1, keepdim=True), 1)


TWISTS = {
    "dependent": lambda distribution: distribution,
    "zeros": without_its_best,
    "sure and wrong": sure_of_its_worst,
    "impossible": sure_of_what_cannot_be,
}


@covering(
    3,
    method=["assd", "onepass"],
    k=[1, 2, 3],
    verifier=[RejectionVerifier, BlockVerifier],
    twist=TWISTS,
    options=["plain", "draft_temperature", "all"],
    order=ORDERS,
    fake=FAKES,
    restricted=[False, True],
)
def test_dependent_drafts(method, k, verifier, twist, options, order, fake, restricted):
    """Four targets, and three where three drafts may take every filter's outcomes."""
    how = {"targets": 3 if k == 3 else 4, "verifier": verifier, "restricted": restricted}
    how["drafter"] = TableDrafter(TWISTS[twist], seed=len(order))
    assert error(fake, order, options, method, k=k, **how) < 1e-9


@VERIFIERS
@pytest.mark.parametrize(("k", "stride"), [(2, 2), (2, 9)])
def test_dependent_drafts_of_rows_that_saw_fewer(k, stride, verifier):
    how = {"stride": stride, "verifier": verifier, "drafter": TableDrafter()}
    assert error("no mask", "permuted", "plain", "onepass", k=k, **how) < 1e-9


def test_the_drafts_of_the_table_do_depend_on_one_another():
    """Or the tests above would say nothing: a row has a distribution for each token beside it."""
    drafter, distributions = TableDrafter(), []

    def watching(request):
        drafts = drafter(request)
        if request.state.round_number == 0:  # all paths have the same rows there
            distributions.append(drafts.probs)
        return drafts

    output_distribution(FAKES["no mask"], make_order("backwards"), "assd", k=3, drafter=watching)
    for step in (0, 1):
        one_row = torch.cat(distributions)[:, step].round(decimals=9).unique(dim=0)
        assert len(one_row) == 3
        assert torch.cdist(one_row, one_row, p=1).max() > 0.2


# --- what would be wrong is found out ---


class StaleBlocks(BlockVerifier):
    """Weighs each draft by the distribution of the one before."""

    def accept(self, drafts, target_probs, start, round):
        distributions = torch.cat([drafts.probs[:, :1], drafts.probs[:, :-1]], dim=1)
        return super().accept(replace(drafts, probs=distributions), target_probs, start, round)


@VERIFIERS
@pytest.mark.parametrize(
    "gives", ["the row's own distribution", "the distribution of another neighbour"]
)
@pytest.mark.parametrize("method", ["assd", "onepass"])
def test_drafts_of_another_distribution_than_is_given_lose_this_one(method, gives, verifier):
    how = {"targets": 3, "verifier": verifier, "drafter": TableDrafter(gives=gives)}
    assert error("no mask", "permuted", "plain", method, k=3, **how) > 1e-3


@pytest.mark.parametrize("method", ["assd", "onepass"])
def test_a_block_weighed_by_stale_distributions_loses_this_one(method):
    how = {"targets": 3, "verifier": StaleBlocks, "drafter": TableDrafter()}
    assert error("no mask", "permuted", "plain", method, k=3, **how) > 1e-3


# --- the learned head, with random weights ---


@cache
def headed_model():
    """A network of a few hundred weights with a head that nothing has taught."""
    sizes = {"vocab_size": 3, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}
    model = small_model(**sizes)
    config = DraftHeadConfig(8, hidden=6, rank=3)
    head = DraftHead(config).double().requires_grad_(False)
    randomize(head, seed=5, std=1.0)
    model.set_draft_head(head)
    return model


@cache
def distribution_of_the_network(order, targets, options):
    """Probability of every text: the joint density of each, in one call without a cache."""
    model, asked = headed_model(), make_order(order, targets)
    options = {name: value for name, value in OPTIONS[options].items() if "draft" not in name}
    places = asked.is_target[0].nonzero()[:, 0]
    fillings = torch.cartesian_prod(*[torch.arange(3)] * targets)
    ids = IDS.expand(len(fillings), -1).clone()
    ids[:, places] = fillings
    distribution = Distribution(model.mask_token_id, **options)
    log_probs = joint_log_probs(model, ids, asked[[0] * len(ids)], distribution).sum(1)
    weights = zip(ids.tolist(), log_probs.exp().tolist(), strict=True)
    return {tuple(text): weight for text, weight in weights}


def error_of_head(order, options, method, k, verifier, targets=3):
    expected = distribution_of_the_network(order, targets, options)
    model, asked = headed_model(), make_order(order, targets)
    how = {"k": k, "verifier": verifier, "drafter": HeadDrafter.of(model)}
    with torch.inference_mode():
        found = output_distribution(model, asked, method, **how, **OPTIONS[options])
    assert sum(expected.values()) == pytest.approx(1, abs=1e-9)
    assert sum(found.values()) == pytest.approx(1, abs=1e-9)
    return max(abs(found[text] - expected.get(text, 0)) for text in found | expected)


@covering(
    2,
    method=["assd", "onepass"],
    k=[1, 2, 3],
    verifier=[RejectionVerifier, BlockVerifier],
    options=OPTIONS,
    order=ORDERS,
)
def test_a_head_that_learned_nothing(method, k, verifier, options, order):
    assert error_of_head(order, options, method, k, verifier) < 1e-9


@VERIFIERS
def test_a_head_that_drafts_three_after_another(verifier):
    """Four targets: onepass drafts for those after the one that is committed first."""
    assert error_of_head("ascending", "plain", "onepass", 3, verifier, targets=4) < 1e-9
