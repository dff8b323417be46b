"""What is timed is what it is said to be: rounds, rows, bytes and tokens; nothing here is timed."""

from dataclasses import replace

import pytest
import torch
from fakes import small_model
from transformers import GPT2LMHeadModel

from asarm import Order, sample
from asarm.benchmark.bandwidth import weights_of_a_call
from asarm.benchmark.baselines import (
    WHOLE,
    Recomputing,
    fill_in_parallel,
    gpt2_config,
    gpt2_fill,
    measure_baselines,
)
from asarm.benchmark.batches import batches_figures
from asarm.benchmark.calls import recorded_calls
from asarm.benchmark.config import BenchmarkConfig, parse
from asarm.benchmark.growth import length_figure
from asarm.benchmark.lengths import (
    FRACTIONS,
    growth_figure,
    known_text,
    measure_lengths,
    num_bytes,
    shallow_network,
)
from asarm.benchmark.measured import LengthCost
from asarm.benchmark.midway import Midway
from asarm.benchmark.models import random_ids
from asarm.benchmark.report import Report
from asarm.rows import ContentRows, QueryRows
from asarm.sampling import Sequential, sampler_of

TINY = parse(["--tiny"])
LENGTH = 24


@pytest.fixture(scope="module")
def model():
    return small_model()


def text(model, fraction, *, batch=1):
    """Ids and orders of random texts."""
    return random_ids(model, LENGTH, batch=batch), Order.random_split(
        LENGTH, fraction, batch=batch, seed=3
    )


@pytest.mark.parametrize("method", ["sequential", "onepass"])
def test_all_rounds_from_the_prompt_are_the_sampler(model, method):
    ids, order = text(model, 0.3)
    sampler = sampler_of(method, drafter="self")
    expected = sample(model, ids, order, sampler, seed=0).tokens
    place = Midway(model, ids, order, num_rounds=WHOLE)
    place.read_prompt()
    for _ in range(2):  # what the first pass left behind changes nothing
        assert place.next_rounds(place.num_prompt, sampler) == int(order.num_targets)
        assert torch.equal(place.last.by_position(ids, order)[0], expected)


@pytest.mark.parametrize("method", ["sequential", "onepass"])
def test_few_rounds_of_a_batch_leave_it_as_it_was(model, method):
    ids, order = text(model, 0.8, batch=3)
    place = Midway(model, ids, order, num_rounds=3)
    place.read_prompt()
    assert place.last.nfe.tolist() == [1] * 3
    known = place.num_prompt
    with recorded_calls(model) as calls:
        found = [place.next_rounds(known, sampler_of(method)) for _ in range(2)]
    assert found[0] == found[1] >= 3 * len(ids)
    assert len(calls) <= 2 * 3 and calls[0].content == 1  # the prompt is not read again
    assert len(place.last.num_committed) == 3 and len(place.cache.positions) == 3


def test_sequences_of_a_batch_commit_what_they_commit_alone(model):
    ids, order = text(model, 0.3, batch=2)
    places = [Midway(model, ids, order, num_rounds=4)]
    places += [Midway(model, ids[:1], order[:1], num_rounds=4)]
    for place in places:
        place.read_prompt()
        place.next_rounds(place.num_prompt, Sequential())
    both, alone = (place.last.tokens[0] for place in places)
    assert torch.equal(both, alone)


