"""The rows of a network call, and what a backbone must offer to be sampled and trained.

A row is a token (content row) or a target (query row) at a position, with a limit: it attends to
the content at ranks below its limit. Samplers, density and objective speak this language only;
what a network does with rows is its own affair.

Shapes: B batch, R content rows, Q query rows, L length, C model width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class ContentRows(NamedTuple):
    """Rows that carry a token. A padded row has limit 0 and the slot past the last rank."""

    tokens: Tensor  # (B, R)
    positions: Tensor  # (B, R)
    limits: Tensor  # (B, R)
    slots: Tensor  # (B, R), the row's rank: where its keys and values are kept


class QueryRows(NamedTuple):
    """Rows that predict the token at their position. A padded row has limit 0."""

    positions: Tensor  # (B, Q)
    limits: Tensor  # (B, Q)


class ContentCache(Protocol):
    """Whatever a backbone keeps of the content rows it has computed, by slot."""

    def select(self, sequences: Tensor) -> ContentCache:
        """Give the cache of some sequences (n,) of the batch alone."""

    def fix_shapes(self) -> None:
        """Have shapes depend on a call's rows alone from now on, and never wait for the device."""


class Backbone(Protocol):
    """A network of rows with limits."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""

    @property
    def mask_token_id(self) -> int:
        """The token that is never predicted; outside the vocabulary where there is none."""

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights, and so of hidden states and logits."""

    def new_cache(self, batch: int, length: int) -> ContentCache:
        """Make an empty cache for `batch` sequences of at most `length` positions."""

    def __call__(
        self, content: ContentRows, query: QueryRows, cache: ContentCache | None = None
    ) -> Tensor:
        """Make one network call, which gives hidden states (B, Q, C) of the query rows.

        With a cache, rows see the content kept there, that of this call included; without one,
        the content of this call alone.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """Give the scores (..., V) of the next token from hidden states (..., C)."""


class TrainableBackbone(Backbone, Protocol):
    """A backbone that learns, or that a draft head stands on: its output layer and embeddings."""

    def output_weights(self) -> tuple[Tensor, Tensor]:
        """Give the weight (V, C) and the bias (V,) of `logits`: hidden @ weight.T + bias."""

    def embedding_weights(self) -> Tensor:
        """Give the embeddings (V, C) of the tokens."""
