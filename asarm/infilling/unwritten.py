"""What a vocabulary cannot write of a text, so that the model does not see it as it is."""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable

from asarm.codec import METASPACE_MARK, Codec
from asarm.text import WHITESPACE, encode_all

NAMES = {"\n": "line ends", "\r": "carriage returns", "\t": "tabs", "  ": "runs of blanks"}
MAX_NAMED = 12


def warn_of_unwritten(codec: Codec, texts: Iterable[str]) -> None:
    """Name what the model does not see of texts, in one warning for all of them."""
    found = unwritten(codec, texts)
    if not found:
        return
    named = [NAMES.get(lost) or _shown(lost) for lost in found[:MAX_NAMED]]
    more = [f"{len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
    way_out = (
        "; whitespace_map=True writes line ends, tabs and runs of blanks, as models of code do"
    )
    is_space = not codec.whitespace_map and not NAMES.keys().isdisjoint(found)
    warnings.warn(
        f"the vocabulary cannot write {', '.join([*named, *more])}: the model does not see them, "
        f"or sees others in their place{way_out if is_space else ''}",
        stacklevel=3,
    )


def unwritten(codec: Codec, texts: Iterable[str]) -> list[str]:
    """Return the characters that do not come back from their tokens, and runs of blanks."""
    if codec.is_exact:
        return []
    split = [WHITESPACE.split(text) if codec.whitespace_map else [text] for text in texts]
    words = [part for parts in split for part in parts if part and not WHITESPACE.fullmatch(part)]
    given = Counter("".join(words))
    lost = given - Counter(_written(codec, words))
    runs = ["  "] if not codec.whitespace_map and any("  " in part for part in words) else []
    return [character for character in given if character != " " and lost[character]] + runs


def _written(codec: Codec, words: list[str]) -> str:
    """Return the characters of the tokens of words, but of <unk>, which stands for any."""
    pieces = codec.tokenizer.convert_ids_to_tokens(
        [i for ids in encode_all(codec.tokenizer, words) for i in ids]
    )
    unknown = codec.tokenizer.unk_token
    return "".join(p for p in pieces if p != unknown).replace(METASPACE_MARK, " ")


def _shown(character: str) -> str:
    is_seen = character.isprintable() and not unicodedata.combining(character)
    return repr(character) if is_seen else f"U+{ord(character):04X}"
