"""Where items come from: the package, published files, the hub, or a user's file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from asarm.corpus import held_out_documents
from asarm.data.evaluated import CHECKOUT, hub_rows
from asarm.evaluation.files import find, place
from asarm.evaluation.prose.formats import (
    Items,
    Records,
    Story,
    passages_of_records,
    questions_of_records,
    read_items,
)

STORIES_FILE = "cloze_test_val__spring2016.csv"
KINDS = ("stories", "lambada", "hellaswag")
STORY = 5  # sentences
WORDS = range(4, 31)  # of a sentence
PROSE = re.compile(r"[A-Za-z][\w ,;:.?!'’()\"“”/*-]*[.?!]")
END = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")


@dataclass(frozen=True)
class OnHub:
    """A published set: its file, its name and split on the hub, and the reader of its records."""

    file: str
    name: str
    split: str
    read: Callable[[Records], Items]


ON_HUB = {
    "lambada": OnHub("lambada_test_plain_text.txt", "cimec/lambada", "test", passages_of_records),
    "hellaswag": OnHub(
        "hellaswag_val_full.txt.bz2", "Rowan/hellaswag", "validation", questions_of_records
    ),
}


@dataclass(frozen=True)
class Prose:
    """A set of items of one kind.

    Attributes:
        name: their name in titles.
        kind: "stories", "lambada" or "hellaswag".
        items: all items of the set.
    """

    name: str
    kind: str
    items: Items


def load_prose(dataset: str | None = None) -> Prose:
    """Load the items of a name or of a file, see `InfillProseConfig.dataset`.

    Raises:
        ValueError: the items are not found (the message says where to get them), or are damaged.
    """
    if dataset is None:
        dataset = "rocstories" if find(STORIES_FILE, CHECKOUT) else "heldout"
    if dataset == "heldout":
        return Prose("held-out prose", "stories", held_out_stories())
    if dataset == "rocstories":
        return Prose("ROCStories", *read_items(_stories_file(), "stories"))
    if dataset in ON_HUB:
        path = find(ON_HUB[dataset].file, CHECKOUT)
        kind, items = read_items(path, dataset) if path else (dataset, _fetch(dataset))
        return Prose({"lambada": "LAMBADA", "hellaswag": "HellaSwag"}[dataset], kind, items)
    kind, _, file = dataset.partition(":")
    if Path(dataset).expanduser().is_file() or kind not in KINDS:
        kind, file = "", dataset
    if not Path(file).expanduser().is_file():
        names = ", ".join(["rocstories", "heldout", *ON_HUB])
        raise ValueError(
            f"dataset is {dataset!r}; expected {names}, or an existing file, after "
            f"{', '.join(KINDS)} and a colon where its columns do not show what it holds"
        )
    return Prose(Path(file).name, *read_items(file, kind or None))


def _stories_file() -> Path:
    path = find(STORIES_FILE, CHECKOUT)
    if path is None:
        raise ValueError(
            f"cannot find {STORIES_FILE} (ROCStories cloze, validation, spring 2016): ask its "
            f"authors for it (https://cs.rochester.edu/nlp/rocstories) and put it into "
            f"{place(CHECKOUT)}"
        )
    return path


def _fetch(dataset: str) -> Items:
    """Fetch the items from the hub."""
    hub = ON_HUB[dataset]
    by_hand = f"{hub.file} into {place(CHECKOUT)}"
    rows = hub_rows((hub.name,), split=hub.split, name=hub.name, by_hand=by_hand)
    return hub.read((f"{hub.name} row {n}", dict(row)) for n, row in enumerate(rows, start=1))


def held_out_stories() -> list[Story]:
    """Return items of five consecutive sentences, none of them in two items.

    A document's paragraphs are what lies between blank lines; one that is indented, or has a line
    that is, is not prose. Lines are joined by blanks, and a sentence ends at `.`, `?` or `!` before
    whitespace and a capital letter. Sentences of 4 to 30 words count that are letters, digits and
    plain punctuation; anything else ends the run of consecutive ones.
    """
    stories = []
    for document in held_out_documents("prose"):
        run: list[str] = []
        for paragraph in document.text.split("\n\n"):
            for sentence in sentences(paragraph):
                run = [*run, sentence] if is_plain(sentence) else []
                if len(run) == STORY:
                    stories.append(Story(tuple(run)))
                    run = []
    return stories


def sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences; one with indented lines is not prose, and gives [""]."""
    lines = paragraph.strip("\n").split("\n")
    if any(line[:1].isspace() for line in lines):
        return [""]
    return END.split(" ".join(" ".join(lines).split()))


def is_plain(sentence: str) -> bool:
    """Return whether a sentence has 4 to 30 words of letters, digits and plain punctuation."""
    return len(sentence.split()) in WORDS and PROSE.fullmatch(sentence) is not None