@pytest.mark.parametrize("is_tied", [True, False])
@torch.no_grad()
def test_bytes_are_those_of_the_weights_that_a_call_reads(is_tied):
    model = small_model(tie_word_embeddings=is_tied)
    one, zero = torch.ones(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    content, query = ContentRows(9 * one, zero, one, zero), QueryRows(one, one)
    read = 0
    for name, weight in model.named_parameters():
        kept, cache = weight.clone(), model.new_cache(1, 2)
        weight.fill_(float("nan"))
        logits = model.logits(model(content, query, cache))
        is_rows_alone = name == "transformer.word_embedding.weight" and not is_tied
        read += weight.nbytes * bool(logits.isnan().any()) * (not is_rows_alone)
        weight.copy_(kept)
    assert weights_of_a_call(model) == read > 0


def test_known_text_costs_a_call_its_next_rows_and_all_slots():
    model = shallow_network(TINY)
    decoding = known_text(model, 40, TINY)
    for fraction in FRACTIONS:
        known = int(40 * fraction)
        with recorded_calls(model) as calls:
            assert decoding.next_rounds(known, Sequential()) == TINY.rounds
        assert [(call.content, call.query) for call in calls] == [(1, 1)] * TINY.rounds
        assert [call.slots for call in calls] == [known + i for i in range(TINY.rounds)]
    assert torch.equal(decoding.cache.positions[:, :40], decoding.order.order)
    assert decoding.order.order[0].tolist() != [*range(40)]


@pytest.mark.parametrize("length, batch", [(8, 1), (30, 3)])
def test_bytes_of_a_cache(model, length, batch):
    cache = model.new_cache(batch, length)
    layers, heads, width, size = 2, 4, 8, 8  # of float64
    positions = 8 * batch * (length + 1) + 8 * batch  # and a number for every sequence
    tables = layers * heads * width * (2 * length - 1) * size
    kept = 2 * layers * batch * heads * (length + 1) * width * size
    assert num_bytes(cache) == kept + tables + positions


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_of_what_grows_by_a_power(power):
    times = {
        (n, fraction): [fraction * n**power, 3 * n**power]
        for n in (8, 32, 16)
        for fraction in FRACTIONS
    }
    figure = growth_figure(times, TINY)
    assert figure.measured == pytest.approx(2 ** (power - 1))
    assert figure.verdict == ("NO" if power > 1.1 else "yes")
    assert "from L = 16 to 32" in figure.what


def test_lengths_of_a_tiny_network():
    report = Report({}, {})
    measure_lengths(report, TINY)
    found = [(cost.length, cost.known_fraction) for cost in report.lengths]
    assert found == [(length, fraction) for length in TINY.lengths for fraction in FRACTIONS]
    short, long = report.lengths[0].cache_bytes, report.lengths[-1].cache_bytes
    assert 1.8 * short < long < 2.2 * short
    assert len(report.figures) == 1
    measure_lengths(report, replace(TINY, lengths=[16]))
    assert len(report.lengths) == 3 and len(report.figures) == 1  # one length grows to nothing


def test_picture_of_lengths():
    costs = [
        LengthCost(n, fraction, fraction * n, 100 * n)
        for n in (128, 1024)
        for fraction in FRACTIONS
    ]
    picture = length_figure(costs)
    assert picture.startswith(b"\x89PNG")
    assert picture != length_figure([replace(cost, milliseconds=1.0) for cost in costs])


@pytest.mark.slow
def test_figures_of_batches():
    figures = batches_figures(TINY)
    assert [figure.wanted for figure in figures] == [4, 2, 1.05, 1.05]
    assert all("batch 2 / batch 1" in f.what and f.measured > 0 for f in figures[:2])
    assert all("k = auto / the fastest k" in f.what and f.measured > 0 for f in figures[2:])


def test_recomputing_gives_the_text_of_parallel_by_all_rows_in_every_call(model):
    ids, order = text(model, 0.3)
    expected = sample(model, ids, order, "parallel", steps=4, by="confidence", seed=0)
    decoding = Midway(model, ids, order, num_rounds=WHOLE)
    with recorded_calls(model) as calls:
        found = decoding.fill(Recomputing(steps=4, by="confidence"))
    assert torch.equal(found.by_position(ids, order)[0], expected.tokens)
    assert [call.content + call.query for call in calls] == [LENGTH] * 4
    assert [call.logits for call in calls] == [call.query for call in calls]


@pytest.mark.parametrize("steps", [1, 5])
def test_parallel_is_timed_without_the_call_that_scores_it(model, steps):
    ids, order = text(model, 0.3)
    with recorded_calls(model) as calls:
        assert fill_in_parallel(model, ids, order, steps) == steps
    assert len(calls) == steps
    assert sum(call.query for call in calls) == int(order.num_targets)


def test_gpt2_continues_by_as_many_tokens_as_there_are_blanks():
    assert gpt2_fill(3, 9, TINY)() == 9


@pytest.mark.parametrize("length, positions", [(512, 1024), (2048, 2048)])
def test_gpt2_is_the_published_one_at_base_size(length, positions):
    config = BenchmarkConfig(base_length=length)
    with torch.device("meta"):
        network = GPT2LMHeadModel(gpt2_config(config))
    assert network.num_parameters() == 124_439_808 + 768 * (positions - 1024)


def test_baselines_of_a_tiny_network():
    report = Report({}, {})
    measure_baselines(report, TINY)
    rows = {baseline.method: baseline for baseline in report.baselines}
    assert len(rows) == len(report.baselines) == 5 + 2 * len(TINY.steps)
    num_targets = int(Order.random_split(LENGTH, TINY.prompt_share, seed=0).num_targets)
    assert {baseline.tokens for baseline in report.baselines} == {num_targets}
    assert rows["asarm, sequential"].calls == num_targets
    assert rows["original method, assd k = 5"].calls == rows["asarm, assd k = 5"].calls
    assert all(("parallel" in name) == (r.lossless == "no") for name, r in rows.items())
    assert all(
        baseline.seconds > 0 and baseline.calls <= num_targets for baseline in report.baselines
    )
    for steps in TINY.steps:
        own = [r for name, r in rows.items() if f"parallel, {steps} steps" in name]
        assert [r.calls for r in own] == [steps] * 2
