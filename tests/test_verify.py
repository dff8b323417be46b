"""Accepting, replacing and what drafts come from: pure functions against plain definitions."""

from collections import Counter

import pytest
import torch
from fakes import ConditionalTable
from hypothesis import given
from hypothesis import strategies as st

from asarm import Order
from asarm.distribution import Distribution
from asarm.drafting.drafters import bigram_counts
from asarm.sampling import NGram
from asarm.sampling.api import prepare
from asarm.sampling.randomness import HashedRandomness
from asarm.sampling.verify import accept_prob, prefix_length, residual

VOCAB = 5
MODEL = ConditionalTable(length=6, vocab_size=VOCAB)

weights = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-300, 1.0)), min_size=VOCAB, max_size=VOCAB
).filter(lambda found: sum(found) > 1e-3)
distributions = weights.map(lambda found: torch.tensor(found, dtype=torch.float64) / sum(found))


@given(distributions, distributions)
def test_accept_plus_residual_is_the_target_distribution(draft, target):
    accept = accept_prob(draft, target)
    assert ((accept >= 0) & (accept <= 1)).all()
    kept = draft * accept
    torch.testing.assert_close(kept + (1 - kept.sum()) * residual(draft, target), target)


@given(distributions, distributions)
def test_what_is_kept_is_the_most_that_can_be(draft, target):
    torch.testing.assert_close(draft * accept_prob(draft, target), draft.minimum(target))


@given(distributions, distributions)
def test_residual_is_a_distribution_within_the_target(draft, target):
    distribution = residual(draft, target)
    assert distribution.sum() == pytest.approx(1)
    assert (distribution >= 0).all()
    assert not distribution[target == 0].any()


@given(distributions)
def test_equal_distributions_keep_everything_and_leave_the_target(distribution):
    torch.testing.assert_close(
        accept_prob(distribution, distribution)[distribution > 0],
        torch.ones(int((distribution > 0).sum())).double(),
    )
    torch.testing.assert_close(residual(distribution, distribution), distribution)


@given(st.lists(st.booleans(), max_size=7))
def test_prefix_length_counts_up_to_the_first_no(answers):
    expected = [*answers, False].index(False)
    assert prefix_length(torch.tensor([answers], dtype=torch.bool)).tolist() == [expected]


# --- n-gram drafts ---


def plain_counts(known: dict[int, int], left: int | None) -> Counter:
    """What follows `left` in the known text; or all of it, where nothing does."""
    followers = Counter(known[i] for i in known if left is not None and known.get(i - 1) == left)
    return followers or Counter(known.values())


@given(st.data())
def test_bigram_counts_are_those_of_a_counter(data):
    text = data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=12))
    is_known = data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text)))
    left, has_left = data.draw(st.integers(0, 2)), data.draw(st.booleans())
    counts = bigram_counts(
        torch.tensor([text]),
        torch.tensor([is_known]),
        torch.tensor([[left]]),
        torch.tensor([[has_left]]),
        VOCAB,
    )
    known = {i: token for i, token in enumerate(text) if is_known[i]}
    expected = plain_counts(known, left if has_left else None)
    assert counts[0].tolist() == [expected[token] for token in range(VOCAB)]


def ngram_drafts(ids, order, k, seeds, temperature=1.0):
    """How many drafts of the first round are asked for, and the drafts."""
    target = Distribution(MODEL.mask_token_id, temperature)
    randomness = HashedRandomness(torch.tensor(seeds))
    net, state = prepare(MODEL, ids, order, NGram(k=k), randomness, target=target)
    asked = torch.where(state.num_committed > 0, state.left.clamp(max=k), 0)  # as the sampler asks
    start, size = state.num_committed, int(asked.max())
    return asked, net.make_drafts(state, None, start=start, limit=start, count=asked, size=size)


