"""The original method: an XLNet that recomputes every row in every call (arXiv 2504.20456).

A backbone like any other, so that the samplers run on it as they are: what `asarm` is timed
against differs in nothing but the network, and is an oracle for it.

Shapes: B batch, L length, R content rows, Q query rows, C model width, V vocabulary.
"""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import XLNetLMHeadModel

from asarm.backbones.pretrained import XLNET_MASK_TOKEN_ID
from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.rows import ContentRows, QueryRows


class KnownText:
    """Holds, in place of a cache, which token is where. Place L is spare, for padding."""

    def __init__(self, batch: int, length: int, device: torch.device):
        shape = batch, length + 1
        self.length = length
        self.tokens = torch.zeros(shape, dtype=torch.long, device=device)
        self.ranks = torch.full(shape, length, device=device)  # beyond every limit: unknown
        self.limits = torch.zeros(shape, dtype=torch.long, device=device)

    def select(self, sequences: Tensor) -> KnownText:
        """Return the known text of some sequences (n,) of the batch alone."""
        found = copy(self)
        found.tokens, found.ranks, found.limits = (
            known[sequences] for known in (self.tokens, self.ranks, self.limits)
        )
        return found

    def fix_shapes(self) -> None:
        """Do nothing: all rows are computed in every call."""

    def write(self, content: ContentRows) -> None:
        place = torch.where(content.ranks < self.length, content.positions, self.length)
        self.tokens.scatter_(1, place, content.tokens)
        self.ranks.scatter_(1, place, content.ranks)
        self.limits.scatter_(1, place, content.limits)


class RecomputingXLNet:
    """Makes a backbone of `XLNetLMHeadModel`: all L content rows and the query rows, in every call.

    `SampleResult.rows` still counts the rows that a cache would leave to compute. transformers
    lets a row that may see nothing see everything, so prompts must not be empty.
    """

    def __init__(self, xlnet: XLNetLMHeadModel, mask_token_id: int = XLNET_MASK_TOKEN_ID):
        self.xlnet, self.mask_token_id = xlnet.eval(), mask_token_id
        self.vocab_size, self.device = xlnet.config.vocab_size, xlnet.device
        self.dtype = xlnet.dtype
        encode = xlnet.transformer.relative_positional_encoding
        # transformers makes this table in float32, whatever the weights are
        xlnet.transformer.relative_positional_encoding = lambda *sizes, **options: encode(
            *sizes, **options
        ).to(xlnet.dtype)

    @classmethod
    def of(cls, model: AnySubsetTransformer) -> RecomputingXLNet:
        """Copy the weights of a model."""
        xlnet = XLNetLMHeadModel(deepcopy(model.config)).to(model.device, model.dtype)
        xlnet.load_state_dict(model.state_dict())
        return cls(xlnet, model.mask_token_id)

    def new_cache(self, batch: int, length: int) -> KnownText:
        return KnownText(batch, length, self.device)

    def __call__(self, content: ContentRows, query: QueryRows, cache: Any = None) -> Tensor:
        """Return hidden states (B, Q, C) of the query rows; a position has one limit in a call.

        Raises:
            ValueError: two query rows of one position with different limits, as `onepass` has.
        """
        text = self.new_cache(*content.tokens.shape) if cache is None else cache
        text.write(content)
        place = torch.where(query.limits > 0, query.positions, text.length)
        limits = text.limits.scatter(1, place, query.limits)
        if (limits.gather(1, place) != query.limits).any():
            raise ValueError(
                "two rows of one position have different limits; XLNet's perm_mask holds one: "
                "take sampler 'sequential', 'assd' or 'ngram'"
            )
        is_hidden = text.ranks[:, None, :-1] >= limits[:, :-1, None]  # (B, L, L)
        is_query = F.one_hot(query.positions, text.length)  # (B, Q, L)
        return self.xlnet.transformer(
            text.tokens[:, :-1],
            perm_mask=is_hidden.to(self.xlnet.dtype),
            target_mapping=is_query.to(self.xlnet.dtype),
            use_mems=False,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        return self.xlnet.lm_loss(hidden)
