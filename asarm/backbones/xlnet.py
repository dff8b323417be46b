"""The any-subset transformer: XLNet's two-stream network as rows with limits.

Parameters carry the names and shapes of `transformers.XLNetLMHeadModel`, so that checkpoints
travel both ways. Yang et al. 2019, arXiv 1906.08237. What such checkpoints need besides is in
`pretrained`; what the products and the attention compute is defined in `kernels.plain`, and the
dropout in `kernels.dropout`.

Shapes: B batch, R content rows, Q query rows, N = R + Q rows (content first), S slots,
L length, P = 2L - 1 distances, H heads, D head width, C model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import XLNetConfig
from transformers import initialization as init
from transformers.activations import ACT2FN

from asarm.backbones.cache import KeyValueCache
from asarm.backbones.pretrained import PretrainedXLNet
from asarm.kernels.attention import ROWS_AT_ONCE, Geometry, attend
from asarm.kernels.dropout import Dropout, round_rate
from asarm.kernels.plain import Sight
from asarm.kernels.products import linear, linear_after
from asarm.rows import ContentRows, QueryRows

ENTRIES_AT_ONCE = 2**20  # rows times slots that a call of decoding looks over in one block


def project(rows: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows (..., C) by a weight (C, H, D): (..., H, D)."""
    return linear(rows, weight, transposed=True).unflatten(-1, weight.shape[1:])


def distance_encoding(length: int, width: int, clamp_len: int = -1) -> Tensor:
    """Make sinusoids (P, C) of the distances -(L - 1) .. L - 1, in float32 as in transformers."""
    frequency = 1 / torch.pow(10000, torch.arange(0, width, 2, dtype=torch.float32) / width)
    distance = torch.arange(1 - length, length, dtype=torch.float32)  # row - slot: P = 2L - 1
    if clamp_len > 0:
        distance = distance.clamp(-clamp_len, clamp_len)
    angle = distance[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class RelativeAttention(nn.Module):
    """Attention of rows to content slots, by content and by distance (Dai et al. 2019)."""

    def __init__(self, config: XLNetConfig):
        super().__init__()
        shape = config.d_model, config.n_head, config.d_head
        self.q = nn.Parameter(torch.empty(shape))
        self.k = nn.Parameter(torch.empty(shape))
        self.v = nn.Parameter(torch.empty(shape))
        self.o = nn.Parameter(torch.empty(shape))
        self.r = nn.Parameter(torch.empty(shape))  # makes a key of the encoding of a distance
        # added to the query where it meets keys of distances (r_r) and of content (r_w)
        self.r_r_bias = nn.Parameter(torch.empty(shape[1:]))
        self.r_w_bias = nn.Parameter(torch.empty(shape[1:]))
        # segments are never used; kept, frozen, so that checkpoints match name for name
        self.r_s_bias = nn.Parameter(torch.empty(shape[1:]), requires_grad=False)
        self.seg_embed = nn.Parameter(torch.empty(2, *shape[1:]), requires_grad=False)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.dropout)
        self.scale = config.d_head**-0.5

    def forward(
        self, rows: Tensor, keys: Tensor, values: Tensor, table: Tensor, where: Geometry
    ) -> Tensor:
        """Give rows (B, N, C) as they are after they attended to keys and values (B, H, S, D)."""
        query = project(rows, self.q)  # (B, N, H, D)
        seen = attend(
            query,
            self.r_w_bias.to(query.dtype),
            self.r_r_bias.to(query.dtype),
            keys,
            values,
            table,
            where,
            self.scale,
            self.dropout,
        ).flatten(2)
        seen = self.dropout(linear(seen, self.o))
        return self.layer_norm(rows + seen)


