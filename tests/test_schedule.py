"""Mask rates, orders and learning rates: by value at their corners, and keyed by nothing else.

Shapes: G global batch, B batch, L length.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asarm import Order
from asarm.schedule import (
    ORDER_KINDS,
    draw_kinds,
    joint_orders,
    keyed_seed,
    mask_window,
    micro_batches,
    parallel_orders,
    recorded_seed,
    stratified_rates,
    warm_up_then_decay,
)
from asarm.training.config import TrainingConfig
from asarm.training.step import micro_batch, plan_step

# --- learning rate and mask window ---


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (5, 0.875), (8, 0.5), (11, 0.125), (12, 0.0)],
)
def test_learning_rate_rises_then_falls(step, share):
    assert warm_up_then_decay(step, warmup_steps=4, max_steps=12) == share


def test_learning_rate_without_warm_up_starts_at_its_highest():
    shares = [warm_up_then_decay(step, warmup_steps=0, max_steps=4) for step in range(5)]
    assert shares == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_learning_rate_of_a_run_that_is_all_warm_up():
    shares = [warm_up_then_decay(step, warmup_steps=4, max_steps=4) for step in range(4)]
    assert shares == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("step", "window"),
    [(0, (0.15, 0.15)), (50, (0.5, 0.57)), (100, (0.85, 0.99)), (1_000_000, (0.85, 0.99))],
)
def test_mask_window_rises(step, window):
    """The paper's: from 0.15 to 0.85..0.99."""
    settings = {"start": 0.15, "final_min": 0.85, "final_max": 0.99, "warmup_steps": 100}
    assert mask_window(step, **settings) == pytest.approx(window, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "window"), [(0, (0.9, 0.9)), (5, (0.5, 0.6)), (10, (0.1, 0.3)), (11, (0.1, 0.3))]
)
def test_mask_window_falls(step, window):
    settings = {"start": 0.9, "final_min": 0.1, "final_max": 0.3, "warmup_steps": 10}
    assert mask_window(step, **settings) == pytest.approx(window, abs=1e-12)


def test_mask_window_opens_around_its_start():
    settings = {"start": 0.5, "final_min": 0.1, "final_max": 0.7, "warmup_steps": 4}
    assert mask_window(1, **settings) == pytest.approx((0.4, 0.55))


@pytest.mark.parametrize("step", [0, 1, 100])
def test_mask_window_without_warm_up_is_the_final_one(step):
    found = mask_window(step, start=0.15, final_min=0.85, final_max=0.99, warmup_steps=0)
    assert found == pytest.approx((0.85, 0.99), abs=1e-12)


# --- rates, kinds, micro-batches ---


@pytest.mark.parametrize("step", [0, 1, 7])
def test_rates_come_one_from_each_slice_in_a_new_order_each_step(step):
    low, high, batch = 0.1, 0.9, 16
    rates = stratified_rates(low, high, batch, seed=3, step=step)
    slices = ((rates - low) / (high - low) * batch).floor().long()
    assert sorted(slices.tolist()) == list(range(batch))
    assert slices.tolist() != sorted(slices.tolist())
    assert torch.equal(rates, stratified_rates(low, high, batch, seed=3, step=step))
    others = [(4, step), (3, step + 1)]
    for seed, other_step in others:
        other = stratified_rates(low, high, batch, seed=seed, step=other_step)
        assert not torch.equal(rates.argsort(), other.argsort())


def test_rates_are_uniform_in_the_window():
    rates = torch.cat([stratified_rates(0.2, 0.6, 8, seed=0, step=step) for step in range(500)])
    inside = (rates - 0.2) / 0.4
    assert inside.mean() == pytest.approx(0.5, abs=5 * (12 * 4000) ** -0.5 / 8)
    shares = torch.histc(inside, bins=32, min=0, max=1) / len(rates)
    assert (shares - 1 / 32).abs().max() < 5 * (1 / 32 / 4000) ** 0.5


