"""Texts with blanks in them: from a marker or from spans, to token ids with gaps.

Shapes: B batch, L length, G gaps of a text, V vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby, product

import torch
from torch import Tensor

from asarm.codec import Codec
from asarm.distribution import Allowed
from asarm.infilling.token_healing import Cut, Edge, Part, both, part_of
from asarm.order import Order
from asarm.text import decode, document_end, encode, encode_document
from asarm.utf8 import COMPLETE, NUM_STATES

Span = tuple[int, int]


PATH = re.compile(r"(\\[^\s\\]+|(?<!\w)[A-Za-z]:)\\*\Z")  # up to its last backslash
RULE = r"_{3,}|-{3,}|\*{3,}"  # in Markdown, where it is a paragraph of its own
PARAGRAPH_START = re.compile(r"(\A|\n[ \t]*\r?\n) {0,3}\Z")
PARAGRAPH_END = re.compile(r"[ \t]*(\Z|\r?\n[ \t]*(\r?\n|\Z))")


def split_at_marker(text: str, blank: str) -> list[str]:
    """Return what comes before, between and after the markers; a backslash makes one plain text.

    A part of a longer run of a marker's character is not a marker: `____` and `____init____` are
    text.

    Raises:
        ValueError: the marker is empty, is not in the text, two of them touch, or it is unclear
            whether a marker is one: after a path with backslashes, or as a Markdown rule.
    """
    if not blank:
        raise ValueError("blank is ''; expected the text that marks a blank, such as ___")
    found = _markers(text, blank)
    _check_paths(text, blank, found)
    blanks = [marker for marker in found if not marker[1]]
    if not blanks:
        runs = f", which no other {blank[0]} touches" if blank in text and not found else ""
        raise ValueError(f"the text {_shown(text)} has no blank; mark one with {blank}{runs}")
    _check_rules(text, blank, blanks)
    ends = [0, *(end for marker in blanks for end in marker.span()), len(text)]
    plain = re.compile(rf"\\({_marker(blank)})")
    parts = [plain.sub(r"\1", text[i:j]) for i, j in zip(ends[::2], ends[1::2], strict=True)]
    return _apart(parts, text)


def has_blank(text: str, blank: str) -> bool:
    """Return whether a marker is in the text that no backslash makes plain text."""
    return any(not marker[1] for marker in _markers(text, blank))


def _markers(text: str, blank: str) -> list[re.Match[str]]:
    """Return the markers of a text; the first group of each is a backslash before it, or empty."""
    return [*re.finditer(rf"(\\?){_marker(blank)}", text)]


def _marker(blank: str) -> str:
    """Return the pattern of a marker; one that repeats a character is not part of a longer run."""
    character, marker = re.escape(blank[0]), re.escape(blank)
    is_run = len(set(blank)) == 1
    return f"(?<!{character}){marker}(?!{character})" if is_run else marker


def _check_paths(text: str, blank: str, found: Sequence[re.Match[str]]) -> None:
    """Refuse a marker whose backslash may be the last one of a path."""
    ends = [0, *(marker.end() for marker in found)]
    for marker, start in zip(found, ends, strict=False):
        path = PATH.search(text[start : marker.start()]) if marker[1] else None
        if path:
            raise ValueError(
                f"the text {_shown(text)} has {path[0] + marker[0]!r}, which is a path and a blank "
                f"or a plain {blank}; mark blanks otherwise, such as blank='[?]', or give spans"
            )


def _check_rules(text: str, blank: str, blanks: Sequence[re.Match[str]]) -> None:
    """Refuse what may be a Markdown rule where other markers are none."""
    if not re.fullmatch(RULE, blank):
        return
    are_rules = [
        PARAGRAPH_START.search(text, 0, marker.start()) and PARAGRAPH_END.match(text, marker.end())
        for marker in blanks
    ]
    if any(are_rules) and not all(are_rules):
        raise ValueError(
            f"the text {_shown(text)} has {blank} as a paragraph, which is a Markdown rule or a "
            f"blank, and {blank} elsewhere; write \\{blank} for a rule, or mark blanks otherwise, "
            "such as blank='[?]'"
        )


def cut_out(text: str, spans: Sequence[Span]) -> list[str]:
    """Return what comes before, between and after the spans (start, end) of characters.

    Raises:
        ValueError: no span, one that is empty or outside the text, or two that overlap or touch.
    """
    ends = [0]
    for start, end in sorted(spans):
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"span ({start}, {end}) is empty or outside the text of {len(text)} characters"
            )
        if start < ends[-1]:
            raise ValueError(f"the spans of {_shown(text)} overlap at character {start}")
        ends += [start, end]
    if len(ends) == 1:
        raise ValueError(f"spans is empty; expected (start, end) to blank out in {_shown(text)}")
    ends.append(len(text))
    return _apart([text[i:j] for i, j in zip(ends[::2], ends[1::2], strict=True)], text)


def _apart(parts: list[str], text: str) -> list[str]:
    if "" in parts[1:-1]:
        raise ValueError(f"two blanks of {_shown(text)} touch; make them one")
    return parts


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


@dataclass(frozen=True)
class Template:
    """A text with gaps whose lengths are still open.

    The length of a gap is how many tokens hold what it adds to the text; its size is that and one
    more where it takes in the first piece of the text after it (`edges`).

    Attributes:
        codec: the codec that makes its tokens.
        parts: the texts before, between and after the gaps.
    """

    codec: Codec
    parts: list[Part]

    @classmethod
    def of(cls, codec: Codec, texts: Sequence[str], *, closed: bool = False) -> Template:
        """Encode the texts before, between and after the gaps.

        Args:
            codec: the codec of the model.
            texts: character for character.
            closed: whether the whole is a document: its ends are known then, and stand where it
                begins or ends with a gap.
        """
        befores = [None, *texts]
        last = len(texts) - 1
        parts = [
            part_of(codec, text, before=befores[i], is_last=i == last)
            for i, text in enumerate(texts)
        ]
        if closed and not texts[0]:
            parts[0] = replace(parts[0], ids=document_end(codec.tokenizer))
        if closed and not texts[-1]:
            parts[-1] = replace(parts[-1], ids=encode_document(codec.tokenizer, ""))
        return cls(codec, parts)

    @property
    def texts(self) -> list[str]:
        return [part.text for part in self.parts]

    @property
    def moves(self) -> Tensor | None:
        """How the codec's pieces go on with a character, where they may end inside one."""
        return getattr(self.codec, "moves", None)

    @property
    def num_gaps(self) -> int:
        return len(self.parts) - 1

    def edges(self) -> list[tuple[Edge, Edge]]:
        """Return what is required of the first and of the last piece of each gap."""
        pairs = zip(self.parts, self.parts[1:], strict=False)
        return [(before.start, after.end) for before, after in pairs]

    def sizes(self, lengths: Sequence[int]) -> list[int]:
        """Return how many pieces the gaps have, where they have these lengths."""
        pairs = zip(lengths, self.edges(), strict=True)
        return [length + end.num_extra for length, (_, end) in pairs]

    def places(self, sizes: Sequence[int]) -> list[slice]:
        """Return the positions of the pieces of the gaps, where they have these sizes."""
        found, position = [], 0
        for part, size, (_, end) in zip(self.parts, sizes, self.edges(), strict=False):
            position += len(part.ids)
            found.append(slice(position, position + size))
            position += size - end.is_extra
        return found

    def cuts(self, gap: int) -> list[tuple[Cut, Cut]]:
        """Return the ways to write the words that a gap cuts at its beginning and its end."""
        before, after = self.parts[gap : gap + 2]
        starts = before.starts or [Cut([], before.start)]
        return [*product(starts, after.ends or [Cut([], after.end)])]

    def with_cut(self, gap: int, start: Cut, end: Cut) -> Template:
        """Return the text with its words at a gap written in one of these ways."""
        parts = [*self.parts]
        parts[gap] = parts[gap].with_start(start)
        parts[gap + 1] = parts[gap + 1].with_end(end)
        return replace(self, parts=parts)

    def with_gaps(self, sizes: Sequence[int]) -> tuple[list[int], dict[int, Tensor]]:
        """Return token ids (L), 0 in the gaps, and what each position of a gap may hold, (V,)."""
        ids = list(self.parts[0].ids)
        allowed: dict[int, Tensor] = {}
        for g, (part, size) in enumerate(zip(self.parts[1:], sizes, strict=True)):
            allowed |= {len(ids) + i: table for i, table in enumerate(self._tables(g, size))}
            ids += [0] * size + part.ids[part.end.is_extra :]
        return ids, allowed

    def _tables(self, gap: int, size: int) -> list[Tensor]:
        """Return what the edges of a gap allow each of its pieces to be, (V,) each."""
        start, end = self.edges()[gap]
        tables = [self.codec.fillable] * size
        if end.before_last is not None and size > 1:
            tables[-2] = end.before_last
        tables[-1] = end.pieces
        tables[0] = start.pieces if size > 1 else both(self.codec, start, end)
        return tables

    def is_fillable(self, gap: int, size: int) -> bool:
        """Return whether any pieces of this number can fill a gap."""
        return _by_state(tuple(self._tables(gap, size)), self.moves)[1]

    def filled(self, pieces: Sequence[Sequence[int]]) -> tuple[str, list[str]]:
        """Decode the pieces of the gaps: the whole text, and the text of each gap."""
        texts = [
            self._decode(own, part, start, end)
            for own, part, (start, end) in zip(pieces, self.parts, self.edges(), strict=False)
        ]
        return self.with_fills(texts), texts

    def with_fills(self, fills: Sequence[str]) -> str:
        """Join the texts of the gaps with what is around them into the whole text."""
        pairs = zip(self.parts[1:], fills, strict=True)
        return self.parts[0].text + "".join(fill + part.text for part, fill in pairs)

    def _decode(self, ids: Sequence[int], part: Part, start: Edge, end: Edge) -> str:
        """Decode the pieces of the gap after a part."""
        if self.codec.is_exact:
            text = decode(self.codec.tokenizer, list(ids))
        else:
            text = self.codec.decode(ids, after=part.text.removesuffix(start.shared))
        return text[len(start.shared) : len(text) - len(end.shared)]

    def encode_fills(self, fills: Sequence[str]) -> list[list[int]]:
        """Encode given fillings: the pieces of each gap.

        Raises:
            ValueError: another number of fillings than gaps, or an empty one.
        """
        if len(fills) != self.num_gaps:
            raise ValueError(f"{len(fills)} fillings for {self.num_gaps} blanks; expected one each")
        gaps = zip(fills, self.parts, self.edges(), strict=False)
        found = [self._encode_fill(fill, part, *edges) for fill, part, edges in gaps]
        if [] in found:
            fill = fills[found.index([])]
            raise ValueError(f"the filling {fill!r} has no tokens; expected some text")
        return found

    def _encode_fill(self, fill: str, part: Part, start: Edge, end: Edge) -> list[int]:
        """Encode a given filling of the gap after a part."""
        if not fill:
            return []
        text = start.shared + fill + end.shared
        if self.codec.is_exact:
            return encode(self.codec.tokenizer, text)
        # after the part alone: what its end leaves to the fill is written by itself
        return self.codec.encode(text, after=part.text.removesuffix(start.shared))

    def written_with(self, fills: Sequence[str]) -> Template:
        """Return the text with the words that gaps cut written as they are with given fillings.

        Where a filling makes no word that the tokenizer writes in one of the ways, or is empty,
        the pieces of the cut word stay as they are.
        """
        found = self
        for gap, fill in enumerate(fills):
            whole = found.parts[gap].text, fill, found.parts[gap + 1].text
            found = found.with_cut(gap, *self._cut_of(gap, *whole))
        return found

    def _cut_of(self, gap: int, before: str, fill: str, after: str) -> tuple[Cut, Cut]:
        """Return how the tokenizer writes the words that a gap cuts, with their filling."""
        cuts, codec, (one, other) = self.cuts(gap), self.codec, self.parts[gap : gap + 2]
        word = codec.last_word(before) if one.starts else one.start.shared
        rest = codec.first_word(after) if other.ends else other.end.shared
        goes_on = not word and not codec.needs_word(before)
        whole = codec.encode_word(word + fill + rest, goes_on=goes_on)
        for start, end in cuts if fill else ():
            text = start.edge.shared + fill + end.edge.shared
            own = codec.encode_word(text, goes_on=goes_on or bool(start.ids))
            if [*start.ids, *own, *end.ids] == whole:
                return start, end
        return cuts[0]

    def lengths(self, fills: Sequence[str]) -> list[int]:
        """Return how many tokens given fillings add to the text: the oracle length of each gap."""
        return self.lengths_of(self.encode_fills(fills))

    def lengths_of(self, pieces: Sequence[Sequence[int]]) -> list[int]:
        """Return the lengths of gaps that have these pieces, at least 1."""
        pairs = zip(pieces, self.edges(), strict=True)
        return [max(1, len(ids) - end.num_extra) for ids, (_, end) in pairs]


