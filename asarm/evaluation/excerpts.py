"""Excerpts of the texts that a run has made, as Markdown; what was filled in is bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from asarm.display.spans import UNPRINTABLE, Segment, segments
from asarm.evaluation.published import CODE, DECODING, PROSE, kind_of
from asarm.run import Run, read_kind

Record = dict[str, Any]
Summary = Mapping[str, Any]
ITEMS = 2  # of a study of samplers, where a text is long
SHORT_ITEMS = 4
WIDTH = 100  # characters of a line


def excerpts(run: Run, settings: Mapping[str, Any], summary: Summary | None = None) -> list[str]:
    """Return excerpts as lines of Markdown; none where the run has no texts.

    Args:
        run: the run folder.
        settings: the run's settings.
        summary: its results, whose rows are in the order of the variants; its records are not.
    """
    kind = read_kind(run.folder) or kind_of(settings)
    if kind == DECODING:
        return _decoding(run.read("samples.jsonl"))
    if kind == PROSE:
        return _prose([r for r in run.read("samples.jsonl") if "prediction" in r], summary)
    if kind == CODE:
        return _code(run.read("results.jsonl") or run.read("generations.jsonl"), summary)
    return []


def _own(records: Sequence[Record], summary: Summary | None) -> tuple[str, list[Record]]:
    """Return the first variant that has records, and those of its first trial."""
    found = summary or {}
    rows = [row for table in found.get("tables", []) for row in table["rows"]]
    plan = [row["name"] for row in rows or found.get("variants", [])]
    names = dict.fromkeys(record.get("variant", "") for record in records)
    first = min(names, key=lambda name: plan.index(name) if name in plan else len(plan))
    own = [record for record in records if record.get("variant", "") == first]
    return first, [record for record in own if record.get("trial", 0) == 0][:SHORT_ITEMS]


def _decoding(records: Sequence[Record]) -> list[str]:
    """Show the first trials: each model's last lossless method, and its first lossy one once."""
    lines: list[str] = []
    for item in sorted({record["item"] for record in records})[:ITEMS]:
        trial = [record for record in records if record["item"] == item]
        for model in dict.fromkeys(record["model"] for record in trial):
            own = [record for record in trial if record["model"] == model]
            lossless = [record for record in own if record["lossless"]][-1:]
            lossy = [record for record in own if not record["lossless"]][:1]
            for record in lossless + (lossy if item == 0 else []):
                lines += _filled(record)
    return lines


def _filled(record: Record) -> list[str]:
    steps = "" if record["steps"] is None else f" {record['steps']}"
    cost = f"{record['nfe']} network calls for {record['num_targets']} blanks"
    about = f"Trial {record['item']}, {record['model']}, {record['method']}{steps}: {cost}"
    text = _wrapped(record["text"])
    parts = segments(text, record["given"], record["prompt"], len(record["tokens"]))
    return [about, "", f"<pre>{''.join(map(_marked, parts))}</pre>", ""]


def _marked(part: Segment) -> str:
    shown = _escaped(part.text)
    return f"<b>{shown}</b>" if part.is_target else shown


def _prose(records: Sequence[Record], summary: Summary | None) -> list[str]:
    """Show what the first variant filled into the first items of each protocol."""
    lines: list[str] = []
    for protocol in dict.fromkeys(record["protocol"] for record in records):
        variant, chosen = _own([r for r in records if r["protocol"] == protocol], summary)
        lines += [f"{protocol}, {variant}:", ""]
        for record in chosen:
            reference = (
                f" (reference: {_line(record['reference'])})" if "reference" in record else ""
            )
            lines.append(f"- <b>{_line(record['prediction'])}</b>{reference}")
        lines.append("")
    return lines


def _code(records: Sequence[Record], summary: Summary | None) -> list[str]:
    """Show what the first variant filled into the first tasks, and how the programs ended."""
    if not records:
        return []
    variant, chosen = _own(records, summary)
    lines = [f"{variant}:", ""] if variant else []
    for record in chosen:
        ending = f": {record['result']}" if "result" in record else ""
        lines += [f"{record['task_id']}{ending}", ""]
        lines += [f"<pre><b>{_escaped(record['completion'])}</b></pre>", ""]
    return lines


def _wrapped(text: str) -> str:
    """Return the text with some blanks turned into line ends, where lines are long."""
    characters, start, blank = list(text), 0, -1
    for place, character in enumerate(text):
        if character == "\n":
            start, blank = place + 1, -1
        elif character == " ":
            blank = place
        if place - start >= WIDTH and blank > start:
            characters[blank] = "\n"
            start, blank = blank + 1, -1
    return "".join(characters)


def _escaped(text: str) -> str:
    """Return the text in HTML, without characters that would control a terminal."""
    printable = (c if c.isprintable() or c in "\n\t" else UNPRINTABLE for c in text)
    return escape("".join(printable), quote=False)


def _line(text: str) -> str:
    """Return the text in one line of Markdown, with all of its markup escaped."""
    shown = _escaped(" ".join(text.split()))
    return "".join(f"\\{c}" if c in "\\`*_[]|~#" else c for c in shown)
