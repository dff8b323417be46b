"""Texts with blanks in them: from a marker or from spans, to token ids with gaps.

Shapes: L length, G gaps of a text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asarm.codec import Codec
from asarm.text import encode_document

Span = tuple[int, int]
LETTER = "x"  # stands for whatever word may follow
ANY, FILL, WORD = range(3)  # what a position may hold: the kinds of `Template.kinds`


def split_at_marker(text: str, blank: str) -> list[str]:
    """What stands before, between and after the markers; a backslash makes a marker plain text.

    Raises:
        ValueError: the marker is empty, is not in the text, or two of them touch.
    """
    if not blank:
        raise ValueError("blank is ''; expected the text that marks a blank, such as ___")
    pieces = re.split(rf"(\\)?{re.escape(blank)}", text)  # text, a backslash or None, text, ...
    parts = [pieces[0]]
    for escape, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        if escape:
            parts[-1] += blank + piece
        else:
            parts.append(piece)
    if len(parts) == 1:
        raise ValueError(f"the text {_shown(text)} has no blank; mark one with {blank}")
    return _apart(parts, text)


def cut_out(text: str, spans: Sequence[Span]) -> list[str]:
    """What stands before, between and after the spans (start, end) of characters.

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
        raise ValueError(
            f"spans is empty; expected (start, end) to blank out in {_shown(text)}"
        )
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
    """A text with gaps of unknown length.

    Attributes:
        parts: what stands before, between and after the gaps, character for character.
        ids: the token ids of each part; a blank that the first piece of a gap carries is left out,
            and a document's end stands where a closed text begins or ends with a gap.
        begins_word: for each gap whether its first piece has to begin a word.
    """

    parts: list[str]
    ids: list[list[int]]
    begins_word: list[bool]

    @classmethod
    def of(cls, codec: Codec, parts: Sequence[str], *, closed: bool = False) -> Template:
        """The parts of a text, encoded.

        Args:
            codec: of the model.
            parts: what stands before, between and after the gaps.
            closed: whether the text is a whole document, so that its ends are known.
        """
        ids = [codec.encode_before(parts[0])]
        for before, part in zip(parts, parts[1:-1], strict=False):
            ids.append(_between(codec, part, before))
        ids.append(codec.encode_after(parts[-1], before=parts[-2]))
        if closed and not parts[0]:
            ids[0] = [codec.tokenizer.eos_token_id]
        if closed and not parts[-1]:
            ids[-1] = encode_document(codec.tokenizer, "")
        return cls(list(parts), ids, [codec.needs_word(part) for part in parts[:-1]])

    @property
    def num_gaps(self) -> int:
        return len(self.ids) - 1

    def first(self, num_parts: int) -> Template:
        """The text up to the end of one of its parts."""
        return Template(self.parts[:num_parts], self.ids[:num_parts], self.begins_word)

    def starts(self, lengths: Sequence[int]) -> list[int]:
        """Position of the first token of each gap, where the gaps have these lengths."""
        found, position = [], 0
        for ids, length in zip(self.ids, lengths, strict=False):
            position += len(ids)
            found.append(position)
            position += length
        return found

    def with_gaps(self, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Token ids (L,), 0 in the gaps, and kinds (L,) of what each position may hold."""
        ids, kinds = list(self.ids[0]), [ANY] * len(self.ids[0])
        for part, length, is_word in zip(self.ids[1:], lengths, self.begins_word, strict=False):
            ids += [0] * length + part
            kinds += [WORD if is_word else FILL] + [FILL] * (length - 1) + [ANY] * len(part)
        return torch.tensor(ids), torch.tensor(kinds)

    def filled(self, codec: Codec, fills: Sequence[Sequence[int]]) -> tuple[str, list[str]]:
        """The whole text, and the text of each gap, from the token ids of the gaps."""
        text, texts = self.parts[0], []
        for part, ids in zip(self.parts[1:], fills, strict=True):
            texts.append(codec.decode(ids, after=text))
            text += texts[-1] + part
        return text, texts

    def encode_fills(self, codec: Codec, fills: Sequence[str]) -> list[list[int]]:
        """The token ids of given fillings where they stand.

        Raises:
            ValueError: another number of fillings than gaps, or an empty one.
        """
        if len(fills) != self.num_gaps:
            raise ValueError(f"{len(fills)} fillings for {self.num_gaps} blanks; expected one each")
        text, found = self.parts[0], []
        for part, fill in zip(self.parts[1:], fills, strict=True):
            found.append(codec.encode(fill, after=text))
            if not found[-1]:
                raise ValueError(f"the filling {fill!r} has no tokens; expected some text")
            text += fill + part
        return found


def _between(codec: Codec, part: str, before: str) -> list[int]:
    """The ids of the text between two gaps, less a last blank that the next fill's first piece has.

    Args:
        codec: of the model.
        part: the text.
        before: the text before the gap that it follows.
    """
    if not codec.needs_word(part):
        return codec.encode_after(part, before=before)
    word = codec.encode(LETTER, after=part)
    return codec.encode_after(part + LETTER, before=before)[: -len(word)]


def token_tables(codec: Codec) -> Tensor:
    """Which tokens the kinds of positions may hold, (3, V): see `asarm.law.Allowed`."""
    fillable = codec.fillable
    word = fillable & codec.begins_word
    if not word.any():  # a vocabulary that marks no words
        word = fillable
    return torch.stack([torch.ones_like(fillable), fillable, word])
