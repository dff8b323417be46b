"""Greedy decoding: the most probable token, the lowest id of several, whatever else is asked."""

import pytest
import torch
from fakes import ConditionalTable, mixed_batch, small_model
from hypothesis import given
from hypothesis import strategies as st

from asarm import Order, load, log_prob, sample
from asarm.distribution import Distribution
from asarm.sampling import has_option, lossless_names

LOSSLESS = lossless_names()
VOCAB = 7
# few different values: most rows have ties
tied = st.lists(st.integers(0, 2), min_size=VOCAB, max_size=VOCAB)
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


class Tied(ConditionalTable):
    """A table of conditionals whose best tokens are equally probable, as in bfloat16."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.table = self.table.round()


@pytest.mark.parametrize("dtype", DTYPES)
@given(scores=tied, top_k=st.integers(1, VOCAB + 1))
def test_top_k_keeps_exactly_k_tokens(scores, top_k, dtype):
    logits = torch.tensor(scores).to(dtype)
    best = sorted(range(VOCAB), key=lambda token: (-scores[token], token))[:top_k]
    distribution = Distribution(VOCAB, top_k=top_k).probs(logits.clone())
    assert set(distribution.nonzero()[:, 0].tolist()) == set(best)
    torch.testing.assert_close(distribution.sum(), torch.ones_like(distribution.sum()))


@given(scores=tied, others=st.sampled_from([{}, {"top_k": 3}, {"top_p": 0.4}, {"top_k": 1}]))
def test_temperature_0_is_the_first_of_the_best_tokens(scores, others):
    logits = torch.tensor(scores, dtype=torch.float64)
    best = max(range(VOCAB), key=lambda token: (scores[token], -token))
    distribution = Distribution(VOCAB, temperature=0, **others)
    assert distribution.probs(logits.clone()).tolist() == [float(t == best) for t in range(VOCAB)]
    assert distribution.log_probs(logits.clone())[best] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1e-320, 1e-45, 1e-40, 1e-3, 1e30, 1e300])
def test_extreme_temperatures_are_distributions(temperature, dtype):
    logits = torch.tensor([30.0, -20.0, 30.0, 5.0, -1.0], dtype=dtype)
    is_allowed = torch.tensor([False, True, False, True, True])
    distribution = Distribution(3, temperature).probs(logits, is_allowed)
    expected = [0, 0.5, 0, 0, 0.5] if temperature > 1 else [0, 0, 0, 0, 1]
    torch.testing.assert_close(distribution, torch.tensor(expected, dtype=dtype))


@pytest.mark.parametrize("logits", [[float("nan"), 1.0], [float("-inf")] * 2, [float("inf"), 0.0]])
def test_what_is_no_distribution_is_no_choice_either(logits):
    assert Distribution(9, temperature=0).probs(torch.tensor(logits)).isnan().all()


@pytest.mark.parametrize("verifier", ["block", "rejection", "gumbel"])
@pytest.mark.parametrize("method", LOSSLESS)
@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 1}], ids=str)
def test_every_sampler_gives_the_greedy_text_for_every_seed(method, options, verifier):
    model, ids = Tied(length=6, vocab_size=5, mask_token_id=3), torch.tensor([[2, 0, 1, 1, 2, 0]])
    order = Order(torch.tensor([[0, 3, 1, 2, 4, 5]]), 2)
    known = {0: 2, 3: 1}
    for position in (1, 2, 4, 5):
        logits = model.conditional(position, known).tolist()
        known[position] = max((t for t in range(5) if t != 3), key=lambda t: (logits[t], -t))
    greedy = [known[i] for i in range(6)]
    drafting = {"k": 3} if has_option(method, "k") else {}
    for seed in range(20):
        found = sample(
            model, ids, order, sampler=method, seed=seed, verifier=verifier, **options, **drafting
        )
        assert found.tokens.tolist() == [greedy] and found.lossless
        assert found.log_probs.tolist() == [[0.0] * 6]


@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 1}], ids=str)
def test_greedy_text_in_bfloat16_does_not_change_with_the_seed(options):
    model, tokenizer = load("demo", dtype="bfloat16")
    text = (
        "Note that the file object is closed when the function returns and that its name may be "
        "changed by the caller of the method. "
    )
    ids = torch.tensor([tokenizer(text)["input_ids"]] * 30)
    order = Order.random_split(ids.shape[1], 0.3, seed=1)[[0] * len(ids)]
    found = sample(model, ids, order, sampler="sequential", seed=0, **options)
    assert (found.tokens == found.tokens[0]).all()


def test_greedy_log_densities():
    model = small_model()
    ids, order = mixed_batch([9, 7], [3, 2], model.vocab_size)
    greedy = sample(model, ids, order, temperature=0)
    assert (log_prob(model, greedy.tokens, order, temperature=0) == 0).all()
    other = greedy.tokens.clone()
    last = order.order[0, int(order.length[0]) - 1]
    other[0, last] = 8 if other[0, last] == 7 else 7
    assert log_prob(model, other, order, temperature=0)[0, last] == -torch.inf


@pytest.mark.parametrize("draft_temperature", [0, 1e-40, 1e-6, 1e30])
def test_extreme_drafts_leave_the_text_of_greedy_decoding(draft_temperature):
    model = small_model()
    ids, order = mixed_batch([12], [3], model.vocab_size)
    plain = sample(model, ids, order, sampler="sequential", temperature=0)
    for method in ("assd", "onepass"):
        found = sample(
            model, ids, order, sampler=method, temperature=0, draft_temperature=draft_temperature
        )
        assert torch.equal(found.tokens, plain.tokens)