def collate(
    rows: Sequence[tuple[list[int], dict[int, Tensor]]],
    moves: Tensor | None = None,
    *,
    vocab_size: int | None = None,
) -> tuple[Tensor, Allowed, Order]:
    """Make a batch of texts with gaps, as `Template.with_gaps` gives them: what `sample` takes.

    It has token ids (B, L), what each position may hold, and orders: prompts before gaps, both left
    to right.
    With the codec's `moves`, pieces that end inside a character are allowed only where others go
    on with it. `vocab_size` is the model's, which may have more logits than there are pieces.
    """
    size = 1 if moves is None else NUM_STATES
    anything = torch.ones_like(next(iter(rows[0][1].values()))).expand(size, -1)  # not in a gap
    tables, numbers = [anything], {id(anything): 0}  # each once
    kinds = torch.zeros(len(rows), max(len(ids) for ids, _ in rows), dtype=torch.long)
    for b, (_, allowed) in enumerate(rows):
        for position, table in _with_states(allowed, moves):
            if id(table) not in numbers:
                numbers[id(table)] = len(tables)
                tables.append(table)
            kinds[b, position] = numbers[id(table)]
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids, _ in rows], batch_first=True)
    found = Allowed(torch.cat(tables), kinds * size, moves)
    return (
        ids,
        found if vocab_size is None else found.over(vocab_size),
        Order.from_mask(kinds > 0, lengths),
    )


