"""Densities of blocks at fixed mask rates: exact, and the same however the work is shared."""

import math

import pytest
import torch
from fakes import small_model

from asarm import log_prob
from asarm.data import Batch
from asarm.metrics.densities import RATES, bits_per_token, block_bits
from asarm.schedule import joint_orders

COUNT, LENGTH = 7, 20


@pytest.fixture
def blocks():
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(7, 60, (COUNT, LENGTH), generator=rng)
    lengths = torch.tensor([LENGTH, 12, LENGTH, 2, LENGTH, 9, LENGTH])
    return Batch(ids, lengths, [f"block {i}" for i in range(COUNT)])


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_bits_are_those_of_log_prob_whatever_the_batch(blocks, batch_size):
    model = small_model(std=0.25)
    found = block_bits(model, blocks, range(COUNT), batch_size=batch_size)
    assert found.shape == (2, COUNT, len(RATES)) and found.dtype == torch.float64
    for index, length in enumerate(blocks.lengths.tolist()):
        for column, rate in enumerate(RATES):
            order = joint_orders(
                torch.tensor([length]),
                torch.tensor([rate]),
                ["ascending"],
                seed=0,
                step=column,
                indices=[index],
            )
            nats = -log_prob(model, blocks.input_ids[[index], :length], order).sum()
            assert found[0, index, column] == pytest.approx(nats.item() / math.log(2), rel=1e-12)
            expected = min(max(round(rate * length), 1), length - 1)
            assert found[1, index, column] == expected


@pytest.mark.parametrize("processes", [2, 3])
def test_parts_of_several_processes_add_up(blocks, processes):
    model = small_model(std=0.25)
    whole = block_bits(model, blocks, range(COUNT), batch_size=2)
    parts = [
        block_bits(model, blocks, range(process, COUNT, processes), batch_size=2)
        for process in range(processes)
    ]
    for process, part in enumerate(parts):
        is_own = torch.arange(COUNT) % processes == process
        assert (part[:, ~is_own] == 0).all() and (part[:, is_own] > 0).all()
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)


def test_a_process_without_a_block_adds_nothing(blocks):
    assert (block_bits(small_model(), blocks, []) == 0).all()


def test_splits_are_the_same_at_every_evaluation_and_others_at_every_rate(blocks):
    """A model is compared with another on the very same targets; random numbers of torch or not."""
    model = small_model(std=0.25)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(block_bits(model, blocks, range(COUNT), rates=(0.5, 0.5)))
    assert torch.equal(*found)
    assert not torch.equal(found[0][0, :, 0], found[0][0, :, 1])


def test_bits_per_token_weighs_tokens_alike():
    bits = torch.tensor([[[2.0, 1.0], [30.0, 1.0]], [[1.0, 1.0], [7.0, 3.0]]])
    assert bits_per_token(bits) == [4.0, 0.5]


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary(blocks):
    model = small_model()
    with torch.no_grad():
        for parameter in model.lm_loss.parameters():
            parameter.zero_()
    found = bits_per_token(block_bits(model, blocks, range(COUNT)))
    assert found == pytest.approx([math.log2(60 - 1)] * 3)  # all but <mask>
