"""With the Gumbel verifier every lossless sampler gives the same text; and the random numbers."""

from copy import deepcopy
from functools import cache

import pytest
import torch
from fakes import mixed_batch, randomize, small_model
from scipy.stats import chi2_contingency, chisquare
from transformers import XLNetConfig

from asarm import AnySubsetTransformer, Order, load, sample
from asarm.corpus import held_out_documents
from asarm.distribution import Allowed, Distribution
from asarm.drafting.head import DraftHead, DraftHeadConfig
from asarm.loading import DEMO
from asarm.rows import joint_rows
from asarm.sampling import sampler_of
from asarm.sampling.randomness import HashedRandomness, Purpose
from asarm.text import encode

METHODS = [(method, k) for method in ("assd", "ngram", "onepass") for k in (1, 2, 5, 16)]
WEIGHTS = DEMO / "model.safetensors"


@cache
def small():
    ids, order = mixed_batch([24, 20, 24, 9, 2, 17, 24, 13], [1, 0, 12, 3, 1, 2, 5, 1], 60)
    return small_model(seed=3), ids, order


@cache
def demo():
    model, tokenizer = load("demo", dtype="float64")
    text = "".join(document.text for document in held_out_documents())
    ids = torch.tensor(encode(tokenizer, text)[: 8 * 40]).view(8, 40)
    _, order = mixed_batch([40, 36, 32, 40, 28, 40, 24, 38], [2, 0, 8, 20, 2, 1, 4, 3], 60)
    return model, ids, Order.from_mask(order.is_target, order.length)  # neighbours depend most


def with_a_head(problem, hidden=16, rank=6):
    """The same weights, and a head that nothing has taught; its drafts are bad."""
    model, ids, order = problem()
    model = deepcopy(model)
    head = DraftHead(DraftHeadConfig(model.config.d_model, hidden=hidden, rank=rank))
    randomize(head, seed=1, std=0.2)
    model.set_draft_head(head.to(model.dtype).requires_grad_(False))
    return model, ids, order


@cache
def small_with_a_head():
    return with_a_head(small)


@cache
def demo_with_a_head():
    """That of the demo, if it has one."""
    return demo() if demo()[0].draft_head is not None else with_a_head(demo)


@cache
def expected(problem):
    model, ids, order = problem()
    return sample(model, ids, order, sampler="sequential", verifier="gumbel", seed=7).tokens


def same_text(problem, method, k):
    """The batch of 8, and two of its sequences alone; at least 20% of the drafts were rejected."""
    model, ids, order = problem()
    result = sample(model, ids, order, sampler=method, k=k, verifier="gumbel", seed=7)
    assert torch.equal(result.tokens, expected(problem))
    if result.drafted.sum():
        assert result.accepted.sum() <= 0.8 * result.drafted.sum()
    for b in (1, 3):
        alone = sample(
            model, ids[[b]], order[[b]], sampler=method, k=k, verifier="gumbel", seed=7 + b
        )
        assert torch.equal(alone.tokens[0], expected(problem)[b])


@pytest.mark.parametrize(("method", "k"), METHODS)
def test_same_text_from_a_small_random_model(method, k):
    same_text(small, method, k)


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="the demo model is not trained yet")
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_same_text_from_the_demo(method, k):
    same_text(demo, method, k)


DRAFTING = [(method, k) for method, k in METHODS if method != "ngram"]


@pytest.mark.slow_but_one
@pytest.mark.parametrize(("method", "k"), DRAFTING)
def test_same_text_from_a_head_as_from_no_head(method, k):
    same_text(small_with_a_head, method, k)
    assert torch.equal(expected(small_with_a_head), expected(small))


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="the demo model is not trained yet")
@pytest.mark.parametrize(("method", "k"), [("assd", 5), ("onepass", 2), ("onepass", 5)])
def test_same_text_from_a_head_behind_the_demo(method, k):
    same_text(demo_with_a_head, method, k)


