"""The law of a sampler's output, summed over every random outcome, is the sequential joint."""

import math
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest
import torch
from fakes import ConditionalTable, randomize, small_model

from asarm import Order
from asarm.density import joint_log_probs
from asarm.drafting.head import DraftHead, DraftHeadConfig, Seen
from asarm.distribution import Allowed, Distribution
from asarm.sampling import decode
from asarm.sampling.cost import GRID, Costs
from asarm.sampling.decoding import Decoding
from asarm.sampling.draft import head_draft, neighbours
from asarm.sampling.draft_length import AutoLength
from asarm.sampling.randomness import Purpose
from asarm.drafting.drafters import Drafts
from asarm.sampling.verify import BlockVerifier, RejectionVerifier

LENGTH = 6
IDS = torch.tensor([[2, 0, 1, 1, 2, 0]])  # what is given where a position is prompt
LOSSLESS = ("sequential", "assd", "ngram", "onepass")
METHODS = [("sequential", None), *((method, k) for method in LOSSLESS[1:] for k in (1, 2, 3))]

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
FAKES = {
    "no mask": ConditionalTable(length=LENGTH),
    "mask inside": ConditionalTable(length=LENGTH, vocab_size=4, mask_token_id=3, seed=1),
}
COUPLINGS = pytest.mark.parametrize("coupling", [RejectionVerifier, BlockVerifier])
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
        laws, tokens = probs.tolist(), torch.zeros_like(ranks).tolist()
        for b, j in needed.nonzero().tolist():
            tokens[b][j] = self.take(b, laws[b][j])
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


def output_law(
    model,
    order,
    method,
    *,
    verifier=BlockVerifier,
    slack=0.0,
    restricted=False,
    draft_temperature=None,
    call=None,
    **law,
):
    """Probability of every text that a sampler can give, over all its paths: rows of a batch."""
    law = Distribution(model.mask_token_id, **law)
    draft_law = replace(law, temperature=draft_temperature or law.temperature)
    probability, scripts = Counter(), [[]]
    while scripts:
        randomness = EnumeratingRandomness(scripts)
        verifying = RejectionVerifier(randomness, slack) if slack else coupling(randomness)
        ids, orders = IDS.expand(len(scripts), -1), order[[0] * len(scripts)]
        allowed = allowed_tokens(model, len(ids)) if restricted else None
        decoding = Decoding(model, ids, orders, law, draft_law, verifying, allowed=allowed)
        decode(decoding, method, **(call or {}))
        assert (decoding.nfe <= order.num_targets).all()
        texts = decoding.by_position()[0].tolist()
        for text, weight in zip(texts, randomness.probability, strict=True):
            probability[tuple(text)] += weight
        scripts = randomness.unexplored
    return probability


def plain_law(logits, removed, temperature=1.0, top_k=None, top_p=1.0):
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
            for token, prob in plain_law(
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
def expected_law(fake, order, options, targets=4, restricted=False):
    options = {name: value for name, value in OPTIONS[options].items() if "draft" not in name}
    return sequential_joint(FAKES[fake], make_order(order, targets), restricted, **options)


def error(
    fake,
    order,
    options,
    method,
    *,
    targets=4,
    slack=0.0,
    restricted=False,
    verifier=BlockVerifier,
    **call,
):
    """How far the law of a sampler is from the sequential joint, at the worst text."""
    expected = expected_law(fake, order, options, targets, restricted)
    asked = make_order(order, targets)
    how = {"slack": slack, "restricted": restricted, "verifier": coupling, "call": call}
    found = output_law(FAKES[fake], asked, method, **how, **OPTIONS[options])
    assert sum(expected.values()) == pytest.approx(1, abs=1e-9)
    assert sum(found.values()) == pytest.approx(1, abs=1e-9)
    return max(abs(found[text] - expected.get(text, 0)) for text in found | expected)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_four_targets(method, k, options):
    assert error("no mask", "permuted", options, method, k=k) < 1e-9


@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize(("k", "stride"), [(1, 2), (2, 2), (3, 2), (3, 9)])
def test_rows_that_saw_fewer_of_the_drafts(k, stride, options):
    assert error("no mask", "permuted", options, "onepass", k=k, stride=stride) < 1e-9


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("method", LOSSLESS[1:])
def test_three_targets_three_drafts(method, options):
    assert error("no mask", "permuted", options, method, k=3, targets=3) < 1e-9


@pytest.mark.parametrize("order", [name for name in ORDERS if name != "permuted"])
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_other_orders_and_prompts(method, k, order):
    assert error("no mask", order, "draft_temperature", method, k=k) < 1e-9


@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_mask_token_inside_the_vocabulary(method, k, options):
    assert error("mask inside", "permuted", options, method, k=k) < 1e-9


def test_parallel_has_this_law_only_with_a_call_for_every_target():
    assert error("no mask", "permuted", "plain", "parallel", steps=4, by="order") < 1e-9
    assert error("no mask", "permuted", "plain", "parallel", steps=2, by="order") > 0.01


def test_tolerance_loses_this_law():
    assert error("no mask", "permuted", "plain", "assd", k=2, slack=0.3) > 0.001


# --- positions that may hold some tokens only ---


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("method", "k"), [*METHODS, ("assd", 3), ("ngram", 3), ("onepass", 3)])
def test_allowed_tokens(method, k, options):
    assert error("no mask", "permuted", options, method, restricted=True, k=k) < 1e-9


