"""Decoders of transformers as any-subset models: their rows are those of the network itself."""

from __future__ import annotations

import pytest
import torch
import transformers
from test_distribution_of_samplers import IDS, make_order, output_distribution

import asarm
from asarm.backbones.decoder import AnySubsetDecoder
from asarm.kernels.products import linear
from asarm.objective import joint_loss
from asarm.rows import ContentRows, QueryRows, joint_rows
from asarm.sampling import has_option, lossless_names

VOCAB, LENGTH = 23, 12
SPECIAL = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = SPECIAL | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 64,
}
GPT2 = SPECIAL | {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
FAMILIES = {
    "Llama": LLAMA,
    "SmolLM3": LLAMA,
    "Qwen2": LLAMA,
    "Qwen3": LLAMA,
    "Mistral": LLAMA | {"sliding_window": None},
    "Olmo2": LLAMA,
    "Phi": LLAMA,
    "GPTNeoX": {n: v for n, v in LLAMA.items() if n not in ("num_key_value_heads", "head_dim")},
    "GPT2": GPT2,
    "Gemma3Text": LLAMA | {"sliding_window": 64, "query_pre_attn_scalar": 4},
}
DRAFTING = [name for name in lossless_names() if has_option(name, "k")]


def network_of(family: str, **changes) -> transformers.PreTrainedModel:
    """Make a tiny network of a family with random weights, in float64."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**FAMILIES.get(family, LLAMA) | changes)
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.double().eval()


def decoder_of(family: str = "Llama", **options) -> AnySubsetDecoder:
    return AnySubsetDecoder(network_of(family), **options)


@pytest.fixture(params=FAMILIES)
def decoder(request) -> AnySubsetDecoder:
    return decoder_of(request.param)


def texts(batch: int = 3, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(7))


def scattered() -> asarm.Order:
    """Make orders with prompts on both sides of targets, of sequences of different lengths."""
    is_target = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.6
    is_target[:, 3], is_target[2] = True, True  # the last one has no prompt at all
    lengths = torch.tensor([LENGTH, LENGTH - 2, LENGTH - 5])
    return asarm.Order.from_mask(is_target & (torch.arange(LENGTH) < lengths[:, None]), lengths)


def permuted() -> asarm.Order:
    generator = torch.Generator().manual_seed(2)
    rows = torch.stack([torch.randperm(LENGTH, generator=generator) for _ in range(3)])
    return asarm.Order(rows, [0, 3, 6])


def left_to_right(batch: int = 3) -> asarm.Order:
    return asarm.Order.from_mask(torch.ones(batch, LENGTH, dtype=torch.bool))


def own_logits(model: AnySubsetDecoder, ids: torch.Tensor) -> torch.Tensor:
    """Return the network's own logits (B, L, V) of every token of texts, by transformers."""
    start = torch.full_like(ids[:, :1], model.start_token_id)
    return model.network(torch.cat([start, ids], dim=1), use_cache=False).logits[:, :-1]


# --- the network itself ---


@torch.no_grad()
def test_left_to_right_is_the_network_itself(decoder):
    ids = texts()
    expected = own_logits(decoder, ids).log_softmax(-1).gather(2, ids[..., None])[..., 0]
    found = asarm.log_prob(decoder, ids, left_to_right())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_left_to_right_in_several_calls_too(decoder):
    """The content comes in chunks, and the rows of every call are the network's own."""
    ids, expected = texts(), own_logits(decoder, texts())
    cache, ranks = decoder.new_cache(3, LENGTH), torch.arange(LENGTH).expand(3, -1)
    for chunk in (slice(0, 5), slice(5, 6), slice(6, LENGTH)):
        content = ContentRows(ids[:, chunk], ranks[:, chunk], ranks[:, chunk] + 1, ranks[:, chunk])
        found = decoder.logits(decoder(content, QueryRows(ranks[:, chunk], ranks[:, chunk]), cache))
        torch.testing.assert_close(found, expected[:, chunk], rtol=0, atol=1e-12)


def test_gradients_left_to_right_are_those_of_the_networks_own_loss(decoder):
    ids = texts()
    own_loss = torch.nn.functional.cross_entropy(
        own_logits(decoder, ids).flatten(0, 1), ids.flatten()
    )
    learned = list(decoder.network.parameters())
    expected = torch.autograd.grad(own_loss, learned, allow_unused=True)
    loss = joint_loss(decoder, ids, left_to_right())
    torch.testing.assert_close(loss, own_loss, rtol=0, atol=1e-12)
    for found, own in zip(
        torch.autograd.grad(loss, learned, allow_unused=True), expected, strict=True
    ):
        if own is not None:
            torch.testing.assert_close(found, own, rtol=0, atol=1e-9)


@pytest.mark.parametrize("prompt", ["causal", "full"])
@torch.no_grad()
def test_rows_are_those_of_the_network_under_a_mask_made_by_hand(prompt):
    """One text, one target: transformers' forward with positions and mask written out."""
    model = decoder_of(prompt=prompt)
    model.blank.copy_(torch.randn(16, generator=torch.Generator().manual_seed(0)))
    ids, target = texts(1), 7
    is_target = torch.zeros(1, LENGTH, dtype=torch.bool)
    is_target[0, target - 1 : target + 1] = True  # its left neighbour is unknown: the row is blank
    order = asarm.Order(
        torch.tensor([[*(i for i in range(LENGTH) if not is_target[0, i]), target, target - 1]]),
        LENGTH - 2,
    )
    known = [i for i in range(LENGTH) if i not in (target - 1, target)]
    embed = model.network.get_input_embeddings()
    tokens = torch.tensor([[model.start_token_id, *ids[0, known].tolist()]])
    inputs = torch.cat([embed(tokens), model.blank[None, None]], dim=1)
    positions = torch.tensor([[0, *(i + 1 for i in known), target]])  # the start token is at 0
    size = inputs.shape[1]
    sees = torch.ones(size, size, dtype=torch.bool)
    sees = sees.tril() if prompt == "causal" else sees
    sees[0, 1:] = False  # the start token sees itself
    sees[:, -1] = False  # nobody sees the query row, not even itself
    mask = torch.where(sees, 0.0, -torch.inf).double()[None, None]
    hidden = model.network.get_decoder()(
        inputs_embeds=inputs, position_ids=positions, attention_mask=mask, use_cache=False
    ).last_hidden_state[:, -1]
    expected = model.logits(hidden).log_softmax(-1)[0, ids[0, target]]
    found = asarm.log_prob(model, ids, order)[0, target]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# --- samplers ---


@pytest.mark.parametrize("order", [scattered, permuted])
def test_calls_with_a_cache_give_what_one_call_without_gives(decoder, order):
    found = asarm.sample(decoder, texts(), order(), "sequential", seed=3)
    again = asarm.log_prob(decoder, found.tokens, order())
    torch.testing.assert_close(found.log_probs, again, rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [scattered, permuted])
@pytest.mark.parametrize("execution", ["eager", "static"])
@pytest.mark.parametrize("sampler", DRAFTING)
def test_all_samplers_give_one_text_with_gumbel(sampler, execution, order):
    for family in ("Llama", "GPT2"):
        model, options = decoder_of(family), {"verifier": "gumbel", "seed": 5}
        expected = asarm.sample(model, texts(), order(), "sequential", **options)
        found = asarm.sample(model, texts(), order(), sampler, k=3, execution=execution, **options)
        assert torch.equal(found.tokens, expected.tokens)
        torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=0, atol=1e-10)
        assert (found.nfe <= order().num_targets).all()


