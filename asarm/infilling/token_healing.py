"""Where gaps and the text next to them meet, in tokens that the whole text would have there.

A byte-level tokenizer writes a blank and the word after it in one piece, and so a line end and the
indentation after it. Cut a text there, and the model is shown a piece that no text has in that
place. So the gap takes the piece in: its first or last piece has to begin or end with the
characters that the text next to it gives, a filter of the target distribution, and they are no part
of what is filled in. (Known as token healing.) Pieces with word marks are cut between words anyway:
there the first piece only has to begin a word, see `asarm.codec`.

Where a gap cuts a word, there are several ways to write it: the pieces that it has by itself, or
the first of its characters by themselves and the others in a piece that goes on into the gap. These
are the cuts of an edge; `asarm.infilling.cut_words` asks the model which is meant.

Shapes: V vocabulary.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from asarm.codec import Codec
from asarm.text import decode, encode

INDENTATION = re.compile(r" {4}|\t")
INDENTED = re.compile(r"(\A|[\r\n])[ \t]+\Z")  # ends with the indentation of a line
LINE_ENDS = ("\n", "\r")
PARTIAL = "\ufffd"  # in the text of a piece that ends inside a character


@dataclass(frozen=True)
class Edge:
    """What the text next to a gap requires of the gap's piece there.

    Attributes:
        pieces: (V,) bool, what that piece may be.
        shared: its characters that belong to the text: it begins, or ends, with them.
        is_extra: whether it is the text's own piece, one more than the gap has by itself.
        before_last: (V,) bool, what the piece before it may be, where a carriage return has to
            stand there, one piece more; None elsewhere.
    """

    pieces: Tensor
    shared: str = ""
    is_extra: bool = False
    before_last: Tensor | None = None

    @property
    def num_extra(self) -> int:
        """How many pieces the gap has because of this edge."""
        return self.is_extra + (self.before_last is not None)


@dataclass(frozen=True)
class Cut:
    """A way to write a word that a gap cuts.

    Attributes:
        ids: pieces of the word that are the text's alone.
        edge: the condition on the gap's piece there, which holds the rest of the word.
    """

    ids: list[int]
    edge: Edge


@dataclass(frozen=True)
class Part:
    """A part of a text: what comes before, between or after its gaps.

    Attributes:
        text: its characters.
        ids: its tokens, less a last piece that the gap after it takes in.
        end: the condition on the last piece of the gap before it, if there is one.
        start: the condition on the first piece of the gap after it, if there is one.
        ends: the ways to write its first word, where the gap before it cuts that; first the one
            that `ids` and `end` have. Empty where there is but one way.
        starts: the same of its last word and the gap after it.
    """

    text: str
    ids: list[int]
    end: Edge
    start: Edge
    ends: Sequence[Cut] = ()
    starts: Sequence[Cut] = ()

    def with_end(self, cut: Cut) -> Part:
        """Return the part with its first word written in another of its `ends`."""
        own = len(self.ends[0].ids) if self.ends else 0
        return replace(self, ids=[*cut.ids, *self.ids[own:]], end=cut.edge, ends=())

    def with_start(self, cut: Cut) -> Part:
        """Return the part with its last word written in another of its `starts`."""
        own = len(self.starts[0].ids) if self.starts else 0
        kept = self.ids[: max(0, len(self.ids) - own)]
        return replace(self, ids=[*kept, *cut.ids], start=cut.edge, starts=())


def part_of(codec: Codec, text: str, *, before: str | None, is_last: bool) -> Part:
    """Encode a part of a text.

    Args:
        codec: the codec of the model.
        text: the part.
        before: the part before it, from which a gap divides it; None at the text's beginning. Where
            it ends with a line end, the gap is taken to be whole lines, and ends with one too;
            where the text begins with indentation, a line end may stand before that.
        is_last: whether no gap comes after it.
    """
    part = (_exact_part if codec.is_exact else _marked_part)(codec, text, before, is_last)
    is_line = before is not None and before.endswith(LINE_ENDS)
    if before is not None and not is_line and not text[:1].isspace():
        part = replace(part, ends=_ends(codec, part))
    has_cut = part.ends and codec.first_word(text) == text  # of one word, one end is taken in
    if not is_last and not has_cut and not text[-1:].isspace():
        part = replace(part, starts=_starts(codec, part))
    return part


def _marked_part(codec: Codec, text: str, before: str | None, is_last: bool) -> Part:
    if is_last and before is not None:
        ids = codec.encode_after(text, before=before)
    elif before is not None:
        ids = codec.encode_between(text, before=before)
    else:
        ids = codec.encode_before(text)
    words = codec.fillable & codec.begins_word
    asks_word = codec.needs_word(text) and bool(words.any())
    return Part(text, ids, Edge(codec.fillable), Edge(words if asks_word else codec.fillable))


def _exact_part(codec: Codec, text: str, before: str | None, is_last: bool) -> Part:
    line_end, is_lines = _line_end(text, before)
    ids = encode(codec.tokenizer, line_end + text)
    before_last = None
    if line_end == "\r\n" and decode(codec.tokenizer, ids[:1]) == "\r":
        line_end, ids, before_last = "\n", ids[1:], _fitting(codec, "\r", ends=True)
    if line_end and not is_lines and decode(codec.tokenizer, ids[:1]) == line_end:
        line_end, ids = "", ids[1:]  # it would be a piece of its own, which the text has not
    end = start = Edge(codec.fillable)
    if before is not None and (line_end or text.startswith(LINE_ENDS)):
        piece = decode(codec.tokenizer, ids[:1])
        shared = piece.removeprefix(line_end)
        fits = _fitting(codec, piece if is_lines else shared, ends=True)
        if before_last is not None:  # then nothing comes between the return and this
            fits = fits & ~_fitting(codec, piece, ends=True, is_longer=True)
        elif line_end and not is_lines:  # then the indentation is no longer than it is
            for space in (" ", "\t"):
                fits = fits & ~_fitting(codec, space + shared, ends=True)
        end = Edge(fits, shared, is_extra=True, before_last=before_last)
    if not is_last and text[-1:].isspace() and len(ids) > end.is_extra:
        ids, start = _taken_in(codec, line_end + text, ids, is_first=before is None)
    return Part(text, ids, end, start)


def _line_end(text: str, before: str | None) -> tuple[str, bool]:
    """Return the line end that comes, or may come, before a text, and whether it has to."""
    if before is None or text[:1] in ("", *LINE_ENDS):
        return "", False
    if before.endswith("\n"):
        return "\r\n" if before.endswith("\r\n") else "\n", True
    return "\n" if INDENTATION.match(text) else "", False


def _taken_in(codec: Codec, text: str, ids: list[int], *, is_first: bool) -> tuple[list[int], Edge]:
    """Return the ids without the last piece, which is whitespace, and the edge that it makes.

    A line end may be extended by indentation; indentation that is given is as long as it is.
    """
    is_indentation = INDENTED.search(text) and (is_first or text.strip(" \t"))
    if is_indentation and not codec.needs_word(text):
        return ids, Edge(_not_indented(codec))
    piece = " " if is_indentation else decode(codec.tokenizer, ids[-1:])
    if PARTIAL in piece:
        return ids, Edge(codec.fillable)
    if is_indentation:
        return codec.encode_before(text), Edge(_not_indented(codec, " "), piece)
    return ids[:-1], Edge(_fitting(codec, piece, ends=False), piece)


def _starts(codec: Codec, part: Part) -> list[Cut]:
    """Return the ways to write the last word before a gap, none with more pieces than it has."""
    word = codec.last_word(part.text)
    own = codec.encode_word(word)
    if not word or part.ids[len(part.ids) - len(own) :] != own:
        return []
    cuts = [Cut(own, part.start)]
    for i in range(len(word)):
        mark, ids = "" if i or codec.is_exact else " ", codec.encode_word(word[:i])
        fits = _fitting(codec, mark + word[i:], ends=False, is_longer=True)
        if fits.any() and len(ids) <= len(own):
            cuts.append(Cut(ids, Edge(fits, word[i:])))
    return cuts if len(cuts) > 1 else []


def _ends(codec: Codec, part: Part) -> list[Cut]:
    """Return the ways to write the first word of a part after a gap."""
    word = codec.first_word(part.text)
    own = codec.encode_word(word, goes_on=True)
    if not word or part.ids[: len(own)] != own:
        return []
    cuts = [Cut(own, part.end)]
    for i in range(1, len(word) + 1):
        ids = codec.encode_word(word[i:], goes_on=True)
        fits = _fitting(codec, word[:i], ends=True, is_longer=True)
        if fits.any() and len(ids) <= len(own):
            cuts.append(Cut(ids, Edge(fits, word[:i])))
    return cuts if len(cuts) > 1 else []


@lru_cache(maxsize=128)
def _fitting(codec: Codec, text: str, *, ends: bool, is_longer: bool = False) -> Tensor:
    """Return which pieces that may fill a gap end, or begin, with a text, (V,) bool."""
    affix = text.encode()[::-1] if ends else text.encode()
    pieces, ids = _sorted_pieces(codec, ends)
    first = (bisect_right if is_longer else bisect_left)(pieces, affix)
    last = bisect_left(pieces, affix + b"\xff" * len(max(pieces, key=len)))
    fits = torch.zeros_like(codec.fillable)
    fits[ids[first:last]] = True
    return fits & codec.fillable


def both(codec: Codec, start: Edge, end: Edge) -> Tensor:
    """Return what the only piece of a gap may be, (V,) bool: it has some text of its own."""
    if end.is_extra or end.pieces is codec.fillable:
        return start.pieces
    fits = start.pieces & end.pieces
    if start.shared and end.shared:
        fits &= _num_bytes(codec) > len((start.shared + end.shared).encode())
    return fits


@lru_cache(maxsize=8)
def _num_bytes(codec: Codec) -> Tensor:
    """Return how many bytes each piece has, (V,)."""
    return torch.tensor([len(piece) for piece in codec.piece_bytes])


@lru_cache(maxsize=8)
def _sorted_pieces(codec: Codec, is_reversed: bool) -> tuple[list[bytes], list[int]]:
    """Sort the bytes of the pieces, read backwards or not; return them with their ids."""
    step = -1 if is_reversed else 1
    found = sorted((piece[::step], i) for i, piece in enumerate(codec.piece_bytes))
    return [piece for piece, _ in found], [i for _, i in found]


@lru_cache(maxsize=16)
def _not_indented(codec: Codec, prefix: str = "") -> Tensor:
    """Return which pieces begin with a prefix and go on without a blank or a tab, (V,) bool."""
    begins = re.compile(re.escape(prefix.encode()) + rb"[^ \t]")
    fits = [begins.match(piece) is not None for piece in codec.piece_bytes]
    return torch.tensor(fits) & codec.fillable