@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_allowed_tokens_in_other_orders_and_beside_the_mask(method, k, order, fake):
    assert error(fake, order, "all", method, restricted=True, k=k) < 1e-9


@pytest.mark.parametrize("order", ORDERS)
def test_parallel_has_the_law_of_allowed_tokens_only_with_a_call_for_every_target(order):
    call = {"restricted": True, "by": "order"}
    assert error("no mask", order, "plain", "parallel", steps=4, **call) < 1e-9
    assert error("no mask", order, "plain", "parallel", steps=1, **call) > 0.001


@pytest.mark.parametrize(
    ("method", "slack", "call"),
    [
        *(
            ("parallel", 0.0, {"steps": s, "by": b})
            for s in (1, 2)
            for b in ("order", "confidence")
        ),
        ("assd", 0.3, {"k": 2}),
        ("onepass", 0.3, {"k": 2}),
        ("ngram", 0.3, {"k": 2}),
    ],
)
def test_lossy_samplers_never_give_what_is_not_allowed_either(method, slack, call):
    for order in ORDERS:
        asked = make_order(order)
        model = FAKES["mask inside"]
        found = output_law(model, asked, method, slack=slack, restricted=True, call=call)
        targets = asked.is_target[0].nonzero()[:, 0].tolist()
        assert all(text[i] in KEPT[KINDS[i]] - {3} for text in found for i in targets)
        assert sum(found.values()) == pytest.approx(1, abs=1e-9)


# --- as many drafts as pay ---


class Capricious(AutoLength):
    """1 to 3 drafts, by the share of the earlier ones that stood."""

    def __init__(self):
        super().__init__("onepass", Costs(1, 0, 0), torch.device("cpu"))
        self.best = 1 + torch.arange(GRID) * 7 % 3
        self.lengths = set()

    def __call__(self, decoding):
        found = super().__call__(decoding)
        self.lengths |= set(found.tolist())
        return found


@COUPLINGS
@pytest.mark.parametrize("options", ["plain", "draft_temperature", "all"])
@pytest.mark.parametrize("order", ["permuted", "ascending", "empty prompt"])
@pytest.mark.parametrize("method", LOSSLESS[1:])
def test_as_many_drafts_as_earlier_ones_suggest(method, order, options, coupling, monkeypatch):
    """The number of drafts follows from the fate of earlier ones, and changes no law."""
    length = Capricious()
    found = error("no mask", order, options, method, k=length, stride=9, verifier=coupling)
    assert found < 1e-9
    assert len(length.lengths) > 1


# --- drafts that depend on one another ---

OFFSETS = torch.tensor([-1, 1])
DRAFTING = [(method, k) for method in ("assd", "onepass") for k in (1, 2, 3)]


