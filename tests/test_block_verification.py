"""Verifying drafts as a block: the target distribution exactly, and never fewer drafts kept."""

import pytest
import torch
from fakes import mixed_batch, small_model
from hypothesis import given
from hypothesis import strategies as st

from asarm import sample
from asarm.sampling.verify import (
    BlockVerifier,
    Drafts,
    RejectionVerifier,
    block_keep_probs,
    prefix_weights,
    probs_of,
)

VOCAB = 3
VERIFIERS = [RejectionVerifier, BlockVerifier]


class Scripted:
    """Randomness that gives the answers of a script, and keeps their probability."""

    def __init__(self, answers):
        self.answers = answers  # (K,)

    def bernoulli(self, prob, ranks, round, needed):
        is_asked = torch.cat([torch.tensor([True]), self.answers[:-1]]).cumprod(0).bool()
        chance = torch.where(self.answers, prob, 1 - prob).where(needed & is_asked, 1)
        self.chance = chance.prod(1)
        return self.answers.expand_as(prob)

    def categorical(self, probs, ranks, purpose, round, needed):
        self.distribution = probs[:, 0]
        return probs.argmax(-1)


def random_distributions(shape, rng, *, zeros, sharp):
    """Distributions with a rate of tokens of no probability, one token always having some."""
    weights = (sharp * torch.randn(shape, generator=rng, dtype=torch.float64)).exp()
    weights *= torch.rand(shape, generator=rng) >= zeros
    some = torch.randint(shape[-1], shape[:-1], generator=rng)[..., None]
    weights.scatter_(-1, some, weights.gather(-1, some).clamp(min=0.1))
    return weights / weights.sum(-1, keepdim=True)


class Block:
    """Two random joints of K + 1 tokens, each token depending on all before; all K drafts."""

    def __init__(self, num_drafts, seed, *, zeros=0.0, sharp=1.0):
        rng = torch.Generator().manual_seed(seed)
        self.size, self.vocab = num_drafts, [torch.arange(VOCAB)] * num_drafts
        shapes = [(VOCAB,) * (j + 1) for j in range(num_drafts + 1)]
        how = {"zeros": zeros, "sharp": sharp}
        self.draft = [random_distributions(shape, rng, **how) for shape in shapes]
        self.target = [random_distributions(shape, rng, **how) for shape in shapes]
        tokens = torch.cartesian_prod(*self.vocab).view(-1, num_drafts)  # (V**K, K)
        self.drafts = Drafts(
            tokens,
            torch.stack([self.at(self.draft[j], tokens) for j in range(num_drafts)], 1),
            torch.full((len(tokens),), num_drafts),
        )
        self.target_probs = torch.stack(
            [self.at(distribution, tokens) for distribution in self.target], 1
        )
        own, _ = probs_of(self.drafts, self.target_probs[:, :-1])
        self.weight = own.prod(1)  # how probable it is that these are the drafts

    @staticmethod
    def at(distribution, tokens):
        """The distributions (R, V) of the token after the first ones of tokens (R, K)."""
        return distribution[tuple(tokens[:, : distribution.ndim - 1].T)].expand(len(tokens), -1)

    def verify(self, verifier, accepted):
        """Probability (R,) that so many drafts are accepted; what follows them is from (R, V)."""
        steps = torch.arange(self.size)
        is_from_behind = verifier is BlockVerifier
        scripted = Scripted(steps < (self.size - accepted if is_from_behind else accepted))
        start = torch.zeros(len(self.weight), dtype=torch.long)
        verdict = verifier(scripted).verify(self.drafts, self.target_probs, start, 0, start == 0)
        assert (verdict.accepted == accepted).all()
        return scripted.chance, scripted.distribution

    def output_distribution(self, verifier):
        """That of K + 1 tokens (V, ..., V): accepted drafts, the one after them, the target."""
        found = torch.zeros([VOCAB] * (self.size + 1), dtype=torch.float64)
        for accepted in range(self.size + 1):
            chance, distribution = self.verify(verifier, accepted)
            mass = (self.weight * chance)[:, None] * distribution
            mass = mass.where(self.weight[:, None] * chance[:, None] > 0, 0)
            part = torch.zeros([VOCAB] * (accepted + 1), dtype=torch.float64)
            index = tuple(self.drafts.tokens[:, :accepted].T)
            part = part.index_put(index, mass, accumulate=True) if index else mass.sum(0)
            for distribution in self.target[accepted + 1 :]:
                part = part[..., None] * distribution
            found += part
        return found

    def target_distribution(self):
        joint = self.target[0]
        for distribution in self.target[1:]:
            joint = joint[..., None] * distribution
        return joint

    def mean_accepted(self, verifier):
        """How many drafts are accepted, on average over all drafts."""
        chances = [self.verify(verifier, a)[0] for a in range(self.size + 1)]
        torch.testing.assert_close(sum(chances), torch.ones(len(self.weight)).double())
        return float(sum(a * (self.weight * chance).sum() for a, chance in enumerate(chances)))


blocks = st.builds(
    Block,
    st.integers(1, 3),
    st.integers(0, 10_000),
    zeros=st.sampled_from([0.0, 0.3, 0.6]),
    sharp=st.sampled_from([0.1, 1.0, 4.0]),
)


