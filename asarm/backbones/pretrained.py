"""What transformers' checkpoints ask of a network with XLNet's weights, apart from the network.

Model folders, names of special tokens, embeddings that may be resized, and packed copies of the
weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_model
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, XLNetConfig
from transformers.utils import logging

from asarm.drafting.files import save_draft_head_of
from asarm.drafting.head import HasDraftHead
from asarm.kernels.products import pack, pack_all_again

XLNET_VOCAB_SIZE, XLNET_PAD_TOKEN_ID, XLNET_MASK_TOKEN_ID = 32000, 5, 6
NO_TOKEN = -1  # stands for a mask token where a vocabulary has none


class PretrainedXLNet(HasDraftHead, PreTrainedModel):
    """A network with the weights of `XLNetLMHeadModel`, as transformers loads and saves it.

    A subclass makes `transformer`, whose `layers` have the weights of XLNet's, and `lm_loss`.
    """

    config_class = XLNetConfig
    config: XLNetConfig
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    loads_elsewhere = (  # for the cards of models
        "XLNet's architecture, so `transformers.XLNetLMHeadModel` loads it too."
    )
    _tied_weights_keys = {"lm_loss.weight": "transformer.word_embedding.weight"}
    transformer: Any
    lm_loss: nn.Linear

    def __init__(self, config: XLNetConfig):
        check_attention(config)
        name_special_tokens(config)
        super().__init__(config)

    # --- tokens ---

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.config.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        """Set the size; `resize_token_embeddings` of transformers does."""
        self.config.vocab_size = value

    @property
    def mask_token_id(self) -> int:
        """The token that is never predicted; `NO_TOKEN` where there is none."""
        found = self.config.mask_token_id
        return NO_TOKEN if found is None else found

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills up a batch, if it is known."""
        return self.config.pad_token_id

    @property
    def trained_length(self) -> int | None:
        """How many tokens the texts had that the model was trained on, if it is known."""
        return getattr(self.config, "trained_length", None)

    @trained_length.setter
    def trained_length(self, value: int) -> None:
        """Set the length, which is saved in the model's config."""
        self.config.trained_length = value

    def get_input_embeddings(self) -> nn.Module:
        """Give the module that embeds tokens; transformers ties and resizes it."""
        return self.transformer.word_embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the module that embeds tokens."""
        self.transformer.word_embedding = value

    def get_output_embeddings(self) -> nn.Module:
        """Give the module that makes logits; transformers ties and resizes it."""
        return self.lm_loss

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the module that makes logits."""
        self.lm_loss = new_embeddings

    # --- training ---

    @classmethod
    def new(cls, tokenizer: PreTrainedTokenizerBase, *, dropout: float, **sizes: int) -> Self:
        """Make a network of random weights for a tokenizer, see `sizes`."""
        config = XLNetConfig(
            vocab_size=len(tokenizer),
            **sizes,
            dropout=dropout,
            mem_len=None,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            mask_token_id=tokenizer.mask_token_id,
        )
        return cls(config)

    @property
    def sizes(self) -> dict[str, int]:
        """The network's sizes, by the names that training's settings have for them."""
        names = ("d_model", "n_layer", "n_head", "d_inner")
        return {name: getattr(self.config, name) for name in names}

    def prepare_training(self, *, gradient_checkpointing: bool, compiled: bool) -> None:
        """Choose how activations are kept in training, and whether the layers are compiled."""
        if gradient_checkpointing:
            self.transformer.gradient_checkpointing = True
        if compiled:
            for layer in self.transformer.layers():
                layer.compile(dynamic=True)

    # --- folders ---

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load as transformers does; what is never used stays frozen, which it does not there."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for layer in model.transformer.layers():
            layer.rel_attn.r_s_bias.requires_grad_(False)
            layer.rel_attn.seg_embed.requires_grad_(False)
        return loaded

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """Write an ordinary XLNet folder: safetensors, and the mask token in the config.

        The draft head is put beside the weights; one of another model, left there, is removed.
        """
        with without_progress_bar():
            super().save_pretrained(save_directory, **kwargs)
        self.config.architectures = ["XLNetLMHeadModel"]  # what others shall load it as
        self.config.save_pretrained(save_directory)
        save_draft_head_of(self, self.draft_head, save_directory)

    def load_weights(self, folder: str | Path) -> None:
        """Read what `save_pretrained` of this model wrote into a folder, bit for bit."""
        load_model(self, Path(folder, "model.safetensors"))

    # --- packed weights ---

    def pack(self) -> Self:
        """Have a CPU read weights in bfloat16 faster where nothing is learned; no change elsewhere.

        Packed copies take as much memory as the weights. They are made anew where the weights have
        changed, by whatever means, when a cache is made or a call has none.
        """
        for layer in self.transformer.layers():
            attention, ff = layer.rel_attn, layer.ff
            for weight in (attention.q, attention.k, attention.v):  # (C, H, D): inputs come first
                pack(weight, transposed=True)
            for weight in (attention.o, ff.layer_1.weight, ff.layer_2.weight):
                pack(weight)
        pack(self.lm_loss.weight)
        return self

    def _pack_again(self) -> None:
        """Renew the packed copies of weights that have changed since."""
        pack_all_again(self.parameters())


def check_attention(config: XLNetConfig) -> None:
    """Refuse settings that no any-subset model can have.

    Raises:
        ValueError: `bi_data`, or `attn_type="uni"`.
    """
    if config.bi_data:
        raise ValueError("bi_data is True; expected False: its rows read two half batches")
    if config.attn_type != "bi":
        raise ValueError(
            f"attn_type is {config.attn_type!r}; expected 'bi': rows must see both sides"
        )


def name_special_tokens(config: XLNetConfig) -> None:
    """Complete a config that says nothing of a mask token: <mask> of XLNet's vocabulary, or none.

    XLNetConfig names XLNet's <pad> for every vocabulary; in another one it is a token like any.
    """
    if hasattr(config, "mask_token_id"):
        return
    is_xlnet = config.vocab_size == XLNET_VOCAB_SIZE
    config.mask_token_id = XLNET_MASK_TOKEN_ID if is_xlnet else None
    if not is_xlnet and config.pad_token_id == XLNET_PAD_TOKEN_ID:
        config.pad_token_id = None


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Have transformers read and write weights without a bar of its own."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