class FeedForward(nn.Module):
    """Two products, row by row, with an activation between them."""

    def __init__(self, config: XLNetConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.layer_1 = nn.Linear(config.d_model, config.d_inner)
        self.layer_2 = nn.Linear(config.d_inner, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.activation = ACT2FN[config.ff_activation]

    def forward(self, rows: Tensor) -> Tensor:
        """Give rows (B, N, C) as they are after the two products."""
        inner = linear(rows, self.layer_1.weight, self.layer_1.bias)
        is_kept = self.dropout.draw(inner) if self.dropout.is_on else None
        outer = linear_after(self._activate, inner, is_kept, self.layer_2.weight, self.layer_2.bias)
        return self.layer_norm(rows + self.dropout(outer))

    def _activate(self, inner: Tensor, is_kept: Tensor | None) -> Tensor:
        """Make what the second product multiplies; it is recomputed in the backward pass."""
        return self.dropout.keep(self.activation(inner), is_kept)


class Layer(nn.Module):
    """Attention and what follows it, of all rows at once: content and query rows share weights."""

    def __init__(self, config: XLNetConfig):
        super().__init__()
        self.rel_attn = RelativeAttention(config)
        self.ff = FeedForward(config)

    def table(self, encoding: Tensor) -> Tensor:
        """Make a key of every distance, (H, D, P), from its encoding (P, C)."""
        return project(encoding, self.rel_attn.r).permute(1, 2, 0)

    def keys_and_values(self, content: Tensor) -> tuple[Tensor, Tensor]:
        """Make what content rows (B, R, C) show to all rows, (B, H, R, D) each."""
        content = content.contiguous()  # once: a product would copy it, and training keep it
        keys, values = project(content, self.rel_attn.k), project(content, self.rel_attn.v)
        return keys.transpose(1, 2), values.transpose(1, 2)

    def forward(
        self,
        rows: Tensor,
        num_content: int,
        table: Tensor,
        where: Geometry,
        keep: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None,
        is_last: bool,
    ) -> Tensor:
        """Give rows (B, N, C) as they are after the layer; after the last, query rows (B, Q, C).

        Args:
            rows: content rows first.
            num_content: how many of them there are.
            table: every distance as a key, (H, D, P).
            where: who sees whom.
            keep: puts keys and values into a cache, and gives all that are there.
            is_last: nobody looks at the content's hidden states any more.
        """
        keys, values = self.keys_and_values(rows[:, :num_content])
        if keep is not None:
            keys, values = keep(keys, values)
        if is_last:  # content rows come first: the query rows are those from `num_content` on
            rows, where = rows[:, num_content:], where.of_queries(num_content)
        return self.ff(self.rel_attn(rows, keys, values, table, where))


class Stack(nn.Module):
    """The network without its language-model head, under XLNet's parameter names."""

    def __init__(self, config: XLNetConfig):
        super().__init__()
        self.word_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.mask_emb = nn.Parameter(torch.empty(1, 1, config.d_model))
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.n_layer)])
        self.dropout = Dropout(config.dropout)
        self.clamp_len = config.clamp_len
        # PreTrainedModel.gradient_checkpointing_enable sets both
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] = partial(
            checkpoint, use_reentrant=False
        )

    def layers(self) -> list[Layer]:
        """List the layers, from the first one on."""
        return list(self.layer)  # type: ignore[arg-type]  # a ModuleList of Layer

    def tables(self, length: int) -> list[Tensor]:
        """Make keys (H, D, P) of the distances -(L - 1) .. L - 1, for each layer."""
        encoding = distance_encoding(length, self.mask_emb.shape[-1], self.clamp_len)
        encoding = self.dropout(encoding.to(self.mask_emb))
        return [layer.table(encoding) for layer in self.layers()]

    def forward(
        self, content: ContentRows, query: QueryRows, cache: KeyValueCache | None
    ) -> Tensor:
        """Give the hidden states (B, Q, C) of the query rows."""
        num_content = content.tokens.shape[1]
        where, num_slots, tables = self.geometry(content, query, cache)
        queries = self.mask_emb.expand(*query.positions.shape, -1)
        rows = self.dropout(torch.cat([self.word_embedding(content.tokens), queries], dim=1))
        for index, (layer, table) in enumerate(zip(self.layers(), tables, strict=True)):
            keep = None
            if cache is not None:
                keep = partial(cache.update, index, content.ranks, num_slots)
            arguments = rows, num_content, table, where, keep, index == len(self.layer) - 1
            if self.gradient_checkpointing and self.training:
                rows = self._gradient_checkpointing_func(layer.__call__, *arguments)
            else:
                rows = layer(*arguments)
        return self.dropout(rows)

    def geometry(
        self, content: ContentRows, query: QueryRows, cache: KeyValueCache | None
    ) -> tuple[Geometry, int, list[Tensor]]:
        """Return who sees whom in a call, the number of slots, and each layer's table of distances.

        Few rows make one block. Many, as of long prompts and in training, are cut into blocks, by
        what they see unless shapes may not depend on it.
        """
        positions = torch.cat([content.positions, query.positions], dim=1)
        limits = torch.cat([content.limits, query.limits], dim=1)
        if cache is None:  # the slots are the content rows, in whatever order they come
            tables = self.tables(int(positions.max()) + 1)  # the length of the text: L
            slot_ranks, slot_positions = content.ranks, content.positions
        else:
            tables = cache.tables
            cache.write_positions(content.ranks, content.positions)
            num_slots = cache.num_slots(limits)
            slot_ranks = torch.arange(num_slots, device=limits.device)[None]  # a slot is its rank
            slot_positions = cache.positions[:, :num_slots]
        sight = Sight(positions, limits, slot_positions, slot_ranks, tables[0].shape[2])
        is_few = limits.numel() * slot_positions.shape[1] <= ENTRIES_AT_ONCE
        if cache is not None and (is_few or cache.is_static):
            rows_at_once = None if is_few else ROWS_AT_ONCE.get(limits.device.type)
            where = Geometry.whole(sight, rows_at_once)
        else:
            where = Geometry.cut(sight)
        return where, slot_positions.shape[1], tables


