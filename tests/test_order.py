"""Order, rank and limits are inverses of one another, for every way to make an order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asarm import Order
from asarm.rows import joint_rows

SIZE = 8


@st.composite
def orders(draw):
    """Batches of random orders of different lengths and prompts, as lists of positions."""
    batch = draw(st.integers(1, 4))
    lengths = [draw(st.integers(1, SIZE)) for _ in range(batch)]
    rows = [draw(st.permutations(range(n))) + list(range(n, SIZE)) for n in lengths]
    prompts = [draw(st.integers(0, n - 1)) for n in lengths]
    return Order(torch.tensor(rows), torch.tensor(prompts), torch.tensor(lengths))


masks = st.lists(st.booleans(), min_size=1, max_size=SIZE).filter(any)


@given(orders())
def test_rank_is_the_inverse_of_order(order):
    ranks = torch.arange(SIZE).expand(len(order), -1)
    assert torch.equal(order.rank.gather(1, order.order), ranks)
    assert torch.equal(order.order.gather(1, order.rank), ranks)


@given(orders())
def test_limits_let_the_prompt_see_itself_and_targets_what_is_before_and_themselves(order):
    content, query = joint_rows(torch.zeros_like(order.order), order)
    for b, length in enumerate(order.length.tolist()):
        num_prompt = int(order.num_prompt[b])
        expected = [num_prompt] * num_prompt + [rank + 1 for rank in range(num_prompt, length)]
        assert content.limits[b].tolist() == expected + [0] * (SIZE - length)  # padding sees none
        assert query.limits[b, : length - num_prompt].tolist() == [*range(num_prompt, length)]
        assert not query.limits[b, length - num_prompt :].any()


@given(orders())
def test_targets_are_neither_prompt_nor_padding(order):
    for b in range(len(order)):
        num_prompt, length = int(order.num_prompt[b]), int(order.length[b])
        targets = sorted(order.order[b, num_prompt:length].tolist())
        assert order.is_target[b].nonzero()[:, 0].tolist() == targets
        assert order.num_targets[b] == len(targets) > 0


@given(orders(), st.data())
def test_a_part_of_a_batch_is_a_batch(order, data):
    index = data.draw(st.lists(st.integers(0, len(order) - 1), min_size=1, max_size=5))
    part = order[index].to("cpu")
    assert len(part) == len(index)
    for field in ("order", "num_prompt", "length", "rank", "is_target"):
        assert torch.equal(getattr(part, field), getattr(order, field)[index])


@given(st.lists(masks, min_size=1, max_size=4))
def test_from_mask_puts_prompt_targets_and_padding_in_this_order_each_ascending(rows):
    lengths, size = [len(row) for row in rows], max(len(row) for row in rows)
    padded = torch.tensor([row + [True] * (size - len(row)) for row in rows])
    order = Order.from_mask(padded, lengths)
    for b, row in enumerate(rows):
        prompt = [i for i, is_target in enumerate(row) if not is_target]
        targets = [i for i, is_target in enumerate(row) if is_target]
        assert order.order[b].tolist() == [*prompt, *targets, *range(len(row), size)]
        assert int(order.num_prompt[b]) == len(prompt)
        assert int(order.length[b]) == len(row)


@given(masks)
def test_from_mask_of_one_sequence_is_a_batch_of_one(row):
    order = Order.from_mask(torch.tensor(row))
    assert order.is_target.tolist() == [row]
    assert order.length.tolist() == [len(row)]


@given(st.integers(2, 300), st.floats(0, 1), st.integers(0, 2**40))
def test_random_split_follows_the_published_protocol(length, share, seed):
    order = Order.random_split(length, share, batch=2, seed=seed)
    num_prompt = min(max(int(length * share) + 1, 1), length - 1)
    assert order.num_prompt.tolist() == [num_prompt] * 2
    for part in (order.order[:, :num_prompt], order.order[:, num_prompt:]):
        assert (part.diff(dim=1) > 0).all()
    assert torch.equal(
        order.order, Order.random_split(length, share, seed=[seed, seed + 1], batch=2).order
    )
    assert torch.equal(order.order[1:], Order.random_split(length, share, seed=seed + 1).order)


@given(st.data(), st.integers(2, 40), st.integers(0, 2**40))
def test_random_permutation_has_an_ascending_prompt_and_any_targets(data, length, seed):
    num_prompt = data.draw(st.integers(0, length - 1))
    order = Order.random_permutation(length, num_prompt, batch=2, seed=seed)
    assert (order.order[:, :num_prompt].diff(dim=1) > 0).all()
    alone = Order.random_permutation(length, num_prompt, seed=seed + 1)
    assert torch.equal(order.order[1:], alone.order)


def test_random_orders_reach_all_orders():
    splits = {tuple(Order.random_split(4, 0.3, seed=s).order[0].tolist()) for s in range(200)}
    assert len(splits) == 6  # choose 2 of 4
    orders = {tuple(Order.random_permutation(4, 1, seed=s).order[0].tolist()) for s in range(300)}
    assert len(orders) == 24


def test_paper_protocol_gives_486_targets():
    assert Order.random_split(512, 0.05, seed=0).num_targets.tolist() == [486]


@pytest.mark.parametrize("num_prompt", [0, 1, 4])
def test_left_to_right(num_prompt):
    order = Order.left_to_right(5, num_prompt)
    assert order.order.tolist() == [[0, 1, 2, 3, 4]]
    assert order.is_target.tolist() == [[i >= num_prompt for i in range(5)]]


def test_orders_are_frozen_and_own_their_counts():
    counts = torch.tensor([1, 2])
    order = Order(torch.arange(4).expand(2, -1), counts)
    counts[0] = 9
    assert order.num_prompt.tolist() == [1, 2]
    with pytest.raises(AttributeError):
        order.num_prompt = counts
