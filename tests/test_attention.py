"""Attention with a backward pass of its own, against its plain definition; and cheap dropout.

Shapes: B batch, N rows, S slots, P = 2L - 1 distances, H heads, D head width.
"""

import pytest
import torch
from torch.autograd import gradcheck
from torch.autograd.graph import saved_tensors_hooks

from asarm.kernels import attention, plain
from asarm.kernels.attention import Geometry
from asarm.kernels.dropout import LEVELS, Dropout
from asarm.kernels.plain import Sight

BATCH, ROWS, SLOTS, LENGTH, HEADS, WIDTH = 2, 5, 4, 6, 3, 2
SCALE = 0.7
BLOCKS = [1, 2, 3, ROWS, 100]  # rows at once: some blocks see nothing, or are not full
# whether the tensors of blocks are kept, or made in their turn
KEPT = pytest.mark.parametrize("kept_entries", [0, 2**22])
NAMES = ("query", "content_bias", "distance_bias", "keys", "values", "table")


def problem(seed=0, dtype=torch.float64, rows=ROWS, slots=SLOTS, length=LENGTH, heads=HEADS):
    """Inputs of `attend`, and rows of which the last one of the first sequence sees nothing."""
    rng = torch.Generator().manual_seed(seed)
    shapes = [
        (BATCH, rows, heads, WIDTH),
        (heads, WIDTH),
        (heads, WIDTH),
        (BATCH, heads, slots, WIDTH),
        (BATCH, heads, slots, WIDTH),
        (heads, WIDTH, 2 * length - 1),
    ]
    inputs = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    where = random_geometry(rng, rows, slots, length)
    return [tensor.to(dtype).requires_grad_() for tensor in inputs], where


def random_geometry(rng, rows, slots, length):
    positions = torch.randint(length, (BATCH, rows), generator=rng)
    slot_positions = torch.stack(
        [torch.randperm(length, generator=rng)[:slots] for _ in range(BATCH)]
    )
    limits = torch.randint(1, slots + 1, (BATCH, rows), generator=rng)
    limits[0, -1] = 0
    ranks = torch.arange(slots)[None]
    return Sight(positions, limits, slot_positions, ranks, 2 * length - 1)


def attend(*inputs_and_sight, scale=SCALE, whole=False):
    """`attention.attend` of (*inputs, sight, dropout), in one block or in several."""
    *inputs, sight, dropout = inputs_and_sight
    where = Geometry.whole(sight) if whole else Geometry.cut(sight)
    return attention.attend(*inputs, where, scale, dropout)


def kept_of(dropout, sight, seed):
    """What `attend` keeps when it is called after `seed`: drawn block by block."""
    torch.manual_seed(seed)
    kept = torch.zeros(BATCH, HEADS, ROWS, SLOTS, dtype=torch.bool)
    for block in Geometry.cut(sight).blocks:
        size = block.rows.stop - block.rows.start, block.slots.stop
        kept[:, :, block.rows, block.slots] = dropout.draw(torch.empty(BATCH, HEADS, *size))
    return kept