def test_rates_of_a_window_that_is_a_point():
    rates = stratified_rates(0.15, 0.15, 5, seed=0, step=0)
    assert torch.equal(rates, torch.full((5,), 0.15))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_micro_batches_cut_the_global_batch_into_neighbours(steps, processes, size, seed):
    rates = stratified_rates(0.1, 0.9, steps * processes * size, seed=seed, step=0)
    parts = micro_batches(rates, processes, size)
    assert parts.shape == (steps, processes, size)
    assert sorted(parts.flatten().tolist()) == list(range(len(rates)))
    of_steps = rates[parts].flatten(1)
    assert (of_steps[:-1].amax(1) <= of_steps[1:].amin(1)).all()
    of_processes = rates[parts].flatten(0, 1)
    assert (of_processes[:-1].amax(1) <= of_processes[1:].amin(1)).all()


def test_equal_rates_stay_in_their_order():
    parts = micro_batches(torch.full((64,), 0.5), 2, 4)
    assert torch.equal(parts.flatten(), torch.arange(64))


def test_kinds_come_by_weight():
    weights = {"span": 1, "ascending": 3, "permuted": 0}
    kinds = draw_kinds(weights, 4000, seed=0, step=0)
    assert set(kinds) == {"span", "ascending"}
    assert kinds.count("span") / 4000 == pytest.approx(0.25, abs=0.03)
    assert kinds == draw_kinds(weights, 4000, seed=0, step=0)
    assert kinds != draw_kinds(weights, 4000, seed=0, step=1)
    assert kinds != draw_kinds(weights, 4000, seed=1, step=0)


@pytest.mark.parametrize(
    "weights", [{}, {"ascending": 0.0}, {"upwards": 1.0}, {"ascending": 2.0, "span": -1.0}], ids=str
)
def test_unknown_kinds_of_order_are_refused(weights):
    with pytest.raises(ValueError, match="expected weights for ascending, permuted, span") as info:
        draw_kinds(weights, 4, seed=0, step=0)
    assert str(weights) in str(info.value)


# --- orders ---


def drawn(kind, lengths, rates, **key):
    """Arguments of `joint_orders` and `parallel_orders`."""
    batch = len(rates)
    arguments = torch.tensor(lengths), torch.tensor(rates), [kind] * batch
    return arguments, {"seed": 0, "step": 0, "indices": range(batch), **key}


def check_kind(kind, *parts):
    """Every part of an order that is ascending or a span goes left to right."""
    if kind != "permuted":
        assert all((part.diff() > 0).all() for part in parts)
    if kind == "span":
        assert (parts[-1].diff() == 1).all()


RATES = [0.0, 0.01, 0.3, 0.5, 0.95, 0.99, 1.0]


@pytest.mark.parametrize("length", [2, 3, 10, 101])
@pytest.mark.parametrize("kind", ORDER_KINDS)
def test_joint_orders_have_the_targets_of_their_rate(kind, length):
    """At least one target and one visible position, and everything else is prompt."""
    arguments, key = drawn(kind, [length] * len(RATES), RATES)
    order = joint_orders(*arguments, **key)
    expected = [min(max(round(rate * length), 1), length - 1) for rate in RATES]
    assert order.num_targets.tolist() == expected
    for row, count in zip(order.order, expected, strict=True):
        check_kind(kind, row[: length - count], row[length - count :])


@pytest.mark.parametrize("length", [2, 3, 10, 101])
@pytest.mark.parametrize("kind", ORDER_KINDS)
def test_parallel_orders_have_the_visible_tokens_of_their_rate(kind, length):
    """As in the original, num_visible = L - int(L m); the prompt is some of them."""
    arguments, key = drawn(kind, [length] * len(RATES), RATES)
    order, num_visible = parallel_orders(*arguments, **key)
    expected = [min(max(length - int(length * rate), 1), length - 1) for rate in RATES]
    assert num_visible.tolist() == expected
    assert (order.num_prompt >= 1).all() and (order.num_prompt <= num_visible).all()
    if kind != "span":
        for row, prompt, visible in zip(order.order, order.num_prompt, num_visible, strict=True):
            check_kind(kind, row[:prompt], row[prompt:visible], row[visible:])
    else:
        for row, visible in zip(order.order, num_visible, strict=True):
            check_kind(kind, row[:visible], row[visible:])


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.9])
def test_prompts_of_parallel_orders_are_uniform(rate):
    """int(U (1 - m) L) + 1, U uniform: from 1 to all visible tokens, each as often."""
    batch, length = 2000, 40
    arguments, key = drawn("ascending", [length] * batch, [rate] * batch)
    order, num_visible = parallel_orders(*arguments, **key)
    most = round((1 - rate) * length)
    assert (num_visible == most).all()
    counts = torch.bincount(order.num_prompt, minlength=most + 1)
    assert counts[0] == 0 and len(counts) == most + 1
    expected = batch / most
    assert ((counts[1:] - expected).abs() < 5 * expected**0.5).all()


