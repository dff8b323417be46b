"""An example trial in the terminal: blanked, filled, and the network calls of each method."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from asarm.display.spans import BLANK, BLANKED, FILLED, GIVEN, printable, segments
from asarm.evaluation.trials import key, names
from asarm.run import Record


def choose(records: Sequence[Record]) -> list[Record]:
    """Return the records of the first trial."""
    first = min((record["item"] for record in records), default=None)
    return [record for record in records if record["item"] == first]


def show_example(records: Sequence[Record], console: Console) -> None:
    """Print the first trial: blanked, filled by a lossless method, and the calls of each method."""
    trial = choose(records)
    if not trial:
        return
    lossless = [record for record in trial if record["lossless"]]
    shown = (lossless or trial)[-1]
    blanked, filled = Text(), Text()
    num_tokens = len(shown["tokens"])
    for part in segments(shown["text"], shown["given"], shown["prompt"], num_tokens):
        text = printable(part.text)
        if part.is_target:
            blanked.append(BLANK * part.num_tokens, BLANKED)
            filled.append(text, FILLED)
        else:
            blanked.append(text, GIVEN)
            filled.append(text, GIVEN)
    blanks = f"{shown['num_targets']} of {num_tokens} tokens"
    console.print(Panel(blanked, title=f"blanked: {blanks}, a {BLANK} each"))
    console.print(Panel(filled, title=f"filled by {key(shown)[1].name}: {shown['nfe']} calls"))
    console.print(_calls(trial))


def _calls(trial: Sequence[Record]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    called = names(key(record)[1] for record in trial)
    for record in trial:
        bar = "█" * max(1, round(30 * record["nfe"] / record["num_targets"]))
        nature = "" if record["lossless"] else "lossy"
        table.add_row(called[key(record)[1]], f"{record['nfe']} calls", bar, nature)
    table.columns[1].justify = "right"
    return table
