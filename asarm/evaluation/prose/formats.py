"""Readers of the published formats of stories, passages and questions."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from asarm.evaluation.files import json_records, read_lines, require_columns, text_at

SENTENCES = [f"InputSentence{number}" for number in range(1, 5)]
ENDINGS = ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2"]
CLOZE = ["InputStoryid", *SENTENCES, *ENDINGS, "AnswerRightEnding"]
TITLED = ["storyid", *(f"sentence{number}" for number in range(1, 6))]  # storytitle is not read
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
CHOICES = ["ctx", "endings", "label"]
NUM_ENDINGS = 4  # of a question in HellaSwag's text format: six lines in all


@dataclass(frozen=True)
class Story:
    """A story of five sentences."""

    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Passage:
    """A text whose last word is to be found."""

    context: str
    last_word: str


@dataclass(frozen=True)
class Question:
    """A text, its endings, and which of them (from 0) is right."""

    context: str
    endings: tuple[str, ...]
    label: int


Items = list[Story] | list[Passage] | list[Question]
Records = Iterable[tuple[str, dict[str, Any]]]  # with the file and the line of each as words


def read_items(path: str | Path, kind: str | None = None) -> tuple[str, Items]:
    """Read the items of a file, and their kind: "stories", "lambada" or "hellaswag".

    Formats: ROCStories as CSV, cloze or with titles, between commas, semicolons or tabs; LAMBADA as
    one passage a line in a file that is named so, or as JSON lines with `text`; HellaSwag as six
    lines an item, or as JSON lines with `ctx`, `endings` and `label`. Each may be compressed (.gz,
    .bz2).

    Args:
        path: the file.
        kind: the kind of its items; found by its columns or its name if None.

    Raises:
        ValueError: the file has another format or is damaged; the message names the line.
    """
    path = Path(path).expanduser()
    lines = read_lines(path)
    kind, read = _format(path, lines, kind)
    return kind, read(path, lines)


def _format(
    path: Path, lines: Sequence[str], kind: str | None
) -> tuple[str, Callable[[Path, list[str]], Items]]:
    if kind != "stories" and (lines[0].startswith("{") or ".jsonl" in path.suffixes):
        _, record = next(json_records(path, lines[:1]))
        if "text" in record:
            return "lambada", lambda path, lines: passages_of_records(json_records(path, lines))
        require_columns(f"{path} line 1", record, CHOICES)
        return "hellaswag", lambda path, lines: questions_of_records(json_records(path, lines))
    if kind == "stories" or (kind is None and _has_columns(path, lines[0])):
        return "stories", read_stories
    labels = [line.strip().isdigit() for line in lines[1::6]]
    if kind == "hellaswag" or (kind is None and sum(labels) > len(labels) / 2):
        return "hellaswag", _questions_of_text
    if kind == "lambada" or "lambada" in path.name.lower():
        return "lambada", _passages_of_text
    raise ValueError(
        f"{path} is in no format that its first lines show (ROCStories as CSV, HellaSwag in six "
        f"lines an item, JSON lines with text or ctx): say what it holds, such as --dataset "
        f"{quote(f'lambada:{path}')} for a passage a line, whose last word is to be found"
    )


def _has_columns(path: Path, header: str) -> bool:
    """Return whether a file is meant as a table, by its name or by its columns."""
    columns = set(_cells(header, _delimiter(header)))
    known = any({names[0], names[-1]} <= columns for names in (CLOZE, TITLED))
    return known or not {".csv", ".tsv"}.isdisjoint(path.suffixes)


def _delimiter(header: str) -> str:
    """Return the delimiter of the cells: the one that gives the most known columns."""
    known = {*CLOZE, *TITLED}
    return max(DELIMITERS, key=lambda delimiter: len(known & set(_cells(header, delimiter))))


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter))


def read_stories(path: Path, lines: list[str]) -> list[Story]:
    """Read the stories of a ROCStories CSV file; of a cloze file, each with its right ending."""
    delimiter = _delimiter(lines[0])
    rows = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    stories: list[Story] = []
    seen: dict[str, int] = {}
    try:
        header = next(rows)
        expected = CLOZE if set(TITLED).isdisjoint(header) else TITLED
        require_columns(f"{path} line 1", header, expected)
        for row in rows:
            where = f"{path} line {rows.line_num}"
            if len(row) != len(header):
                raise ValueError(
                    f"{where} has {len(row)} cells; expected {len(header)}, as many as columns, "
                    f"between {DELIMITERS[delimiter]}"
                )
            record = dict(zip(header, row, strict=True))
            name = text_at(where, record, expected[0])
            if name in seen:
                raise ValueError(f"{where} has story {name} again, after line {seen[name]}")
            seen[name] = rows.line_num
            stories.append(_story(where, record, expected))
    except csv.Error as error:
        raise ValueError(f"{path} line {rows.line_num} is not CSV ({error}); repair it") from None
    if not stories:
        raise ValueError(f"{path} has a header and no story; get it again")
    return stories


def _story(where: str, record: dict[str, str], expected: list[str]) -> Story:
    if expected is TITLED:
        return Story(tuple(text_at(where, record, column) for column in TITLED[1:]))
    label = record["AnswerRightEnding"].strip()
    if label not in ("1", "2"):
        raise ValueError(f"{where} has {label!r} in AnswerRightEnding; expected 1 or 2")
    columns = [*SENTENCES, ENDINGS[int(label) - 1]]
    return Story(tuple(text_at(where, record, column) for column in columns))


def _passages_of_text(path: Path, lines: list[str]) -> list[Passage]:
    return [_passage(f"{path} line {n}", line) for n, line in enumerate(lines, start=1)]


def _passage(where: str, text: str) -> Passage:
    words = text.strip().rsplit(None, 1)
    if len(words) < 2:
        raise ValueError(f"{where} is {text!r}; expected a passage of two words or more")
    return Passage(*words)


def _questions_of_text(path: Path, lines: list[str]) -> list[Question]:
    size = 2 + NUM_ENDINGS
    if len(lines) % size:
        raise ValueError(
            f"{path} has {len(lines)} lines; expected {size} for each item: is it cut off?"
        )
    return [
        _question(f"{path} line {start + 2}", context, endings, label)
        for start in range(0, len(lines), size)
        for context, label, *endings in [lines[start : start + size]]
    ]


def questions_of_records(records: Records) -> list[Question]:
    """Make questions of (where, record) pairs in the hub's format."""
    questions = []
    for where, record in records:
        require_columns(where, record, CHOICES)
        activity = record.get("activity_label")
        context = text_at(where, record, "ctx")
        context = clean(f"{activity}: {context}" if activity else context)
        endings = record["endings"]
        if not isinstance(endings, list):
            raise ValueError(f"{where} has {endings!r} in endings; expected a list of texts")
        endings = [clean(e) if isinstance(e, str) else e for e in endings]
        questions.append(_question(where, context, endings, record["label"]))
    return questions


def passages_of_records(records: Records) -> list[Passage]:
    """Make passages of (where, record) pairs in the hub's format."""
    return [_passage(where, text_at(where, record, "text")) for where, record in records]


def clean(text: str) -> str:
    """Remove the markup of the pages that HellaSwag's text comes from.

    " [title]" ends a sentence, other brackets and doubled blanks go: what the text format, and
    every published evaluation of it, has.
    """
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ").strip()


def _question(where: str, context: str, endings: Sequence[Any], label: Any) -> Question:
    texts = {f"ending {n}": ending for n, ending in enumerate(endings)}
    kept = tuple(text_at(where, texts, name) for name in texts)
    number = str(label).strip()
    if not (number.isdecimal() and int(number) < len(kept)):
        raise ValueError(
            f"{where} has label {json.dumps(label)}; expected 0 to {len(kept) - 1}, the number of "
            "the right ending"
        )
    return Question(text_at(where, {"context": context}, "context"), kept, int(number))
