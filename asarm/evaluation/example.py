"""One trial to look at: the blanked text, the filled text, and what each method needed for it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from asarm.evaluation.study import Record, key
from asarm.text import decode

BLANK = "_"
GIVEN, BLANKED, FILLED = "bold", "dim", "bold green"
UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"


class Segment(NamedTuple):
    """A run of tokens that were all given, or all filled."""

    text: str
    num_tokens: int
    is_target: bool


def segments(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], prompt: Sequence[int]
) -> list[Segment]:
    """The text of `tokens`, cut where positions in `prompt` and filled ones meet.

    A character whose bytes were only partly given belongs to the segment that completes it.
    """
    given = set(prompt)
    found, shown = [], ""
    for is_target, group in groupby(range(len(tokens)), key=lambda i: i not in given):
        positions = list(group)
        whole = decode(tokenizer, list(tokens[: positions[-1] + 1])).rstrip(UNPRINTABLE)
        start = len(shown) if whole.startswith(shown) else _common(whole, shown)
        found.append(Segment(whole[start:], len(positions), is_target))
        shown = whole
    return found


def _common(first: str, second: str) -> int:
    """Length of what both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def choose(records: Sequence[Record]) -> list[Record]:
    """The records of the first trial."""
    first = min((record["item"] for record in records), default=None)
    return [record for record in records if record["item"] == first]


def show_example(
    records: Sequence[Record], tokenizer: PreTrainedTokenizerBase, console: Console
) -> None:
    """The first trial in the terminal: blanked, filled by a lossless method, calls of each."""
    trial = choose(records)
    if not trial:
        return
    lossless = [record for record in trial if record["lossless"]]
    shown = (lossless or trial)[-1]
    blanked, filled = Text(), Text()
    for part in segments(tokenizer, shown["tokens"], shown["prompt"]):
        text = printable(part.text)
        if part.is_target:
            blanked.append(BLANK * part.num_tokens, BLANKED)
            filled.append(text, FILLED)
        else:
            blanked.append(text, GIVEN)
            filled.append(text, GIVEN)
    blanks = f"{shown['num_targets']} of {len(shown['tokens'])} tokens"
    console.print(Panel(blanked, title=f"blanked: {blanks}, a {BLANK} each"))
    console.print(Panel(filled, title=f"filled by {key(shown)[1].name}: {shown['nfe']} calls"))
    console.print(_calls(trial))


def _calls(trial: Sequence[Record]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for record in trial:
        bar = "█" * max(1, round(30 * record["nfe"] / record["num_targets"]))
        law = "" if record["lossless"] else "lossy"
        table.add_row(key(record)[1].name, f"{record['nfe']} calls", bar, law)
    table.columns[1].justify = "right"
    return table


def printable(text: str) -> str:
    """`text` without what would steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else UNPRINTABLE for c in text)
