"""The figures of the paper next to those of a run; they are quoted, and were not run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from asarm.display.tables import markdown_table, plus_minus

Settings = Mapping[str, Any]
Summary = Mapping[str, Any]
DECODING, ABLATION, PROSE, CODE = "decoding", "ablation", "prose", "code"
SOURCE = "arXiv 2504.20456"
SETTINGS = {  # under which the published figures were found
    DECODING: "WikiText-2, 640 sequences of 512 tokens, 486 of them blank, k = 5, the fine-tuned "
    "model of 110M parameters, GPT-2-large as the judge",
    PROSE: "ROCStories, 1,871 stories x 5 trials, oracle length",
    CODE: "HumanEval infilling, single-line, oracle length, k = 10, one sample at temperature 1",
}
SHOWN = ("model", "revision", "dataset", "num_trials", "length", "k", "judge", "off_the_shelf")
PER_METHOD = {  # of a decoding study: heading, published by method, decimals of ours
    "judge_perplexity": (
        "judge PPL",
        {"sequential": "107.9 ± 1.6", "assd": "107.6 ± 1.6", "ngram": "111.7"},
        1,
    ),
    "judge_entropy": ("judge entropy", {"sequential": "7.65", "assd": "7.64", "ngram": "7.64"}, 2),
    "nfe_per_target": (
        "NFE/target",
        {"sequential": "1.000 (486.0 / 486)", "assd": "0.893 (434.1)", "ngram": "0.868 (422.0)"},
        3,
    ),
    "tokens_per_round": ("tokens/round", {"assd": "2.24"}, 2),
    "seconds": ("seconds", {"sequential": "18.21", "assd": "16.50", "ngram": "16.80"}, 2),
}


class Figure(NamedTuple):
    """A published figure, and what the run has in its place (None: nothing)."""

    what: str
    published: str
    ours: str | None


def kind_of(settings: Settings) -> str | None:
    """Return which evaluation made a run of an earlier version, which does not say it.

    Each is known by a setting that only it has; None for any other run.
    """
    if "prompt_share" in settings:
        return ABLATION if settings.get("grid") else DECODING
    return PROSE if "protocol" in settings else CODE if "execute" in settings else None


def beside_ours(settings: Settings, summary: Summary, kind: str | None = None) -> list[str]:
    """Return the published figures of a run's kind next to the run's own, as Markdown.

    There are none for other kinds, for other prose than stories, and for other programs than single
    lines.
    """
    kind = kind or kind_of(settings)
    if kind not in SETTINGS:
        return []
    if kind == PROSE and not any(_is_stories(table) for table in summary.get("tables", [])):
        return []
    if kind == CODE and "single" not in str(settings.get("dataset")).lower():
        return []
    find = {DECODING: _decoding, PROSE: _prose, CODE: _code}[kind]
    given = [f"{name} = {settings[name]}" for name in SHOWN if settings.get(name) is not None]
    rows = [[what, published, ours or "-"] for what, published, ours in find(summary)]
    return [
        f"Published ({SOURCE}), not run here: {SETTINGS[kind]}.",
        f"This run: {', '.join(given)}. They compare where the settings are the same.",
        "",
        *markdown_table(["", "published, not run", "this run"], rows),
    ]


def _decoding(summary: Summary) -> list[Figure]:
    variants: Sequence[Summary] = summary.get("variants", [])
    own = [row for row in variants if row["model"] == variants[0]["model"]]
    by_method = {row["method"]: row for row in own}
    return [
        Figure(
            f"{method}: {heading}",
            published,
            _estimate(by_method.get(method, {}).get(measure), decimals),
        )
        for measure, (heading, by, decimals) in PER_METHOD.items()
        for method, published in by.items()
    ]


def _prose(summary: Summary) -> list[Figure]:
    tables: Sequence[Summary] = summary.get("tables", [])
    rows = [table["rows"][0] for table in tables if _is_stories(table) and table["rows"]]
    ours = _estimate(rows[0]["scores"].get("rouge1"), 1) if rows else None
    return [
        Figure("three sentences of five: ROUGE-1", "18.0", ours),
        Figure("the same, DiffuGPT-S", "16.4", None),
    ]


def _is_stories(table: Summary) -> bool:
    """Return whether a table has the protocol of the published figure."""
    return bool(table["title"].startswith("short_prompt"))


def _code(summary: Summary) -> list[Figure]:
    rates = [r for row in summary.get("variants", [])[:1] for r in row["rates"] if r["k"] == 1]
    ours = f"{100 * rates[0]['all']['mean']:.2f}" if rates and rates[0]["all"] else None
    return [
        Figure("single-line: pass@1, %", "38.59", ours),
        Figure("the same, DiffuLLaMA of 7B parameters", "40.68", None),
    ]


def _estimate(found: Summary | None, decimals: int) -> str | None:
    return plus_minus(found, decimals) if found else None
