"""Texts that go on, left to right, until a stop string, the end of the document, or a length.

Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from asarm.codec import Codec
from asarm.distribution import Allowed
from asarm.order import Order
from asarm.rows import Backbone
from asarm.sampling import sample

FIRST = 16  # tokens that are drawn before stop strings are looked for; then twice as many, anew
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
OPTIONS = ("until", "do_sample", "temperature", "top_k", "top_p", *LENGTHS)


@dataclass(frozen=True)
class Stopping:
    """How texts go on, and where they end.

    Attributes:
        until: strings before which a text ends.
        max_tokens: the largest number of tokens.
        temperature, top_k, top_p: of the distribution that is sampled; top_k is 1 where the most
            probable token is taken each time.
    """

    until: tuple[str, ...] = ()
    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], max_tokens: int = 256) -> Stopping:
        """Read the `generation_kwargs` of lm-evaluation-harness.

        Nothing is sampled unless `do_sample`, or a temperature above 0 without it, says so.

        Raises:
            ValueError: an option that is not served, or a value outside its range.
        """
        unknown = [name for name in options if name not in OPTIONS]
        if unknown:
            raise ValueError(
                f"generation_kwargs hold {unknown[0]}; expected some of {', '.join(OPTIONS)}: "
                "take it out of the task's YAML file or of --gen_kwargs"
            )
        given = [options[name] for name in LENGTHS if options.get(name) is not None]
        length = int(given[0]) if given else max_tokens
        if length < 1:
            raise ValueError(f"max_gen_toks is {length}; expected at least 1")
        until = options.get("until") or ()
        temperature = options.get("temperature")
        samples = options.get("do_sample")
        if samples is None:
            samples = bool(temperature)
        greedy = not samples or temperature == 0
        return cls(
            until=(until,) if isinstance(until, str) else tuple(filter(None, until)),
            max_tokens=length,
            temperature=1.0 if greedy or temperature is None else float(temperature),
            top_k=1 if greedy else options.get("top_k") or None,
            top_p=None if greedy else options.get("top_p"),
        )

    def room(self, max_length: int) -> int:
        """Return how many tokens of a context there is room for.

        Raises:
            ValueError: there is none.
        """
        if max_length <= self.max_tokens:
            raise ValueError(
                f"max_gen_toks is {self.max_tokens} with max_length {max_length}; expected fewer: "
                "lower it (--gen_kwargs max_gen_toks=N), or raise max_length in --model_args"
            )
        return max_length - self.max_tokens

    def cut(self, text: str) -> str:
        """Return the text up to the first of the stop strings."""
        return text[: min((n for s in self.until if (n := text.find(s)) >= 0), default=len(text))]


def continue_texts(
    model: Backbone,
    codec: Codec,
    contexts: Sequence[str],
    stopping: Stopping,
    *,
    seeds: Sequence[int],
    max_length: int,
) -> list[str]:
    """Continue each context up to its stop string.

    An empty context is the start of a document. A blank at the end of a context is written with
    the first piece, as it is in the texts that models are trained on. The tokens have the joint
    distribution of `asarm.log_prob` with the context as the prompt.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        codec: the codec of its tokenizer.
        contexts: the texts; what does not fit is cut off on their left.
        stopping: how the texts are continued, and where they end.
        seeds: the seed of each text, which depends on nothing else.
        max_length: most tokens of a context and what follows it together.

    Raises:
        ValueError: what follows leaves no room for a context.
    """
    room = stopping.room(max_length)
    end = codec.tokenizer.eos_token_id
    prompts = [codec.encode_before(context)[-room:] or [end] for context in contexts]
    kinds = [int(codec.needs_word(context)) for context in contexts]
    found: list[list[int]] = [[] for _ in contexts]
    active, size = list(range(len(contexts))), 0
    while active and size < stopping.max_tokens:
        size = min(max(FIRST, 2 * size), stopping.max_tokens)
        drawn = _draw(
            model,
            codec,
            size,
            stopping,
            [prompts[n] for n in active],
            [kinds[n] for n in active],
            [seeds[n] for n in active],
        )
        for n, ids in zip(active, drawn, strict=True):
            found[n] = ids
        active = [n for n in active if not _is_over(codec, contexts[n], found[n], stopping)]
    texts = [
        codec.decode(_before(ids, end), after=context)
        for ids, context in zip(found, contexts, strict=True)
    ]
    return [stopping.cut(text) for text in texts]


def _before(ids: Sequence[int], end: int) -> list[int]:
    """Return the ids before the end of the document."""
    return list(ids[: ids.index(end)] if end in ids else ids)


def _is_over(codec: Codec, context: str, ids: list[int], stopping: Stopping) -> bool:
    if codec.tokenizer.eos_token_id in ids:
        return True
    text = codec.decode(ids, after=context)
    return stopping.cut(text) != text


def _draw(
    model: Backbone,
    codec: Codec,
    size: int,
    stopping: Stopping,
    prompts: Sequence[Sequence[int]],
    kinds: Sequence[int],
    seeds: Sequence[int],
) -> list[list[int]]:
    """Sample as many tokens as `size` says after each prompt, left to right.

    A kind of 1 asks for a first piece that begins a word. Under the Gumbel coupling a longer
    drawing from the same seed begins with the shorter one, so that nothing is chosen by its length.
    """
    sequences = [torch.tensor([*prompt, *[0] * size]) for prompt in prompts]
    ids = pad_sequence(sequences, batch_first=True).to(model.device)
    starts = [len(prompt) for prompt in prompts]
    left_to_right = torch.arange(ids.shape[1]).repeat(len(prompts), 1)
    order = Order(left_to_right, starts, [start + size for start in starts]).to(model.device)
    is_end = torch.arange(len(codec.fillable)) == codec.tokenizer.eos_token_id
    tables = torch.stack([codec.fillable | is_end, codec.begins_word | is_end])
    places = torch.zeros(ids.shape, dtype=torch.long)
    places[torch.arange(len(starts)), torch.tensor(starts)] = torch.tensor(kinds)
    result = sample(
        model,
        ids,
        order,
        verifier="gumbel",
        temperature=stopping.temperature,
        top_k=stopping.top_k,
        top_p=stopping.top_p,
        allowed=Allowed(tables, places).over(model.vocab_size),
        seed=list(seeds),
    )
    return [result.tokens[b, start : start + size].tolist() for b, start in enumerate(starts)]
