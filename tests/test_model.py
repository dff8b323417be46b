"""The network: equal to `transformers.XLNetLMHeadModel`, row by row and weight by weight."""

import json
from types import MethodType

import pytest
import torch
from fakes import mixed_batch, small_model
from transformers import XLNetConfig, XLNetLMHeadModel

from asarm import AnySubsetTransformer, log_prob, sample
from asarm.distribution import Distribution
from asarm.objective import joint_loss
from asarm.rows import ContentRows, QueryRows, joint_rows

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
PROMPTS = {"none": [0, 0], "one": [1, 1], "many": [7, 3], "mixed": [0, 8]}


def reference_of(model: AnySubsetTransformer) -> XLNetLMHeadModel:
    """transformers' network of the same weights; its float32 position table cast to their dtype."""
    reference = XLNetLMHeadModel(model.config).eval()
    reference.load_state_dict(model.state_dict())
    reference = reference.to(model.dtype)
    core = reference.transformer
    in_float32 = core.relative_positional_encoding

    def encoding(self, *args, **kwargs):
        return in_float32(*args, **kwargs).to(self.dtype)

    core.relative_positional_encoding = MethodType(encoding, core)
    return reference


@torch.no_grad()
def reference_logits(reference, ids, order, query_limits):
    """Logits (L, V) by rank of one sequence, where the row of rank r sees ranks < limits[r].

    A content row sees what the query row of its position sees, and itself.
    """
    rank, limits = order.rank[0], query_limits[order.rank[0]]
    perm_mask = (rank[None, :] >= limits[:, None]).to(reference.dtype)  # 1: i may not see j
    target_mapping = torch.eye(len(rank), dtype=reference.dtype)[order.order[0]]
    return reference(
        ids, perm_mask=perm_mask[None], target_mapping=target_mapping[None], use_mems=False
    ).logits[0]


def query_limits(order, known=None):
    """By rank (L,): the prompt sees itself, a target what is before it, drafts what is known."""
    ranks = torch.arange(order.order.shape[1])
    limits = ranks.clamp(min=int(order.num_prompt))
    return limits if known is None else limits.clamp(max=known)


def problem(prompts, dtype, **config):
    model = small_model(dtype=dtype, std=0.25, **config)
    ids, order = mixed_batch([10, 10], PROMPTS[prompts], 60)
    return model, reference_of(model), ids, order


@pytest.mark.parametrize("clamp_len", [-1, 3])
@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_joint_log_probs_are_those_of_transformers(dtype, prompts, clamp_len):
    model, reference, ids, order = problem(prompts, dtype, clamp_len=clamp_len)
    found = log_prob(model, ids, order)
    for b in range(2):
        one = order[[b]]
        logits = reference_logits(reference, ids[[b]], one, query_limits(one))
        tokens = ids[b][order.order[b]]
        expected = Distribution(6).log_probs(logits).gather(1, tokens[:, None])[:, 0]
        first = max(1, int(order.num_prompt[b]))  # rank 0 of an empty prompt averages over all
        error = found[b][order.order[b]][first:] - expected[first:]
        assert error.abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_draft_and_verify_row_is_that_of_transformers(dtype, prompts, cached):
    """The rows of all ranks that see the first n, for every n, as the samplers ask for them."""
    model, reference, ids, order = problem(prompts, dtype)
    for b in range(2):
        one, size = order[[b]], ids.shape[1]
        content, _ = joint_rows(ids[[b]], one)
        cache, done = model.new_cache(1, size), 0
        for known in range(max(1, int(one.num_prompt)), size):
            query = QueryRows(one.order[:, known:], torch.full((1, size - known), known))
            new = ContentRows(*(part[:, done if cached else 0 : known] for part in content))
            done = known
            with torch.no_grad():
                found = model.logits(model(new, query, cache if cached else None))[0]
            limits = query_limits(one, known)
            expected = reference_logits(reference, ids[[b]], one, limits)[known:]
            assert (found - expected).abs().max() < TOLERANCE[dtype]


@pytest.mark.parametrize("method", ["sequential", "assd", "ngram", "onepass"])
def test_log_probs_of_samples_are_those_of_transformers(method):
    model, reference, ids, order = problem("many", torch.float64)
    drafting = {} if method == "sequential" else {"k": 3}
    result = sample(model, ids, order, sampler=method, seed=1, **drafting)
    for b in range(2):
        one, tokens = order[[b]], result.tokens[[b]]
        logits = reference_logits(reference, tokens, one, query_limits(one))
        expected = (
            Distribution(6).log_probs(logits).gather(1, tokens[0][one.order[0]][:, None])[:, 0]
        )
        found = result.log_probs[b][one.order[0]]
        first = int(one.num_prompt)
        torch.testing.assert_close(found[first:], expected[first:], atol=1e-10, rtol=0)


