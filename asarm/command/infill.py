"""`python -m asarm infill`: fillings of blanks, as a table or as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from asarm.command.config import InfillSettings
from asarm.command.reading import parse_length, read_texts
from asarm.display.spans import FILLED, GIVEN, printable
from asarm.display.tables import new_console, terminal_table
from asarm.infilling import Candidate, Infilling, infill
from asarm.loading import load
from asarm.sampling import OnePass, sampler_of

COLUMNS = ("score", "log p", "log P(length)", "lengths", "calls")
CAPTION = (
    "score = log p(fillings | text, lengths) + log P(lengths | text), natural logarithms; "
    "lengths in tokens (log P is 0 where they were given); calls: network calls"
)


def run(settings: InfillSettings) -> None:
    """Fill the blanks of all texts, and print what came out.

    Raises:
        ValueError: a text or a setting that cannot be served.
    """
    texts = read_texts(settings.texts, settings.file, settings.blank)
    length = parse_length(settings.length)
    model, tokenizer = load(
        settings.model or "demo",
        revision=settings.revision,
        device=settings.device,
        dtype=settings.dtype,
    )
    found = infill(
        model,
        tokenizer,
        texts,
        blank=settings.blank,
        length=[length] * len(texts),
        num_samples=settings.num_samples,
        best_of=settings.best_of,
        sampler=sampler_of(settings.method or OnePass.name, k=settings.k, steps=settings.steps),
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=settings.seed,
        token_healing=settings.token_healing,
        whitespace_map=settings.whitespace_map,
    )
    console = new_console()
    for infilling in found:
        if settings.json:
            print(as_json(infilling))
        else:
            show(infilling, console)


def as_json(infilling: Infilling) -> str:
    """Write one line, whose characters are escaped where the terminal's encoding lacks them."""
    line = json.dumps(asdict(infilling), ensure_ascii=False)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(asdict(infilling))
    return line


def show(infilling: Infilling, console: Console) -> None:
    """Print the candidates of a text as a table, best first."""
    table = terminal_table("", CAPTION)
    table.title = None
    table.padding = (0, 2, 0, 0)
    table.add_column("")
    table.add_column("text", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for n, candidate in enumerate(infilling.candidates, start=1):
        text = highlighted(infilling.parts, candidate)
        table.add_row(str(n), text, *numbers(candidate))
    console.print(table)


def highlighted(parts: list[str], candidate: Candidate) -> Text:
    """Return the text with what was filled in highlighted."""
    text = Text(printable(parts[0]), GIVEN)
    for fill, part in zip(candidate.fills, parts[1:], strict=True):
        text.append(printable(fill.text), FILLED)
        text.append(printable(part), GIVEN)
    return text


def numbers(candidate: Candidate) -> list[str]:
    """Return the cells of `COLUMNS`."""
    logs = (candidate.score, candidate.log_prob, candidate.length_log_prob)
    lengths = ", ".join(str(fill.length) for fill in candidate.fills)
    return [*(f"{value:.2f}" for value in logs), lengths, str(candidate.nfe)]