@pytest.mark.slow
@given(st.data())
def test_ngram_drafts_follow_their_left_neighbours_drafts_included(data):
    order = data.draw(st.permutations(range(6)))
    num_prompt, k = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 4))
    ids = torch.tensor([data.draw(st.lists(st.integers(0, 2), min_size=6, max_size=6))])
    temperature, seed = data.draw(st.sampled_from([1.0, 0.5])), data.draw(st.integers(0, 99))
    asked, drafts = ngram_drafts(
        ids, Order(torch.tensor([order]), num_prompt), k, [seed], temperature
    )
    known = {i: int(ids[0, i]) for i in order[:num_prompt]}
    assert drafts.count.tolist() == asked.tolist()
    text = dict(known)
    for step, position in enumerate(order[num_prompt : num_prompt + int(drafts.count)]):
        counts = plain_counts(known, text.get(position - 1))
        expected = torch.tensor([counts[token] for token in range(VOCAB)]).double()
        expected = expected ** (1 / temperature)
        torch.testing.assert_close(drafts.probs[0, step], expected / expected.sum())
        text[position] = int(drafts.tokens[0, step])
        assert counts[text[position]] > 0


def test_ngram_drafts_of_a_batch_are_those_of_each_alone():
    orders = Order(
        torch.tensor([[1, 0, 3, 2, 4, 5], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]), [2, 4, 0]
    )
    ids = torch.tensor([[1, 2, 0, 0, 0, 0], [1, 1, 2, 1, 0, 0], [0, 0, 0, 0, 0, 0]])

    def drafts(rows):
        return ngram_drafts(ids[rows], orders[rows], 3, rows)[1]

    together = drafts([0, 1, 2])
    assert together.count.tolist() == [3, 2, 0]
    for b, count in enumerate([3, 2]):
        alone = drafts([b])
        assert torch.equal(alone.tokens[0, :count], together.tokens[b, :count])
        assert torch.equal(alone.probs[0, :count], together.probs[b, :count])


# --- distributions ---

scores = st.lists(st.integers(-4, 4).map(float), min_size=VOCAB, max_size=VOCAB)  # with ties


@given(scores, st.integers(1, VOCAB + 1))
def test_top_k_keeps_the_most_probable_and_renormalises(scores, top_k):
    logits = torch.tensor(scores, dtype=torch.float64)
    plain, distribution = (
        Distribution(1).probs(logits.clone()),
        Distribution(1, top_k=top_k).probs(logits.clone()),
    )
    best_first = sorted(range(VOCAB), key=lambda token: (-float(plain[token]), token))
    best = [token for token in best_first[:top_k] if token != 1]  # what is removed comes last
    kept = torch.zeros_like(plain)
    kept[best] = plain[best]
    torch.testing.assert_close(distribution, kept / kept.sum())


@given(scores, st.floats(0.01, 1))
def test_top_p_keeps_the_fewest_that_reach_the_probability(scores, top_p):
    logits = torch.tensor(scores, dtype=torch.float64)
    plain, distribution = (
        Distribution(1).probs(logits.clone()),
        Distribution(1, top_p=top_p).probs(logits.clone()),
    )
    kept = distribution > 0
    assert plain[kept].sum() >= top_p - 1e-9
    assert plain[kept].sum() - plain[kept].min() < top_p + 1e-9
    assert not kept.any() or plain[kept].min() >= plain[~kept].max()
    torch.testing.assert_close(distribution, plain.where(kept, 0) / plain[kept].sum())


@pytest.mark.parametrize("mask_token_id", [0, 4])
def test_mask_token_is_removed_before_the_distribution_is_normalised(mask_token_id):
    logits = torch.tensor([3.0, 1.0, 0.0, -1.0, 2.0], dtype=torch.float64)
    probs = Distribution(mask_token_id).probs(logits.clone())
    assert probs[mask_token_id] == 0
    others = [i for i in range(VOCAB) if i != mask_token_id]
    torch.testing.assert_close(probs[others], logits[others].softmax(0))
    torch.testing.assert_close(Distribution(mask_token_id).log_probs(logits.clone()).exp(), probs)


@pytest.mark.parametrize("mask_token_id", [-1, 5, 6])
def test_mask_token_outside_the_vocabulary_removes_nothing(mask_token_id):
    logits = torch.tensor([3.0, 1.0, 0.0, -1.0, 2.0])
    torch.testing.assert_close(Distribution(mask_token_id).probs(logits.clone()), logits.softmax(0))
