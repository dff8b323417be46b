"""Backbones to test with: arbitrary conditionals, small random networks, one without a cache."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import XLNetConfig

from asarm import AnySubsetTransformer, Order
from asarm.loading import DEMO
from asarm.rows import Backbone, ContentRows, QueryRows

SIZES = {  # of tiny decoders
    "Llama": {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    },
    "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


class Slots(NamedTuple):
    """What was last written at each slot, (B, L + 1), however stale it is."""

    tokens: Tensor
    positions: Tensor

    def select(self, sequences: Tensor) -> "Slots":
        return Slots(self.tokens[sequences], self.positions[sequences])


class AllContent(NamedTuple):
    """All content rows so far, as (B, L + 1) each."""

    rows: ContentRows

    def select(self, sequences: Tensor) -> "AllContent":
        return AllContent(ContentRows(*(part[sequences] for part in self.rows)))


class ConditionalTable:
    """A backbone with a random distribution for every position and everything it may see.

    Nothing ties these conditionals together: they need not be those of one joint.
    """

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, *, length: int, vocab_size: int = 3, mask_token_id: int = 6, seed: int = 0):
        self.length, self.vocab_size, self.mask_token_id = length, vocab_size, mask_token_id
        self.places = (vocab_size + 1) ** torch.arange(length)  # digit 0: nothing is seen there
        shape = length, (vocab_size + 1) ** length, vocab_size
        rng = torch.Generator().manual_seed(seed)
        self.table = 1.5 * torch.randn(shape, generator=rng, dtype=torch.float64)

    def conditional(self, position: int, seen: dict[int, int]) -> Tensor:
        """Logits (V,) at a position given the tokens seen, by position."""
        return self.table[position, sum((t + 1) * int(self.places[i]) for i, t in seen.items())]

    def new_cache(self, batch: int, length: int) -> Slots:
        empty = torch.zeros(batch, length + 1, dtype=torch.long)
        return Slots(empty, empty.clone())

    def __call__(
        self, content: ContentRows, query: QueryRows, cache: Slots | None = None
    ) -> Tensor:
        cache = cache or self.new_cache(len(query.positions), self.length)
        cache.tokens.scatter_(1, content.ranks, content.tokens)
        cache.positions.scatter_(1, content.ranks, content.positions)
        digits = (cache.tokens + 1) * self.places[cache.positions]  # (B, S)
        is_seen = torch.arange(self.length + 1) < query.limits[..., None]  # (B, Q, S)
        return self.table[query.positions, (digits[:, None] * is_seen).sum(2)]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden.clone()


class Uncached:
    """A network that keeps no keys and values: every call computes all content so far again."""

    def __init__(self, model: Backbone):
        self.model, self.vocab_size, self.logits = model, model.vocab_size, model.logits
        self.mask_token_id, self.device = model.mask_token_id, model.device
        self.dtype = model.dtype

    def new_cache(self, batch: int, length: int) -> AllContent:
        slots = torch.arange(length + 1).expand(batch, -1).clone()
        empty = torch.zeros_like(slots)
        return AllContent(ContentRows(empty, empty.clone(), empty.clone(), slots))

    def __call__(
        self, content: ContentRows, query: QueryRows, cache: AllContent | None = None
    ) -> Tensor:
        if cache is None:
            return self.model(content, query)
        for kept, new in zip(cache.rows[:3], content[:3], strict=True):
            kept.scatter_(1, content.ranks, new)
        return self.model(cache.rows, query)


def small_model(
    *, seed: int = 0, dtype: torch.dtype = torch.float64, std: float = 0.6, **config
) -> AnySubsetTransformer:
    """A random network in which context matters, unlike in one with XLNet's initialisation."""
    sizes = {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}
    special = {"mask_token_id": 6, "pad_token_id": None}
    model = AnySubsetTransformer(XLNetConfig(**sizes | special | config)).eval()
    randomize(model, seed=seed, std=std)
    return model.to(dtype)


@torch.no_grad()
def randomize(model: torch.nn.Module, *, seed: int, std: float) -> None:
    """Draw all weights anew but those of the layer norms."""
    rng = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "layer_norm" not in name:
            weight.normal_(0, std, generator=rng)


def mixed_batch(
    lengths: list[int], prompts: list[int], vocab_size: int, *, seed: int = 0
) -> tuple[Tensor, Order]:
    """Random ids (B, L) without id 6, and random orders of different lengths and prompts."""
    rng = torch.Generator().manual_seed(seed)
    rows = torch.stack([padded_permutation(n, max(lengths), rng) for n in lengths])
    ids = torch.randint(7, vocab_size, rows.shape, generator=rng)
    return ids, Order(rows, torch.tensor(prompts), torch.tensor(lengths))


def padded_permutation(length: int, size: int, rng: torch.Generator) -> Tensor:
    return torch.cat([torch.randperm(length, generator=rng), torch.arange(length, size)])


class FakeHub:
    """The hub as its client shows it to one who is logged in; what is uploaded is noted."""

    def __init__(self) -> None:
        self.who: dict[str, Any] = {"name": "someone", "orgs": [{"name": "a-lab"}]}
        self.uploads: list[dict[str, Any]] = []

    def whoami(self) -> dict[str, Any]:
        return self.who

    def create_repo(self, name: str, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(repo_id=name if "/" in name else f"{self.who['name']}/{name}")

    def upload_folder(self, **options: Any) -> None:
        self.uploads.append(options)


def decoder_folder(folder: Path, family: str = "Llama", *, std: float = 0.3, **changes) -> Path:
    """A folder of transformers with a tiny random network of a family and the demo's tokenizer."""
    special = {"vocab_size": 8192, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 5}
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**special | SIZES[family] | changes)
    network = transformers.AutoModelForCausalLM.from_config(config)
    for weight in network.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=std)
    network.save_pretrained(folder)
    for path in DEMO.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder
