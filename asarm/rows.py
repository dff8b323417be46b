"""The rows of a network call, and what a backbone must offer to be sampled and trained.

Samplers, density and objective speak this language only; what a network does with rows is its own
affair. Its words:

- A *rank* is a place in a decoding order, a *position* one in the text. The *prompt* has the lowest
  ranks and is given; the *targets* follow, and are predicted. A rank is *committed* once its token
  is final, as those of the prompt are.
- A *row* is what a call computes at one position. Its *limit* says what it sees: the content of all
  ranks below it.
- A *content row* holds the token of its rank. Its limit is its rank + 1, for it sees itself; in the
  prompt, all rows see all of the prompt.
- A *query row* predicts the token at its position. Its limit is the rank of that token where it
  gives the target distribution, and lower where it drafts: it never sees what it predicts.
- A *slot* is a column of a cache of content: with one, content outlives its call.

Shapes: B batch, R content rows, Q query rows, L length, T largest number of targets of a sequence,
C model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from asarm.order import Order

LOGITS_AT_ONCE = 2**23  # entries of the logits held at a time: 32 MiB in float32

# the limits of visible tokens, from rank, number of given ranks and number of visible ranks
VisibleLimits = Callable[[Tensor, Tensor, Tensor], Tensor]


class ContentRows(NamedTuple):
    """Rows that carry a token.

    A padded row has limit 0, so that it sees nothing, and a rank that no limit of its sequence
    reaches, so that no row sees it: that of padding in the text, or the spare rank L. Its token and
    its position are valid ones, and mean nothing.
    """

    tokens: Tensor  # (B, R)
    positions: Tensor  # (B, R)
    limits: Tensor  # (B, R)
    ranks: Tensor  # (B, R)


class QueryRows(NamedTuple):
    """Rows that predict the token at their position. A padded row has limit 0."""

    positions: Tensor  # (B, Q)
    limits: Tensor  # (B, Q)


class ContentCache(Protocol):
    """Whatever a backbone keeps of the content rows it has computed, by their ranks."""

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
        """Give the scores (..., V) of the token at a query row's position from its hidden state."""


class TrainableBackbone(Backbone, Protocol):
    """A backbone that learns, or that a draft head stands on: its output layer and embeddings."""

    def output_weights(self) -> tuple[Tensor, Tensor]:
        """Give the weight (V, C) and the bias (V,) of `logits`: hidden @ weight.T + bias."""

    def embedding_weights(self) -> Tensor:
        """Give the embeddings (V, C) of the tokens."""


class LoopBackbone(TrainableBackbone, Protocol):
    """A backbone that the training loop trains: an `nn.Module` that also has these methods.

    A class that runs from scratch make has the class method `new(tokenizer, *, dropout, **sizes)`.
    """

    trained_length: int | None
    """How many tokens the longest texts had that the model was trained on, if it is known."""
    draft_head: Any
    """The `DraftHead` on top of the model; None where there is none."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """The sizes by the names of the settings: d_model, n_layer, n_head and d_inner."""

    def set_dropout(self, rate: float) -> None:
        """Drop activations at another rate in training."""

    def prepare_training(self, *, gradient_checkpointing: bool, compiled: bool) -> None:
        """Choose how activations are kept in training, and whether the layers are compiled."""

    def set_draft_head(self, head: Any) -> None:
        """Put a `DraftHead` on top of the model, or remove it by None."""

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write a model folder, from which `asarm.load` makes the same model."""

    def load_weights(self, folder: str | Path) -> None:
        """Read what this model's `save_pretrained` wrote into a folder, bit for bit."""


def content_limits(ranks: Tensor, num_prompt: Tensor) -> Tensor:
    """Return the limits (B, R) of content rows: the prompt sees all of itself, others all up to
    themselves."""
    return torch.where(ranks < num_prompt[:, None], num_prompt[:, None], ranks + 1)


def target_ranks(order: Order) -> tuple[Tensor, Tensor]:
    """Return the ranks (B, T) of the targets, and which of them (B, T) are not padding."""
    steps = torch.arange(int(order.num_targets.max()), device=order.order.device)
    is_row = steps < order.num_targets[:, None]
    return torch.where(is_row, order.num_prompt[:, None] + steps, 0), is_row


def joint_rows(input_ids: Tensor, order: Order) -> tuple[ContentRows, QueryRows]:
    """Make a content row of every token, in rank order, and a query row (B, T) of every target."""
    batch, size = input_ids.shape
    ranks = torch.arange(size, device=input_ids.device).expand(batch, size)
    is_padding = ranks >= order.length[:, None]
    tokens = input_ids.gather(1, order.order).masked_fill(is_padding, 0)
    limits = content_limits(ranks, order.num_prompt).masked_fill(is_padding, 0)
    content = ContentRows(tokens, order.order, limits, ranks)
    ranks, is_row = target_ranks(order)
    positions = order.order.gather(1, ranks)
    return content, QueryRows(positions, torch.where(is_row, ranks, 0))


def parallel_rows(
    input_ids: Tensor, order: Order, num_visible: Tensor, limits_of: VisibleLimits
) -> tuple[ContentRows, QueryRows, Order]:
    """Make content rows of visible tokens, query rows of the others, and their order."""
    targets = order.with_prompt(num_visible)
    visible = num_visible[:, None]
    ranks = torch.arange(int(num_visible.max()), device=input_ids.device).expand(len(order), -1)
    limits = limits_of(ranks, order.num_prompt[:, None], visible)
    # column r is rank r: padding where a sequence has fewer visible ranks than another
    is_padding = ranks >= visible
    positions = order.order[:, : ranks.shape[1]]
    tokens = input_ids.gather(1, positions).masked_fill(is_padding, 0)
    content = ContentRows(tokens, positions, limits.masked_fill(is_padding, 0), ranks)
    target, is_row = target_ranks(targets)
    query = QueryRows(order.order.gather(1, target), torch.where(is_row, visible, 0))
    return content, query, targets


def chunks(num_rows: int, vocab_size: int) -> Iterator[slice]:
    """Yield slices of rows whose logits may be held at once."""
    step = max(1, LOGITS_AT_ONCE // vocab_size)
    return (slice(start, start + step) for start in range(0, num_rows, step))
