"""Fingerprints of what the results of an evaluation depend on: its models and its data.

They are hashes of what was loaded, not of files, so that they are right whatever happens to these
in the meantime.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import astuple, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.data.finite import tokenizer_key

NOT_CONTENT = ("_name_or_path", "transformers_version", "architectures", "dtype")


class LoadedModel(Protocol):
    """A model and the tokenizer that belongs to it."""

    @property
    def model(self) -> Any:
        """The model, which the tokenizer belongs to."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that the model has."""


def fingerprints(config: Any, data: Iterable[Any], networks: Any) -> dict[str, str]:
    """Return the fingerprints of a run's models and of its data.

    Args:
        config: the settings, with the names `model`, `dataset` and `off_the_shelf`.
        data: all items of the data set, also those that are not evaluated.
        networks: the models `ours` and `off_the_shelf`, the latter None where there is none.
    """
    found = {f"model {config.model}": of_network(networks.ours)}
    if networks.off_the_shelf is not None:
        found[f"model {config.off_the_shelf}, off the shelf"] = of_network(networks.off_the_shelf)
    return found | {f"dataset {config.dataset}": of_items(data)}


def of_network(network: LoadedModel) -> str:
    """Return `of_model` of a pair."""
    return of_model(network.model, network.tokenizer)


def of_model(model: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash the weights, their precision, the architecture, the draft head and the tokenizer.

    Raises:
        ValueError: the model has no `state_dict`, and so nothing to identify it by.
    """
    if not hasattr(model, "state_dict"):
        raise ValueError(
            f"the model is a {type(model).__name__} without state_dict; expected an nn.Module, "
            "whose weights identify it"
        )
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_diff_dict"):
        settings = config.to_diff_dict()
    else:
        settings = {"class": type(model).__qualname__, **getattr(config, "__dict__", {})}
    architecture = {name: value for name, value in settings.items() if name not in NOT_CONTENT}
    special = [tokenizer.special_tokens_map, tokenizer_key(tokenizer)]
    about = json.dumps([architecture, special], sort_keys=True, default=str)
    content = hashlib.sha256(about.encode())
    for name, weight in _weights(model):
        content.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        content.update(_bytes(weight))
    return content.hexdigest()[:32]


def of_items(items: Iterable[Any]) -> str:
    """Hash texts or dataclasses, by their values and their order."""
    values = [astuple(item) if is_dataclass(item) else item for item in items]  # type: ignore[arg-type]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def of_blocks(blocks: Tensor) -> str:
    """Hash token ids (N, L)."""
    content = hashlib.sha256(f"{tuple(blocks.shape)} {blocks.dtype}".encode())
    content.update(_bytes(blocks))
    return content.hexdigest()[:32]


def _weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield all weights by name, those of the draft head too, where there is one."""
    yield from sorted(model.state_dict().items())
    if (head := getattr(model, "draft_head", None)) is not None:
        yield from sorted((f"draft_head.{name}", w) for name, w in head.state_dict().items())


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
