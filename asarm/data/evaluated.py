"""The text that is evaluated on: bundled, published, or the user's own, packed into blocks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.corpus import KINDS, held_out_documents
from asarm.data import DataConfig, pack, read_text
from asarm.data.config import check_txt_documents
from asarm.data.files import local_path, suggestion, survey
from asarm.data.packing import no_counts, usable
from asarm.data.text_files import READERS, kind_of
from asarm.data.text_files import read_documents as read_files
from asarm.text import encode_document

WIKITEXT_FILE = Path("eval_datasets", "wiki.test.raw")
OPENWEBTEXT = "Skylion007/openwebtext"
CHECKOUT = Path(__file__).parents[2]
HELD_OUT = {"heldout": None} | {f"heldout-{kind}": kind for kind in KINDS}
NAMES = (*HELD_OUT, "wikitext-2", "openwebtext")
WHOLE = (".txt", ".md")  # kinds whose files can be one document each


def load_blocks(
    tokenizer: PreTrainedTokenizerBase,
    dataset: str,
    length: int,
    *,
    num_blocks: int | None = None,
    whitespace_map: bool = False,
    dataset_column: str = "text",
    txt_documents: str = "file",
) -> Tensor:
    """Cut the dataset's documents, one after another, into blocks (N, length) of token ids.

    Args:
        tokenizer: the tokenizer of the ids.
        dataset: see `read_documents`.
        length: tokens of a block.
        num_blocks: only the first so many, and no more of the text is read than they need; all
            where it is None.
        whitespace_map: read whitespace as the published models for code do.
        dataset_column: see `read_documents`.
        txt_documents: see `read_documents`.

    Raises:
        ValueError: the dataset cannot be had, or has less than one block.
    """
    documents = (
        encode_document(tokenizer, text, whitespace_map=whitespace_map)
        for text in read_documents(
            dataset, dataset_column=dataset_column, txt_documents=txt_documents
        )
    )
    if num_blocks is None:
        return pack(documents, length)
    return pack(_first(documents, num_blocks * length), length)[:num_blocks]


def _first(documents: Iterable[list[int]], num_tokens: int) -> Iterator[list[int]]:
    """Yield documents up to the one in which so many tokens are reached."""
    for ids in documents:
        yield ids
        num_tokens -= len(ids)
        if num_tokens <= 0:
            return


def read_documents(
    dataset: str, *, dataset_column: str = "text", txt_documents: str = "file"
) -> Iterable[str]:
    """Return the texts of "heldout", its kinds, "wikitext-2", "openwebtext" (endless) or a path.

    A path is read as training reads it: a file of text or of records, or a folder with all that is
    in and below it. A file named *.raw is in WikiText's format, each row a document, blank rows
    too: this packing gives the 640 sequences of 512 tokens of arXiv 2504.20456. A file of a kind
    that training does not know is one document.

    Args:
        dataset: one of the names above, or a path.
        dataset_column: where records have their text.
        txt_documents: what a document of a .txt is: "file", "paragraph" or "line".
    """
    if dataset in HELD_OUT:
        return [document.text for document in held_out_documents(HELD_OUT[dataset])]
    if dataset == "wikitext-2":
        return _rows(_wikitext())
    if dataset == "openwebtext":
        return _openwebtext()
    check_txt_documents(txt_documents)
    path = local_path(dataset)
    if not os.path.exists(path):
        raise ValueError(
            f"dataset is {dataset!r}; expected {', '.join(NAMES)}, or an existing text file, file "
            f"of records or folder{suggestion(path)}"
        )
    kind = kind_of(path)
    if path.is_file() and kind == ".raw":
        return _rows(read_text(path))
    if path.is_file() and (kind not in READERS or (kind in WHOLE and txt_documents == "file")):
        return [read_text(path)]  # which says where it is not UTF-8
    return _usable(path, dataset_column, txt_documents)


def _usable(path: Path, column: str, txt_documents: str) -> Iterator[str]:
    """Yield the documents of a path without those that training skips, which are counted."""
    found, counts = survey(str(path), column=column, split=None), no_counts()
    if found.left_out:
        print(f"{path}: {found.said()}", file=sys.stderr)
    for document in read_files(found.files, column, txt_documents=txt_documents):
        if data := usable(document, counts):
            yield data.decode("utf-8")
    skipped = [f"{count} {name}" for name, count in counts.items() if count and "skipped" in name]
    if skipped:
        print(f"{path}: {', '.join(skipped).replace('_', ' ')}", file=sys.stderr)


def _wikitext() -> str:
    """Return the test text of WikiText-2 from the checkout, the current directory, or the hub."""
    for folder in (CHECKOUT, Path()):
        if (folder / WIKITEXT_FILE).is_file():
            return read_text(folder / WIKITEXT_FILE)
    rows = hub_rows(
        ("Salesforce/wikitext", "wikitext-2-raw-v1"),
        split="test",
        name="wikitext-2",
        by_hand=f"wiki.test.raw into {CHECKOUT / WIKITEXT_FILE.parent}",
    )
    return "".join(row["text"].removesuffix("\n") + "\n" for row in rows)


def _openwebtext() -> Iterator[str]:
    """Yield the documents of openwebtext, streamed in the hub's order."""
    from asarm.data.hub import open_dataset  # imported here, because it takes seconds
    from asarm.data.retry import Patience

    patience, given = Patience(OPENWEBTEXT), 0
    stream = open_dataset(DataConfig(dataset=OPENWEBTEXT))
    while True:
        try:
            for row in stream.skip(given):
                yield row["text"]
                given += 1
                patience.succeeded()
            return
        except Exception as error:
            patience.wait(error)  # raises errors that are not the network's


def _rows(text: str) -> list[str]:
    return [row if row.strip() else "" for row in text.removesuffix("\n").split("\n")]


def hub_rows(source: tuple[str, ...], *, split: str, name: str, by_hand: str) -> Any:
    """Fetch the rows of a published data set from the hub.

    Args:
        source: its name on the hub, and its configuration where it has several.
        split: of it.
        name: by which messages call it.
        by_hand: which file may be put where instead.

    Raises:
        ValueError: the hub cannot be reached, or does not have it.
    """
    import datasets  # imported here, because it takes seconds

    try:
        return datasets.load_dataset(*source, split=split)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"cannot get {name} from the hub ({reason}); check the network, or put {by_hand} "
            "(its README.md says where from)"
        ) from None
