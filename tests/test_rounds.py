"""Static rounds give the text of eager ones, never wait for the device, and can be replayed.

A CUDA graph replays the operations of one round on the same memory, without Python. So does
`Recording` here, on a CPU: what Python would have to do anew, or another shape, shows as another
text.
"""

from itertools import count

import pytest
import torch
from fakes import mixed_batch, small_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asarm import sample
from asarm.distribution import Allowed
from asarm.drafting.head import DraftHead, DraftHeadConfig
from asarm.sampling import NGram, Sequential, api, rounds, sampler_of
from asarm.sampling.api import prepare
from asarm.sampling.randomness import HashedRandomness

aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select, aten._unique2}
COPIES_FROM_THE_HOST = {aten.lift_fresh}
METHODS = [("sequential", None), ("assd", 1), ("assd", 4), ("assd", "auto"), ("ngram", 3)]
METHODS += [("onepass", 1), ("onepass", 3), ("onepass", "auto"), ("ngram", "auto")]


class NeverWaiting(TorchDispatchMode):
    """Fails where a GPU's host would have to wait, or to send something."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        assert packet not in WAITS | COPIES_FROM_THE_HOST, func
        if packet in (aten.index, aten.index_put_, aten.index_put):
            assert not any(i is not None and i.dtype == torch.bool for i in args[1]), func
        return func(*args, **(kwargs or {}))


class Recording(NeverWaiting):
    """Notes every operation, to make it again from and to the same memory."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = super().__torch_dispatch__(func, types, args, kwargs)
        given = {storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        outputs = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        is_written = func._schema.is_mutable
        is_view = not is_written and all(storage(x) in given for x in outputs)
        if not is_view:
            self.operations.append((func, args, kwargs or {}, [] if is_written else outputs))
        return found

    def replay(self):
        for func, args, kwargs, outputs in self.operations:
            for output, again in zip(outputs, tree_leaves(func(*args, **kwargs)), strict=False):
                output.copy_(again)


def storage(tensor):
    return tensor.untyped_storage()._cdata


def record(decoding):
    with Recording() as recording:
        decoding.round_in_place()
    return recording.replay


@pytest.fixture(scope="module")
def model():
    model = small_model()
    torch.manual_seed(0)
    sizes = {"d_model": model.config.d_model, "hidden": 16, "rank": 8}
    head = DraftHead(DraftHeadConfig(**sizes)).double().requires_grad_(False)
    for parameter in head.parameters():
        parameter.normal_(0, 0.3)
    model.set_draft_head(head)
    return model


@pytest.fixture
def replayed(monkeypatch):
    """Samples by replaying one round, recorded on a CPU."""
    monkeypatch.setattr(rounds.Decoding, "record", record)
    monkeypatch.setattr(api, "_execution", lambda asked, *_: asked)
    return lambda *arguments, **options: sample(*arguments, execution="graph", **options)


def check_same(found, expected, k):
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-10)
    counts = ["nfe", "rounds", "drafted", "accepted"]
    for name in counts if k == "auto" else [*counts, "rows"]:
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.slow_but_one
@pytest.mark.parametrize("verifier", ["block", "rejection", "gumbel"])
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_static_and_replayed_rounds_give_the_eager_text(replayed, model, method, k, verifier):
    ids, order = mixed_batch([30, 26, 9, 3, 12], [6, 0, 8, 1, 1], 60)
    for drafter in ["head", "self"] if method in ("assd", "onepass") else [None]:
        options = {
            "sampler": sampler_of(method, k=k, verifier=verifier, drafter=drafter),
            "seed": 3,
        }
        expected = sample(model, ids, order, execution="eager", **options)
        check_same(sample(model, ids, order, execution="static", **options), expected, k)
        check_same(replayed(model, ids, order, **options), expected, k)


@pytest.mark.parametrize(("method", "k"), METHODS)
def test_replayed_rounds_with_filters(replayed, model, method, k):
    ids, order = mixed_batch([24, 20], [6, 1], 60)
    tables = torch.rand(3, 60, generator=torch.Generator().manual_seed(1)) < 0.5
    tables[:, 7:12] = True
    allowed = Allowed(tables, torch.arange(24).expand(2, -1) % 3)
    options = {"sampler": sampler_of(method, k=k), "allowed": allowed, "temperature": 0.8}
    options |= {"top_k": 20, "top_p": 0.9}
    expected = sample(model, ids, order, **options)
    check_same(replayed(model, ids, order, **options), expected, k)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_replayed_rounds_with_rows_of_several_limits(replayed, model, stride):
    ids, order = mixed_batch([24, 20], [6, 1], 60)
    options = {"sampler": "onepass", "k": 4, "stride": stride}
    check_same(replayed(model, ids, order, **options), sample(model, ids, order, **options), 4)


