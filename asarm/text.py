"""Text to token ids and back, with nothing in a user's text read as a special token."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The ids of `text` alone: no special token is added, and a literal `<mask>` is six characters.

    With the demo's tokenizer `decode` gives `text` back exactly. Other vocabularies keep their
    `<unk>` for characters that they lack.
    """
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if special.isdisjoint(ids["input_ids"]):
        return ids["input_ids"]
    # XLNet's Unigram model has `<mask>` among its ordinary pieces too, and finds it there
    return [
        piece for i in ids["input_ids"] for piece in (_spell(tokenizer, i) if i in special else [i])
    ]


def decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """The text of `ids`; special tokens appear by their names."""
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return cast(str, text)  # a list of texts only for a list of lists


def encode_document(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """`text` as one document of a packed stream: its ids, the tokenizer's own ending, `</s>`.

    The ending is what the tokenizer puts behind any text: `<sep> <cls>` for XLNet's, nothing for
    the demo's. This is the packing of the published models (arXiv 2504.20456).
    """
    ending = tokenizer("")["input_ids"]
    return [*encode(tokenizer, text), *ending, tokenizer.eos_token_id]


def _spell(tokenizer: PreTrainedTokenizerBase, special_id: int) -> list[int]:
    characters = list(tokenizer.convert_ids_to_tokens(special_id))
    return cast(list[int], tokenizer.convert_tokens_to_ids(characters))
