"""Which characters of a decoded text were given, and which were filled in.

Shapes: L length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from asarm.text import decode as text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
BLANK = "_"  # what a blanked token is shown as
GIVEN, BLANKED, FILLED = "bold", "dim", "bold green"  # styles of a terminal


class Segment(NamedTuple):
    """A run of tokens that were all given, or all filled."""

    text: str
    num_tokens: int
    is_target: bool


def given_spans(
    decode: Callable[[list[int]], str], tokens: Sequence[int], prompt: Sequence[int]
) -> list[list[int]]:
    """Return begin and end, in the text of `tokens`, of each run of positions in `prompt`.

    A character whose bytes were only partly given belongs to the run that completes it.

    Args:
        decode: text from ids.
        tokens: (L,) ids.
        prompt: positions that were given.
    """
    text = decode(list(tokens))
    spans, end = [], 0
    for is_target, positions in _runs(len(tokens), prompt):
        start, count = end, positions[-1] + 1
        shown = decode(list(tokens[:count])).rstrip(UNPRINTABLE)
        end = len(text) if count == len(tokens) else max(start, _common(shown, text))
        if not is_target:
            spans.append([start, end])
    return spans


def segments(
    text: str, given: Sequence[Sequence[int]], prompt: Sequence[int], num_tokens: int
) -> list[Segment]:
    """Cut the text where given and filled parts meet, from `given_spans`."""
    found: list[Segment] = []
    spans, shown = iter([*given, (len(text), len(text))]), 0
    span = next(spans)
    for is_target, positions in _runs(num_tokens, prompt):
        end = span[0] if is_target else span[1]
        found.append(Segment(text[shown:end], len(positions), is_target))
        shown = end
        span = span if is_target else next(spans)
    return found


def segments_of(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], prompt: Sequence[int]
) -> list[Segment]:
    """Cut the text of `tokens` where positions in `prompt` and filled ones meet."""

    def shown(ids: list[int]) -> str:
        return text_of(tokenizer, ids)

    given = given_spans(shown, tokens, prompt)
    return segments(shown(list(tokens)), given, prompt, len(tokens))


def printable(text: str) -> str:
    """Return `text` without what would steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else UNPRINTABLE for c in text)


def _runs(num_tokens: int, prompt: Sequence[int]) -> Iterator[tuple[bool, list[int]]]:
    """Yield positions one after another that are all given or all filled."""
    is_given = set(prompt)
    for is_target, run in groupby(range(num_tokens), key=lambda i: i not in is_given):
        yield is_target, list(run)


def _common(first: str, second: str) -> int:
    """Return the length of what both begin with."""
    if second.startswith(first):
        return len(first)
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))
