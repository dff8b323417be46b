"""Any pretrained decoder of transformers as an any-subset model.

A decoder predicts the token at position t by the row at position t - 1. A query row is therefore
placed one position to the left of its target; its input is the token there, if its limit lets the
row see it, and one learned vector, `blank`, if not. Left to right this is the pretrained model,
number for number, and nothing of its network is rewritten: transformers lets a caller give the
positions, the attention mask and the cache.

Shapes: B batch, L length, R content rows, Q query rows, N rows of a call (content first), S slots,
C model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asarm.backbones.pretrained_decoder import PretrainedDecoder
from asarm.backbones.slots import NEVER, Call, SlotCache, Tokens
from asarm.rows import ContentRows, QueryRows

PROBE = 7  # tokens that loading compares on


class AnySubsetDecoder(PretrainedDecoder):
    """An any-subset autoregressive model on the weights of a causal language model.

    The network reads a start token before every text, which every row sees: left to right,
    `log_prob` of a text is what the network itself gives for the start token and the text. A
    query row whose left neighbour is the last token that it sees is the content row of that token,
    and is not computed twice.
    """

    def new_cache(self, batch: int, length: int) -> SlotCache:
        """Make an empty cache for `batch` sequences of at most `length` positions."""
        self._pack_again()
        return SlotCache(batch, length + (self.start_token_id is not None), self.device)

    def forward(
        self, content: ContentRows, query: QueryRows, cache: SlotCache | None = None
    ) -> Tensor:
        """Make one network call, which gives hidden states (B, Q, C) of the query rows.

        With a cache, rows see the content kept there, that of this call included; without one,
        the content of this call alone.
        """
        is_static = cache is not None and cache.is_static
        if cache is None:
            self._pack_again()
        if self.start_token_id is not None:
            content, query = self._after_start(self.start_token_id, content, query, cache)
        if self.prompt == "causal":
            content = content._replace(limits=content.limits.minimum(content.ranks + 1))
        tokens = self._tokens_of(content, query) if cache is None else cache.tokens
        row_of = tokens.write(content)
        left = (query.positions - 1).clamp(min=0)
        is_seen = tokens.ranks.gather(1, left) < query.limits
        row = row_of.gather(1, left)  # (B, Q) the content row of the left neighbour, or -1
        # column -1 is that of rows which are not there
        limits = torch.cat([content.limits, torch.full_like(left[:, :1], -1)], dim=1)
        is_same = is_seen & (limits.gather(1, row % limits.shape[1]) == query.limits)
        is_own = torch.ones_like(is_same) if is_static else ~is_same & (query.limits > 0)
        num_own = is_own.shape[1] if is_static else int(is_own.sum(1).max())
        own = is_own.byte().argsort(dim=1, descending=True, stable=True)[:, :num_own]
        inputs = self._embed(
            content.tokens, tokens.ids.gather(1, left).gather(1, own), is_seen.gather(1, own)
        )
        hidden = self._compute(
            inputs,
            torch.cat([content.positions, left.gather(1, own)], dim=1),
            torch.cat([content.limits, query.limits.gather(1, own)], dim=1),
            content.ranks,
            cache,
        )
        # the n-th row of its own comes n-th after the content rows; padding takes any row
        source = (content.limits.shape[1] + is_own.cumsum(1) - 1).where(is_own, row.clamp(min=0))
        return hidden.gather(1, source[..., None].expand(-1, -1, hidden.shape[2]))

    def _after_start(
        self, token: int, content: ContentRows, query: QueryRows, cache: SlotCache | None
    ) -> tuple[ContentRows, QueryRows]:
        """Move rows to where they are after the start token; the first call has its row, too."""
        is_first = cache is None or not cache.layers
        moved = ContentRows(
            content.tokens,
            content.positions + 1,
            (content.limits + 1).masked_fill(content.limits == 0, 0),
            content.ranks + 1,
        )
        if is_first:
            zero = query.limits.new_zeros(len(query.limits), 1)
            start = ContentRows(zero + token, zero, zero + 1, zero)
            moved = ContentRows(*(torch.cat(both, 1) for both in zip(start, moved, strict=True)))
        # a limit of 0 is padding, unless it is that of a text without a prompt
        is_padding = (query.limits == 0) & (not is_first)
        limits = (query.limits + 1).masked_fill(is_padding, 0)
        return moved, QueryRows(query.positions + 1, limits)

    def _tokens_of(self, content: ContentRows, query: QueryRows) -> Tokens:
        """Return room for the tokens of a call without a cache."""
        ends = [int(x.positions.max()) + 1 for x in (content, query) if x.positions.numel()]
        return Tokens(len(query.limits), max(ends, default=0), self.device)

    def _embed(self, content: Tensor, query: Tensor, is_seen: Tensor) -> Tensor:
        """Return the inputs (B, N, C) of content rows, and of query rows: a token or `blank`."""
        embedded = self.network.get_input_embeddings()(torch.cat([content, query], dim=1))
        num_content = content.shape[1]
        own = torch.where(is_seen[..., None], embedded[:, num_content:], self.blank)
        return torch.cat([embedded[:, :num_content], own], dim=1)

    def _compute(
        self,
        inputs: Tensor,
        positions: Tensor,
        limits: Tensor,
        slots: Tensor,
        cache: SlotCache | None,
    ) -> Tensor:
        """Run the network; return the hidden states (B, N, C) of rows, content first."""
        call = None
        if cache is None:  # every row has a slot; nobody looks at those of query rows
            beyond = limits.new_full((len(limits), limits.shape[1] - slots.shape[1]), NEVER)
            ranks = torch.cat([slots, beyond], dim=1)
        else:
            call = Call(cache, slots, cache.num_slots(limits))
            ranks = torch.arange(call.num_slots, device=limits.device)[None]
        hides = ranks[:, None] >= limits[..., None]  # (B, N, S)
        mask = torch.zeros(hides.shape, dtype=inputs.dtype, device=inputs.device)
        # not -inf: a padded row sees nothing, and would give NaN
        mask.masked_fill_(hides, torch.finfo(inputs.dtype).min)
        return self.network.get_decoder()(
            inputs_embeds=inputs,
            position_ids=positions,
            attention_mask=mask[:, None],
            past_key_values=call,
            use_cache=call is not None,
        ).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the scores (..., V) of the tokens at targets, from hidden states (..., C)."""
        return self.network.get_output_embeddings()(hidden)

    @torch.no_grad()
    def check(self) -> None:
        """Make sure, on a few tokens, that left to right the rows are the network's own.

        The rows are handed over last token first: a network that goes by their place in the call,
        and not by positions and mask, is found out.

        Raises:
            ValueError: they are not.
        """
        cannot = f"models of type {self.config.model_type!r} cannot be any-subset models"
        ids = 7 * torch.arange(1, PROBE + 1, device=self.device)[None] % self.vocab_size
        ranks = torch.arange(PROBE, device=self.device)[None]
        content, query = ContentRows(ids, ranks, ranks + 1, ranks), QueryRows(ranks, ranks)
        backwards = ContentRows(*(column.flip(1) for column in content))
        start = [] if self.start_token_id is None else [self.start_token_id]
        text = torch.cat([ids.new_tensor(start)[None], ids], dim=1)
        try:
            expected = self.network(input_ids=text, use_cache=False).logits[:, :-1]
            caches = None, self.new_cache(1, PROBE)
            found = [self.logits(self(backwards, query, cache)) for cache in caches]
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{cannot}: they do not take rows ({reason}); expected a decoder with attention, "
                "such as Llama's or Qwen's"
            ) from error
        tolerance = 1e-4 if self.dtype.itemsize >= 4 else 0.1
        first = int(self.start_token_id is None)  # nothing predicts the first token without it
        for logits in found:
            difference = (logits[:, first:] - expected).abs().max() / expected.abs().max().clamp(
                min=1
            )
            if not difference <= tolerance:
                raise ValueError(
                    f"{cannot}: left to right, the logits of their rows differ from their own by "
                    f"{float(difference):.2g} of the largest; expected a decoder that obeys "
                    "position_ids and attention_mask"
                )