@pytest.mark.parametrize("kind", ["ascending", "permuted"])
def test_every_position_is_a_target_as_often_as_any_other(kind):
    batch, length, rate = 2000, 12, 0.25
    arguments, key = drawn(kind, [length] * batch, [rate] * batch)
    for order in (joint_orders(*arguments, **key), parallel_orders(*arguments, **key)[0]):
        last = order.order[:, -3:]  # targets of either
        counts = torch.bincount(last.flatten(), minlength=length)
        assert ((counts - batch * rate).abs() < 5 * (batch * rate * (1 - rate)) ** 0.5).all()


def test_permuted_orders_are_in_any_order():
    arguments, key = drawn("permuted", [4] * 2400, [0.5] * 2400)
    rows = joint_orders(*arguments, **key).order.tolist()
    counts = [rows.count(list(row)) for row in set(map(tuple, rows))]
    assert len(counts) == 24 and max(abs(count - 100) for count in counts) < 50


def test_spans_start_anywhere():
    arguments, key = drawn("span", [6] * 1000, [0.5] * 1000)
    order = joint_orders(*arguments, **key)
    counts = torch.bincount(order.order[:, 3], minlength=4)
    assert len(counts) == 4 and (counts - 250).abs().max() < 70


@pytest.mark.parametrize("kind", ORDER_KINDS)
def test_padding_stays_in_place_and_short_sequences_have_their_own_targets(kind):
    lengths, rates = [5, 20, 2, 13], [0.5, 0.5, 0.99, 0.1]
    arguments, key = drawn(kind, lengths, rates)
    joint = joint_orders(*arguments, **key)
    parallel, num_visible = parallel_orders(*arguments, **key)
    assert joint.num_targets.tolist() == [2, 10, 1, 1]
    assert (parallel.length - num_visible).tolist() == [2, 10, 1, 1]
    for order in (joint, parallel):
        assert order.length.tolist() == lengths
        for row, length in zip(order.order, lengths, strict=True):
            assert sorted(row[:length].tolist()) == list(range(length))
            assert torch.equal(row[length:], torch.arange(length, 20))


def split(result):
    """An order, and what is visible: of joint orders, the prompt."""
    return (result, result.num_prompt) if isinstance(result, Order) else result


@pytest.mark.parametrize("make", [joint_orders, parallel_orders])
@pytest.mark.parametrize("kind", ORDER_KINDS)
def test_the_order_of_a_sequence_does_not_depend_on_its_batch(kind, make):
    """Neither on its mates nor on its place among them: on seed, step and index alone."""
    lengths = torch.tensor([20, 5, 20, 13, 9, 20])
    rates, places = torch.linspace(0.1, 0.9, 6), [3, 11, 4, 0, 7, 12]
    whole, visible = split(make(lengths, rates, [kind] * 6, seed=1, step=2, indices=places))
    for chosen in ([4, 1], [0], [5, 4, 3, 2, 1, 0], [2, 3]):
        indices = [places[i] for i in chosen]
        kinds = [kind] * len(chosen)
        key = {"seed": 1, "step": 2, "indices": indices}
        part, part_visible = split(make(lengths[chosen], rates[chosen], kinds, **key))
        size = part.order.shape[1]
        assert torch.equal(part.order, whole.order[chosen, :size])
        assert torch.equal(part.num_prompt, whole.num_prompt[chosen])
        assert torch.equal(part_visible, visible[chosen])


