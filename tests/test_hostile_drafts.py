"""Drafters that return what is no distribution: the text keeps its distribution, or all ends."""

import math

import pytest
import torch
from covering import covering
from fakes import mixed_batch, small_model
from test_distribution_of_samplers import (
    FAKES,
    ORDERS,
    make_order,
    output_distribution,
)

from asarm import Order, sample
from asarm.drafting.checked import CheckedDrafter
from asarm.drafting.drafters import Drafts, self_drafter

METHODS = pytest.mark.parametrize("method", ["assd", "onepass"])


def twisted(twist):
    """A drafter that draws as the model does and returns its probabilities twisted."""

    def drafter(request):
        return twist(self_drafter(request))

    return drafter


def with_probs(change):
    def twist(found):
        probs = found.probs.clone()
        change(probs, found.tokens)
        return Drafts(found.tokens, probs, found.count)

    return twist


def fill(value):
    return lambda probs, tokens: probs.fill_(value)


def one(value):
    """One token's probability alone, which is not the drafted one's."""
    return lambda probs, tokens: probs.scatter_(2, (tokens[..., None] + 1) % probs.shape[2], value)


def own(value):
    return lambda probs, tokens: probs.scatter_(2, tokens[..., None], value)


WRONG = {
    "all NaN": with_probs(fill(math.nan)),
    "one NaN": with_probs(one(math.nan)),
    "one infinite": with_probs(one(math.inf)),
    "all zero": with_probs(fill(0.0)),
    "one negative": with_probs(one(-0.1)),
    "drafted what has probability 0": with_probs(own(0.0)),
    "a token outside": lambda found: Drafts(found.tokens + 1000, found.probs, found.count),
    "a token below 0": lambda found: Drafts(found.tokens - 1000, found.probs, found.count),
    "more than asked": lambda found: Drafts(found.tokens, found.probs, found.count + 1),
    "fewer than none": lambda found: Drafts(found.tokens, found.probs, found.count - 9),
}


@covering(
    2,
    wrong=WRONG,
    verifier=["block", "rejection", "gumbel"],
    method=["assd", "onepass"],
    execution=["eager", "static"],
)
def test_what_is_no_distribution_is_refused(wrong, verifier, method, execution):
    model = small_model()
    ids, order = mixed_batch([12, 9], [3, 2], model.vocab_size)
    options = {"sampler": method, "verifier": verifier, "k": 3, "execution": execution}
    with pytest.raises(ValueError, match="drafts come with probabilities .* check the drafter"):
        sample(model, ids, order, drafter=twisted(WRONG[wrong]), **options)


@METHODS
@pytest.mark.parametrize(
    "twist",
    [
        lambda found: Drafts(found.tokens[:, None], found.probs, found.count),
        lambda found: Drafts(found.tokens, found.probs[..., :5], found.count),
        lambda found: Drafts(found.tokens, found.probs, found.count[:1]),
    ],
)
def test_other_shapes_are_refused(method, twist):
    model = small_model()
    ids, order = mixed_batch([12, 9], [3, 2], model.vocab_size)
    with pytest.raises(ValueError, match="the drafter gives"):
        sample(model, ids, order, sampler=method, k=3, drafter=twisted(twist))


@METHODS
@pytest.mark.parametrize("verifier", ["block", "rejection"])
@pytest.mark.parametrize("factor", [0.01, 7.0])
def test_what_is_not_normalised_is(method, verifier, factor):
    model = small_model()
    ids, order = mixed_batch([12, 9], [3, 2], model.vocab_size)
    options = {"sampler": method, "verifier": verifier, "k": 3, "seed": 5}
    scaled = twisted(with_probs(lambda probs, tokens: probs.mul_(factor)))
    found, plain = (sample(model, ids, order, drafter=d, **options) for d in (scaled, "self"))
    assert torch.equal(found.tokens, plain.tokens)
    assert torch.equal(found.accepted, plain.accepted)


@METHODS
def test_fewer_drafts_than_asked_and_dtypes_of_their_own_are_valid(method):
    """The distribution of the output, over every random outcome, stays that of sequential."""

    def fewer(found):
        return Drafts(found.tokens.int(), found.probs.float() * 3, found.count.clamp(max=1))

    model = FAKES["no mask"]
    positions, num_prompt, length = ORDERS["ascending"]
    order = Order(torch.tensor([positions]), num_prompt, length)
    expected = output_distribution(model, order, "sequential")
    drafter = CheckedDrafter(twisted(fewer))
    found = output_distribution(model, order, method, k=3, drafter=drafter)
    assert set(found) == set(expected)
    assert all(abs(found[text] - expected[text]) < 1e-6 for text in expected)


class ByLastToken:
    """1 draft at first, then 1 to 3: other numbers in other texts of a batch."""

    max_drafts = 3

    def __call__(self, state):
        last = state.tokens.gather(1, state.num_committed[:, None] - 1)[:, 0]
        return 1 + (last + 2) % 3


OTHER_COLUMNS = {
    "fewer": lambda found: Drafts(
        found.tokens[:, :1], found.probs[:, :1], found.count.clamp(max=1)
    ),
    "more": lambda found: Drafts(
        found.tokens.repeat(1, 2), found.probs.repeat(1, 2, 1), found.count
    ),
    "none": lambda found: Drafts.none(found.count, found.probs.shape[2], found.probs.dtype),
}


@METHODS
@pytest.mark.parametrize("columns", OTHER_COLUMNS)
def test_other_numbers_of_columns_leave_the_distribution_as_it_is(method, columns):
    """Sequences of a batch want different numbers of drafts: none commits from a padded row."""
    model, asked = FAKES["no mask"], make_order("ascending")
    expected = output_distribution(model, asked, "sequential")
    drafter = CheckedDrafter(twisted(OTHER_COLUMNS[columns]))
    found = output_distribution(model, asked, method, lengths=ByLastToken(), drafter=drafter)
    assert set(found) == set(expected)
    assert all(abs(found[text] - expected[text]) < 1e-9 for text in expected)


@pytest.mark.slow_but_one
@METHODS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_head_that_gives_no_numbers_is_refused(method, value):
    from asarm import load

    model, tokenizer = load("demo")
    with torch.no_grad():
        model.draft_head.down.bias.fill_(value)
    ids = torch.tensor(
        [tokenizer("Return the name of the file, or None if it is not there.").input_ids]
    )
    order = Order.random_split(ids.shape[1], 0.2, seed=0)
    with pytest.raises(ValueError, match="drafts come with probabilities .* check the drafter"):
        sample(model, ids, order, sampler=method, k=4)