def _with_states(allowed: dict[int, Tensor], moves: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """Yield what each position of gaps may hold in each state, (S, V), from its table (V,)."""
    for _, run in groupby(enumerate(allowed), lambda pair: pair[1] - pair[0]):
        positions = [position for _, position in run]
        tables, _ = _by_state(tuple(allowed[position] for position in positions), moves)
        yield from zip(positions, tables, strict=True)


@lru_cache(maxsize=16)
def _by_state(tables: tuple[Tensor, ...], moves: Tensor | None) -> tuple[list[Tensor], bool]:
    """Return what consecutive positions may hold in each state, (S, V), so that the last one
    completes a character; and whether the first one, in state 0, may hold anything at all."""
    if moves is None:
        return [_in_one_state(table) for table in tables], bool(tables[0].any())
    leads_on, found = [n == COMPLETE for n in range(NUM_STATES)], []
    for table in reversed(tables):
        fits, leads_on = _in_states(table, tuple(leads_on), moves)
        found.append(fits)
    return found[::-1], leads_on[COMPLETE]


@lru_cache(maxsize=32)
def _in_one_state(table: Tensor) -> Tensor:
    return table[None]


@lru_cache(maxsize=32)
def _in_states(
    table: Tensor, leads_on: tuple[bool, ...], moves: Tensor
) -> tuple[Tensor, list[bool]]:
    """Return what a position may hold in each state, and in which of them that is anything at all.

    Args:
        table: (V,) what it may hold; that is left to states in which nothing fits.
        leads_on: whether each state that it leads to can be gone on from.
        moves: the moves of the codec.
    """
    leads_on_or_dead = torch.tensor([*leads_on, False, False])
    fits = table & leads_on_or_dead[moves[:NUM_STATES]]
    found = fits.any(1, keepdim=True)
    return fits.where(found, table), found[:, 0].tolist()