def test_first_row_of_an_empty_prompt_depends_on_no_token():
    model = small_model()
    ids, order = mixed_batch([6, 6], [0, 0], 60)
    others = ids.roll(1, 1) + 1
    others.scatter_(1, order.order[:, :1], ids.gather(1, order.order[:, :1]))
    distributions = [log_prob(model, tokens, order) for tokens in (ids, others)]
    assert not torch.equal(*distributions)
    assert torch.equal(
        *(distribution.gather(1, order.order[:, :1]) for distribution in distributions)
    )


def test_empty_prompt_gives_no_nan_forward_or_backward():
    model = small_model()
    ids, order = mixed_batch([6, 4], [0, 0], 60)
    content, query = joint_rows(ids, order)
    hidden = model(content, query)
    assert hidden.isfinite().all()  # of padded rows too, which see nothing either
    joint_loss(model, ids, order).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 20
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_row_that_sees_nothing_is_its_position_blind_blank():
    model = small_model()
    ids, order = mixed_batch([6], [0], 60)
    content, _ = joint_rows(ids, order)
    query = QueryRows(torch.arange(6)[None], torch.zeros(1, 6, dtype=torch.long))
    hidden = model(content, query)[0]
    torch.testing.assert_close(hidden, hidden[:1].expand(6, -1))


def test_parameters_and_checkpoints_are_those_of_transformers(tmp_path):
    model = small_model(dtype=torch.float32)
    model.save_pretrained(tmp_path / "ours")
    reference, report = XLNetLMHeadModel.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    reference.save_pretrained(tmp_path / "theirs")
    again = AnySubsetTransformer.from_pretrained(tmp_path / "theirs")
    for other in (reference, again):
        found, expected = dict(other.named_parameters()), dict(model.named_parameters())
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert other.lm_loss.weight is other.transformer.word_embedding.weight


@pytest.mark.parametrize("mask_token_id", [None, 3])
def test_mask_token_is_written_when_saved(tmp_path, mask_token_id):
    model = small_model(dtype=torch.float32)
    if mask_token_id is not None:
        model.config.mask_token_id = mask_token_id
    assert model.mask_token_id == (mask_token_id or 6)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["mask_token_id"] == (mask_token_id or 6)
    assert config["architectures"] == ["XLNetLMHeadModel"]
    assert AnySubsetTransformer.from_pretrained(tmp_path).mask_token_id == (mask_token_id or 6)


@pytest.mark.parametrize("method", ["sequential", "assd", "ngram", "onepass", "parallel"])
def test_bfloat16_runs(method):
    model, ids, order = small_model(std=0.25), *mixed_batch([12, 9], [2, 4], 60)
    options = {"steps": 3} if method == "parallel" else {}
    rough = small_model(std=0.25, dtype=torch.bfloat16)
    result = sample(rough, ids, order, sampler=method, **options)
    assert result.log_probs.dtype == torch.float32
    assert result.log_probs.isfinite().all()
    exact = log_prob(model, result.tokens, order)
    assert (log_prob(rough, result.tokens, order) - exact).abs().max() < 0.25


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"bi_data": True}, "bi_data is True"), ({"attn_type": "uni"}, "attn_type is 'uni'")],
)
def test_what_no_any_subset_model_can_have_is_refused(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        small_model(**setting)
    small_model(dtype=torch.float32).save_pretrained(tmp_path)
    XLNetConfig(**small_model().config.to_dict() | setting).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        AnySubsetTransformer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "setting",
    [
        {"mem_len": None},
        {"mem_len": 4, "reuse_len": 2},
        {"same_length": True},
        {"use_mems_eval": False},
        {"use_mems_train": True},
    ],
    ids=str,
)
def test_settings_of_memory_change_nothing_and_are_kept(setting):
    ids, order = mixed_batch([8, 5], [1, 3], 60)
    model = small_model(**setting)
    assert torch.equal(log_prob(model, ids, order), log_prob(small_model(), ids, order))
    assert setting.items() <= model.config.to_dict().items()


def test_content_hidden_from_a_row_does_not_reach_it():
    """Changing the token of rank r moves the distributions of ranks above r, and of no others."""
    model = small_model()
    ids, order = mixed_batch([9], [2], 60)
    with torch.no_grad():
        before = model(*joint_rows(ids, order))[0]
        for rank in range(2, 9):
            changed = ids.clone()
            changed[0, order.order[0, rank]] += 1
            after = model(*joint_rows(changed, order))[0]
            moved = (after - before).abs().amax(1) > 0
            assert torch.equal(moved, torch.arange(2, 9) > rank)


def test_order_of_content_rows_is_indifferent():
    model = small_model()
    ids, order = mixed_batch([9], [2], 60)
    content, query = joint_rows(ids, order)
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    other = ContentRows(*(part[:, shuffled] for part in content))
    cache = model.new_cache(1, 9)
    with torch.no_grad():
        torch.testing.assert_close(model(other, query, cache), model(content, query))