@pytest.mark.parametrize("make", [joint_orders, parallel_orders])
@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 1}, {"indices": range(8, 16)}], ids=str)
def test_another_seed_step_or_index_is_another_order(change, make):
    arguments, key = drawn("ascending", [40] * 8, [0.5] * 8)
    orders = [split(make(*arguments, **options))[0] for options in (key, key, key | change)]
    assert torch.equal(orders[0].order, orders[1].order)
    assert (orders[0].order != orders[2].order).any(1).all()
    assert len({tuple(row) for order in orders[1:] for row in order.order.tolist()}) == 16


def test_random_numbers_of_torch_are_left_alone():
    state = torch.get_rng_state()
    arguments, key = drawn("permuted", [9] * 3, [0.5] * 3)
    joint_orders(*arguments, **key)
    parallel_orders(*arguments, **key)
    stratified_rates(0.1, 0.9, 4, seed=0, step=0)
    draw_kinds({"span": 1.0}, 4, seed=0, step=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_depend_on_the_key_alone():
    """In every process and every version of Python, unlike `hash`."""
    assert keyed_seed("order", 0, 1) == 21412293802778380
    keys = [(0, "order", 1, 2), (0, "order", 12), (0, "order", 1, 3), (1, "order", 1, 2), (0, "x")]
    assert len({keyed_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= keyed_seed(*key) < 2**63 for key in keys)


# --- a step, however it is cut ---


def test_a_step_does_not_depend_on_how_it_is_cut():
    """The same window, rates, kinds, and for every sequence the same order and visible tokens."""
    orders = {"ascending": 1.0, "permuted": 1.0, "span": 1.0}
    lengths = torch.randint(2, 13, (12,), generator=torch.Generator().manual_seed(0))
    ids = torch.arange(12)[:, None].expand(12, 12)  # every token names its sequence
    found = []
    for processes, batch_size in [(1, 12), (2, 3), (3, 2)]:
        config = TrainingConfig(
            global_batch_size=12,
            batch_size=batch_size,
            orders=orders,
            max_steps=10,
            warmup_steps=4,
            mask_warmup_steps=8,
            seed=5,
            learning_rate=1e-5,
            min_mask_rate=0.85,
        )
        plan = plan_step(2, config, processes)
        assert plan.parts.shape == (12 // processes // batch_size, processes, batch_size)
        assert plan.learning_rate == pytest.approx(0.75e-5)
        assert plan.mask_window == pytest.approx((0.325, 0.36))
        places = [i for process in range(processes) for i in plan.indices(process)]
        assert sorted(places) == list(range(12))
        rows = {}
        for part in plan.parts.flatten(0, 1):
            tokens, order = micro_batch(ids[part], lengths[part], part, plan, config)
            assert torch.equal(tokens[:, 0], part)
            for index, row, prompt, size in zip(
                part.tolist(), order.order, order.num_prompt, order.length, strict=True
            ):
                assert size == lengths[index]
                rows[index] = row[:size].tolist(), int(prompt)
        found.append((rows, plan.rates.tolist(), plan.kinds))
    assert found[0] == found[1] == found[2]


def test_micro_batches_of_the_parallel_objective_say_what_is_visible():
    config = TrainingConfig(objective="parallel", global_batch_size=4, batch_size=4)
    plan = plan_step(0, config, 1)
    part, lengths = plan.parts[0, 0], torch.tensor([8, 6, 8, 8])
    ids = torch.zeros(4, 8, dtype=torch.long)
    _, order, num_visible = micro_batch(ids, lengths, part, plan, config)
    expected = parallel_orders(
        lengths,
        plan.rates[part],
        [plan.kinds[i] for i in part],
        seed=0,
        step=0,
        indices=part.tolist(),
    )
    assert torch.equal(order.order, expected[0].order)
    assert torch.equal(num_visible, expected[1])


def test_recorded_seeds_are_kept_by_every_reader_of_json():
    keys = [("sample", 0, item) for item in range(2000)]
    seeds = [recorded_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys) and max(seeds) > 2**52
    assert all(int(float(seed)) == seed < 2**53 for seed in seeds)