class AnySubsetTransformer(PretrainedXLNet):
    """An any-subset autoregressive model with XLNet's weights: the backbone of `asarm`.

    Loads every XLNet language-model checkpoint and saves what `XLNetLMHeadModel` loads. The
    settings of XLNet's memory (mem_len, reuse_len, same_length, use_mems_*) are kept in the
    config and change nothing here.

    Raises:
        ValueError: `bi_data` or `attn_type="uni"`, which no any-subset model can have.
    """

    transformer: Stack

    def __init__(self, config: XLNetConfig):
        super().__init__(config)
        self.transformer = Stack(config)
        self.lm_loss = nn.Linear(config.d_model, config.vocab_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Draw weights as transformers does, those that are in no layer of torch's included."""
        super()._init_weights(module)
        if isinstance(module, RelativeAttention | Stack):
            for parameter in module.parameters(recurse=False):
                init.normal_(parameter, mean=0.0, std=self.config.initializer_range)

    @torch.no_grad()
    def new_cache(self, batch: int, length: int) -> KeyValueCache:
        """Make an empty cache for `batch` sequences of at most `length` positions."""
        self._pack_again()
        config, like = self.config, self.lm_loss.weight
        shape = config.n_layer, batch, config.n_head, length + 1, config.d_head  # slot L is spare
        positions = torch.zeros(batch, length + 1, dtype=torch.long, device=like.device)
        tables = [table.contiguous() for table in self.transformer.tables(length)]
        return KeyValueCache(like.new_zeros(shape), like.new_zeros(shape), positions, tables)

    def forward(
        self, content: ContentRows, query: QueryRows, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Make one network call, which gives hidden states (B, Q, C) of query rows, for `logits`.

        With a cache, rows see the content kept there, that of this call included; without one,
        the content of this call alone.
        """
        if cache is None:
            self._pack_again()
        return self.transformer(content, query, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """Give the scores (..., V) of the token at a query row's position from its hidden state."""
        return linear(hidden, self.lm_loss.weight, self.lm_loss.bias)

    def output_weights(self) -> tuple[Tensor, Tensor]:
        """Give the weight (V, C) and the bias (V,) of `logits`."""
        return self.lm_loss.weight, self.lm_loss.bias

    def embedding_weights(self) -> Tensor:
        """Give the embeddings (V, C) of the tokens."""
        return self.transformer.word_embedding.weight

    def set_dropout(self, rate: float) -> None:
        """Drop activations at another rate in training."""
        self.config.dropout = rate
        for module in self.modules():
            if isinstance(module, Dropout):
                module.rate = round_rate(rate)
