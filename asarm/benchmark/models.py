"""The networks that are timed, each next to its reference, and the check that both do the same."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import XLNetConfig

from asarm.backbones.pretrained import XLNET_MASK_TOKEN_ID
from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.benchmark.config import BenchmarkConfig
from asarm.benchmark.reference import RecomputingXLNet
from asarm.drafting.head import DraftHead, DraftHeadConfig
from asarm.loading import DEMO, load, resolve_device, resolve_dtype
from asarm.order import Order
from asarm.rows import Backbone
from asarm.sampling import sample, sampler_of

NETWORKS = {
    "base": {"vocab_size": 32000, "d_model": 768, "n_layer": 12, "n_head": 12, "d_inner": 3072},
    "demo": {"vocab_size": 8192, "d_model": 256, "n_layer": 4, "n_head": 4, "d_inner": 1024},
    "tiny": {"vocab_size": 8192, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
}
SPREAD = 6.0  # of random weights, x width^-0.5: with XLNet's own every draft is accepted


def is_trained(size: str, config: BenchmarkConfig) -> bool:
    """Return whether this size has a trained network: the package's, unless another is named."""
    return size == "demo" and (config.demo_model != "demo" or (DEMO / "model.safetensors").exists())


def network_config(size: str, spread: float = SPREAD) -> XLNetConfig:
    network = NETWORKS[size]
    spread *= network["d_model"] ** -0.5
    return XLNetConfig(
        **network, initializer_range=spread, mask_token_id=XLNET_MASK_TOKEN_ID, pad_token_id=None
    )


def with_reference(
    size: str, config: BenchmarkConfig
) -> tuple[AnySubsetTransformer, RecomputingXLNet]:
    """Load a network and the original method on the same weights, seen to give the same text.

    Raises:
        ValueError: they do not.
    """
    device, dtype = resolve_device(config.device), resolve_dtype(config.dtype)
    if is_trained(size, config):
        model, _ = load(config.demo_model, device=device)
        if not isinstance(model, AnySubsetTransformer):
            raise ValueError(
                f"demo_model is {config.demo_model}, a decoder; expected one with XLNet's weights"
            )
    else:
        model = random_network(size, config)
    reference = RecomputingXLNet.of(model)
    check_same_text(model, reference)  # in float32: others round too much for equal tokens
    reference.xlnet.to(dtype)
    return model.to(dtype).pack(), reference


def random_network(size: str, config: BenchmarkConfig) -> AnySubsetTransformer:
    """Make a network of random weights, in float32."""
    torch.manual_seed(config.seed)
    network = AnySubsetTransformer(network_config(size)).eval()
    return network.to(resolve_device(config.device))


def random_head(model: AnySubsetTransformer, seed: int) -> DraftHead:
    """Make a head of random weights: what it changes is noise, what it costs is not."""
    torch.manual_seed(seed)
    head = DraftHead(DraftHeadConfig(model.config.d_model))
    torch.nn.init.normal_(head.up, std=head.up.shape[1] ** -0.5)
    return head.to(model.device, model.dtype).eval().requires_grad_(False)


def check_same_text(model: Backbone, reference: Backbone) -> None:
    """Refuse to compare what does not do the same.

    Raises:
        ValueError: a lossless sampler gives another text than the reference's sequential one,
            although under gumbel verification all give the same.
    """
    length = 24
    order = Order.random_split(length, 0.25, batch=2, seed=0)
    ids = random_ids(model, length, batch=2)
    expected = sample(reference, ids, order, "sequential", verifier="gumbel").tokens
    runs: list[tuple[str, Backbone, str, int | None]] = [
        ("the reference", reference, "assd", 5),
        ("asarm", model, "sequential", None),
        *(("asarm", model, m, k) for m in ("assd", "ngram", "onepass") for k in (2, 5)),
    ]
    for name, backbone, method, k in runs:
        sampler = sampler_of(method, k=k, verifier="gumbel")
        tokens = sample(backbone, ids, order, sampler).tokens
        differs = (tokens != expected).nonzero().tolist()
        if differs:
            b, position = differs[0]
            raise ValueError(
                f"{name}'s {method} (k = {k}) gives token {int(tokens[b, position])} at position "
                f"{position} of sequence {b}, the reference's sequential sampler "
                f"{int(expected[b, position])}; expected the same text under gumbel verification, "
                "so times are not compared"
            )


def random_ids(model: Backbone, length: int, *, batch: int = 1) -> Tensor:
    """Draw ids (batch, length), none of them special, the same every time."""
    rng = torch.Generator().manual_seed(0)
    return torch.randint(9, model.vocab_size, (batch, length), generator=rng).to(model.device)
