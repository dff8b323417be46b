"""The summary of the study of samplers, and its tables in Markdown and in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from rich import table as terminal
from rich.console import Console

from asarm.display.tables import markdown_table, terminal_table
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.tables import Row, Table, known, page, result_table
from asarm.evaluation.trials import key, model_names, names, short_names
from asarm.evaluation.variants import Variant
from asarm.metrics import judge
from asarm.metrics.repetition import copied, distinct
from asarm.metrics.statistics import compare, estimate, ratio_of_means
from asarm.run import Record
from asarm.sampling import Sequential

Summary = dict[str, Any]
REFERENCE = Sequential.name  # the sampler that the others are compared with
MEASURES: dict[str, Callable[[Record], float | None]] = {
    "nfe_per_target": lambda record: record["nfe"] / record["num_targets"],
    "rows_per_target": lambda record: record["rows"] / record["num_targets"],
    "seconds": lambda record: record["seconds"],
    "tokens_per_round": lambda record: record["num_targets"] / record["rounds"],
    "self_perplexity": lambda record: record["self_perplexity"],
    "entropy": lambda record: record["entropy"],
    "judge_perplexity": lambda record: record.get("judge_perplexity"),
    "judge_entropy": lambda record: record.get("judge_entropy"),
    "distinct_1": lambda record: distinct(record["tokens"], 1),
    "distinct_2": lambda record: distinct(record["tokens"], 2),
    "distinct_3": lambda record: distinct(record["tokens"], 3),
    "copied": lambda record: copied(record["tokens"], record["prompt"]),
}
COLUMNS = {  # heading and decimals
    "nfe_per_target": ("NFE/target", 3),
    "rows_per_target": ("rows/target", 2),
    "seconds": ("seconds", 3),
    "speedup": ("speed-up", 2),
    "tokens_per_round": ("tokens/round", 2),
    "self_perplexity": ("self-PPL", 1),
    "entropy": ("entropy", 2),
    "judge_perplexity": ("judge PPL", 1),
    "judge_entropy": ("judge entropy", 2),
    "distinct_1": ("distinct-1", 3),
    "distinct_2": ("distinct-2", 3),
    "distinct_3": ("distinct-3", 3),
    "copied": ("copied", 3),
}
PAGE_ONLY = ("distinct_1", "distinct_2", "distinct_3", "copied")  # the terminal has no room
MAX_WIDTH = 1000  # characters, more than any table takes
TESTED = ("nfe_per_target", "seconds", "self_perplexity", "entropy", "judge_perplexity")
QUALITY = ("self_perplexity", "entropy", "judge_perplexity")
TESTS = ("independent_t", "paired_t", "wilcoxon", "mann_whitney")
TEST_HEADINGS = ("independent t", "paired t", "Wilcoxon", "Mann-Whitney")
NOTE = (
    "Mean ± standard error over trials. NFE: network calls. Self-PPL: exp of the mean exact joint "
    "-log p of a filled token under the model itself. Entropy: of a text's token frequencies, bits."
)
PAGE_NOTE = (
    "Distinct-n: different n-grams of a text's tokens over all its n-grams. Copied: fraction of "
    "the filled tokens that are in the prompt too."
)
TEST_NOTE = "P-values of each method against sequential: small where they differ."


def title(records: Sequence[Record], config: DecodingConfig) -> str:
    """Return the title of a study: models, data and numbers of trials and blanks."""
    blank = f"{records[0]['num_targets']} of {config.length} tokens blank" if records else ""
    items = len({record["item"] for record in records})
    models = ", ".join(short_names(model_names(config)).values())
    return f"{models} on {PurePath(config.dataset).name}: {items} trials, {blank}"


def add_scores(
    records: Iterable[Record], scores: Iterable[Record], scorer: judge.Judge
) -> list[Record]:
    """Add the judge's scores to the records, where there are any."""
    found = {judge.key(score): score for score in scores}
    measures = ("judge", "judge_perplexity", "judge_entropy")
    joined = ((record, found.get(scorer.key_of(record["text"]), {})) for record in records)
    return [{**r, **{name: score[name] for name in measures if score}} for r, score in joined]


def summarise(records: Iterable[Record]) -> Summary:
    """Compute means, errors and tests of each variant; partial runs give partial summaries.

    A variant is compared with the sequential sampler of its model on the trials that both have.
    """
    by_variant: dict[Variant, dict[int, Record]] = {}
    for record in records:
        item, variant = key(record)
        by_variant.setdefault(variant, {})[item] = record
    references = {
        variant: by_variant.get(Variant(variant.model, REFERENCE), {}) for variant in by_variant
    }
    called = names(by_variant)
    tests = [
        {"variant": called[variant], "measure": measure, **result}
        for variant, found in by_variant.items()
        if variant.method != REFERENCE
        for measure, result in _tests(found, references[variant]).items()
    ]
    rows = [
        {"name": called[variant], **_row(variant, found, references[variant])}
        for variant, found in by_variant.items()
    ]
    return {
        "num_trials": max((len(found) for found in by_variant.values()), default=0),
        "variants": rows,
        "tests_against_sequential": tests,
    }


