"""HellaSwag: the ending that a model gives the highest probability, by accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from asarm.evaluation.prose.blanks import MARK
from asarm.evaluation.prose.cells import (
    Cell,
    Network,
    Networks,
    Variant,
    check_config,
    other_name,
    run_cells,
    short_name,
    title_of,
    trials,
)
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.formats import Question
from asarm.evaluation.prose.results import (
    Example,
    Measure,
    ProseResult,
    ResultTable,
    Row,
    Score,
    first_item,
    row_of,
)
from asarm.evaluation.study import timed
from asarm.infilling import score
from asarm.rows import Backbone
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
class Endings:
    """The evaluation of questions: a `cells.Task`."""

    questions: Sequence[Question]
    config: InfillProseConfig
    name: str = "HellaSwag"

    @property
    def num_items(self) -> int:
        return len(self.questions)

    @cached_property
    def cells(self) -> list[Cell]:
        return trials(PROTOCOL, variants(self.config), 1)

    def compute(self, cell: Cell, items: Sequence[int], networks: Networks) -> list[Record]:
        network = networks.pick(cell.variant)
        return [answer(network, self.questions[item]) for item in items]

    def result(self, records: Sequence[Record]) -> ProseResult:
        rows = [
            row_of(f"{variant.name}, {rule}", own, _measures(field))
            for variant in variants(self.config)
            if (own := [self._chosen(r) for r in records if r["variant"] == variant.name])
            for rule, field in RULES.items()
        ]
        table = ResultTable("the ending that follows", ("accuracy",), [*rows, self._chance()])
        title = title_of(self.config, self.name, f"{self.num_items} questions")
        return ProseResult(title, NOTE, [table], [self._example(records)], records)

    def _example(self, records: Sequence[Record]) -> Example:
        first = first_item(records)
        question = self.questions[first]
        own = {r["variant"]: self._chosen(r) for r in records if r["item"] == first}
        chosen = [
            (f"{variant.name}, {rule}", question.endings[own[variant.name][field]])
            for variant in variants(self.config)
            if variant.name in own
            for rule, field in RULES.items()
        ]
        right = question.endings[question.label]
        return Example(PROTOCOL, question.context + " ", "", right, chosen)

    def _chosen(self, record: Record) -> Record:
        """The line with what each rule chooses, which lines of earlier versions lack."""
        question = self.questions[record["item"]]
        return record | choices(question, record["log_probs"], record["num_tokens"])

    def _chance(self) -> Row:
        shares = [100 / len(question.endings) for question in self.questions]
        return Row("chance", self.num_items, 0, {"accuracy": Score(sum(shares) / len(shares))})


def choose_endings(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    config: InfillProseConfig | None = None,
    *,
    off_the_shelf: Network | None = None,
) -> ProseResult:
    """Choose the ending of each question by its log-probability, and by that per token and so on.

    Arguments are those of `fill_stories`. Nothing is drawn: there is one trial.
    """
    config = config or InfillProseConfig()
    check_config(config)
    task = Endings(questions, config)
    networks = Networks(Network(model, tokenizer), off_the_shelf)
    return task.result(list(run_cells(task, networks, config)))


def variants(config: InfillProseConfig) -> list[Variant]:
    """Which models score; a row of the table for each rule."""
    other = Variant(other_name(config), "score", length=None, off_the_shelf=True)
    ours = Variant(short_name(config.model), "score", length=None)
    return [ours, *([other] if config.off_the_shelf else [])]


def answer(network: Network, question: Question) -> Record:
    """Log-probabilities of a question's endings, and what they choose."""
    scores, seconds = timed(
        lambda: score(
            network.model,
            network.tokenizer,
            f"{question.context} {MARK}",
            question.endings,
            blank=MARK,
            batch_size=len(question.endings),
        ),
        network.model.device,
    )
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
    """The number of the ending that each of `RULES` chooses, by the name of its field."""
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
