"""Stories of consecutive sentences of the bundled held-out prose."""

from __future__ import annotations

import re

from asarm.corpus import held_out_documents
from asarm.evaluation.prose.formats import Story

STORY = 5  # sentences
WORDS = range(4, 31)  # of a sentence
PROSE = re.compile(r"[A-Za-z][\w ,;:.?!'’()\"“”/*-]*[.?!]")
END = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")


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