class TableDraft:
    """Changes the row's law at random by what stands on either side, and then `twists` it.

    As a head does it: a neighbour that was committed since, or drafted just now, counts.
    """

    def __init__(self, twist=lambda law: law, seed: int = 0, tells: str = "the law"):
        rng = torch.Generator().manual_seed(seed)
        self.table = 2 * torch.randn(LENGTH, 12, 12, 4, generator=rng, dtype=torch.float64)
        self.twist, self.tells = twist, tells

    def __call__(self, decoding, hidden, start, limit, count):
        logits = decoding.model.logits(hidden)
        tokens, probs = [decoding.tokens[:, :0]], [logits[:, :0]]
        for step in range(hidden.shape[1]):
            is_draft = step < count
            rank = torch.where(is_draft, start + step, decoding.size)[:, None]
            ranks, seen = neighbours(decoding, rank, limit, OFFSETS)
            beside = decoding.tokens.gather(1, ranks[:, 0]).where(seen[:, 0] == Seen.BY_HEAD, 0)
            left, right = (4 * seen[:, 0] + beside).unbind(1)
            change = self.table[decoding.positions.gather(1, rank)[:, 0], left, right]
            scores = logits[:, step] + change[:, : logits.shape[-1]]
            law = self.twist(decoding.draft_probs(scores[:, None], rank))
            token = decoding.coupling.draw(
                law, rank, Purpose.DRAFT, decoding.round, is_draft[:, None]
            )
            decoding.tokens.scatter_(1, rank, token)
            tokens.append(token)
            if self.tells == "the law of another neighbour":
                places = decoding.positions.gather(1, rank)[:, 0], (left + 1) % 12, right
                scores = logits[:, step] + self.table[places][:, : logits.shape[-1]]
            if self.tells != "the law":
                told = scores if "neighbour" in self.tells else logits[:, step].clone()
                law = decoding.draft_probs(told[:, None], rank)
            probs.append(law)
        return Drafts(torch.cat(tokens, dim=1), torch.cat(probs, dim=1), count)


def without_its_best(law):
    """Nothing where the law has most, unless that is all."""
    cut = law.scatter(-1, law.argmax(-1, keepdim=True), 0)
    total = cut.sum(-1, keepdim=True)
    return torch.where(total > 0, cut / total, law)


def sure_of_its_worst(law):
    """The least probable token of those that can be, and no other."""
    worst = law.where(law > 0, 2).argmin(-1, keepdim=True)
    return torch.zeros_like(law).scatter(-1, worst, 1)


def sure_of_what_cannot_be(law):
    """A token that the law excludes, where there is one."""
    return torch.zeros_like(law).scatter(-1, law.argmin(-1, keepdim=True), 1)


TWISTS = {
    "dependent": lambda law: law,
    "zeros": without_its_best,
    "sure and wrong": sure_of_its_worst,
    "impossible": sure_of_what_cannot_be,
}


@COUPLINGS
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("method", "k"), DRAFTING)
def test_dependent_drafts(method, k, options, coupling):
    """Four targets, and three where three drafts may take every filter's outcomes."""
    how = {"targets": 3 if k == 3 else 4, "verifier": coupling, "drafter": TableDraft()}
    assert error("no mask", "permuted", options, method, k=k, **how) < 1e-9


@COUPLINGS
@pytest.mark.parametrize(("k", "stride"), [(2, 2), (2, 9)])
def test_dependent_drafts_of_rows_that_saw_fewer(k, stride, coupling):
    how = {"stride": stride, "verifier": coupling, "drafter": TableDraft()}
    assert error("no mask", "permuted", "plain", "onepass", k=k, **how) < 1e-9


@COUPLINGS
@pytest.mark.parametrize("order", ["ascending", "backwards", "padded", "empty prompt"])
@pytest.mark.parametrize(("method", "k"), [("assd", 3), ("onepass", 2)])
def test_dependent_drafts_in_other_orders(method, k, order, coupling):
    how = {"verifier": coupling, "drafter": TableDraft(seed=1)}
    assert error("no mask", order, "plain", method, k=k, **how) < 1e-9


@COUPLINGS
@pytest.mark.parametrize("twist", [name for name in TWISTS if name != "dependent"])
@pytest.mark.parametrize("options", ["plain", "all"])
@pytest.mark.parametrize(("method", "k"), [("assd", 3), ("onepass", 1), ("onepass", 2)])
def test_drafts_with_zeros_and_drafts_that_are_wrong(method, k, options, twist, coupling):
    how = {"verifier": coupling, "drafter": TableDraft(TWISTS[twist])}
    assert error("no mask", "ascending", options, method, k=k, **how) < 1e-9


