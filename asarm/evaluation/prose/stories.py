"""Stories of five sentences with some of them blanked out, scored by ROUGE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter

from asarm.evaluation.prose.blanks import Blank, fill_blanks
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.evaluation import PROTOCOLS, ProseEvaluation, other_name
from asarm.evaluation.prose.formats import Story
from asarm.evaluation.prose.results import (
    COSTS,
    Example,
    Measure,
    ProseResult,
    ResultTable,
    first_item,
    predictions,
    rows_of,
)
from asarm.evaluation.variants import OURS, Action, Cell, Variant, cells_of, filling_variants, words
from asarm.metrics.rouge import KINDS, LETTERS_NOTE, needs_any_letters, rouge
from asarm.run import Record
from asarm.schedule import recorded_seed

BLANKED = {"middle": (2, 3), "short_prompt": (1, 4)}  # the first sentence, and one after the last
TITLES = {
    "middle": "middle: the third sentence from the other four",
    "short_prompt": "short_prompt: three sentences from the first and the last",
}
MEASURES = (*KINDS, "rouge")
NOTE = (
    "ROUGE: F x 100, average of ROUGE-1, -2 and -L next to them; mean ± standard error over items, "
    "and of the average over trials. Oracle length: as many tokens as the reference. Costs are per "
    "blank; NFE: network calls of the sampler; rows and seconds include finding the length. "
    "log p/token: of the filling, by the model that made it."
)


@dataclass(frozen=True)
class Stories(ProseEvaluation):
    """The evaluation of stories, of which some sentences are blank.

    Attributes:
        any_letters: whether ROUGE counts words of any script; if None, where the stories need it.
    """

    items: Sequence[Story]
    name: str = "stories"
    any_letters: bool | None = None

    @cached_property
    def has_any_letters(self) -> bool:
        """Whether words of any script count, and not only those that rouge-score knows."""
        if self.any_letters is None:
            return needs_any_letters(text for story in self.items for text in story.sentences)
        return self.any_letters

    @cached_property
    def cells(self) -> list[Cell]:
        found, num_trials = variants_of(self.config), self.config.num_trials
        protocols = words("protocol", self.config, PROTOCOLS)
        return [cell for protocol in protocols for cell in cells_of(found, num_trials, protocol)]

    def answers(self, items: Sequence[int], cell: Cell) -> list[Record]:
        blanks = [blank_of(self.items[item], cell.protocol) for item in items]
        if cell.variant.action is Action.COPY:
            records = [copied(self.items[item], cell.protocol) for item in items]
        else:
            key = self.config.seed, "fill", cell.protocol, cell.trial
            seeds = [recorded_seed(*key, item) for item in items]
            records = fill_blanks(self.networks, blanks, cell.variant, self.config, seeds)
        scores = [
            rouge(record["prediction"], blank.reference, any_letters=self.has_any_letters)
            for record, blank in zip(records, blanks, strict=True)
        ]
        return [
            {**record, "reference": blank.reference, **found}
            for record, blank, found in zip(records, blanks, scores, strict=True)
        ]

    def result(self, records: Sequence[Record]) -> ProseResult:
        measures: dict[str, Measure] = {**{m: itemgetter(m) for m in MEASURES}, **COSTS}
        tables, examples = [], []
        for protocol in dict.fromkeys(cell.protocol for cell in self.cells):
            own = [record for record in records if record["protocol"] == protocol]
            rows = rows_of(own, self.names, measures)
            tables.append(ResultTable(TITLES[protocol], MEASURES, rows))
            item = first_item(own)
            blank, found = blank_of(self.items[item], protocol), predictions(own, self.names, item)
            examples.append(
                Example(TITLES[protocol], blank.before, blank.after, blank.reference, found)
            )
        note = f"{NOTE} {LETTERS_NOTE}" if self.has_any_letters else NOTE
        return ProseResult(self.title("stories"), note, tables, examples, records)


def variants_of(config: InfillProseConfig) -> list[Variant]:
    """Return the rows of the tables."""
    copy = Variant(OURS, action=Action.COPY, title="longest sentence copied")
    found = filling_variants(config, other=other_name(config), left="left context")
    return [*found, *([copy] if "copy" in config.baselines else [])]


def blank_of(story: Story, protocol: str) -> Blank:
    """Blank out some consecutive sentences of a story."""
    first, end = BLANKED[protocol]
    before, reference, after = (
        " ".join(part)
        for part in (story.sentences[:first], story.sentences[first:end], story.sentences[end:])
    )
    return Blank(before + " ", reference, " " + after, end - first)


def copied(story: Story, protocol: str) -> Record:
    """Return the longest sentence (in characters) that a model would see, as the filling."""
    first, end = BLANKED[protocol]
    prompt = [*story.sentences[:first], *story.sentences[end:]]
    return {
        "seed": None,
        "prediction": max(prompt, key=len),
        **dict.fromkeys(("num_tokens", "oracle_tokens", "log_prob", "length_log_prob")),
        **dict.fromkeys(("nfe", "rows"), 0),
        "seconds": 0.0,
    }
