"""What a model is shown of a text that is longer than the texts it was trained on.

Blanks that fit into one window with the text between them are filled jointly there, and the rest of
the window goes to the text before and after them. Blanks farther apart have windows of their own.

Shapes: G gaps of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from asarm.infilling.template import Template
from asarm.rows import Backbone

Range = tuple[int, int]


def window_length(model: Backbone) -> int | None:
    """Return how many tokens a model is shown: as many as the texts had that it was trained on,
    and no more than it has positions for; None where neither is known."""
    found = (getattr(model, name, None) for name in ("trained_length", "max_length"))
    return min((length for length in found if length is not None), default=None)


def windows(template: Template, ranges: Sequence[Range], limit: int | None) -> list[slice]:
    """Return the gaps (G) of each window: neighbours whose longest fills fit into one.

    Where gaps may be long, it is enough that they fit at their shortest into half a window; their
    ranges then end earlier, see `fitted`.
    """
    if limit is None:
        return [slice(0, template.num_gaps)]
    starts = [0]
    for end in range(1, template.num_gaps):
        gaps = slice(starts[-1], end + 1)
        shortest, longest = (_inside(template, ranges, gaps, bound) for bound in (0, 1))
        if longest > limit and shortest > limit // 2:
            starts.append(end)
    ends = [*starts[1:], template.num_gaps]
    return [slice(*pair) for pair in zip(starts, ends, strict=True)]


def part_of(template: Template, gaps: slice) -> Template:
    """Return the template of neighbouring gaps, and of the text up to the gaps next to them."""
    return Template(template.codec, template.parts[gaps.start : gaps.stop + 1])


def fitted(template: Template, ranges: Sequence[Range], limit: int | None) -> list[Range]:
    """Return the ranges of a window's gaps (G), each no longer than its part of the window."""
    whole = slice(0, template.num_gaps)
    if limit is None or _inside(template, ranges, whole, 1) <= limit:
        return list(ranges)
    room = max(0, limit - _inside(template, ranges, whole, 0))
    extra = room // max(1, sum(low < high for low, high in ranges))
    return [(low, min(high, low + extra)) for low, high in ranges]


def within(template: Template, sizes: Sequence[int], limit: int | None) -> Template:
    """Return the template without the tokens beyond its window, where its gaps have these sizes.

    As many tokens stay before the first gap as after the last one, or more where the text ends on
    the other side.
    """
    first, *between, last = template.parts
    taken = int(last.end.is_extra)  # the last gap holds this piece, and needs it
    before, after = len(first.ids), len(last.ids) - taken
    num_tokens = len(template.with_gaps(sizes)[0])
    if limit is None or num_tokens <= limit:
        return template
    room = max(0, limit - (num_tokens - before - after))
    kept_after = min(after, max(room // 2, room - before))
    kept_before = min(before, room - kept_after)
    first = replace(first, ids=first.ids[before - kept_before :])
    last = replace(last, ids=last.ids[: taken + kept_after])
    return Template(template.codec, [first, *between, last])


def _inside(template: Template, ranges: Sequence[Range], gaps: slice, bound: int) -> int:
    """Count tokens from the first of some gaps to the last, at their shortest (0) or longest
    (1)."""
    inner = part_of(template, gaps)
    lengths = [bounds[bound] for bounds in ranges[gaps]]
    places = inner.places(inner.sizes(lengths))
    return places[-1].stop - places[0].start