@COUPLINGS
@pytest.mark.parametrize("twist", TWISTS)
@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize(("method", "k"), [("assd", 3), ("onepass", 2), ("onepass", 3)])
def test_dependent_drafts_of_allowed_tokens(method, k, fake, twist, coupling):
    how = {"restricted": True, "verifier": coupling, "drafter": TableDraft(TWISTS[twist])}
    assert error(fake, "permuted", "draft_temperature", method, k=k, **how) < 1e-9


def test_the_drafts_of_the_table_do_depend_on_one_another():
    """Or the tests above would say nothing: one row, and a law for each token drafted beside it."""
    draft, laws = TableDraft(), []

    def watching(decoding, *arguments):
        drafts = draft(decoding, *arguments)
        if decoding.round == 0:  # all paths have the same rows there
            laws.append(drafts.probs)
        return drafts

    output_law(FAKES["no mask"], make_order("backwards"), "assd", call={"k": 3, "drafter": watching})
    for step in (0, 1):
        one_row = torch.cat(laws)[:, step].round(decimals=9).unique(dim=0)
        assert len(one_row) == 3
        assert torch.cdist(one_row, one_row, p=1).max() > 0.2


# --- what would be wrong is found out ---


class StaleBlocks(BlockVerifier):
    """Weighs each draft by the law of the one before."""

    def accept(self, drafts, target_probs, start, round):
        laws = torch.cat([drafts.probs[:, :1], drafts.probs[:, :-1]], dim=1)
        return super().accept(replace(drafts, probs=laws), target_probs, start, round)


@COUPLINGS
@pytest.mark.parametrize("tells", ["the row's own law", "the law of another neighbour"])
@pytest.mark.parametrize("method", ["assd", "onepass"])
def test_drafts_of_another_law_than_is_told_lose_this_law(method, tells, coupling):
    how = {"targets": 3, "verifier": coupling, "drafter": TableDraft(tells=tells)}
    assert error("no mask", "permuted", "plain", method, k=3, **how) > 1e-3


@pytest.mark.parametrize("method", ["assd", "onepass"])
def test_a_block_weighed_by_stale_laws_loses_this_law(method):
    how = {"targets": 3, "verifier": StaleBlocks, "drafter": TableDraft()}
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
def law_of_the_network(order, targets, options):
    """Probability of every text: the joint density of each, in one call without a cache."""
    model, asked = headed_model(), make_order(order, targets)
    options = {name: value for name, value in OPTIONS[options].items() if "draft" not in name}
    places = asked.is_target[0].nonzero()[:, 0]
    fillings = torch.cartesian_prod(*[torch.arange(3)] * targets)
    ids = IDS.expand(len(fillings), -1).clone()
    ids[:, places] = fillings
    law = Distribution(model.mask_token_id, **options)
    log_probs = joint_log_probs(model, ids, asked[[0] * len(ids)], law).sum(1)
    weights = zip(ids.tolist(), log_probs.exp().tolist(), strict=True)
    return {tuple(text): weight for text, weight in weights}


def error_of_head(order, options, method, k, coupling, targets=3, drafter=None):
    expected = law_of_the_network(order, targets, options)
    model, asked = headed_model(), make_order(order, targets)
    call = {"k": k, "drafter": draft or head_draft(model)}
    how = {"verifier": coupling, "call": call}
    with torch.inference_mode():
        found = output_law(model, asked, method, **how, **OPTIONS[options])
    assert sum(expected.values()) == pytest.approx(1, abs=1e-9)
    assert sum(found.values()) == pytest.approx(1, abs=1e-9)
    return max(abs(found[text] - expected.get(text, 0)) for text in found | expected)


@COUPLINGS
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("method", "k"), DRAFTING)
def test_a_head_that_learned_nothing(method, k, options, coupling):
    assert error_of_head("ascending", options, method, k, coupling) < 1e-9


@COUPLINGS
@pytest.mark.parametrize("order", [name for name in ORDERS if name != "ascending"])
@pytest.mark.parametrize(("method", "k"), [("assd", 3), ("onepass", 2)])
def test_a_head_in_other_orders(method, k, order, coupling):
    assert error_of_head(order, "plain", method, k, coupling) < 1e-9