def _row(variant: Variant, found: dict[int, Record], reference: dict[int, Record]) -> Summary:
    first = next(iter(found.values()))
    row: Summary = {**variant.settings, "k": first["k"]}
    row |= {"lossless": first["lossless"], "trials": len(found)}
    for measure in MEASURES:
        values = _values(found.values(), measure)
        row[measure] = asdict(estimate(values)) if values else None
    theirs, ours = _pairs(reference, found, "seconds")
    row["speedup"] = asdict(ratio_of_means(theirs, ours)) if ours else None
    return row


def _tests(found: dict[int, Record], reference: dict[int, Record]) -> Summary:
    pairs = {measure: _pairs(found, reference, measure) for measure in TESTED}
    return {measure: asdict(compare(*pair)) for measure, pair in pairs.items() if pair[0]}


def _pairs(
    ours: dict[int, Record], theirs: dict[int, Record], measure: str
) -> tuple[list[float], list[float]]:
    """Return the values of both on the trials that both have."""
    value = MEASURES[measure]
    items = [item for item in sorted(ours) if item in theirs]
    items = [i for i in items if value(ours[i]) is not None and value(theirs[i]) is not None]
    return _values((ours[i] for i in items), measure), _values((theirs[i] for i in items), measure)


def _values(records: Iterable[Record], measure: str) -> list[float]:
    values = (MEASURES[measure](record) for record in records)
    return [value for value in values if value is not None]


def markdown(summary: Summary, title: str) -> str:
    """Write both tables and the figures as a Markdown page."""
    tests = [
        [test["variant"], COLUMNS[test["measure"]][0], *(_p_value(test[name]) for name in TESTS)]
        for test in summary["tests_against_sequential"]
    ]
    return page(
        title,
        [NOTE, PAGE_NOTE],
        variants_table(summary["variants"]).markdown,
        "![quality against network calls](quality.png)",
        "![histograms](histograms.png)",
        "## Against sequential",
        TEST_NOTE,
        markdown_table(["method", "measure", *TEST_HEADINGS], tests),
    )


def variants_table(
    variants: Sequence[Summary],
    *,
    is_page: bool = True,
    before: Sequence[str] = (),
    values: Iterable[Sequence[str]] | None = None,
    shows_k: bool = True,
) -> Table:
    """Make the table of some variants, a row each.

    Args:
        variants: the variants of a summary.
        is_page: whether all measures are shown, for which the terminal has no room.
        before: the headings of further columns, which come first.
        values: the contents of these columns, for each row.
        shows_k: whether k has a column.
    """
    columns = {m: about for m, about in COLUMNS.items() if is_page or m not in PAGE_ONLY}
    heads = [*before, "method", *["k"] * shows_k]
    first = values or [()] * len(variants)
    rows = [
        Row(
            [*given, row["name"], *["" if row["k"] is None else str(row["k"])] * shows_k],
            row,
            ["yes" if row["lossless"] else "no"],
        )
        for given, row in zip(first, variants, strict=True)
    ]
    return result_table(heads, known(columns, variants), rows, ["lossless"])


def show(summary: Summary, title: str, console: Console) -> None:
    """Print the main table, and the tests of the lossless samplers' quality, in the terminal."""
    table = _main_table(summary, title, wide=True)
    needs = console.measure(table, options=console.options.update(max_width=MAX_WIDTH)).maximum
    console.print(table if needs <= console.width else _main_table(summary, title, wide=False))
    lossless = {row["name"] for row in summary["variants"] if row["lossless"]}
    tests = terminal_table("Against sequential", f"{TEST_NOTE} All tests are in report.md.")
    for heading in ("method", "measure", *TEST_HEADINGS):
        tests.add_column(heading)
    for test in summary["tests_against_sequential"]:
        if test["variant"] in lossless and test["measure"] in QUALITY:
            p_values = [_p_value(test[name]) for name in TESTS]
            tests.add_row(test["variant"], COLUMNS[test["measure"]][0], *p_values)
    if tests.row_count:
        console.print(tests)


def _main_table(summary: Summary, title: str, *, wide: bool) -> terminal.Table:
    """Make the table; where it is not wide, errors are below means, and models below methods."""
    table = terminal_table(title, NOTE)
    table.padding = (0, int(wide), 0, 0)
    head, rows = variants_table(summary["variants"], is_page=False)
    table.add_column("method", no_wrap=True)
    table.add_column("k", justify="right")
    for heading in head[2:-1]:
        if not wide:
            heading = heading.replace("/", "/\n").replace("-", "-\n").replace(" ", "\n")
        table.add_column(heading, justify="right")
    table.add_column("lossless" if wide else "loss-\nless")
    for cells, row in zip(rows, summary["variants"], strict=True):
        if not wide:
            cells = [cell.replace(" ± ", "\n±").replace(", ", "\n") for cell in cells]
        table.add_row(*cells, style="" if row["lossless"] else "dim")
    return table


def _p_value(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
