"""LAMBADA: the last word of a passage, by exact match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from asarm.evaluation.prose.blanks import Blank, fill_blanks
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.evaluation import ProseEvaluation, other_name
from asarm.evaluation.prose.formats import Passage
from asarm.evaluation.prose.results import (
    COSTS,
    Example,
    ProseResult,
    ResultTable,
    first_item,
    predictions,
    rows_of,
)
from asarm.evaluation.variants import (
    LENGTHS,
    OTHER,
    OURS,
    Cell,
    Variant,
    cells_of,
    parallel_variants,
    words,
)
from asarm.run import Record
from asarm.schedule import recorded_seed

PROTOCOL = "last word"
MAX_STEPS = 4  # a word has few tokens: with more steps "parallel" decodes one token per call
NOTE = (
    "Exact match: percentage of passages whose last word was filled in letter for letter; "
    "mean ± standard error over items, and over trials. Sampled (the published protocol) or "
    "greedy (the most probable token each time). Oracle length: as many tokens as the word; auto: "
    "the passage is taken for a whole document, for its end is all that tells the length. Costs "
    "are per word; NFE: network calls of the sampler."
)


@dataclass(frozen=True)
class LastWords(ProseEvaluation):
    """The evaluation of passages, whose last words are filled in, sampled and greedily.

    Nothing follows the blank, so the model restricted to left context is the model itself, and no
    row of its own.
    """

    items: Sequence[Passage]
    name: str = "LAMBADA"

    @cached_property
    def cells(self) -> list[Cell]:
        return cells_of(variants_of(self.config), self.config.num_trials, PROTOCOL)

    def answers(self, items: Sequence[int], cell: Cell) -> list[Record]:
        found = [self.items[item] for item in items]
        blanks = [Blank(passage.context + " ", passage.last_word) for passage in found]
        seeds = [recorded_seed(self.config.seed, "word", cell.trial, item) for item in items]
        records = fill_blanks(self.networks, blanks, cell.variant, self.config, seeds)
        return [
            {
                **record,
                "reference": passage.last_word,
                "correct": record["prediction"].strip() == passage.last_word,
            }
            for record, passage in zip(records, found, strict=True)
        ]

    def result(self, records: Sequence[Record]) -> ProseResult:
        measures = {"exact_match": lambda record: 100.0 * record["correct"], **COSTS}
        rows = rows_of(records, self.names, measures)
        table = ResultTable("the last word of the passage", ("exact_match",), rows)
        item = first_item(records)
        passage, found = self.items[item], predictions(records, self.names, item)
        example = Example(PROTOCOL, passage.context + " ", "", passage.last_word, found)
        return ProseResult(self.title("passages"), NOTE, [table], [example], records)


def variants_of(config: InfillProseConfig) -> list[Variant]:
    """Return the rows of the table."""
    networks = [(OURS, length) for length in words("length", config, LENGTHS)]
    networks += [(OTHER, "oracle")] if config.off_the_shelf else []
    filled = [
        Variant(
            model,
            config.method,
            length=length,
            greedy=how == "greedy",
            title=f"{other_name(config)}, " * (model == OTHER) + f"{how}, {length} length",
        )
        for model, length in networks
        for how in ("sampled", "greedy")
    ]
    parallel = [
        replace(variant, title=f"{variant.name}, sampled, oracle length")
        for variant in parallel_variants(config)
        if variant.steps and variant.steps <= MAX_STEPS
    ]
    return [*filled, *parallel]
