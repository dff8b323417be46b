"""Finished runs of any evaluation as one Markdown page, with a folder of their figures."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote

from asarm.display.tables import markdown_image, markdown_table
from asarm.evaluation.excerpts import excerpts
from asarm.evaluation.published import beside_ours
from asarm.run import CONFIG, Run, read_kind, read_settings

TRAINING = "metrics.jsonl"  # a file that only runs of training have
PAGE, SUMMARY = "report.md", "summary.json"
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) ", re.MULTILINE)


@dataclass(frozen=True)
class FinishedRun:
    """The contents of a finished run folder.

    Attributes:
        run: the run folder.
        settings: the settings of config.yaml.
        summary: the contents of summary.json.
        title: the title of its report.md.
        body: the rest of report.md.
    """

    run: Run
    settings: dict[str, Any]
    summary: dict[str, Any]
    title: str
    body: str


def read_run(folder: str | Path) -> FinishedRun:
    """Read the run folder of a finished evaluation.

    Raises:
        ValueError: the folder is not a run folder, or the run is not finished.
    """
    run = Run(folder)
    settings = read_settings(folder)
    if settings is None:
        raise ValueError(
            f"{folder} is not a run folder: it has no {CONFIG} of a run; "
            "name the --output_dir of an evaluation"
        )
    absent = [name for name in (SUMMARY, PAGE) if not (run.folder / name).is_file()]
    if absent and (run.folder / TRAINING).is_file():
        raise ValueError(
            f"{folder} is a run of training; expected evaluations, which this page joins: "
            f"python scripts/plot_training.py {quote(str(folder))} shows it"
        )
    if absent:
        raise ValueError(f"{folder} is not finished: it has no {absent[0]}; run its command again")
    title, _, body = (run.folder / PAGE).read_text(encoding="utf-8").partition("\n")
    return FinishedRun(run, settings, _summary(run), title.removeprefix("# "), body)


def _summary(run: Run) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((run.folder / SUMMARY).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{run.folder / SUMMARY} is damaged ({error}); run the run's command again"
        ) from None
    return found


def join(folders: Sequence[str | Path], out: Path) -> None:
    """Write the page of some runs, and copy their figures.

    Args:
        folders: the folders of finished runs, in the order of the page.
        out: the page, a .md; its figures go into the folder `NAME_figures` next to it.

    Raises:
        ValueError: as `read_run`; or a figure is missing, or `out` is not a .md.
    """
    if out.suffix != ".md":
        raise ValueError(f"--out is {out}; expected a name that ends in .md")
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        _check_figures(run)
    figures = out.with_name(f"{out.stem}_figures")
    overview = [[str(n), run.title, f"`{run.run.folder}`"] for n, run in enumerate(runs, start=1)]
    lines = ["# Evaluation report", "", *markdown_table(["", "run", "folder"], overview), ""]
    for number, run in enumerate(runs, start=1):
        lines += section(run, number, figures)
    out.write_text("\n".join(lines), encoding="utf-8")


def section(run: FinishedRun, number: int, figures: Path) -> list[str]:
    """Return the part of one run: its own page, texts that it made, and the published figures."""
    prefix = f"{number}-{re.sub(r'[^A-Za-z0-9.=,_-]', '-', run.run.folder.resolve().name)}"

    def moved(match: re.Match[str]) -> str:
        source = run.run.folder / unquote(match[2])
        name = f"{prefix}-{source.name}"
        figures.mkdir(exist_ok=True)
        shutil.copyfile(source, figures / name)
        return markdown_image(match[1], f"{figures.name}/{name}")

    body = HEADING.sub(r"#\1 ", IMAGE.sub(moved, run.body)).strip("\n")
    texts = excerpts(run.run, run.settings, run.summary)
    published = beside_ours(run.settings, run.summary, read_kind(run.run.folder))
    return [
        *(f"## {number}. {run.title}", "", body, ""),
        *(["### Sampled texts", "", *texts] if texts else []),
        *(["### Published figures", "", *published, ""] if published else []),
    ]


def _check_figures(run: FinishedRun) -> None:
    for _, path in IMAGE.findall(run.body):
        figure = run.run.folder / unquote(path)
        if not figure.is_file():
            raise ValueError(
                f"{figure} is not there, and {PAGE} shows it; run the run's command again"
            )