@cache
def few_allowed():
    """A third of the tokens at each position."""
    rng = torch.Generator().manual_seed(1)
    tables = torch.rand(3, 60, generator=rng) < 0.3
    return Allowed(tables, torch.randint(3, small()[1].shape, generator=rng))


@pytest.mark.parametrize(("method", "k"), [("sequential", None), *METHODS])
def test_same_text_from_allowed_tokens(method, k):
    model, ids, order = small()
    call = {"allowed": few_allowed(), "seed": 7}
    expected = sample(model, ids, order, sampler="sequential", verifier="gumbel", **call)
    sampler = sampler_of(method, k=k, verifier="gumbel")
    result = sample(model, ids, order, sampler, **call)
    assert torch.equal(result.tokens, expected.tokens)
    is_allowed = few_allowed().at(torch.arange(24).expand(8, -1))  # (B, L, V)
    assert is_allowed.gather(2, result.tokens[..., None])[..., 0][order.is_target].all()
    assert len(result.tokens[order.is_target].unique()) > 8


@pytest.fixture(scope="module")
def base_model():
    config = XLNetConfig(d_model=768, n_layer=12, n_head=12, d_inner=3072)
    with torch.device("meta"):  # its own initialisation takes longer than the test
        model = AnySubsetTransformer(config)
    model = model.to_empty(device="cpu").eval()
    model.tie_weights()
    for name, parameter in model.named_parameters():
        parameter.data.fill_(float(name.endswith("layer_norm.weight")))
    randomize(model, seed=0, std=0.02)
    model.transformer.word_embedding.weight.data *= 12  # or all contexts look alike
    return model


@pytest.mark.slow
def test_same_text_from_a_base_size_model_in_float32_but_for_ties(base_model):
    ids, order = mixed_batch([24, 20], [15, 10], 32000)
    tokens = sample(base_model, ids, order, sampler="sequential", verifier="gumbel").tokens
    for method, k in [("assd", 5), ("ngram", 5), ("onepass", 2), ("onepass", 5)]:
        result = sample(base_model, ids, order, sampler=method, k=k, verifier="gumbel")
        assert result.accepted.sum() <= 0.8 * result.drafted.sum()
        for b in range(2):
            differs = (result.tokens[b] != tokens[b])[order.order[b]].nonzero()
            if len(differs):
                assert lead(base_model, tokens, order, b, int(differs[0])) < 1e-3


@torch.no_grad()
def lead(model, tokens, order, b, rank):
    """By how much the best token of a rank wins: largest minus second largest log p + G."""
    content, query = joint_rows(tokens, order)
    hidden = model(content, query)[b, rank - int(order.num_prompt[b])]
    log_probs = Distribution(model.mask_token_id).log_probs(model.logits(hidden))
    gumbel = HashedRandomness(torch.tensor([b])).gumbel(torch.tensor([[rank]]), len(log_probs))
    best = (log_probs + gumbel[0, 0]).topk(2).values
    return float(best[0] - best[1])


# --- the random numbers ---

PROBS = torch.tensor([0.5, 0.0, 0.25, 0.15, 0.07, 0.03], dtype=torch.float64)
DRAWS = 20_000


def p_value(tokens):
    counts = torch.bincount(tokens.flatten(), minlength=len(PROBS))
    assert not counts[PROBS == 0].any()
    return chisquare(counts[PROBS > 0], PROBS[PROBS > 0] * counts.sum()).pvalue


@pytest.mark.parametrize("over", ["ranks", "seeds"])
@pytest.mark.parametrize("how", ["gumbel", "categorical"])
def test_tokens_have_the_distribution(over, how):
    numbers = torch.arange(DRAWS)
    randomness = HashedRandomness(torch.tensor([3]) if over == "ranks" else numbers)
    ranks = numbers[None] if over == "ranks" else torch.full((DRAWS, 1), 5)
    if how == "gumbel":
        tokens = (PROBS.log() + randomness.gumbel(ranks, len(PROBS))).argmax(-1)
    else:
        probs = PROBS.expand(*ranks.shape, -1)
        tokens = randomness.categorical(probs, ranks, Purpose.TARGET, 0, ranks >= 0)
    assert p_value(tokens) > 0.001


