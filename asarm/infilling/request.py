"""What `infill` was asked for, in one form: templates, and a range of lengths for each gap."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index as whole
from typing import Any

from asarm.checks import checked_text, described, is_whole
from asarm.codec import Codec
from asarm.infilling.posterior import AUTO, Range
from asarm.infilling.template import Span, Template, cut_out, split_at_marker


def requested_texts(texts: object) -> list[str]:
    """Return the texts of a request, which has one or several.

    Raises:
        ValueError: one of them is not text.
    """
    if isinstance(texts, str):
        return [checked_text(texts)]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
        raise ValueError(f"texts is {described(texts)}; expected a text or a list of texts")
    return [checked_text(text, f"text {i}") for i, text in enumerate(texts)]


def requested_spans(spans: Any, texts: object, num_texts: int) -> list[list[Span]]:
    """Return the spans of each text, in the order in which they were given.

    Raises:
        ValueError: something else than pairs of whole numbers, or spans of another number of texts.
    """
    is_one, form = isinstance(texts, str), "(start, end) for each blank, such as [(4, 8)]"
    try:
        each = [spans] if is_one else list(spans)
        found = [[(whole(start), whole(end)) for start, end in own] for own in each]
    except (TypeError, ValueError):
        wanted = f"a list of {form}" if is_one else f"a list for each text, of {form}"
        raise ValueError(f"spans is {spans!r}; expected {wanted}") from None
    if len(found) != num_texts:
        raise ValueError(f"spans of {len(found)} texts for {num_texts} texts; expected one each")
    return found


def templates_of(
    codec: Codec,
    texts: Sequence[str],
    *,
    blank: str,
    spans: Sequence[Sequence[Span]] | None,
    closed: bool,
) -> list[Template]:
    """Return the texts with their gaps, which markers show, or spans for each text.

    Raises:
        ValueError: a text without a blank, blanks that touch, or a marker that is not text.
    """
    if spans is None:
        if not isinstance(blank, str):
            raise ValueError(
                f"blank is {described(blank)}; expected the text that marks a blank, such as ___"
            )
        parts = [split_at_marker(text, blank) for text in texts]
    else:
        parts = [cut_out(text, own) for text, own in zip(texts, spans, strict=True)]
    return [Template.of(codec, own, closed=closed) for own in parts]


def requested_lengths(
    length: Any,
    templates: Sequence[Template],
    spans: Sequence[Sequence[Span]] | None = None,
) -> list[list[Range]]:
    """Return the range of every gap of every text; a list has an entry for each text.

    Where spans are given, a text's list has an entry for each of them, in their order.

    Raises:
        ValueError: a length that is none, or a list of another size.
    """
    each = length if isinstance(length, list) else [length] * len(templates)
    if len(each) != len(templates):
        raise ValueError(f"length has {len(each)} entries for {len(templates)} texts")
    found = [_of_text(own, t.num_gaps) for own, t in zip(each, templates, strict=True)]
    if spans is None:
        return found
    return [_in_text_order(own, given) for own, given in zip(found, spans, strict=True)]


def _in_text_order(ranges: Sequence[Range], spans: Sequence[Span]) -> list[Range]:
    return [bounds for _, bounds in sorted(zip(spans, ranges, strict=True))]


def _of_text(length: Any, num_gaps: int) -> list[Range]:
    each = length if isinstance(length, list) else [length] * num_gaps
    if len(each) != num_gaps:
        raise ValueError(f"length has {len(each)} entries for {num_gaps} blanks of a text")
    return [_range(own) for own in each]


def _range(length: Any) -> Range:
    bounds = AUTO if isinstance(length, str) and length == "auto" else length
    bounds = bounds if isinstance(bounds, tuple) else (bounds, bounds)
    is_range = len(bounds) == 2 and all(map(is_whole, bounds))
    if not (is_range and 1 <= bounds[0] <= bounds[1]):
        raise ValueError(
            f"length is {length!r}; expected a number of tokens from 1 on, a range (low, high), "
            "or 'auto'"
        )
    low, high = map(int, bounds)
    return low, high


def check_batch_size(batch_size: int) -> None:
    """Refuse a batch size that is not a whole number from 1 on.

    Raises:
        ValueError: it is not a whole number from 1 on.
    """
    if not (is_whole(batch_size) and batch_size >= 1):
        raise ValueError(f"batch_size is {batch_size!r}; expected at least 1")
