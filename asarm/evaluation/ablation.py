"""Ablations: a study for each combination of some settings, then one table and one figure of all.

Each study has a folder of its own inside the ablation's, so that the tasks of `sbatch --array`
take some each (task i of n those at i, i + n, ...), and the last one to finish collects them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path, PurePath
from typing import Any

from asarm.display.tables import new_console
from asarm.evaluation import ablation_report, trials
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.decoding import DecodingStudy, dataset_name, new_cache
from asarm.evaluation.engine import Work
from asarm.evaluation.items import Shard, begin_run, prepare_run
from asarm.evaluation.published import ABLATION
from asarm.run import SUMMARY, Run

Value = int | float | str
AXES: dict[str, type] = {  # the settings that a grid may hold
    "model": str,
    "revision": str,
    "dataset": str,
    "length": int,
    "prompt_share": float,
    "order": str,
    "method": str,
    "k": int,
    "temperature": float,
    "draft_temperature": float,
    "acceptance_slack": float,
    "coupling": str,
    "seed": int,
}


@dataclass(frozen=True)
class GridPoint:
    """One combination of the grid's values.

    Attributes:
        values: the values of the grid's settings.
        config: the settings of its study.
    """

    values: Mapping[str, Value]
    config: DecodingConfig

    @property
    def folder(self) -> str:
        """The name of its folder inside the ablation's, such as "k=2,length=128"."""
        return Path(self.config.output_dir).name


@dataclass(frozen=True)
class AblationResult:
    """The result of an ablation.

    Attributes:
        title: the models, the data and the grid, in a line.
        summary: the grid, and for each of its points the values and the summary of the study.
        folder: the run folder.
    """

    title: str
    summary: dict[str, Any]
    folder: Path


def cells(config: DecodingConfig) -> list[GridPoint]:
    """Return every combination of the grid's values; the last setting changes fastest.

    Raises:
        ValueError: a setting that no grid may hold, no or wrong values, or a value twice.
    """
    grid = config.grid or {}
    if not grid:
        raise ValueError("grid is empty; expected values of some settings, such as k: [2, 4]")
    for name, values in grid.items():
        _check_axis(name, values)
    found = []
    for combination in product(*grid.values()):
        chosen = dict(zip(grid, combination, strict=True))
        folder = ",".join(f"{name}={value}" for name, value in chosen.items()).replace("/", "-")
        settings: dict[str, Any] = {n: [v] if n == "method" else v for n, v in chosen.items()}
        where = str(Path(config.output_dir, folder))
        found.append(GridPoint(chosen, replace(config, grid=None, output_dir=where, **settings)))
    return found


def run_ablation(
    config: DecodingConfig, *, shard: Shard | None = None, progress: bool = False
) -> AblationResult | None:
    """Run the studies of this task and collect all; None while other tasks still run some.

    Raises:
        ValueError: as `cells`, and as `DecodingStudy.prepare` for any of its cells.
    """
    shard = shard or Shard()
    planned = cells(config)
    for cell in planned:
        trials.variants_of(cell.config)
    run = prepare_run(
        config, shard, kind=ABLATION, may_change=("judge", "grid"), may_grow=("num_trials",)
    )
    inner = Shard(process=shard.process, processes=shard.processes)  # of one cell
    cache = new_cache()
    own = planned[shard.task :: shard.tasks]
    works = [Work.prepare(DecodingStudy.prepare(cell.config, cache), inner) for cell in own]
    begin_run(run, shard)
    for work in works:
        work.begin()
    for number, (cell, work) in enumerate(zip(own, works, strict=True), start=1):
        if progress and shard.is_first:
            print(f"{cell.folder} ({number} of {len(own)})", flush=True)
        work.fill(progress=progress)
        work.finish()
    return collect(config, run)


def run_and_show(config: DecodingConfig) -> None:
    """Run an ablation from a script, and show its table in the terminal."""
    shard = Shard.here()
    result = run_ablation(config, shard=shard, progress=True)
    if result is not None:
        ablation_report.show(result.summary, result.title, new_console())
        print(f"table, figure and all studies are in {result.folder}")
    elif shard.is_first:
        print("others still work on this ablation; the last one writes the table")


def collect(config: DecodingConfig, run: Run) -> AblationResult | None:
    """Write the table and the figure of all studies; None while some are not finished.

    Raises:
        ValueError: studies differ in the weights or the data that go by one name.
    """
    planned = cells(config)
    runs = [Run(cell.config.output_dir) for cell in planned]
    files = [cell_run.folder / SUMMARY for cell_run in runs]
    if not all(
        file.exists() and cell_run.holds(cell.config)
        for file, cell_run, cell in zip(files, runs, planned, strict=True)
    ):
        return None
    _check_contents(planned, runs)
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    summary = {
        "grid": config.grid,
        "cells": [
            {"values": dict(cell.values), "folder": cell.folder, **study}
            for cell, study in zip(planned, found, strict=True)
        ],
    }
    title = _title(config, len(planned))
    run.write("report.md", ablation_report.markdown(summary, title))
    run.write("ablation.png", ablation_report.figure(summary, title))
    run.write(SUMMARY, summary)
    return AblationResult(title, summary, run.folder)


def _check_contents(planned: Sequence[GridPoint], runs: Sequence[Run]) -> None:
    """Refuse studies of other contents under one name; blocks depend on the tokenizer, too."""
    known: dict[Any, dict[str, str]] = {}
    for cell, run in zip(planned, runs, strict=True):
        data = dataset_name(cell.config)
        for name, found in run.fingerprints().items():
            about = (name, trials.model_names(cell.config)[0] if name == data else None)
            run.check_fingerprints(known.setdefault(about, {name: found}))


def _check_axis(name: str, values: list[Value]) -> None:
    if name not in AXES:
        raise ValueError(f"grid holds {name}; expected some of {', '.join(AXES)}")
    kind = AXES[name]
    right = (kind, int) if kind is float else kind
    wrong = [value for value in values if not isinstance(value, right) or value is True]
    if wrong or not values:
        given = f"{wrong[0]!r}" if wrong else "no values"
        raise ValueError(f"grid holds {given} for {name}; expected {kind.__name__}s")
    if len(set(values)) < len(values):
        raise ValueError(f"grid holds a value of {name} twice, in {values}; expected each once")


def _title(config: DecodingConfig, count: int) -> str:
    grid = config.grid or {}
    fixed = [PurePath(config.dataset).name] if "dataset" not in grid else []
    named = trials.short_names(trials.model_names(config)).values()
    models = ", ".join(named) if not {"model", "revision"} & set(grid) else ""
    about = " on ".join(part for part in (models, *fixed) if part)
    what = f"{' x '.join(grid)}, {count} studies of {config.num_trials} trials"
    return f"{about}: {what}" if about else what
