"""What drafters are given by the samplers' rounds, and that they change nothing of it."""

from dataclasses import replace

import pytest
import torch
from fakes import mixed_batch, randomize, small_model

from asarm import sample
from asarm.distribution import Allowed
from asarm.drafting.head import DraftHead, DraftHeadConfig
from asarm.sampling import ASSD, NGram, OnePass
from asarm.sampling.api import prepare
from asarm.sampling.randomness import HashedRandomness
from asarm.sampling.rounds import Decoding

IDS, ORDER = mixed_batch([14, 9, 14, 3], [4, 0, 13, 1], 60)
VALUES = [OnePass(k=3, drafter="self"), ASSD(k=3, drafter="head"), OnePass(), NGram(k=3)]
every_value = pytest.mark.parametrize("value", VALUES, ids=repr)


@pytest.fixture(scope="module")
def model():
    model = small_model(seed=3)
    head = DraftHead(DraftHeadConfig(32, hidden=8, rank=4)).double()
    randomize(head, seed=1, std=0.3)
    model.set_draft_head(head)
    return model


@pytest.fixture(autouse=True)
def sequences_leave_one_by_one(monkeypatch):
    monkeypatch.setattr("asarm.sampling.rounds.STAYS", 0.99)


def drafts_of(model, value, spy, **options):
    """Samples with a drafter that `spy` calls on a request; the tokens of all ranks."""
    randomness = HashedRandomness(torch.arange(4))
    net, state = prepare(model, IDS, ORDER, value, randomness, **options)
    drafter = net.drafter
    net = replace(net, drafter=lambda request: spy(request, drafter))
    return Decoding(value, net, state).run().tokens


def tensors(state):
    return [(name, part) for name, part in state.flat().items() if isinstance(part, torch.Tensor)]


@every_value
def test_drafters_write_nothing(model, value):
    requests = []

    def spy(request, drafter):
        before = {name: part.clone() for name, part in tensors(request.state)}
        drafts = drafter(request)
        for name, part in tensors(request.state):
            assert torch.equal(part, before[name]), name
        requests.append(request)
        return drafts

    drafts_of(model, value, spy)
    assert len(requests) > 3


@every_value
def test_what_a_drafter_has_seen_stays_as_it_was(model, value):
    """All but the tokens, which the samplers write; also when sequences have left."""
    seen = []

    def spy(request, drafter):
        drafts = drafter(request)
        parts = request.start, request.limit, request.count, drafts.tokens, drafts.probs
        seen.extend((part, part.clone()) for part in parts)
        return drafts

    drafts_of(model, value, spy)
    for part, copy in seen:
        torch.testing.assert_close(part, copy, rtol=0, atol=0, equal_nan=True)


@every_value
def test_what_is_known_before_the_drafts_is_what_is_committed(model, value):
    """The exact token of assd and the one that follows the accepted drafts of onepass included."""
    seen = []

    def spy(request, drafter):
        seen.append((request.state.sequences, request.start.clone(), request.tokens.clone()))
        return drafter(request)

    tokens = drafts_of(model, value, spy)
    for sequences, start, known in seen:
        is_known = torch.arange(known.shape[1]) < start[:, None]
        assert torch.equal(known[is_known], tokens[sequences][is_known])


@pytest.mark.parametrize("value", [v for v in VALUES if not isinstance(v, NGram)], ids=repr)
def test_rows_and_heads_draft_what_is_allowed(model, value):
    """Bigrams may draft what is not, which is rejected."""
    tables = torch.rand(3, 60, generator=torch.Generator().manual_seed(1)) < 0.2
    tables[:, -1] = True
    allowed = Allowed(tables, torch.arange(14).expand(4, -1) % 3)
    found = sample(model, IDS, ORDER, value, allowed=allowed, trace=True)
    drafted = [draft for rounds in found.trace for step in rounds for draft in step.drafted]
    assert len(drafted) > 10
    assert all(tables[position % 3, token] for position, token in drafted)
