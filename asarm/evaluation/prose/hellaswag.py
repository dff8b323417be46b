"""HellaSwag: the ending that a model gives the highest probability, by accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from asarm.evaluation.engine import timed
from asarm.evaluation.prose.blanks import MARK
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.evaluation import Network, ProseEvaluation, other_name, short_name
from asarm.evaluation.prose.formats import Question
from asarm.evaluation.prose.results import (
    Example,
    Measure,
    ProseResult,
    ResultTable,
    Score,
    ScoreRow,
    first_item,
    row_of,
)
from asarm.evaluation.variants import OTHER, OURS, Action, Cell, Variant, cells_of
from asarm.infilling import score
from asarm.run import Record

PROTOCOL = "ending"
NOTE = (
    "Accuracy x 100, mean ± standard error over items. Joint: the ending with the highest log p of "
    "all its tokens given the context, and of nothing else; per token, byte and character: that "
    "divided by the number of its tokens, of its bytes in UTF-8 and of its characters. One network "
    "call (NFE) an item: its endings are a batch. Seconds are per item; log p/token is the right "
    "ending's."
)
RULES = {
    "joint log-probability": "choice",
    "log-probability per token": "choice_per_token",
    "log-probability per byte": "choice_per_byte",
    "log-probability per character": "choice_per_character",
}


@dataclass(frozen=True)
class Endings(ProseEvaluation):
    """The evaluation of questions; nothing is random, so there is one trial."""

    items: Sequence[Question]
    name: str = "HellaSwag"

    @cached_property
    def cells(self) -> list[Cell]:
        return cells_of(variants_of(self.config), 1, PROTOCOL)

    def answers(self, items: Sequence[int], cell: Cell) -> list[Record]:
        network = self.networks.pick(cell.variant)
        return [answer(network, self.items[item]) for item in items]

    def result(self, records: Sequence[Record]) -> ProseResult:
        rows = [
            row_of(f"{variant.name}, {rule}", own, _measures(field))
            for variant in variants_of(self.config)
            if (own := [self._chosen(r) for r in records if r["variant"] == variant.name])
            for rule, field in RULES.items()
        ]
        table = ResultTable("the ending that follows", ("accuracy",), [*rows, self._chance()])
        return ProseResult(
            self.title("questions"), NOTE, [table], [self._example(records)], records
        )

    def _example(self, records: Sequence[Record]) -> Example:
        first = first_item(records)
        question = self.items[first]
        own = {r["variant"]: self._chosen(r) for r in records if r["item"] == first}
        chosen = [
            (f"{variant.name}, {rule}", question.endings[own[variant.name][field]])
            for variant in variants_of(self.config)
            if variant.name in own
            for rule, field in RULES.items()
        ]
        right = question.endings[question.label]
        return Example(PROTOCOL, question.context + " ", "", right, chosen)

    def _chosen(self, record: Record) -> Record:
        """Return the record with the choices, which records of earlier versions lack."""
        question = self.items[record["item"]]
        return record | choices(question, record["log_probs"], record["num_tokens"])

    def _chance(self) -> ScoreRow:
        rates = [100 / len(question.endings) for question in self.items]
        return ScoreRow("chance", len(self.items), 0, {"accuracy": Score(sum(rates) / len(rates))})


def variants_of(config: InfillProseConfig) -> list[Variant]:
    """Return the models that score; each has a row of the table for each rule."""
    ours = Variant(OURS, action=Action.SCORE, title=short_name(config.model))
    other = Variant(OTHER, action=Action.SCORE, title=other_name(config))
    return [ours, *([other] if config.off_the_shelf else [])]


def answer(network: Network, question: Question) -> Record:
    """Compute the log-probabilities of a question's endings, and the choice of each rule."""
    text, endings = f"{question.context} {MARK}", question.endings
    options: dict[str, Any] = {"blank": MARK, "batch_size": len(endings)}
    call = partial(score, network.model, network.tokenizer, text, endings, **options)
    scores, seconds = timed(call, network.model.device)
    log_probs = [found.log_prob for found in scores]
    num_tokens = [found.num_tokens for found in scores]
    return {
        "label": question.label,
        **choices(question, log_probs, num_tokens),
        "log_probs": log_probs,
        "num_tokens": num_tokens,
        "seconds": seconds,
    }


def choices(
    question: Question, log_probs: Sequence[float], num_tokens: Sequence[int]
) -> dict[str, int]:
    """Return the number of the ending that each of `RULES` chooses, by the name of its field."""
    sizes: list[Sequence[int]] = [
        [1] * len(log_probs),
        num_tokens,
        [len(ending.encode()) for ending in question.endings],
        [len(ending) for ending in question.endings],
    ]
    return {
        field: int(np.argmax(np.divide(log_probs, size)))
        for field, size in zip(RULES.values(), sizes, strict=True)
    }


def _measures(field: str) -> dict[str, Measure]:
    return {
        "accuracy": lambda record: 100.0 * (record[field] == record["label"]),
        "nfe": lambda record: 1.0,
        "seconds": lambda record: record["seconds"],
        "log_prob_per_token": lambda record: (
            record["log_probs"][record["label"]] / record["num_tokens"][record["label"]]
        ),
    }