def test_a_text_of_a_single_target(replayed, model):
    ids, order = mixed_batch([5], [4], 60)
    for method in ("sequential", "assd", "ngram", "onepass"):
        expected = sample(model, ids, order, sampler=method)
        check_same(replayed(model, ids, order, sampler=method), expected, "auto")


def test_a_first_call_reads_the_prompt_and_the_drafts(replayed, model):
    """However long the prompt is: what it leaves no room for would be missing from the cache."""
    ids, order = mixed_batch([30, 26, 9], [20, 17, 2], 60)
    options = {"sampler": NGram(k=3, tolerance=1.0), "seed": 3}  # which accepts all drafts
    expected = sample(model, ids, order, execution="eager", **options)
    assert (expected.accepted > 0).all()
    check_same(sample(model, ids, order, execution="static", **options), expected, 3)
    check_same(replayed(model, ids, order, **options), expected, 3)


def test_what_python_decides_in_a_round_shows_in_a_replay(replayed, model, monkeypatch):
    """Such as random numbers by a count of the host's own."""
    ids, order = mixed_batch([40], [2], 60)
    bits, counter = HashedRandomness._bits, count()

    def counted(self, ranks, purpose, round):
        return bits(self, ranks, purpose, next(counter))

    monkeypatch.setattr(HashedRandomness, "_bits", counted)
    static = sample(model, ids, order, sampler="sequential", execution="static")
    counter = count()
    again = sample(model, ids, order, sampler="sequential", execution="static")
    assert torch.equal(again.tokens, static.tokens)
    counter = count()
    found = replayed(model, ids, order, sampler="sequential")
    assert not torch.equal(found.tokens, static.tokens)


def test_an_eager_round_waits(model):
    ids, order = mixed_batch([24], [6], 60)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NeverWaiting():
        sample(model, ids, order)


@torch.inference_mode()
def test_progress_and_broken_weights_are_noticed_every_few_rounds(model):
    ids, order = mixed_batch([40], [2], 60)
    counts, sampler = [], Sequential(verifier="gumbel")
    randomness = HashedRandomness(torch.zeros(1).long())
    net, state = prepare(model, ids, order, sampler, randomness, is_static=True)
    rounds.Decoding(sampler, net, state, execution="static", on_commit=counts.append).run()
    assert sum(counts) == 38 and max(counts) == rounds.ROUNDS_AT_ONCE + 1
    broken = small_model()
    broken.lm_loss.bias[9] = torch.nan
    with pytest.raises(ValueError, match="gives NaN instead of probabilities"):
        sample(broken, ids, order, execution="static")


def test_executions_that_cannot_be_are_refused(model):
    ids, order = mixed_batch([9], [2], 60)
    with pytest.raises(ValueError, match="execution is 'fast'; expected one of eager, static"):
        sample(model, ids, order, execution="fast")
    with pytest.raises(ValueError, match="'graph' on 'cpu'; expected 'static'"):
        sample(model, ids, order, execution="graph")
    says = "execution is 'static' with sampler '{}'; expected 'eager': rounds that are traced or"
    for watching in ({"trace": True}, {"on_round": print}):
        with pytest.raises(ValueError, match=says.format("onepass")):
            sample(model, ids, order, execution="static", **watching)
    with pytest.raises(ValueError, match=says.format("parallel")):
        sample(model, ids, order, sampler="parallel", steps=3, execution="static")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_a_gpu_gives_the_same_text(model, method, k):
    ids, order = mixed_batch([30, 26, 9, 3, 12], [6, 0, 8, 1, 1], 60)
    options = {"sampler": sampler_of(method, k=k), "seed": 3}
    expected = sample(model, ids, order, **options)
    on_gpu = small_model().cuda()
    on_gpu.set_draft_head(model.draft_head.cuda())
    try:
        for execution in ("eager", "static", "graph"):
            found = sample(on_gpu, ids, order, execution=execution, **options)
            assert torch.equal(found.tokens.cpu(), expected.tokens), execution
            assert torch.equal(found.nfe.cpu(), expected.nfe), execution
    finally:
        model.draft_head.cpu()
