"""Low-rank adapters (LoRA, arXiv 2106.09685) of decoders, in the files of the library peft.

Training goes through peft; adding an adapter to the weights needs none: a weight W (O, I) becomes
W + scale B A with A (rank, I) and B (O, rank).
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of peft's names
PART = re.compile(r"\.lora_[AB]\.weight$")
OTHER_KINDS = (  # settings by which an adapter is more than W + scale B A
    *("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices"),
    *("layer_replication", "lora_bias", "target_parameters", "alora_invocation_tokens"),
)


def add(network: PreTrainedModel, rank: int, base: str, revision: str | None) -> Any:
    """Put new adapters of a rank on all linear layers but the output layer; freeze all else.

    Args:
        network: it is changed in place.
        rank: of the change of each weight; its scale is 2, as usual.
        base: the name of the model, which the adapter's folder will give.
        revision: of it on the hub, likewise.

    Returns:
        peft's model, which saves the adapter alone.

    Raises:
        ValueError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ValueError(
            f"lora_rank is {rank}, which needs the library peft; pip install peft"
        ) from None
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in network.modules()),
        task_type="CAUSAL_LM",
        revision=revision,
    )
    with warnings.catch_warnings():  # peft reads a property that transformers has renamed
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(network, config)
    config.base_model_name_or_path = base  # peft takes the folder that the network was read from
    return adapted


def base_of(folder: str | Path) -> tuple[str, str | None]:
    """Return the name of the model that an adapter's folder changes, and its revision on the hub.

    Raises:
        ValueError: it is not an adapter of the kind that `merge` reads.
    """
    config = _config(folder)
    return str(config["base_model_name_or_path"]), config.get("revision")


@torch.no_grad()
def merge(network: nn.Module, folder: str | Path) -> None:
    """Add an adapter to the weights of its network.

    Raises:
        ValueError: its weights cannot be read, or are not changes of the network's weights.
    """
    config, path = _config(folder), Path(folder, WEIGHTS)
    scale = config["lora_alpha"] / (config["r"] ** (0.5 if config.get("use_rslora") else 1))
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read ({error}); put the whole file there") from None
    layers = dict(network.named_modules())
    for name in sorted({PART.sub("", name) for name in weights}):
        down, up = (weights.get(f"{name}.lora_{part}.weight") for part in "AB")
        if down is None or up is None:
            raise ValueError(f"{path} does not hold both parts of {name}; put the whole file there")
        layer = layers.get(name.removeprefix(PREFIX))
        weight = getattr(layer, "weight", torch.empty(0))
        change = scale * up.float() @ down.float()
        change = change.T if isinstance(layer, Conv1D) else change  # GPT-2 has weights (I, O)
        if weight.shape != change.shape:
            raise ValueError(
                f"{path} changes {name.removeprefix(PREFIX)} by a matrix of {tuple(change.shape)}, "
                "which its base does not have; give the base that it was trained on"
            )
        weight.add_(change.to(weight))


def _config(folder: str | Path) -> dict[str, Any]:
    """Read what an adapter's folder says of it, and refuse what `merge` would not do."""
    path = Path(folder, CONFIG)
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_lora = config["peft_type"] == "LORA"
        wanted = (config[name] for name in ("base_model_name_or_path", "r", "lora_alpha"))
        is_whole = not is_lora or all(wanted)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); put the whole file there"
        ) from None
    other = [name for name in OTHER_KINDS if config.get(name)]
    is_plain = config.get("init_lora_weights", True) in (True, False, "gaussian")
    if not (is_lora and is_whole and is_plain) or other or config.get("bias", "none") != "none":
        raise ValueError(
            f"{folder} holds an adapter of another kind; expected LoRA of one rank, without "
            "weights of its own"
        )
    return config
