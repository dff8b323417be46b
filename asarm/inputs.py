"""What a model is asked about, checked at the door, and the state in which it answers.

Shapes: B batch, L length.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from asarm.checks import described
from asarm.distribution import Allowed
from asarm.order import Order
from asarm.rows import Backbone

NO_START = -1  # of backbones that need no token before a text

_users: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
_lock = Lock()


@contextmanager
def inference_mode_of(model: Backbone) -> Iterator[None]:
    """Have a model compute in eval mode, in its own dtype and without gradients.

    Dropout would change its distribution from call to call, and autocast its dtype. Modules that
    were in train mode are again afterwards, when the last of several threads has its answer.
    """
    _enter(model)
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            yield
    finally:
        _leave(model)


def _enter(model: Backbone) -> None:
    """Count one more answer, and put modules that train into eval mode before the first."""
    if isinstance(model, nn.Module):
        with _lock:
            number, training = _users.get(model, (0, []))
            training = training or [module for module in model.modules() if module.training]
            for module in training:
                module.training = False
            _users[model] = number + 1, training


def _leave(model: Backbone) -> None:
    """Count one answer less, and put modules back into train mode after the last."""
    if isinstance(model, nn.Module):
        with _lock:
            number, training = _users.pop(model)
            if number > 1:
                _users[model] = number - 1, training
                return
            for module in training:
                module.training = True


def check_model(model: object) -> None:
    """Refuse what is no backbone, such as a model of transformers.

    Raises:
        ValueError: it lacks what a backbone offers.
    """
    if not all(hasattr(model, name) for name in ("new_cache", "logits", "mask_token_id")):
        raise ValueError(
            f"model is {described(model)}; expected a model of asarm: take asarm.load(folder)[0] "
            "or asarm.AnySubsetTransformer.from_pretrained(folder)"
        )


def check_tokenizer(model: Backbone, tokenizer: Any) -> None:
    """Refuse a tokenizer that is another model's, as far as sizes and mask tokens tell.

    Raises:
        ValueError: there is no model or no tokenizer, or they do not go together.
    """
    check_model(model)
    both = "take both from asarm.load(folder)"
    if not hasattr(tokenizer, "all_special_ids"):
        raise ValueError(f"tokenizer is {described(tokenizer)}; expected the model's own: {both}")
    spare = model.vocab_size - len(tokenizer)
    if spare < 0 or (spare > 0 and not getattr(model, "has_spare_logits", False)):
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens and the model {model.vocab_size}; "
            f"expected the tokenizer with which the model was trained: {both}"
        )
    ours, theirs = model.mask_token_id, tokenizer.mask_token_id
    if theirs is not None and 0 <= ours < model.vocab_size and ours != theirs:
        raise ValueError(
            f"the mask token is {theirs} in the tokenizer and {ours} in the model; expected the "
            f"tokenizer with which the model was trained: {both}"
        )


def token_ids(input_ids: Tensor | Sequence[Sequence[int]] | Any) -> Tensor:
    """Make token ids (int64) of any integers: a tensor, an array of numpy or nested lists.

    Raises:
        ValueError: something else, or rows of different lengths.
    """
    try:
        found = torch.as_tensor(input_ids)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"input_ids is {described(input_ids)}; expected integers of shape (batch, length): "
            "pad shorter sequences on the right, and give their Order the lengths"
        ) from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"input_ids has dtype {found.dtype}; expected integers")
    return found.long()


def checked_inputs(
    model: Backbone,
    input_ids: Tensor | Sequence[Sequence[int]] | Any,
    order: Order,
    *,
    reads_targets: bool,
    allowed: Allowed | None = None,
) -> tuple[Tensor, Order]:
    """Give ids (B, L) and their order on the model's device, if the model can read them.

    Args:
        model: the backbone.
        input_ids: any integers: a tensor, an array of numpy or nested lists.
        order: the decoding order.
        reads_targets: whether the ids of targets are read, too.
        allowed: which tokens each position may hold; any if None.

    Raises:
        ValueError: something is of another kind or shape, an id is outside the vocabulary, or a
            prompt holds `<mask>` or begins or ends with padding.
    """
    check_model(model)
    input_ids = token_ids(input_ids)
    if not isinstance(order, Order):
        raise ValueError(
            f"order is {described(order)}; expected an asarm.Order: "
            "asarm.Order.from_mask(is_target) makes one of a mask"
        )
    if not len(order):
        raise ValueError("the batch has no sequences; expected at least one")
    if input_ids.ndim != 2 or input_ids.shape != order.order.shape:
        raise ValueError(
            f"input_ids has shape {tuple(input_ids.shape)} and order "
            f"{tuple(order.order.shape)}; expected the same (batch, length)"
        )
    if allowed is not None:
        shapes = *allowed.kinds.shape, allowed.tables.shape[1]
        if shapes != (*input_ids.shape, model.vocab_size):
            raise ValueError(
                f"allowed has kinds of shape {tuple(allowed.kinds.shape)} and tables of "
                f"{allowed.tables.shape[1]} tokens; expected {tuple(input_ids.shape)} and "
                f"{model.vocab_size}"
            )
        others = allowed.tables.clone()
        others[:, model.mask_token_id : model.mask_token_id + 1] = False
        if not others.any(1).all():
            raise ValueError("a kind of positions may hold nothing but <mask>; allow another token")
    input_ids, order = input_ids.to(model.device), order.to(model.device)
    is_prompt = order.rank < order.num_prompt[:, None]
    is_read = order.rank < order.length[:, None] if reads_targets else is_prompt
    outside = is_read & ((input_ids < 0) | (input_ids >= model.vocab_size))
    if outside.any():
        b, position = outside.nonzero()[0].tolist()
        raise ValueError(
            f"input_ids holds {int(input_ids[b, position])} at position {position} of sequence "
            f"{b}; expected ids from 0 to {model.vocab_size - 1}: is the tokenizer this model's?"
        )
    masked = is_prompt & (input_ids == model.mask_token_id)
    if masked.any():
        b, position = masked.nonzero()[0].tolist()
        raise ValueError(
            f"the prompt of sequence {b} holds <mask> (id {model.mask_token_id}) at position "
            f"{position}; make that position a target"
        )
    _refuse_padding(model, input_ids, order, is_prompt)
    _check_first_token(model, order)
    _check_length(model, int(order.length.max()))
    return input_ids, order


def _refuse_padding(model: Backbone, input_ids: Tensor, order: Order, is_prompt: Tensor) -> None:
    """Refuse padding that would be read as text: at an end of a sequence, in its prompt."""
    pad_token_id = getattr(model, "pad_token_id", None)
    if pad_token_id is None:
        return
    ends = torch.stack([torch.zeros_like(order.length), order.length - 1], dim=1)  # (B, 2)
    is_padding = is_prompt.gather(1, ends) & (input_ids.gather(1, ends) == pad_token_id)
    if is_padding.any():
        b, end = is_padding.nonzero()[0].tolist()
        raise ValueError(
            f"sequence {b} {('begins', 'ends')[end]} with <pad> (id {pad_token_id}), which would "
            "be read as text; pad on the right, and give the Order the length of each sequence"
        )


def _check_first_token(model: Backbone, order: Order) -> None:
    """Refuse texts that begin with a target where a row could not see anything."""
    if getattr(model, "start_token_id", NO_START) is None:
        is_target = order.is_target[:, 0]
        if is_target.any():
            raise ValueError(
                f"sequence {int(is_target.nonzero()[0, 0])} does not begin with a token of its "
                "prompt, and the model reads no start token: begin with a known one, such as the "
                "tokenizer's BOS, or give the model a start_token_id"
            )


def _check_length(model: Backbone, length: int) -> None:
    """Refuse texts too long for the model; warn of those longer than any that it was trained on."""
    max_length = getattr(model, "max_length", None)
    if max_length is not None and length > max_length:
        raise ValueError(
            f"a sequence has {length} tokens; expected at most {max_length}, for which the model "
            "has positions or a window: cut the text"
        )
    trained_length = getattr(model, "trained_length", None)
    if trained_length is not None and length > trained_length:
        warnings.warn(
            f"a sequence has {length} tokens, and the model was trained on {trained_length}; it "
            "predicts worse beyond them: cut the text, or train on longer texts",
            stacklevel=4,
        )
