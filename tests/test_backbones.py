"""Any network of rows with limits is sampled, scored and trained, and may have a draft head."""

import pytest
import torch
from fakes import ConditionalTable, Uncached, mixed_batch, randomize
from torch import nn

from asarm import log_prob, sample
from asarm.drafting.head import DraftHead, DraftHeadConfig, HasDraftHead
from asarm.drafting.objective import DraftObjective
from asarm.fingerprint import of_model
from asarm.loading import load_tokenizer
from asarm.objective import joint_loss

VOCAB, WIDTH, LENGTH = 11, 8, 9
METHODS = ["sequential", "assd", "onepass"]


class BagOfWords(HasDraftHead, nn.Module):
    """A network that is nothing like XLNet: rows see the mean of tokens, wherever they are."""

    vocab_size, mask_token_id = VOCAB, 6
    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.output = nn.Linear(WIDTH, VOCAB)
        randomize(self, seed=0, std=0.7)
        self.double().eval()

    def new_cache(self, batch, length):
        return Uncached(self).new_cache(batch, length)

    def forward(self, content, query, cache=None):
        if cache is not None:
            for kept, new in zip(cache.rows[:3], content[:3], strict=True):
                kept.scatter_(1, content.ranks, new)
            content = cache.rows
        is_seen = (content.ranks[:, None] < query.limits[..., None]).double()  # (B, Q, R)
        mean = is_seen @ self.tokens(content.tokens) / is_seen.sum(2, keepdim=True).clamp(min=1)
        return torch.tanh(mean + self.places(query.positions))

    def logits(self, hidden):
        return self.output(hidden)

    def output_weights(self):
        return self.output.weight, self.output.bias

    def embedding_weights(self):
        return self.tokens.weight


def problem():
    model, (ids, order) = BagOfWords(), mixed_batch([9, 7, 9], [2, 1, 4], VOCAB)
    return model, ids, order


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("has_head", [False, True])
def test_every_network_is_sampled_and_scored(method, has_head):
    model, ids, order = problem()
    expected = sample(model, ids, order, "sequential", verifier="gumbel", seed=3)
    if has_head:
        model.set_draft_head(DraftHead(DraftHeadConfig(WIDTH, hidden=5, rank=3)).double())
        randomize(model.draft_head, seed=1, std=0.5)
    found = sample(model, ids, order, method, verifier="gumbel", seed=3)
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.log_probs, log_prob(model, found.tokens, order))


def test_every_network_is_trained():
    model, ids, order = problem()
    loss = joint_loss(model, ids, order)
    expected = -(log_prob(model, ids, order).sum(1) / order.num_targets).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(weight.grad.abs().max() > 0 for weight in model.parameters())


def test_a_draft_head_learns_on_top_of_every_network():
    model, ids, order = problem()
    head = DraftHead(DraftHeadConfig(WIDTH, hidden=5, rank=3)).double()
    loss = DraftObjective(model, head)(ids, order, order.num_prompt[:, None])
    assert 0 < loss < 1
    loss.backward()
    assert head.up.grad.abs().max() > 0


def test_what_a_head_stands_on_moves_and_casts_it_and_does_not_count_it():
    model, _, _ = problem()
    names = [name for name, _ in model.named_parameters()]
    head = DraftHead(DraftHeadConfig(WIDTH))
    model.set_draft_head(head)
    assert model.draft_head is head and [name for name, _ in model.named_parameters()] == names
    assert {name.split(".")[0] for name in model.state_dict()} == {"tokens", "places", "output"}
    model.to(torch.bfloat16)
    assert {weight.dtype for weight in head.parameters()} == {torch.bfloat16}
    model.set_draft_head(None)
    model.to(torch.float64)
    assert model.draft_head is None and head.up.dtype == torch.bfloat16


def test_every_network_has_a_fingerprint_and_what_has_no_weights_is_refused():
    (model, _, _), tokenizer = problem(), load_tokenizer("demo")
    before = of_model(model, tokenizer)
    assert before == of_model(problem()[0], tokenizer)
    with torch.no_grad():
        model.output.bias[0] += 1
    assert of_model(model, tokenizer) != before
    with pytest.raises(ValueError, match="ConditionalTable without state_dict; expected an nn.Mod"):
        of_model(ConditionalTable(length=3), tokenizer)