@given(blocks)
@pytest.mark.parametrize("verifier", VERIFIERS)
def test_what_is_kept_and_what_replaces_the_rest_are_the_target_distribution(verifier, block):
    torch.testing.assert_close(block.output_distribution(verifier), block.target_distribution())


@given(blocks)
def test_a_block_keeps_no_fewer_drafts_than_one_after_the_other(block):
    one_by_one = block.mean_accepted(RejectionVerifier)
    assert block.mean_accepted(BlockVerifier) >= one_by_one - 1e-12


@given(blocks)
def test_the_whole_block_is_accepted_with_its_joint_ratio_cut_at_one_all_along(block):
    own, theirs = probs_of(block.drafts, block.target_probs[:, :-1])
    weight = torch.ones(len(own)).double()
    for ours, target in zip(own.T, theirs.T, strict=True):
        weight = (weight * target / ours).clamp(max=1)
    chance, _ = block.verify(BlockVerifier, block.size)
    is_drawn = block.weight > 0
    torch.testing.assert_close(chance[is_drawn], weight[is_drawn])


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5]))
def test_one_draft_is_verified_alike(seed, zeros):
    block = Block(1, seed, zeros=zeros)
    assert block.mean_accepted(BlockVerifier) == pytest.approx(
        block.mean_accepted(RejectionVerifier), abs=1e-12
    )


@pytest.mark.parametrize("num_drafts", [2, 3])
def test_more_drafts_are_accepted_where_a_good_one_follows_a_bad_one(num_drafts):
    gains = [
        block.mean_accepted(BlockVerifier) - block.mean_accepted(RejectionVerifier)
        for block in (Block(num_drafts, seed) for seed in range(20))
    ]
    assert min(gains) >= -1e-12 and sum(gains) / len(gains) > 0.01


@given(st.integers(1, 3), st.integers(0, 10_000))
def test_drafts_of_the_target_distribution_are_all_accepted(num_drafts, seed):
    block = Block(num_drafts, seed)
    distributions = block.target_probs[:, :-1]
    block.drafts = Drafts(block.drafts.tokens, distributions, block.drafts.count)
    chance, _ = block.verify(BlockVerifier, num_drafts)
    torch.testing.assert_close(chance, torch.ones_like(chance))


@given(st.integers(0, 10_000))
def test_an_exact_first_draft_is_accepted_whatever_follows(seed):
    """As assd has it: its first draft comes from the target distribution."""
    block = Block(3, seed, zeros=0.3, sharp=3.0)
    distributions = block.drafts.probs.clone()
    distributions[:, 0] = block.target_probs[:, 0]
    block.drafts = Drafts(block.drafts.tokens, distributions, block.drafts.count)
    chance, _ = block.verify(BlockVerifier, 0)
    can_be = probs_of(block.drafts, distributions)[0][:, 0] > 0
    assert can_be.any() and not chance[can_be].any()


@given(blocks, st.integers(0, 3))
def test_padding_changes_nothing(block, extra):
    """Of shorter blocks in a batch: neither weights nor probabilities look beyond their count."""
    rows, rng = len(block.weight), torch.Generator().manual_seed(0)
    garbage = random_distributions((2, rows, extra, VOCAB), rng, zeros=0.0, sharp=1.0)
    tokens = torch.cat([block.drafts.tokens, torch.zeros(rows, extra, dtype=torch.long)], 1)
    distributions = torch.cat([block.drafts.probs, garbage[0]], 1)
    padded = Drafts(tokens, distributions, block.drafts.count)
    target = torch.cat([block.target_probs[:, :-1], garbage[1]], 1)
    found = block_keep_probs(prefix_weights(*probs_of(padded, target)), padded, target)
    alone = block.target_probs[:, :-1]
    weights = prefix_weights(*probs_of(block.drafts, alone))
    expected = block_keep_probs(weights, block.drafts, alone)
    torch.testing.assert_close(found[:, : block.size], expected)


# --- as users ask for it ---


@pytest.mark.parametrize(("method", "k"), [("assd", 4), ("onepass", 3)])
def test_tolerance_is_added_draft_by_draft_whatever_the_verifier(method, k):
    """A block has no ratio of its own to add it to."""
    ids, order = mixed_batch([20, 14], [2, 1], 60)
    model = small_model(std=0.3)
    call = {"sampler": method, "k": k, "tolerance": 0.2}
    block, one_by_one = (
        sample(model, ids, order, verifier=verifier, **call) for verifier in ("block", "rejection")
    )
    assert torch.equal(block.tokens, one_by_one.tokens)
    assert torch.equal(block.accepted, one_by_one.accepted)
    assert not block.lossless and block.accepted.sum() > 0


def test_block_is_what_is_taken_where_nothing_is_said():
    ids, order = mixed_batch([20, 20, 20, 20], [2, 1, 3, 4], 60)
    model = small_model(std=0.3)
    call = {"sampler": "onepass", "k": 4}
    plain = sample(model, ids, order, **call)
    block, one_by_one = (
        sample(model, ids, order, verifier=verifier, **call) for verifier in ("block", "rejection")
    )
    assert torch.equal(plain.tokens, block.tokens)
    assert not torch.equal(block.tokens, one_by_one.tokens)
    assert block.lossless and (block.nfe <= order.num_targets).all()