class OfThree(AnySubsetDecoder):
    """A decoder of three tokens, as the enumeration of all random outcomes wants one."""

    def __init__(self):
        network = network_of(
            "Llama", vocab_size=3, bos_token_id=0, eos_token_id=1, pad_token_id=None
        )
        super().__init__(network)


@pytest.mark.parametrize("order", ["permuted", "ascending", "padded", "empty prompt"])
@pytest.mark.parametrize("sampler", lossless_names())
def test_every_lossless_sampler_has_the_sequential_distribution(sampler, order):
    """Summed over all random outcomes."""
    model, asked = OfThree(), make_order(order, targets=3)
    k = {"k": 2} if sampler in DRAFTING else {}
    found = output_distribution(model, asked, sampler, **k)
    ids = torch.tensor(list(found))
    expected = asarm.log_prob(model, ids, asked[[0] * len(ids)]).sum(1).exp()
    assert float(expected.sum()) == pytest.approx(1, abs=1e-9)
    for text, probability in zip(found, expected.tolist(), strict=True):
        assert found[text] == pytest.approx(probability, abs=1e-9)
    assert IDS.shape[1] == ids.shape[1]


@pytest.mark.parametrize("order", [left_to_right, scattered, permuted])
def test_a_batch_changes_no_sequence(decoder, order):
    order, ids = order(), texts()
    together = asarm.log_prob(decoder, ids, order)
    for b in range(3):
        alone = asarm.log_prob(decoder, ids[b : b + 1], order[[b]])
        torch.testing.assert_close(together[b : b + 1], alone, rtol=0, atol=1e-12)


