"""Gaps of known length in held-out text, and the length that each estimator guesses.

Shapes: M lengths in question.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.codec import Codec
from asarm.corpus import KINDS, Kind, held_out_documents
from asarm.display.tables import show_table
from asarm.evaluation.engine import Evaluation
from asarm.evaluation.gap_lengths.config import GapLengthsConfig
from asarm.evaluation.tables import Row, Table, page, result_table
from asarm.evaluation.variants import OURS, Cell, Variant
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
from asarm.loading import load
from asarm.metrics.statistics import estimate
from asarm.rows import Backbone
from asarm.run import Record, Run
from asarm.schedule import keyed_generator, keyed_seed

LEFT, RIGHT = 400, 200  # characters of text around a gap
ESTIMATORS = ("direct", "importance", "per token", "constant")
TRIED = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0)  # powers of the evidence
NOTE = (
    "Of gaps of 1 to 8 words: how often the true length in tokens is the estimator's first, how "
    "often it is at most 1 off, the mean absolute error, rows pushed through the network a gap, "
    "and the mean log-probability of the true length. Mean ± standard error. Best powers of the "
    "evidence: {powers}."
)
DECIMALS = {"first": 3, "within 1": 3, "mean error": 2, "rows": 0, "log p(true)": 2}
COLUMNS = {measure: (measure, decimals) for measure, decimals in DECIMALS.items()}


@dataclass(frozen=True)
class Gap:
    """Some words of a text, and what is before and after them."""

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


def gaps(kind: Kind, count: int, seed: int) -> list[Gap]:
    """Draw gaps of 1 to 8 words (between blanks) in the held-out documents of a kind."""
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


@dataclass(frozen=True)
class GapLengths(Evaluation[list[Record]]):
    """The study of gap lengths: the true length of each gap, and each estimator's guess.

    "per token" takes the length whose best filling has the highest mean log-probability per token,
    "constant" the prior's mean.

    Attributes:
        config: the settings.
        model: any backbone.
        tokenizer: the model's tokenizer.
        fingerprints: hashes of the model and the text.
    """

    kind = "gap lengths"
    file = "gaps.jsonl"
    unit = "gap"
    leaves = "the table and all guesses"
    may_grow = ("max_items",)
    config: GapLengthsConfig
    model: Backbone
    tokenizer: PreTrainedTokenizerBase
    fingerprints: dict[str, str] | None = None

    @cached_property
    def batches(self) -> list[list[Question]]:
        return [[question] for question in questions(self.tokenizer, self.config)]

    @property
    def cells(self) -> list[Cell]:
        return [Cell(Variant(OURS))]

    @cached_property
    def log_prior(self) -> Tensor:
        """The logarithms of the prior's probabilities of 1, 2, ... tokens."""
        return length_prior(self.tokenizer, 1, self.config.longest).log()

    def key(self, record: Record) -> tuple[str, int]:
        return record["kind"], record["item"]

    def key_of(self, question: Question, cell: Cell) -> tuple[str, int]:
        return question.kind, question.item

    def compute(self, items: Sequence[Question], cell: Cell) -> list[Record]:
        return [
            {
                "kind": question.kind,
                "item": question.item,
                "true": question.true,
                "words": question.words,
                "guesses": _guesses(self.model, question, self.log_prior, self.config),
            }
            for question in items
        ]

    def finish(self, run: Run, records: Sequence[Record]) -> list[Record]:
        summary, title = summarise(records), f"Lengths of blanks: {self.config.model}"
        run.write("report.md", page(title, note(records), table(summary).markdown))
        run.write("summary.json", summary)
        return list(records)

    def show(self, records: list[Record], console: Console) -> None:
        title = f"Lengths of blanks: {self.config.model}"
        show_table(console, title, note(records), *table(summarise(records)))


def prepare(config: GapLengthsConfig) -> GapLengths:
    """Load all that the settings name.

    Raises:
        ValueError: a number is outside its range, or the model is not found.
    """
    for name in ("max_items", "longest", "num_fills"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least 1")
    model, tokenizer = load(
        config.model, revision=config.revision, device=config.device, dtype=config.dtype
    )
    texts = [document.text for kind in KINDS for document in held_out_documents(kind)]
    found = {f"model {config.model}": of_model(model, tokenizer), "held-out text": of_items(texts)}
    return GapLengths(config, model, tokenizer, found)


def questions(tokenizer: PreTrainedTokenizerBase, config: GapLengthsConfig) -> list[Question]:
    """Return the gaps of at most `config.longest` tokens."""
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
    model: Backbone, question: Question, log_prior: Tensor, config: GapLengthsConfig
) -> dict[str, Record]:
    template, true = question.template, question.true
    seed = keyed_seed(config.seed, "fills", question.kind, question.item)
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
    """Guess the length whose best filling has the highest mean log-probability per token."""
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
    """Compute rates, mean errors and costs of each kind of text and estimator."""
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
    """Return the power of each estimator's evidence that makes the true lengths most probable."""
    sums = {
        name: torch.tensor([r["guesses"][name]["by_power"] for r in records]).mean(0)
        for name in POWERS
    }
    return {name: TRIED[int(means.argmax())] for name, means in sums.items()}


def note(records: Sequence[Record]) -> str:
    """Return the definitions of the table's columns."""
    powers = ", ".join(f"{name} {power}" for name, power in best_powers(records).items())
    return NOTE.format(powers=powers)


def table(summary: Sequence[Record]) -> Table:
    """Make the table of the summary."""
    rows = [Row([row["kind"], row["estimator"]], row) for row in summary]
    return result_table(["kind", "estimator"], COLUMNS, rows)
