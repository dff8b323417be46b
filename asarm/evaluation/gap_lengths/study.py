"""Gaps of known length in held-out text, and what each estimator takes their length to be.

Shapes: M lengths in question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.codec import Codec
from asarm.corpus import KINDS, Kind, held_out_documents
from asarm.display.tables import plus_minus
from asarm.evaluation.gap_lengths.config import GapLengthsConfig
from asarm.evaluation.items import Share
from asarm.fingerprint import of_items, of_model
from asarm.infilling import infill
from asarm.infilling.length import (
    POWERS,
    Evidence,
    direct_evidence,
    importance_evidence,
    posterior,
)
from asarm.infilling.prior import MAX_UNITS, length_prior
from asarm.infilling.template import Template
from asarm.metrics.statistics import estimate
from asarm.rows import Backbone
from asarm.run import Record
from asarm.schedule import keyed_generator, keyed_seed

LEFT, RIGHT = 400, 200  # characters of text around a gap
ESTIMATORS = ("direct", "importance", "per token", "constant")
TRIED = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)  # powers of the evidence
HEAD = ("kind", "estimator", "first", "within 1", "mean error", "rows", "log p(true)")


@dataclass(frozen=True)
class Gap:
    """Some words of a text, and what stands before and after them."""

    kind: Kind
    before: str
    words: str
    after: str


@dataclass(frozen=True)
class Question:
    """A gap as the estimators see it, and its true length in tokens."""

    kind: Kind
    item: int
    words: str
    template: Template
    true: int

    @property
    def key(self) -> tuple[str, int]:
        return self.kind, self.item


def gaps(kind: Kind, count: int, seed: int) -> list[Gap]:
    """1 to 8 words each (between blanks), anywhere in the held-out documents of a kind."""
    documents = [
        d.text for d in held_out_documents(kind) if len(d.text.split()) > 2 * MAX_UNITS["words"]
    ]
    generator = keyed_generator(seed, "gaps", kind)

    def any_of(number: int) -> int:
        return int(torch.randint(number, (), generator=generator))

    found: list[Gap] = []
    while len(found) < count:
        text = documents[any_of(len(documents))]
        start, num_words = any_of(len(text)), 1 + any_of(MAX_UNITS["words"])
        start = text.find(" ", start) + 1
        end = start
        for _ in range(num_words):
            end = min((e for e in (text.find(s, end + 1) for s in " \n") if e > 0), default=0)
        words = text[start:end]
        if start and words.strip() and not words[0].isspace():
            found.append(Gap(kind, text[:start][-LEFT:], words, text[end:][:RIGHT]))
    return found


def check(config: GapLengthsConfig) -> None:
    """Refuse settings that cannot be served, before anything is loaded.

    Raises:
        ValueError: a number outside its range.
    """
    for name in ("max_items", "longest", "num_fills"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least 1")


def fingerprints(
    model: Backbone, tokenizer: PreTrainedTokenizerBase, config: GapLengthsConfig
) -> dict[str, str]:
    """What the guesses depend on, by content."""
    texts = [document.text for kind in KINDS for document in held_out_documents(kind)]
    return {f"model {config.model}": of_model(model, tokenizer), "held-out text": of_items(texts)}


def guess_lengths(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    config: GapLengthsConfig,
    *,
    done: Collection[tuple[str, int]] = (),
    share: Share | None = None,
) -> Iterator[Record]:
    """The true length of each gap, and what each estimator says: a record for each gap.

    "per token" takes the length whose best filling has the highest mean log-probability per token,
    "constant" the prior's mean.
    """
    log_prior = length_prior(tokenizer, 1, config.longest).log()
    for asked in (share or Share()).of(questions(tokenizer, config)):
        if asked.key in done:
            continue
        seed = keyed_seed(config.seed, "fills", *asked.key)
        yield {
            "kind": asked.kind,
            "item": asked.item,
            "true": asked.true,
            "words": asked.words,
            "guesses": _guesses(model, asked.template, log_prior, asked.true, config, seed),
        }


def questions(tokenizer: PreTrainedTokenizerBase, config: GapLengthsConfig) -> list[Question]:
    """The gaps of at most `config.longest` tokens."""
    codec, found = Codec(tokenizer, whitespace_map=config.whitespace_map), []
    for kind in KINDS:
        for item, gap in enumerate(gaps(kind, config.max_items, config.seed)):
            template = Template.of(codec, [gap.before, gap.after])
            (pieces,), ((_, end),) = template.encode_fills([gap.words]), template.edges()
            true = len(pieces) - end.num_extra
            if 1 <= true <= config.longest:
                found.append(Question(kind, item, gap.words, template, true))
    return found


def _guesses(
    model: Backbone,
    template: Template,
    log_prior: Tensor,
    true: int,
    config: GapLengthsConfig,
    seed: int,
) -> dict[str, Record]:
    lengths = torch.arange(1, config.longest + 1)[:, None]
    fills = config.num_fills
    evidence: dict[str, Evidence] = {
        "direct": direct_evidence(model, template, lengths),
        "importance": importance_evidence(model, template, lengths, num_fills=fills, seed=seed),
    }
    found = {}
    for name, (log_probs, rows) in evidence.items():
        log_posterior = posterior(log_prior, log_probs, POWERS[name])
        found[name] = {
            "guess": 1 + int(log_posterior.argmax()),
            "rows": rows,
            "log_prob": float(log_posterior[true - 1]),
            "by_power": [float(posterior(log_prior, log_probs, p)[true - 1]) for p in TRIED],
        }
    found["per token"] = _by_mean(model, template, config, seed)
    mean = int((lengths[:, 0] * log_prior.exp()).sum().round())
    found["constant"] = {"guess": mean, "rows": 0, "log_prob": float(log_prior[true - 1])}
    return found


def _by_mean(model: Backbone, template: Template, config: GapLengthsConfig, seed: int) -> Record:
    """The length whose best filling has the highest mean log-probability per token."""
    text = "\0".join(template.texts)
    drawn = infill(
        model,
        template.codec.tokenizer,
        [text] * config.longest,
        blank="\0",
        length=list(range(1, config.longest + 1)),
        num_samples=config.num_fills,
        seed=seed,
        closed=False,
        whitespace_map=config.whitespace_map,
    )
    candidates = [c for infilling in drawn for c in infilling.candidates]
    best = max(candidates, key=lambda candidate: candidate.per_token)
    return {"guess": best.fills[0].length, "rows": sum(c.rows for c in candidates)}


def summarise(records: Sequence[Record]) -> list[Record]:
    """For each kind of text and estimator: shares, mean error and cost, with standard errors."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        for name in ESTIMATORS:
            groups[record["kind"], name].append({"true": record["true"], **record["guesses"][name]})
    measures: dict[str, Callable[[Record], float]] = {
        "first": lambda r: r["guess"] == r["true"],
        "within 1": lambda r: abs(r["guess"] - r["true"]) <= 1,
        "mean error": lambda r: abs(r["guess"] - r["true"]),
        "rows": lambda r: r["rows"],
    }
    rows = []
    for (kind, name), found in groups.items():
        row = {"kind": kind, "estimator": name, "items": len(found)}
        row |= {m: asdict(estimate([float(of(r)) for r in found])) for m, of in measures.items()}
        likelihoods = [r["log_prob"] for r in found if "log_prob" in r]
        row["log p(true)"] = asdict(estimate(likelihoods)) if likelihoods else None
        rows.append(row)
    return rows


def best_powers(records: Sequence[Record]) -> dict[str, float]:
    """The power of each estimator's evidence with which the true lengths are most probable."""
    sums = {
        name: torch.tensor([r["guesses"][name]["by_power"] for r in records]).mean(0)
        for name in POWERS
    }
    return {name: TRIED[int(means.argmax())] for name, means in sums.items()}


def table_rows(summary: Sequence[Record]) -> list[list[str]]:
    """The cells of the table, below `HEAD`."""
    decimals = {"first": 3, "within 1": 3, "mean error": 2, "rows": 0, "log p(true)": 2}
    return [
        [row["kind"], row["estimator"], *(plus_minus(row[m], d) for m, d in decimals.items())]
        for row in summary
    ]
