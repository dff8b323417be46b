"""What was measured, next to what is wanted, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from asarm.benchmark.measured import (
    NUM_LAYERS,
    PAPER_K,
    Baseline,
    Figure,
    LagAcceptance,
    LengthCost,
    MethodCost,
    PartCost,
)

LAGS = "acceptance_by_lag.png"
LENGTHS = "length.png"
WANTED = "wanted (2 CPU cores, float32; of training: this device)"
FIGURE_HEADS = ("measured in one run", "ratio", WANTED, "met", "from")
COST_HEADS = (
    "targets",
    "method",
    "drafts",
    "k",
    "calls / target",
    "rows / target",
    "ms / target",
    "speed-up",
)
LENGTH_HEADS = (f"L ({NUM_LAYERS} layers)", "known", "ms / call, sequential", "cache, MiB")
BASELINE_HEADS = ("blanks filled, batch 1", "seconds", "calls", "tokens / s", "lossless", "timed")


@dataclass
class Report:
    """Everything a run has measured so far."""

    config: dict[str, Any]
    machine: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    costs: list[MethodCost] = field(default_factory=list)
    parts: list[PartCost] = field(default_factory=list)
    acceptance: list[LagAcceptance] = field(default_factory=list)
    lengths: list[LengthCost] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, output_dir: str | Path) -> None:
        """Write benchmark.json, benchmark.md, and the figures that it shows."""
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        figures = [{**asdict(f), "verdict": f.verdict} for f in self.figures]
        content = {**asdict(self), "figures": figures}
        (folder / "benchmark.json").write_text(json.dumps(content, indent=1) + "\n")
        if self.acceptance:
            from asarm.benchmark.lags import lag_figure  # matplotlib only where it draws

            (folder / LAGS).write_bytes(lag_figure(self.acceptance))
        if self.lengths:
            from asarm.benchmark.growth import length_figure

            (folder / LENGTHS).write_bytes(length_figure(self.lengths))
        (folder / "benchmark.md").write_text(self.markdown())

    def markdown(self) -> str:
        """Write the tables, the machine, and the fastest k of each method."""
        parts = [", ".join(f"{key} {value}" for key, value in self.machine.items()) + "."]
        if self.figures:
            parts.append(table(FIGURE_HEADS, map(_figure_cells, self.figures)))
        if self.costs:
            parts.append(table(COST_HEADS, map(_cost_cells, self.costs)))
            parts.append("Fastest k: " + "; ".join(fastest_k(self.costs)) + ".")
        if self.parts:
            parts.append(table(part_heads(), part_rows(self.parts)))
        if self.acceptance:
            parts.append(f"![acceptance rate of drafts, by lag]({LAGS})")
        if self.lengths:
            parts.append(table(LENGTH_HEADS, map(_length_cells, self.lengths)))
            parts.append(f"![time of a call and memory, by length]({LENGTHS})")
        if self.baselines:
            parts.append(table(BASELINE_HEADS, map(_baseline_cells, self.baselines)))
        return "\n\n".join([*parts, *self.notes]) + "\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fastest_k(costs: Sequence[MethodCost]) -> list[str]:
    """Name, for each method, the k of least time per target: over all fractions, and at each."""
    found = []
    for method, draft in dict.fromkeys((c.method, c.draft) for c in costs if isinstance(c.k, int)):
        which = (method, draft)
        own = [c for c in costs if (c.method, c.draft) == which and isinstance(c.k, int)]
        fractions = dict.fromkeys(c.target_fraction for c in own)
        best = [
            f"{_least([c for c in own if c.target_fraction == s])} at {s:.0%}" for s in fractions
        ]
        by = " by the head" if draft == "head" else ""
        found.append(f"{method}{by} {_least(own)} ({', '.join(best)} targets)")
    return found


def part_heads() -> tuple[str, ...]:
    """Return the heads of the table of what each part gained."""
    return "targets", "onepass: drafts, verification", f"calls / target, k = {PAPER_K}", "best k"


def part_rows(parts: Sequence[PartCost]) -> list[list[str]]:
    """Return a row for each fraction of targets and part."""
    rows = []
    for fraction, part in dict.fromkeys((p.target_fraction, p.part) for p in parts):
        own = [p for p in parts if (p.target_fraction, p.part) == (fraction, part)]
        at_paper = next(f"{p.nfe:.3f}" for p in own if p.k == PAPER_K)
        best = min(own, key=lambda p: p.nfe)
        rows.append([f"{fraction:.0%}", part, at_paper, f"{best.nfe:.3f} (k = {best.k})"])
    return rows


def _least(costs: Sequence[MethodCost]) -> int | str | None:
    """Return the k whose times, summed over the fractions of targets, are least."""
    return min(
        dict.fromkeys(c.k for c in costs),
        key=lambda k: sum(c.milliseconds for c in costs if c.k == k),
    )


def _figure_cells(f: Figure) -> list[str]:
    wanted = (
        "" if f.wanted is None else f"{'at most' if f.is_limit else 'at least'} {f.wanted:.3g}x"
    )
    measured = f"{f.measured:.2f}x" if f.measured >= 0.1 else f"{f.measured:.1g}x"
    return [f.what, measured, wanted, f.verdict, f.detail]


def _cost_cells(c: MethodCost) -> list[str]:
    k = "" if c.k is None else f"{c.k}{' (default)' if c.is_default else ''}"
    nfe = f"{c.nfe:.3f}" + ("" if c.nfe_error is None else f" ± {c.nfe_error:.3f}")
    cells = [nfe, f"{c.rows:.2f}", f"{c.milliseconds:.2f}", f"{c.speed:.2f}x"]
    return [f"{c.target_fraction:.0%}", c.method, c.draft or "", k, *cells]


def _length_cells(c: LengthCost) -> list[str]:
    memory = f"{c.cache_bytes / 2**20:.1f}"
    return [f"{c.length}", f"{c.known_fraction:.0%}", f"{c.milliseconds:.2f}", memory]


def _baseline_cells(r: Baseline) -> list[str]:
    speed = f"{r.tokens / r.seconds:.1f}"
    return [r.method, f"{r.seconds:.2f}", f"{r.calls}", speed, r.lossless, r.timed]