@KEPT
@pytest.mark.parametrize("rows_at_once", BLOCKS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_attend_and_all_its_gradients_are_those_of_plain_autograd(
    monkeypatch, rate, seed, rows_at_once, kept_entries
):
    monkeypatch.setitem(attention.ROWS_AT_ONCE, "cpu", rows_at_once)
    monkeypatch.setattr(attention, "ENTRIES_KEPT", kept_entries)
    inputs, sight = problem(seed)
    dropout = Dropout(rate)
    kept = kept_of(dropout, sight, seed) if rate else None
    torch.manual_seed(seed)
    found = attend(*inputs, sight, dropout)
    expected = plain.attend(*inputs, sight, SCALE, kept, rate)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    weights = torch.randn(found.shape, dtype=torch.float64)
    for name, gradient, wanted in zip(
        NAMES,
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        assert wanted.abs().max() > 0.01, name
        torch.testing.assert_close(
            gradient, wanted, atol=1e-12, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


@KEPT
@pytest.mark.parametrize("rows_at_once", BLOCKS)
def test_blocks_hold_every_row_once_and_all_that_it_sees(monkeypatch, rows_at_once, kept_entries):
    monkeypatch.setattr(attention, "ENTRIES_KEPT", kept_entries)
    monkeypatch.setitem(attention.ROWS_AT_ONCE, "cpu", rows_at_once)
    for seed in range(5):
        _, sight = problem(seed)
        distance, is_hidden, rows = sight.distance(), sight.is_hidden(), []
        for block in Geometry.cut(sight).blocks:
            rows += range(ROWS)[block.rows]
            index = block.distance + block.distances.start
            assert torch.equal(index[:, 0], distance[:, block.rows, block.slots])
            assert block.distance.numel() == 0 or block.distance.max() < block.distances.stop
            assert is_hidden[:, block.rows, block.slots.stop :].all()
            last = is_hidden[:, block.rows, block.slots][:, :, -1:]
            assert block.slots.stop == 0 or not last.all()  # no slot too many
        assert rows == list(range(ROWS))


def test_one_block_gives_what_many_give(monkeypatch):
    monkeypatch.setitem(attention.ROWS_AT_ONCE, "cpu", 2)
    inputs, sight = problem()
    expected = attend(*inputs, sight, Dropout(0.0))
    torch.testing.assert_close(attend(*inputs, sight, Dropout(0.0), whole=True), expected)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_attend_passes_gradcheck(rate):
    inputs, sight = problem()
    dropout = Dropout(rate)

    def seeded(*inputs):
        torch.manual_seed(1)
        return attend(*inputs, sight, dropout)

    assert gradcheck(seeded, inputs)


@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_rows_that_see_nothing_give_zeros_and_no_gradient(rate):
    inputs, sight = problem()
    assert sight.is_hidden().all(2).sum() == 1
    found = attend(*inputs, sight, Dropout(rate))
    assert (found[0, -1] == 0).all()
    for gradient in torch.autograd.grad(found[0, -1].sum(), inputs):
        assert (gradient == 0).all()  # NaN is not 0


def test_hidden_slots_reach_no_row_and_get_no_gradient():
    inputs, sight = problem()
    unseen = sight.slot_ranks.masked_fill(torch.arange(SLOTS) == SLOTS - 2, 10**6)
    sight = sight._replace(slot_ranks=unseen)
    found = attend(*inputs, sight, Dropout(0.0))
    gradients = torch.autograd.grad(found.pow(2).sum(), inputs)
    for name, gradient in zip(NAMES, gradients, strict=True):
        if name in ("keys", "values"):
            assert (gradient[:, :, -2] == 0).all() and gradient[:, :, 0].abs().max() > 0
    with torch.no_grad():
        for tensor in inputs[3:5]:
            tensor[:, :, -2] = 1e6
    torch.testing.assert_close(attend(*inputs, sight, Dropout(0.0)), found)


def test_only_what_needs_a_gradient_gets_one():
    """As with a table of constants, or keys from a network that is frozen."""
    inputs, sight = problem()
    wanted = torch.autograd.grad(attend(*inputs, sight, Dropout(0.0)).sum(), inputs)
    for i in range(len(inputs)):
        alone = [x.detach().requires_grad_(j == i) for j, x in enumerate(inputs)]
        attend(*alone, sight, Dropout(0.0)).sum().backward()
        torch.testing.assert_close(alone[i].grad, wanted[i])
        assert all(x.grad is None for j, x in enumerate(alone) if j != i)


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_inference_gives_what_training_gives(dtype, rate):
    inputs, sight = problem(dtype=dtype)
    dropout = Dropout(rate)
    torch.manual_seed(2)
    trained = attend(*inputs, sight, dropout)
    assert trained.grad_fn is not None
    torch.manual_seed(2)
    with torch.no_grad():
        assert torch.equal(attend(*inputs, sight, dropout), trained)
    torch.manual_seed(2)
    detached = attend(*(x.detach() for x in inputs), sight, dropout)
    assert torch.equal(detached, trained) and detached.grad_fn is None


@pytest.mark.parametrize("under_autocast", [False, True])
def test_bfloat16_is_close(under_autocast):
    inputs, sight = problem(rows=30, slots=20, length=32)
    rough = [x.detach().bfloat16().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in rough]  # the same numbers
    with torch.autocast("cpu", torch.bfloat16, enabled=under_autocast):
        found = attend(*rough, sight, Dropout(0.0))
    expected = plain.attend(*exact, sight, SCALE)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=0.03, rtol=0.03)
    gradients = torch.autograd.grad(found.float().pow(2).sum(), rough)
    wanted = torch.autograd.grad(expected.pow(2).sum(), exact)
    for name, gradient, exact_one in zip(NAMES, gradients, wanted, strict=True):
        assert gradient.dtype == torch.bfloat16, name
        error = (gradient.double() - exact_one).norm() / exact_one.norm()
        assert error < 0.03, name


def test_inference_under_autocast_is_close():
    inputs, sight = problem(rows=30, slots=20, length=32)
    expected = plain.attend(*inputs, sight, SCALE)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = attend(*(x.bfloat16() for x in inputs), sight, Dropout(0.0))
    torch.testing.assert_close(found.double(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_one_tensor_of_the_size_of_the_scores_is_kept(monkeypatch, rate):
    """The probabilities, in blocks, and only at slots that somebody sees."""
    monkeypatch.setitem(attention.ROWS_AT_ONCE, "cpu", 8)
    rows, slots = 40, 30
    inputs, sight = problem(rows=rows, slots=slots, length=32, dtype=torch.float32)
    limits = torch.arange(rows).clamp(max=slots).expand(BATCH, -1)
    sight = sight._replace(limits=limits)
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        attend(*inputs, sight, Dropout(rate))
    scores = BATCH * HEADS * sum(8 * min(last, slots) for last in (7, 15, 23, 31, 39))
    common = sum(x.numel() for x in inputs) + BATCH * rows
    assert sum(t.numel() for t in saved) == scores + common


@KEPT
@pytest.mark.parametrize("rows_at_once", BLOCKS)
def test_geometry_of_queries_is_that_of_the_last_rows(monkeypatch, rows_at_once, kept_entries):
    monkeypatch.setattr(attention, "ENTRIES_KEPT", kept_entries)
    monkeypatch.setitem(attention.ROWS_AT_ONCE, "cpu", rows_at_once)
    inputs, sight = problem()
    found = attend(*inputs, sight, Dropout(0.0))[:, 2:]
    queries = [x[:, 2:] if i < 1 else x for i, x in enumerate(inputs)]
    whole = [Geometry.whole(sight, size) for size in (None, rows_at_once)]
    for where in (Geometry.cut(sight), *whole):
        other = attention.attend(*queries, where.of_queries(2), SCALE, Dropout(0.0))
        torch.testing.assert_close(other, found)


# --- dropout ---

RATES = [2**-16, 0.1, 0.5, 0.9, 1 - 2**-16]


@pytest.mark.parametrize("rate", RATES)
def test_of_all_levels_dropout_drops_exactly_its_rate(monkeypatch, rate):
    """So the mean is kept exactly."""
    levels = torch.arange(-LEVELS // 2, LEVELS // 2, dtype=torch.int16)

    def every_level(words, *bounds):
        return words.view(torch.int16).copy_(levels)

    monkeypatch.setattr(torch.Tensor, "random_", every_level)
    dropout = Dropout(rate)
    assert dropout.rate == round(rate * LEVELS) / LEVELS
    ones = torch.ones(LEVELS, dtype=torch.float64)
    assert (~dropout.draw(ones)).sum() == dropout.rate * LEVELS
    assert dropout(ones).mean() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_entries_are_dropped_independently_at_their_rate(rate):
    """One random number serves four entries: each quarter of it, and every pair of quarters."""
    count = 200_000
    torch.manual_seed(0)
    is_dropped = (~Dropout(rate).draw(torch.empty(4 * count))).view(count, 4).double()
    deviation = (rate * (1 - rate) / count) ** 0.5
    assert ((is_dropped.mean(0) - rate).abs() < 4 * deviation).all()
    correlation = torch.corrcoef(is_dropped.T) - torch.eye(4)
    assert (correlation.abs() < 4 * count**-0.5).all()
    following = torch.corrcoef(torch.stack([is_dropped[:-1].flatten(), is_dropped[1:].flatten()]))
    assert following[0, 1].abs() < 4 * (4 * count) ** -0.5


def test_dropped_is_zero_and_kept_is_scaled():
    dropout, entries = Dropout(0.3), torch.randn(7, 11, dtype=torch.float64)
    torch.manual_seed(1)
    found = dropout(entries)
    torch.manual_seed(1)
    is_dropped = ~dropout.draw(entries)
    assert is_dropped.any() and not is_dropped.all()
    assert (found[is_dropped] == 0).all()
    torch.testing.assert_close(found[~is_dropped], entries[~is_dropped] / (1 - dropout.rate))


def test_what_dropout_drops_gets_no_gradient():
    entries = torch.randn(50, dtype=torch.float64, requires_grad=True)

    def seeded(entries):
        torch.manual_seed(3)
        return Dropout(0.3)(entries)

    assert gradcheck(seeded, entries)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2, 3, 4), (0,)], ids=str)
def test_dropout_of_any_number_of_entries(shape):
    dropout = Dropout(0.5)
    drawn = dropout.draw(torch.empty(shape))
    assert drawn.shape == shape and drawn.dtype == torch.bool
    assert dropout(torch.ones(shape)).shape == shape


def test_the_same_seed_drops_the_same_entries():
    dropout, entries = Dropout(0.5), torch.ones(1000)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(dropout(entries))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(dropout(entries), dropout(entries))


def test_dropout_is_the_identity_where_nothing_is_dropped():
    entries, state = torch.randn(100), torch.get_rng_state()
    for dropout in (Dropout(0.0), Dropout(0.5).eval()):
        assert dropout(entries) is entries
        assert "rate" in repr(dropout)
    inputs, sight = problem()
    expected = attend(*inputs, sight, Dropout(0.0))
    assert torch.equal(attend(*inputs, sight, Dropout(0.5).eval()), expected)
    assert torch.equal(torch.get_rng_state(), state)  # and no random number is used
