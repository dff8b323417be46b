"""What `infill` was asked for, in one form: templates, and a range of lengths for each gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asarm.codec import Codec
from asarm.infilling.choice import AUTO, Range
from asarm.infilling.template import Span, Template, cut_out, split_at_marker


def templates_of(
    codec: Codec,
    texts: Sequence[str],
    *,
    blank: str,
    spans: Sequence[Sequence[Span]] | None,
    closed: bool,
) -> list[Template]:
    """The texts with their gaps, from markers, or from spans for each text.

    Raises:
        ValueError: a text without a blank, blanks that touch, or spans of another number of texts.
    """
    if spans is None:
        parts = [split_at_marker(text, blank) for text in texts]
    elif len(spans) != len(texts):
        raise ValueError(f"spans of {len(spans)} texts for {len(texts)} texts; expected one each")
    else:
        parts = [cut_out(text, own) for text, own in zip(texts, spans, strict=True)]
    return [Template.of(codec, own, closed=closed) for own in parts]


def asked_lengths(length: Any, templates: Sequence[Template]) -> list[list[Range]]:
    """The range of every gap of every text; a list has an entry for each text.

    Raises:
        ValueError: a length that is none, or a list of another size.
    """
    each = length if isinstance(length, list) else [length] * len(templates)
    if len(each) != len(templates):
        raise ValueError(f"length has {len(each)} entries for {len(templates)} texts")
    return [_of_text(own, t.num_gaps) for own, t in zip(each, templates, strict=True)]


def _of_text(length: Any, num_gaps: int) -> list[Range]:
    each = length if isinstance(length, list) else [length] * num_gaps
    if len(each) != num_gaps:
        raise ValueError(f"length has {len(each)} entries for {num_gaps} blanks of a text")
    return [_range(own) for own in each]


def _range(length: Any) -> Range:
    bounds = AUTO if length == "auto" else length
    bounds = bounds if isinstance(bounds, tuple) else (bounds, bounds)
    is_range = len(bounds) == 2 and all(type(bound) is int for bound in bounds)
    if not (is_range and 1 <= bounds[0] <= bounds[1]):
        raise ValueError(
            f"length is {length!r}; expected a number of tokens from 1 on, a range (low, high), "
            "or 'auto'"
        )
    low, high = bounds
    return low, high