# --- equal rows ---


def test_left_to_right_a_target_takes_one_row(monkeypatch):
    model, widths = decoder_of(), []
    compute = model._compute
    monkeypatch.setattr(
        model, "_compute", lambda inputs, *a: widths.append(inputs.shape[1]) or compute(inputs, *a)
    )
    mask = torch.arange(LENGTH)[None] >= 4
    asarm.sample(model, texts(1), asarm.Order.from_mask(mask), "sequential")
    assert widths == [1 + 4, *[1] * 7]  # the start token and the prompt; then the last token alone


@pytest.mark.parametrize("order", [left_to_right, scattered, permuted])
def test_rows_that_are_not_merged_give_the_same(order):
    """Static shapes compute every query row on its own."""
    model, ids = decoder_of(), texts()
    content, query = joint_rows(ids, order())
    merged, apart = (model.new_cache(3, LENGTH) for _ in range(2))
    apart.fix_shapes()
    with torch.no_grad():
        found, expected = (model(content, query, cache) for cache in (merged, apart))
    is_row = torch.arange(query.limits.shape[1]) < order().num_targets[:, None]
    torch.testing.assert_close(found[is_row], expected[is_row], rtol=0, atol=1e-12)


# --- what is refused ---


def test_a_text_longer_than_the_table_of_positions_is_refused():
    model = AnySubsetDecoder(network_of("GPT2", n_positions=8))
    assert model.max_length == 7  # the start token takes one
    order = asarm.Order.from_mask(torch.ones(1, LENGTH, dtype=torch.bool))
    for call in (asarm.log_prob, asarm.sample):
        with pytest.raises(ValueError, match="a sequence has 12 tokens; expected at most 7"):
            call(model, texts(1), order)


def test_a_text_longer_than_a_window_is_refused():
    model = AnySubsetDecoder(network_of("Gemma3Text", sliding_window=8))
    order = asarm.Order.from_mask(torch.ones(1, LENGTH, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected at most 7"):
        asarm.log_prob(model, texts(1), order)


def test_without_a_start_token_the_first_token_must_be_known():
    model = decoder_of(start_token_id=None)
    with pytest.raises(ValueError, match="sequence 2 does not begin with a token of its prompt"):
        asarm.log_prob(model, texts(), scattered())
    mask = torch.arange(LENGTH)[None].expand(3, -1) > 0
    found = asarm.log_prob(model, texts(), asarm.Order.from_mask(mask))
    with torch.no_grad():
        logits = model.network(texts(), use_cache=False).logits[:, :-1].log_softmax(-1)
    expected = logits.gather(2, texts()[:, 1:, None])[..., 0]
    torch.testing.assert_close(found[:, 1:], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        (
            "Mamba",
            {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
        ),
        ("Bloom", {"hidden_size": 16, "n_layer": 2, "n_head": 4}),
    ],
)
def test_networks_that_do_not_obey_positions_and_mask_are_refused_by_name(family, sizes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(vocab_size=VOCAB, **sizes)
    network = transformers.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(ValueError, match=f"models of type '{family.lower()}' cannot be"):
        AnySubsetDecoder(network).check()


@pytest.mark.parametrize("wrong", [{"prompt": "half"}, {"start_token_id": 99}])
def test_settings_outside_their_range_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} is '?{value}'?; expected"):
        decoder_of(**wrong)


def test_products_are_the_networks_own():
    model, rows = decoder_of(), torch.randn(3, 16, dtype=torch.float64)
    layer = model.network.get_decoder().layers[0].mlp.up_proj
    torch.testing.assert_close(layer(rows), linear(rows, layer.weight), rtol=0, atol=0)
