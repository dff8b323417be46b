"""Text to ids and back in parts: what comes before, in, and after a blank of a text.

A tokenizer reads whole texts. Cut a text at a blank, and two questions come up that a whole text
never asks: whether a part begins a word or goes on with one, and which side of the cut a blank
belongs to. A `Codec` answers both so that the parts' ids are those of the whole text wherever that
can be, and so that the text outside the blank comes back character for character.

V vocabulary. A piece is the text of one id; the word mark is the character by which a piece shows
that a blank stands before it; a fill is what is written into a blank.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from tokenizers import Regex, decoders, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from asarm.text import WHITESPACE, decode, encode, private, whitespace_ids
from asarm.utf8 import transitions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTES_MARK = "Ġ"  # a blank in the alphabet of byte-level pieces, where blanks are text like any
METASPACE_MARK = "▁"
BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
LETTER = "x"  # in place of whatever word may follow


class Codec:
    """Encodes and decodes the parts of a text for one tokenizer, by a private copy of it.

    Byte-level pieces (the demo's) write every text exactly. Pieces with word marks (XLNet's) write
    words with single blanks between them; `whitespace_map` adds line ends, tabs and pairs of
    blanks, as the published models for code read them (`asarm.text.encode_documents`).

    Args:
        tokenizer: with byte-level pieces, or with XLNet's word marks.
        whitespace_map: line ends, tabs and pairs of blanks are pieces of their own.

    Attributes:
        fillable: (V,) bool, the pieces that a fill may hold: no special token, but those that
            stand for whitespace.
        is_exact: whether its pieces are byte-level, so that every text can be written.
        begins_word: (V,) bool, the fillable pieces that begin with a blank, or, where
            `whitespace_map` makes it a piece, are whitespace.
        piece_bytes: the UTF-8 of each piece, its word mark a blank.
        moves: (S + 2, V) how byte-level pieces go on with a character (`asarm.utf8`); None for
            pieces of whole characters.

    Raises:
        ValueError: pieces of another kind, or a whitespace map that the tokenizer has no tokens
            for.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, whitespace_map: bool = False) -> None:
        tokenizer = self.tokenizer = private(tokenizer)
        self.whitespace_map = whitespace_map
        self._space_ids = whitespace_ids(tokenizer) if whitespace_map else {}
        self._spaces = {i: space for space, i in self._space_ids.items()}
        self._mark = _word_mark(tokenizer)
        self.is_exact = self._mark == BYTES_MARK
        self._inside_word = tokenizer if self.is_exact else private(_without_first_mark(tokenizer))
        self._pieces: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self._blank = [i for i, piece in enumerate(self._pieces) if piece == METASPACE_MARK]
        is_special = set(tokenizer.all_special_ids) - set(self._spaces)
        self.fillable = torch.tensor([i not in is_special for i in range(len(self._pieces))])
        self.begins_word = self.fillable & torch.tensor(
            [p.startswith(self._mark) or i in self._spaces for i, p in enumerate(self._pieces)]
        )

        self.piece_bytes = [self._bytes_of(i) for i in range(len(self._pieces))]
        self.moves = transitions(self.piece_bytes) if self.is_exact else None

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase, whitespace_map: bool = False) -> Codec:
        """Return the codec of a tokenizer, which is made once."""
        return _codec_of(private(tokenizer), whitespace_map)

    def needs_word(self, before: str) -> bool:
        """Return whether the piece after `before` has to begin a word whose blank is not new text.

        Byte-level pieces: `before` ends with a blank that its tokenizer would write in one piece
        with a word that followed. Word marks: `before` is empty or ends with whitespace.
        """
        return self._is_bare(before) or self._owed(before) == " "

    def last_word(self, text: str) -> str:
        """Return the end of a text that its tokenizer writes by itself: a word that may go on.

        With word marks it begins with no blank: its first piece has the mark.
        """
        if not self.is_exact:
            return re.split(r"\s", text)[-1]
        words = self._words(text)
        return text[words[-1][1][0] :] if words else ""

    def first_word(self, text: str) -> str:
        """Return the beginning of a text that its tokenizer writes by itself."""
        if not self.is_exact:
            return re.split(r"\s", text, maxsplit=1)[0]
        words = self._words(text)
        return text[: words[0][1][1]] if words else ""

    def encode_word(self, word: str, *, goes_on: bool = False) -> list[int]:
        """Encode a word, or its beginning or end; `goes_on` where it has no word mark."""
        if self.is_exact or not word:
            return encode(self.tokenizer, word)
        return encode(self._inside_word if goes_on else self.tokenizer, word)

    def encode(self, text: str, *, after: str = "") -> list[int]:
        """Encode `text` where it follows the text `after`; "" is the start of a document.

        The last blank of `after` is written with the first piece where `needs_word` says so.
        Nothing becomes a special token, but whitespace under `whitespace_map`. At the start of a
        document these are the ids of `asarm.text`; elsewhere marks of their own keep the single
        blanks at both ends that word marks alone would lose.
        """
        return self._encode(self._owed(after) + text, bare=self._is_bare(after), exact=after != "")

    def encode_before(self, text: str) -> list[int]:
        """Encode the text before a blank, less the end that the fill's first piece has."""
        return self._less_owed(text, bare=True)

    def encode_between(self, text: str, *, before: str) -> list[int]:
        """Encode the text between two blanks: it begins as in `encode_after`."""
        return self._less_owed(text, bare=before.endswith("\n"))

    def encode_after(self, text: str, *, before: str) -> list[int]:
        """Encode the text after a blank, whose end nobody knows.

        Args:
            before: the text before the blank. Where it ends with a line end, the blank is taken to
                be whole lines, so that `text` begins one; elsewhere `text` goes on with whatever
                the blank ends with.
        """
        return self._encode(text, bare=before.endswith("\n"), exact=False)

    def decode(self, ids: Sequence[int], *, after: str = "") -> str:
        """Return the characters that `ids` add after the text `after`.

        A blank that `needs_word(after)` requires is not new text; neither is a word mark directly
        after a whitespace piece. Special tokens appear by their names.
        """
        bare, text = self._is_bare(after), ""
        for is_space, run in groupby(ids, self._spaces.__contains__):
            if is_space:
                text += "".join(self._spaces[i] for i in run)
                bare = not self.is_exact
            else:
                words = self._decode_words(list(run))
                text += words.removeprefix(" ") if bare else words
        return text.removeprefix(self._owed(after))

    def _is_bare(self, before: str) -> bool:
        """Return whether a word mark after `before` means no blank at all."""
        return not self.is_exact and self._unmapped(before) == ""

    def _owed(self, before: str) -> str:
        """Return the end of `before` that is written with what follows: a blank, or ""."""
        tail = self._unmapped(before)
        if not self.is_exact:
            return " " if tail[-1:].isspace() else ""
        if not tail.endswith(" "):
            return ""
        words = self._words(tail + LETTER)
        return " " if words[-1][0] == BYTES_MARK + LETTER else ""

    def _words(self, text: str) -> list[tuple[str, tuple[int, int]]]:
        """Return the words that the tokenizer cuts a text into, and where they begin and end."""
        return self.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)

    def _bytes_of(self, i: int) -> bytes:
        piece = self._pieces[i]
        if i in self._spaces:
            return self._spaces[i].encode()
        if self.is_exact and all(character in BYTES for character in piece):
            return bytes(BYTES[character] for character in piece)
        return piece.replace(METASPACE_MARK, " ").encode()

    def _less_owed(self, text: str, *, bare: bool) -> list[int]:
        """Return the ids of `text` without the end that is written with what follows."""
        # pieces with word marks leave a last blank out anyway
        owed = self._owed(text) if self.is_exact else ""
        if owed != " ":
            return self._encode(text.removesuffix(owed), bare=bare, exact=False)
        # runs of blanks are cut before their last one only where a word follows
        word = encode(self.tokenizer, " " + LETTER)
        return self._encode(text + LETTER, bare=bare, exact=False)[: -len(word)]

    def _unmapped(self, text: str) -> str:
        """Return what follows the last whitespace that is a piece of its own."""
        return WHITESPACE.split(text)[-1] if self.whitespace_map else text

    def _encode(self, text: str, *, bare: bool, exact: bool) -> list[int]:
        """Encode `text`.

        Args:
            bare: a first word has its mark, and no blank before it.
            exact: single blanks before the first word and after the last one are kept.
        """
        parts = [p for p in (WHITESPACE.split(text) if self.whitespace_map else [text]) if p]
        words = [n for n, part in enumerate(parts) if not part.isspace()] or [0]
        ids: list[int] = []
        for n, part in enumerate(parts):
            if part in self._space_ids:
                ids.append(self._space_ids[part])
                bare = not self.is_exact
            else:
                keep = (exact and n <= words[0], exact and n >= words[-1])
                ids += self._encode_words(part, bare=bare, keep=keep)
        return ids

    def _encode_words(self, text: str, *, bare: bool, keep: tuple[bool, bool]) -> list[int]:
        """Encode words, and the blanks before and after them where `keep` says so."""
        if self.is_exact:
            return encode(self.tokenizer, text)
        if text.isspace():
            return self._blank * (1 + bare) if any(keep) and " " in text else []
        goes_on = not (bare or text[0].isspace())
        ids = encode(self._inside_word if goes_on else self.tokenizer, text)
        first = self._blank if keep[0] and bare and text.startswith(" ") else []
        return first + ids + (self._blank if keep[1] and text.endswith(" ") else [])

    def _decode_words(self, ids: list[int]) -> str:
        if self.is_exact:
            return decode(self.tokenizer, ids)
        return "".join(self._pieces[i] for i in ids).replace(METASPACE_MARK, " ")


@lru_cache(maxsize=4)
def _codec_of(tokenizer: PreTrainedTokenizerBase, whitespace_map: bool) -> Codec:
    return Codec(tokenizer, whitespace_map=whitespace_map)


def _word_mark(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the character by which the pieces show a blank; the tokenizer's decoder has it."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if isinstance(decoder, decoders.ByteLevel):
        return BYTES_MARK
    if isinstance(decoder, decoders.Metaspace):
        return METASPACE_MARK
    raise ValueError(
        f"the tokenizer's pieces are read by {decoder}; expected ByteLevel or Metaspace: "
        "take the tokenizer of the demo or of an XLNet model"
    )


def _without_first_mark(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy that puts a mark before every word of a text but its first one."""
    inside = copy.deepcopy(tokenizer)
    backend = inside.backend_tokenizer
    steps = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(left=False, right=True)]
    given = [backend.normalizer] if backend.normalizer else []
    backend.normalizer = normalizers.Sequence([*given, *steps])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(METASPACE_MARK, prepend_scheme="never")
    return inside
