"""Text to token ids and back, with nothing in a user's text read as a special token."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, cast
from weakref import WeakKeyDictionary, WeakSet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHITESPACE = re.compile("(\n|\t|  )")  # what the whitespace map of code has tokens for

# Each tokenizer's private copy, and what the tokenizer was when the copy was made.
_COPIES: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[str, PreTrainedTokenizerBase]] = (
    WeakKeyDictionary()
)
_PRIVATE: WeakSet[PreTrainedTokenizerBase] = WeakSet()
_LOCK = Lock()


def private(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the library's own copy of a tokenizer, which nobody reconfigures.

    A call of a tokenizer sets its truncation, its padding and how it reads special tokens, for
    every thread that shares it. The copy has none of them set by anybody's call, and the
    tokenizer itself stays as it was. The copy is made once, and again where pieces or special
    tokens of the tokenizer have changed since.
    """
    if tokenizer in _PRIVATE:
        return tokenizer
    with _LOCK:
        described = _described(tokenizer)
        known = _COPIES.get(tokenizer)
        if known is None or known[0] != described:
            known = _COPIES[tokenizer] = described, _copied(tokenizer)
            _PRIVATE.add(known[1])
        return known[1]


def _described(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return all that decides how a tokenizer reads a text and that may change, in under a ms."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    steps = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    return repr(
        (len(tokenizer), tokenizer.special_tokens_map, *(getattr(backend, s, None) for s in steps))
    )


def _copied(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    found = copy.deepcopy(tokenizer)
    backend = getattr(found, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # a literal <mask> is six characters
    return found


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode `text` alone: no special token is added, and a literal `<mask>` is six characters.

    With the demo's tokenizer `decode` gives `text` back exactly. Other vocabularies keep their
    `<unk>` for characters that they lack.
    """
    return encode_all(tokenizer, [text])[0]


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return what `encode` gives for each text, in one call that is several times faster."""
    tokenizer = private(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
        found = [encoding.ids for encoding in encodings]
    else:
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        found = [tokenizer(text, **options)["input_ids"] for text in texts]
    return _without_special(tokenizer, found)


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Decode `ids`; special tokens appear by their names."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return cast(str, text)  # a list of texts only for a list of lists


def encode_document(
    tokenizer: PreTrainedTokenizerBase, text: str, *, whitespace_map: bool = False
) -> list[int]:
    """Encode `text` as a document of a packed stream: its ids, the tokenizer's own ending, `</s>`.

    The ending is what the tokenizer puts after any text: `<sep> <cls>` for XLNet's, nothing for
    the demo's. This is the packing of the published models (arXiv 2504.20456), and
    `whitespace_map` the mapping of those for code, see `encode_documents`.
    """
    return encode_documents(tokenizer, [text], whitespace_map=whitespace_map)[0]


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, whitespace_map: bool = False
) -> list[list[int]]:
    """Return what `encode_document` gives for each text, in one call that is several times faster.

    Args:
        tokenizer: any of the library's.
        texts: whole documents.
        whitespace_map: XLNet's pieces know no line ends; the published models for code read a
            line end as `<cls>`, a tab as `<sep>` and two spaces as `<unk>`. (They name `<pad>` for
            three spaces too, which never comes about: two of the three are taken before.)

    Raises:
        ValueError: a whitespace map is requested of a tokenizer without these tokens.
    """
    tokenizer = private(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = tokenizer("")["input_ids"] if backend is None else backend.encode("").ids
    ending = [*own, *document_end(tokenizer)]
    encoded = (_encode_mapped if whitespace_map else encode_all)(tokenizer, texts)
    return [[*ids, *ending] for ids in encoded]


def document_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what separates documents: the tokenizer's end of text, if it has one."""
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _encode_mapped(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Encode each text, whitespace by the ids that `whitespace_ids` has for it."""
    ids = {space: [i] for space, i in whitespace_ids(tokenizer).items()}
    split = [WHITESPACE.split(text) for text in texts]
    # code repeats its lines, and each different one needs to be encoded only once
    pieces = list(dict.fromkeys(p for parts in split for p in parts if p and p not in ids))
    ids |= zip(pieces, encode_all(tokenizer, pieces), strict=True)
    return [[i for part in parts if part for i in ids[part]] for parts in split]


def whitespace_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the special id that each whitespace of the published models for code becomes."""
    ids = {
        "\n": tokenizer.cls_token_id,
        "\t": tokenizer.sep_token_id,
        "  ": tokenizer.unk_token_id,
    }
    if None in ids.values():
        raise ValueError(
            f"whitespace_map is true, and the tokenizer has {tokenizer.special_tokens_map}; "
            "it needs cls_token, sep_token and unk_token: leave the map off"
        )
    return ids


def _without_special(
    tokenizer: PreTrainedTokenizerBase, encoded: list[list[int]]
) -> list[list[int]]:
    """Spell `<mask>` where it is found: XLNet's Unigram model has it among its ordinary pieces."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [
        ids
        if special.isdisjoint(ids)
        else [p for i in ids for p in (_spell(tokenizer, i) if i in special else [i])]
        for ids in encoded
    ]


def _spell(tokenizer: PreTrainedTokenizerBase, special_id: int) -> list[int]:
    characters = list(tokenizer.convert_ids_to_tokens(special_id))
    return cast(list[int], tokenizer.convert_tokens_to_ids(characters))