@pytest.mark.parametrize("prob", [0.0, 0.03, 0.5, 0.9, 1.0])
def test_bernoulli_is_yes_with_its_probability(prob):
    ranks = torch.arange(DRAWS)[None]
    yes = HashedRandomness(torch.tensor([4])).bernoulli(
        torch.full(ranks.shape, prob), ranks, 2, ranks >= 0
    )
    spread = (prob * (1 - prob) / DRAWS) ** 0.5
    assert abs(yes.double().mean() - prob) <= 3.5 * spread


def uniforms(seed=0, purpose=Purpose.TARGET, round=0, shift=0):
    """One for each of many ranks, in eighths, read off through `categorical`."""
    ranks = torch.arange(DRAWS)[None] + shift
    eighths = torch.full((1, DRAWS, 8), 1 / 8)
    randomness = HashedRandomness(torch.tensor([seed]))
    return randomness.categorical(eighths, ranks, purpose, round, ranks >= 0)[0]


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"seed": 2**32},
        {"seed": -1},
        {"shift": 1},
        {"shift": 2},
        *({"purpose": purpose} for purpose in Purpose if purpose != Purpose.TARGET),
        {"round": 1},
        {"round": 1, "shift": -1},
        {"seed": 1, "shift": -1},
    ],
    ids=str,
)
def test_every_part_of_the_key_gives_independent_numbers(other):
    pairs = uniforms() * 8 + uniforms(**other)
    table = torch.bincount(pairs, minlength=64).view(8, 8)
    assert chi2_contingency(table).pvalue > 0.001


def test_gumbel_vectors_are_independent_over_tokens_ranks_and_seeds():
    ranks = torch.arange(DRAWS)[None]
    one, other = (HashedRandomness(torch.tensor([s])).gumbel(ranks, 4)[0] for s in (0, 1))
    eighths = ((-(-one).exp()).exp() * 8).long()  # its distribution function: uniform
    others = ((-(-other).exp()).exp() * 8).long()
    for left, right in [
        (eighths[:, 0], eighths[:, 1]),
        (eighths[:-1, 0], eighths[1:, 0]),
        (eighths[:-1, 0], eighths[1:, 3]),
        (eighths[:, 2], others[:, 2]),
    ]:
        table = torch.bincount(left * 8 + right, minlength=64).view(8, 8)
        assert chi2_contingency(table).pvalue > 0.001


def test_numbers_depend_on_nothing_but_their_key():
    seeds, ranks = torch.tensor([5, 9, -3]), torch.tensor([[1, 4], [0, 2], [7, 7]])
    probs = torch.rand(3, 2, 11, generator=torch.Generator().manual_seed(0))
    every = HashedRandomness(seeds)
    for b, seed in enumerate(seeds):
        alone = HashedRandomness(seed[None])
        for draw in (
            lambda r, b: r.categorical(probs[b], ranks[b], Purpose.DRAFT, 3, ranks[b] >= 0),
            lambda r, b: r.bernoulli(probs[b, :, 0], ranks[b], 3, ranks[b] >= 0),
            lambda r, b: r.gumbel(ranks[b], 11),
        ):
            assert torch.equal(draw(every, slice(None))[b], draw(alone, [b])[0])


def test_the_seed_of_a_sequence_decides():
    model, ids, order = small()
    ids, order = ids[[0, 0, 0]], Order(order.order[[0, 0, 0]], 1)
    one = sample(model, ids, order, verifier="gumbel", seed=[11, 12, 11]).tokens
    assert torch.equal(one[0], one[2])
    assert not torch.equal(one[0], one[1])
