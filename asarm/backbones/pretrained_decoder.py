"""What transformers' checkpoints ask of a decoder, apart from its rows: sizes, folders, adapters.

A folder is one of transformers, or an adapter of peft, with `blank.safetensors` beside the weights:
the vector `blank`, and in the file's metadata the settings of the any-subset model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from asarm.backbones import lora
from asarm.backbones.pretrained import NO_TOKEN, without_progress_bar
from asarm.drafting.files import fingerprint, is_near, save_draft_head_of
from asarm.drafting.head import HasDraftHead
from asarm.kernels.products import linear, pack, pack_all_again

BLANK = "blank.safetensors"


class Product(nn.Linear):
    """A linear layer that multiplies by `asarm.kernels.products`: the same, faster on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply rows (..., I) by the weight: (..., O)."""
        return linear(input, self.weight, self.bias)


class PretrainedDecoder(HasDraftHead, nn.Module):
    """A causal language model of transformers with a learned vector, `blank`.

    A subclass computes rows, and says in `check` whether the network obeys them.

    Args:
        network: any causal language model of transformers.
        start_token_id: read before every text. "auto" is the `bos_token_id` of the network's
            config, or its `eos_token_id` where it has none; None reads no such token.
        prompt: what the tokens of a prompt see of it: "causal", those to the left, as the network
            was trained; or "full", all of it, for networks adapted that way.

    Raises:
        ValueError: an argument outside its range.
    """

    mask_token_id = NO_TOKEN
    has_spare_logits = True  # many networks have more logits than there are tokens
    _adapted: Any = None  # peft's model, where an adapter learns

    def __init__(
        self,
        network: PreTrainedModel,
        *,
        start_token_id: int | Literal["auto"] | None = "auto",
        prompt: str = "causal",
    ):
        super().__init__()
        use_products(network)
        self.network = network
        usual = usual_start(network.config)
        self.start_token_id = usual if start_token_id == "auto" else start_token_id
        self.prompt = prompt
        self.base: list[float] | None = None  # fingerprint of the weights that an adapter changed
        self._trained_length: int | None = None
        self._check_settings()
        self.blank = nn.Parameter(self.embedding_weights().detach().mean(0))

    def _check_settings(self) -> None:
        if self.prompt not in ("causal", "full"):
            raise ValueError(f"prompt is {self.prompt!r}; expected 'causal' or 'full'")
        start = self.start_token_id
        if start is not None and start not in range(self.vocab_size):
            raise ValueError(
                f"start_token_id is {start!r}; expected a token from 0 to {self.vocab_size - 1}, "
                "or None"
            )
        length = self._trained_length
        if length is not None and not (isinstance(length, int) and length > 0):
            raise ValueError(f"trained_length is {length!r}; expected a number of tokens, or None")

    # --- what it is ---

    @property
    def config(self) -> PreTrainedConfig:
        """The settings of the network."""
        return self.network.config

    @property
    def vocab_size(self) -> int:
        """How many tokens have a logit; the tokenizer may have fewer."""
        return len(self.network.get_output_embeddings().weight)

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills up a batch, if it is known."""
        found = self.config.pad_token_id
        # many decoders have no such token, and name the end of texts, which may be text
        return None if found in (self.config.eos_token_id, self.start_token_id) else found

    @property
    def device(self) -> torch.device:
        """The device that the weights are on."""
        return self.blank.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.blank.dtype

    @property
    def loads_elsewhere(self) -> str:
        """What the card of the model says of other libraries."""
        if self._adapted is None:
            return "`transformers.AutoModelForCausalLM` loads it too."
        return "This is an adapter (LoRA), which `peft.PeftModel` puts on its base model too."

    @property
    def trained_length(self) -> int | None:
        """How many tokens the texts had that the model was trained on, if it is known."""
        return self._trained_length or getattr(self.config, "max_position_embeddings", None)

    @trained_length.setter
    def trained_length(self, value: int | None) -> None:
        """Set the length, which is saved beside the weights."""
        self._trained_length = value

    @property
    def max_length(self) -> int | None:
        """The longest text that rows can be made of, if there is one.

        A table of positions has an end, and a row of a layer with a sliding window would not see
        what its limit lets it see.
        """
        lengths = []
        known = {self.network.get_input_embeddings(), self.network.get_output_embeddings()}
        if any(isinstance(m, nn.Embedding) and m not in known for m in self.network.modules()):
            lengths.append(self.config.max_position_embeddings)
        layers = getattr(self.config, "layer_types", None)
        window = getattr(self.config, "sliding_window", None)
        if window is not None and (layers is None or "sliding_attention" in layers):
            lengths.append(window)
        return min(lengths) - (self.start_token_id is not None) if lengths else None

    def output_weights(self) -> tuple[Tensor, Tensor]:
        """Return the weight (V, C) and the bias (V,) of `logits`."""
        layer = self.network.get_output_embeddings()
        bias = getattr(layer, "bias", None)
        return layer.weight, layer.weight.new_zeros(len(layer.weight)) if bias is None else bias

    def embedding_weights(self) -> Tensor:
        """Return the embeddings (V, C) of the tokens."""
        return self.network.get_input_embeddings().weight

    # --- training ---

    @property
    def sizes(self) -> dict[str, int]:
        """The network's sizes, by the names that training's settings have for them."""
        config = self.config.get_text_config()
        inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
        return {
            "d_model": config.hidden_size,
            "n_layer": config.num_hidden_layers,
            "n_head": config.num_attention_heads,
            "d_inner": inner or 4 * config.hidden_size,
        }

    def set_dropout(self, rate: float) -> None:
        """Drop activations at another rate in training."""
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = rate
            elif hasattr(module, "attention_dropout"):
                module.attention_dropout = rate

    def prepare_training(self, *, gradient_checkpointing: bool, compiled: bool) -> None:
        """Choose how activations are kept in training, and whether the network is compiled."""
        if gradient_checkpointing:
            network = self.network
            # transformers renames it; the old name is gone in version 6
            enable = getattr(network, "activation_checkpointing_enable", None)
            (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
        if compiled:
            self.network.get_decoder().compile(dynamic=True)

    def add_lora(self, rank: int, base: str, revision: str | None = None) -> None:
        """Learn low-rank changes of the weights from now on, and `blank`, instead of the weights.

        Args:
            rank: of each change.
            base: the name of the model, for the adapter's folder.
            revision: of it on the hub, likewise.

        Raises:
            ValueError: peft is not installed.
        """
        self.base = fingerprint(self.network)
        adapted = lora.add(self.network, rank, base, revision)
        use_products(self.network)
        # past nn.Module, which would count the network's weights twice
        object.__setattr__(self, "_adapted", adapted)

    # --- folders ---

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> Any:
        """Load a causal language model of transformers, with what was learned beside it.

        Args:
            name_or_path: a folder, also of an adapter, or a name on the hub.
            kwargs: of `AutoModelForCausalLM.from_pretrained`: dtype, revision, ...

        Raises:
            ValueError: the network does not obey the positions and the mask that it is given, so
                that its rows would not be what they have to be; or the files do not fit together.
        """
        folder = Path(name_or_path, kwargs.get("subfolder") or "")
        if (folder / lora.CONFIG).is_file():
            base, revision = lora.base_of(folder)
            model = cls.from_pretrained(base, **kwargs | {"subfolder": "", "revision": revision})
            model.read_adapter(folder)
            return model
        kwargs = {"attn_implementation": "sdpa"} | kwargs
        found = AutoModelForCausalLM.from_pretrained(name_or_path, **kwargs)
        network, *report = found if isinstance(found, tuple) else (found,)
        model = cls(network).eval()
        model.read_blank(folder / BLANK)
        model.check()
        return (model, *report) if report else model

    def check(self) -> None:
        """Make sure that the network's rows are what they have to be."""
        raise NotImplementedError

    def read_adapter(self, folder: str | Path) -> None:
        """Merge an adapter that was trained on these weights into them.

        Raises:
            ValueError: it was trained on others.
        """
        before = fingerprint(self.network)
        expected = self.read_blank(Path(folder, BLANK))
        if expected is not None and not is_near(before, expected):
            raise ValueError(
                f"the adapter in {folder} was trained on other weights than those of its base, "
                f"{lora.base_of(folder)[0]}; give the base that it was trained on"
            )
        lora.merge(self.network, folder)
        self.base = before

    def read_blank(self, path: Path) -> list[float] | None:
        """Read the vector `blank` and the settings beside it, where they are there.

        Returns:
            The fingerprint of the weights that an adapter in this folder is for, if it is known.

        Raises:
            ValueError: the file cannot be read, or is that of a model of another width.
        """
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                blank, metadata = file.get_tensor("blank"), file.metadata() or {}
            settings = dict(json.loads(metadata.get("any_subset", "{}")))
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read ({error}); put the whole file there") from None
        if blank.shape != self.blank.shape:
            raise ValueError(
                f"{path} has shape {tuple(blank.shape)}; expected {tuple(self.blank.shape)}: put "
                "the file of these weights beside them"
            )
        with torch.no_grad():
            self.blank.copy_(blank)
        self.start_token_id = settings.get("start_token_id", self.start_token_id)
        self.prompt = settings.get("prompt", self.prompt)
        self._trained_length = settings.get("trained_length")
        self._check_settings()
        base: list[float] | None = settings.get("base")
        return base

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write a folder that `AutoModelForCausalLM` loads, or peft where an adapter learns."""
        adapted = self._adapted
        with without_progress_bar():
            if adapted is None:
                self.network.save_pretrained(save_directory, **kwargs)
            else:
                adapted.save_pretrained(save_directory, save_embedding_layers=False, **kwargs)
        settings = {
            "start_token_id": self.start_token_id,
            "prompt": self.prompt,
            "trained_length": self._trained_length,
        } | ({} if adapted is None else {"base": self.base})
        blank = {"blank": self.blank.detach().cpu().contiguous()}
        save_file(blank, Path(save_directory, BLANK), {"any_subset": json.dumps(settings)})
        save_draft_head_of(self, self.draft_head, save_directory)

    def load_weights(self, folder: str | Path) -> None:
        """Read what `save_pretrained` of this model wrote into it, exactly."""
        if self._adapted is None:
            with without_progress_bar():
                found = AutoModelForCausalLM.from_pretrained(folder, dtype=self.dtype)
            self.network.load_state_dict(found.state_dict())
        else:
            from peft import load_peft_weights, set_peft_model_state_dict

            set_peft_model_state_dict(self._adapted, load_peft_weights(str(folder), "cpu"))
        self.read_blank(Path(folder, BLANK))

    # --- packed weights ---

    def pack(self) -> Self:
        """Have a CPU read weights in bfloat16 faster where nothing is learned."""
        for module in self.network.modules():
            if isinstance(module, Product):
                pack(module.weight)
        return self

    def _pack_again(self) -> None:
        """Renew the packed copies of weights that have changed since."""
        pack_all_again(self.parameters())


def use_products(network: nn.Module) -> None:
    """Have all linear layers of a network multiply by `asarm.kernels.products`."""
    for module in network.modules():
        if type(module) is nn.Linear:
            module.__class__ = Product


def usual_start(config: PreTrainedConfig) -> int | None:
    """Return the token that a config names for the start of texts, or else for their end."""
    for found in (config.bos_token_id, config.eos_token_id):
        if found is not None:
            return found if isinstance(found, int) else found[0]
    return None
