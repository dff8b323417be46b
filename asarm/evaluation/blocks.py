"""The text that is evaluated on: bundled, published, or the user's own, packed into blocks."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.corpus import held_out_documents
from asarm.data import pack, read_text
from asarm.text import encode_document

WIKITEXT_FILE = Path("eval_datasets", "wiki.test.raw")
CHECKOUT = Path(__file__).parents[2]


def load_blocks(tokenizer: PreTrainedTokenizerBase, dataset: str, length: int) -> Tensor:
    """The dataset's documents one after another, cut into blocks (N, length) of token ids.

    Raises:
        ValueError: the dataset cannot be had, or has less than one block.
    """
    return pack((encode_document(tokenizer, text) for text in read_documents(dataset)), length)


def read_documents(dataset: str) -> list[str]:
    """The texts of "heldout", of "wikitext-2", or of a file.

    A file named *.raw is in WikiText's format, each row a document, blank rows too: this packing
    gives the 640 sequences of 512 tokens of arXiv 2504.20456. Any other file is one document.
    """
    if dataset == "heldout":
        return [document.text for document in held_out_documents()]
    if dataset == "wikitext-2":
        return _rows(_wikitext())
    if not Path(dataset).is_file():
        raise ValueError(
            f"dataset is {dataset!r}; expected heldout, wikitext-2, or an existing text file"
        )
    text = read_text(dataset)
    return _rows(text) if dataset.endswith(".raw") else [text]


def _wikitext() -> str:
    """The test text of WikiText-2 from the checkout, the current directory, or the hub."""
    for folder in (CHECKOUT, Path()):
        if (folder / WIKITEXT_FILE).is_file():
            return read_text(folder / WIKITEXT_FILE)
    import datasets  # here: it takes seconds, and only this needs it

    try:
        rows = datasets.load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split="test")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"cannot get wikitext-2 from the hub ({reason}); check the network, or put "
            f"wiki.test.raw into {CHECKOUT / WIKITEXT_FILE.parent} (its README.md says where from)"
        ) from None
    return "".join(row["text"].removesuffix("\n") + "\n" for row in rows)


def _rows(text: str) -> list[str]:
    return [row if row.strip() else "" for row in text.removesuffix("\n").split("\n")]
