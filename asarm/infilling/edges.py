"""Where gaps and the text beside them meet, in tokens that the whole text would have there.

A byte-level tokenizer writes a blank and the word behind it in one piece, and so a line end and the
indentation behind it. Cut a text there, and the model is shown a piece that no text has in that
place. So the gap takes the piece in: its first or last piece has to begin or end with the
characters that the text beside it gives, a filter of the target law, and they are no part of what
is filled in. (Known as token healing.) Pieces with word marks are cut between words anyway: there
the first piece only has to begin a word, see `asarm.codec`.

Shapes: V vocabulary.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.codec import Codec
from asarm.text import decode, encode

INDENTATION = re.compile(r" {4}|\t")
PARTIAL = "\ufffd"  # in the text of a piece that ends inside a character


@dataclass(frozen=True)
class Edge:
    """What the text beside a gap asks of the gap's piece there.

    Attributes:
        pieces: (V,) bool, what that piece may be.
        shared: its characters that belong to the text: it begins, or ends, with them.
        is_extra: whether it is the text's own piece, one more than the gap has by itself.
    """

    pieces: Tensor
    shared: str = ""
    is_extra: bool = False


@dataclass(frozen=True)
class Part:
    """The text before, between or after gaps.

    Attributes:
        text: its characters.
        ids: its tokens, less a last piece that the gap behind it takes in.
        end: what it asks of the last piece of the gap before it, if there is one.
        start: what it asks of the first piece of the gap behind it, if there is one.
    """

    text: str
    ids: list[int]
    end: Edge
    start: Edge


def part_of(codec: Codec, text: str, *, before: str | None, is_last: bool) -> Part:
    """A part of a text, in tokens.

    Args:
        codec: of the model.
        text: the part.
        before: the part before it, from which a gap divides it; None at the text's beginning. Where
            it ends with a line end, the gap is taken to be whole lines, and ends with one too;
            where the text begins with indentation, a line end may stand before that.
        is_last: whether no gap comes behind it.
    """
    if codec.is_exact:
        return _exact_part(codec, text, before=before, is_last=is_last)
    if is_last and before is not None:
        ids = codec.encode_after(text, before=before)
    elif before is not None:
        ids = codec.encode_between(text, before=before)
    else:
        ids = codec.encode_before(text)
    words = codec.fillable & codec.begins_word
    asks_word = codec.needs_word(text) and bool(words.any())
    return Part(text, ids, Edge(codec.fillable), Edge(words if asks_word else codec.fillable))


def _exact_part(codec: Codec, text: str, *, before: str | None, is_last: bool) -> Part:
    is_lines = before is not None and before.endswith("\n") and text[:1] not in ("", "\n")
    line_end = "\n" if is_lines or (before is not None and INDENTATION.match(text)) else ""
    ids = encode(codec.tokenizer, line_end + text)
    if line_end and not is_lines and decode(codec.tokenizer, ids[:1]) == line_end:
        line_end, ids = "", ids[1:]  # it would be a piece of its own, which the text has not
    end = start = Edge(codec.fillable)
    if before is not None and (line_end or text[:1] == "\n"):
        piece = decode(codec.tokenizer, ids[:1])
        shared = piece.removeprefix(line_end)
        fits = _fitting(codec.tokenizer, piece if is_lines else shared, ends=True)
        end = Edge(codec.fillable & fits, shared, is_extra=True)
    if not is_last and text[-1:].isspace() and len(ids) > end.is_extra:
        piece = decode(codec.tokenizer, ids[-1:])
        if PARTIAL not in piece:
            fits = codec.fillable & _fitting(codec.tokenizer, piece, ends=False)
            ids, start = ids[:-1], Edge(fits, piece)
    return Part(text, ids, end, start)


@lru_cache(maxsize=256)
def _fitting(tokenizer: PreTrainedTokenizerBase, text: str, *, ends: bool) -> Tensor:
    """Which pieces end, or begin, with a text, (V,) bool."""
    fits = str.endswith if ends else str.startswith
    return torch.tensor([fits(piece, text) for piece in _pieces(tokenizer)])


@lru_cache(maxsize=8)
def _pieces(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The characters of each piece."""
    return [decode(tokenizer, [i]) for i in range(len(tokenizer))]
