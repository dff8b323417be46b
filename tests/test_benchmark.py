"""The original method gives our text; the benchmark runs whole; nothing here is timed."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fakes import mixed_batch, small_model
from torch.utils.flop_counter import FlopCounterMode

from asarm import Order, log_prob, sample
from asarm.benchmark import training
from asarm.benchmark.calls import MatrixProducts, recorded_calls
from asarm.benchmark.config import SECTIONS, parse
from asarm.benchmark.measured import Figure, MethodCost
from asarm.benchmark.models import check_same_text, random_ids
from asarm.benchmark.reference import RecomputingXLNet
from asarm.benchmark.report import Report, fastest_k
from asarm.benchmark.step_products import StepProducts
from asarm.benchmark.training import (
    MASK_RATES,
    add_gradients,
    check_same_loss,
    new_network,
    training_batch,
    training_figures,
)
from asarm.rows import joint_rows
from asarm.sampling import sampler_of

ROOT = Path(__file__).parents[1]
TINY = parse(["--tiny"])


def counted() -> FlopCounterMode:
    """Counts the matrix products inside; torch forgets the one in place and those of oneDNN."""

    def in_place(_, left, right, **__):  # of shapes (B, N, I) and (B, I, O)
        return 2 * math.prod(left) * right[2]

    def by_onednn(rows, matrix, *_, **__):  # of shapes (..., I) and (O, I)
        return 2 * math.prod(rows) * matrix[0]

    mapping = {torch.ops.aten.baddbmm_: in_place, torch.ops.mkldnn._linear_pointwise: by_onednn}
    return FlopCounterMode(display=False, custom_mapping=mapping)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def batch():
    return mixed_batch([24, 20, 7], [6, 1, 3], 29)


@pytest.mark.parametrize(
    "method, k", [("sequential", None), ("assd", 2), ("assd", 5), ("ngram", 3), ("onepass", 3)]
)
def test_original_method_gives_our_text(model, batch, method, k):
    ids, order = batch
    seed = [5, 6, 7]
    ours = sample(model, ids, order, sampler_of(method, k=k, verifier="gumbel"), seed=seed)
    for theirs_method, theirs_k in [("sequential", None), ("assd", 5)]:
        theirs = sample(
            RecomputingXLNet.of(model),
            ids,
            order,
            sampler_of(theirs_method, k=theirs_k, verifier="gumbel"),
            seed=seed,
        )
        assert torch.equal(theirs.tokens, ours.tokens)
        torch.testing.assert_close(theirs.log_probs, ours.log_probs, rtol=0, atol=1e-10)


def test_original_method_under_rejection_makes_our_calls(model, batch):
    ids, order = batch
    reference = RecomputingXLNet.of(model)
    ours, theirs = (sample(m, ids, order, "assd", k=5) for m in (model, reference))
    assert ours.accepted.sum() < ours.drafted.sum()
    assert torch.equal(ours.tokens, theirs.tokens)
    assert torch.equal(ours.nfe, theirs.nfe)


def test_original_method_gives_our_joint(model, batch):
    ids, order = batch
    theirs = log_prob(RecomputingXLNet.of(model), ids, order)
    torch.testing.assert_close(theirs, log_prob(model, ids, order), rtol=0, atol=1e-10)


def test_original_method_has_one_limit_a_position(model, batch):
    with pytest.raises(ValueError, match="perm_mask holds one: take sampler 'sequential'"):
        sample(RecomputingXLNet.of(model), *batch, "onepass", k=2)


def test_what_gives_another_text_is_not_compared(model):
    check_same_text(model, RecomputingXLNet.of(model))
    with pytest.raises(ValueError, match="the reference's assd|asarm's sequential"):
        check_same_text(model, RecomputingXLNet.of(small_model(seed=1)))


@pytest.mark.parametrize("method, k", [("sequential", None), ("assd", 3), ("onepass", 2)])
def test_bound_holds_every_matrix_product_of_a_call_and_no_other(model, method, k):
    length = 24
    ids, order = random_ids(model, length), Order.random_split(length, 0.2, seed=0)
    with counted() as sampling, recorded_calls(model) as calls:
        result = sample(model, ids, order, sampler_of(method, k=k))
    with counted() as tables:
        cache = model.new_cache(1, length)
    bounds = [MatrixProducts(model, cache, shape) for shape in calls]
    with counted() as products:
        for bound in bounds:
            bound()
    assert len(calls) == int(result.nfe)
    assert products.get_total_flops() == sampling.get_total_flops() - tables.get_total_flops() > 0


@pytest.mark.parametrize("mask_rate", MASK_RATES)
@pytest.mark.parametrize("batch, length", [(2, 24), (3, 120)])
def test_bound_holds_every_matrix_product_of_a_training_step_and_no_other(
    mask_rate, batch, length, monkeypatch
):
    network = new_network("ours", TINY)
    monkeypatch.setattr("asarm.rows.LOGITS_AT_ONCE", 100 * network.vocab_size)  # several chunks
    ids, order = training_batch(network, mask_rate, batch=batch, length=length)
    with counted() as step:
        add_gradients(network, ids, order, TINY)
    bound = StepProducts(network, *joint_rows(ids, order))
    weights = {name: weight.clone() for name, weight in network.named_parameters()}
    with counted() as products:
        bound()
    assert products.get_total_flops() == step.get_total_flops() > 0
    assert all(torch.equal(weights[name], w) for name, w in network.named_parameters())


def test_what_trains_otherwise_is_not_compared():
    ours, reference = new_network("ours", TINY), new_network("reference", TINY)
    reference.load_state_dict(ours.state_dict())
    check_same_loss(ours, reference)
    assert ours.training and reference.training
    assert all(p.grad is None for n in (ours, reference) for p in n.parameters())
    with torch.no_grad():
        reference.transformer.layer[1].rel_attn.r_r_bias += 0.1
    with pytest.raises(ValueError, match="of a step: asarm has .* expected the same with dropout"):
        check_same_loss(ours, reference)


def test_checkpointed_network_takes_the_same_step():
    gradients = []
    for who in ("ours", "checkpointed"):
        network = new_network(who, TINY)
        torch.manual_seed(0)
        add_gradients(network, *training_batch(network, 0.95, batch=2, length=24), TINY)
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert network.transformer.gradient_checkpointing
    torch.testing.assert_close(*gradients)


def test_data_that_cannot_be_read_here_are_skipped_with_a_word(monkeypatch, capsys):
    monkeypatch.setattr(training, "step_times", lambda *_: ([], 1.0))
    monkeypatch.setattr(training, "step_memory", lambda *_: [])
    monkeypatch.setitem(sys.modules, "asarm.data", None)  # importing it fails
    assert training_figures(TINY) == []
    assert "skipped: the data pipeline (" in capsys.readouterr().out


def test_fastest_k_over_all_shares_and_at_each():
    times = {(0.95, 1): 3.0, (0.95, 2): 1.0, (0.5, 1): 1.0, (0.5, 2): 2.0}
    costs = [MethodCost(s, "assd", k, False, 1, None, 1, ms, 1) for (s, k), ms in times.items()]
    assert fastest_k(costs) == ["assd 2 (2 at 95%, 1 at 50% targets)"]


@pytest.mark.parametrize(
    "measured, is_limit, verdict",
    [(2, False, "yes"), (1.9, False, "NO"), (2, True, "yes"), (2.1, True, "NO")],
)
def test_verdict(measured, is_limit, verdict):
    assert Figure("", measured, 2, is_limit).verdict == verdict


def test_a_figure_without_demand_is_information():
    report = Report({}, {}, [Figure("small", 0.00123), Figure("large", 12.346)])
    small, large = report.markdown().splitlines()[-2:]
    assert small == "| small | 0.001x |  |  |  |"
    assert large == "| large | 12.35x |  |  |  |"


def test_nonsense_is_refused(capsys):
    for arguments in (["--repeats", "0"], ["--sections", "speed"], ["--memory_batches", "1"]):
        with pytest.raises(SystemExit, match="2"):
            parse(arguments)
    assert "at least 1 expected" in capsys.readouterr().err


@pytest.mark.slow
def test_tiny_run_writes_every_row(tmp_path):
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "benchmark.py", "--tiny", "--output_dir", tmp_path],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "ASARM_CACHE": str(tmp_path / "cache"),
            "MALLOC_TRIM_THRESHOLD_": "1000000",
        },
        check=True,
    )
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert report["config"]["sections"] == list(SECTIONS)
    assert {"cpu", "cores", "threads", "torch", "dtype"} <= set(report["machine"])
    assert report["machine"]["MALLOC_TRIM_THRESHOLD_"] == "1000000"
    wanted = [(figure["wanted"], figure["is_limit"]) for figure in report["figures"]]
    bounds = [(1.2, True), (None, False)]
    at_base = [(25, False), *bounds, (18, False), *bounds, (60, False), *[(None, False)] * 2]
    at_demo, batches = (
        [(5, False), *[(2, True)] * 2],
        [(3, False), (4, False), (2, False), *[(1.05, True)] * 2],
    )
    speed_and_bound = [(1.4, False), (None, False), (1.9, False), (None, False)]
    memory, data = [(1 / 3, True), (0.2, True)] * 2, (0.02, True)
    in_training = [*speed_and_bound, *memory, data]
    assert wanted == [
        *at_base,
        *at_demo,
        *batches,
        *[(None, False)] * 8,  # two ways, two methods, two batches
        (1.2, True),
        (0.7, True),
        *[(1, False)] * 3,
        *[(1.05, True)] * 4,
        *[(0.5, True), (0.33, True), *[(1, False)] * 4],  # of a draft head
        (0.05, True),
        (1.1, True),  # growth with the length
        *in_training,
    ]
    assert len({figure["what"] for figure in report["figures"]}) == len(wanted)
    for figure in report["figures"][-len(in_training) :]:
        assert figure["measured"] > 0 and re.match(r"[\d,.e-]+ .*/ [\d,.e-]+ ", figure["detail"])
    assert all(math.isfinite(figure["measured"]) for figure in report["figures"])
    runs = {(cost["target_fraction"], cost["method"]) for cost in report["costs"]}
    methods = ("sequential", "assd", "ngram", "onepass")
    assert runs == {(fraction, method) for fraction in (0.95, 0.5) for method in methods}
    assert all(0 < cost["nfe"] <= 1 for cost in report["costs"])
    lines = (tmp_path / "benchmark.md").read_text().splitlines()
    num_parts = len({(part["target_fraction"], part["part"]) for part in report["parts"]})
    num_rows = len(wanted) + sum(len(report[t]) for t in ("costs", "lengths", "baselines"))
    assert sum(line.startswith("|") for line in lines) == 10 + num_rows + num_parts
    assert any(line.startswith("Fastest k: assd by the head ") for line in lines)
    assert {(cost["method"], cost["draft"]) for cost in report["costs"]} == {
        ("sequential", None),
        ("ngram", None),
        *((method, draft) for method in ("assd", "onepass") for draft in ("head", "self")),
    }
    assert {part["part"] for part in report["parts"]} == {
        "self, rejection",
        "self, block",
        "head, left neighbour alone, block",
        "head, rejection",
        "head, block",
    }
    assert {point["draft"] for point in report["acceptance"]} == {"self", "head"}
    assert all(0 <= point["rate"] <= 1 for point in report["acceptance"])
    for name in ("acceptance_by_lag.png", "length.png"):
        assert f"({name})" in "".join(lines)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
