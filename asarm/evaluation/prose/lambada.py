"""LAMBADA: the last word of a passage, by exact match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from asarm.evaluation.prose.blanks import Blank, fill_blanks
from asarm.evaluation.prose.cells import (
    LENGTHS,
    Cell,
    Network,
    Networks,
    Variant,
    check_config,
    choice,
    other_name,
    run_cells,
    title_of,
    trials,
)
from asarm.evaluation.prose.config import InfillProseConfig
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
from asarm.rows import Backbone
from asarm.run import Record
from asarm.schedule import recorded_seed

PROTOCOL = "last word"
MOST_STEPS = 4  # a word has few tokens: with more steps "parallel" is the sequential sampler
NOTE = (
    "Exact match: share of passages, x 100, whose last word was filled in letter for letter; "
    "mean ± standard error over items, and over trials. Sampled (the published protocol) or "
    "greedy (the most probable token each time). Oracle length: as many tokens as the word; auto: "
    "the passage is taken for a whole document, for its end is all that tells the length. Costs "
    "are per word; NFE: network calls of the sampler."
)


@dataclass(frozen=True)
class LastWords:
    """The evaluation of passages: a `cells.Task`."""

    passages: Sequence[Passage]
    config: InfillProseConfig
    name: str = "LAMBADA"

    @property
    def num_items(self) -> int:
        return len(self.passages)

    @cached_property
    def cells(self) -> list[Cell]:
        return trials(PROTOCOL, variants(self.config), self.config.num_trials)

    def compute(self, cell: Cell, items: Sequence[int], networks: Networks) -> list[Record]:
        found = [self.passages[item] for item in items]
        blanks = [Blank(passage.context + " ", passage.last_word) for passage in found]
        seeds = [recorded_seed(self.config.seed, "word", cell.trial, item) for item in items]
        records = fill_blanks(networks, blanks, cell.variant, self.config, seeds)
        return [
            {
                **record,
                "reference": passage.last_word,
                "correct": record["prediction"].strip() == passage.last_word,
            }
            for record, passage in zip(records, found, strict=True)
        ]

    def result(self, records: Sequence[Record]) -> ProseResult:
        names = list(dict.fromkeys(cell.variant.name for cell in self.cells))
        measures = {"exact_match": lambda record: 100.0 * record["correct"], **COSTS}
        rows = rows_of(records, names, measures)
        table = ResultTable("the last word of the passage", ("exact_match",), rows)
        item = first_item(records)
        passage, found = self.passages[item], predictions(records, names, item)
        example = Example(PROTOCOL, passage.context + " ", "", passage.last_word, found)
        title = title_of(self.config, self.name, f"{self.num_items} passages", trials=True)
        return ProseResult(title, NOTE, [table], [example], records)


def complete_passages(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    passages: Sequence[Passage],
    config: InfillProseConfig | None = None,
    *,
    off_the_shelf: Network | None = None,
) -> ProseResult:
    """Fill in the last word of passages, sampled and greedily, and count exact matches.

    Arguments are those of `fill_stories`. Nothing follows the blank, so the model restricted to
    left context is the model itself, and no row of its own.
    """
    config = config or InfillProseConfig()
    check_config(config)
    task = LastWords(passages, config)
    networks = Networks(Network(model, tokenizer), off_the_shelf)
    return task.result(list(run_cells(task, networks, config)))


def variants(config: InfillProseConfig) -> list[Variant]:
    """The rows of the table."""
    ours = [
        Variant(f"{how}, {length} length", config.method, length=length, greedy=how == "greedy")
        for length in choice("length", config.length, LENGTHS)
        for how in ("sampled", "greedy")
    ]
    other = [
        Variant(
            f"{other_name(config)}, {how}, oracle length",
            config.method,
            off_the_shelf=True,
            greedy=greedy,
        )
        for how, greedy in (("sampled", False), ("greedy", True))
    ]
    parallel = [
        Variant(f"parallel {steps}, sampled, oracle length", "parallel", steps)
        for steps in dict.fromkeys(config.parallel_steps)
        if steps <= MOST_STEPS
    ]
    return [
        *ours,
        *(other if config.off_the_shelf else []),
        *(parallel if "parallel" in config.baselines else []),
    ]
