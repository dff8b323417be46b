"""Stories of five sentences with some of them blanked out, scored by ROUGE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from asarm.evaluation.prose.blanks import Blank, fill_blanks
from asarm.evaluation.prose.cells import (
    LENGTHS,
    PROTOCOLS,
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
from asarm.evaluation.prose.formats import Story
from asarm.evaluation.prose.results import (
    COSTS,
    Example,
    ProseResult,
    ResultTable,
    first_item,
    predictions,
    rows_of,
)
from asarm.metrics.rouge import KINDS, LETTERS_NOTE, needs_any_letters, rouge
from asarm.rows import Backbone
from asarm.run import Record
from asarm.schedule import recorded_seed

BLANKED = {"middle": (2, 3), "short_prompt": (1, 4)}  # the first sentence, and one behind the last
TITLES = {
    "middle": "middle: the third sentence from the other four",
    "short_prompt": "short_prompt: three sentences from the first and the last",
}
MEASURES = (*KINDS, "rouge")
NOTE = (
    "ROUGE: F x 100, average of ROUGE-1, -2 and -L beside them; mean ± standard error over items, "
    "and of the average over trials. Oracle length: as many tokens as the reference. Costs are per "
    "blank; NFE: network calls of the sampler; rows and seconds include finding the length. "
    "log p/token: of the filling, by the model that made it."
)


@dataclass(frozen=True)
class Stories:
    """The evaluation of stories: a `cells.Task`."""

    stories: Sequence[Story]
    config: InfillProseConfig
    name: str = "stories"
    any_letters: bool | None = None  # of ROUGE's words; as the stories need it if None

    @property
    def num_items(self) -> int:
        return len(self.stories)

    @cached_property
    def has_any_letters(self) -> bool:
        """Whether words are those of any script, and not rouge-score's own."""
        if self.any_letters is None:
            return needs_any_letters(text for story in self.stories for text in story.sentences)
        return self.any_letters

    @cached_property
    def cells(self) -> list[Cell]:
        protocols = choice("protocol", self.config.protocol, PROTOCOLS)
        found = variants(self.config)
        return [cell for p in protocols for cell in trials(p, found, self.config.num_trials)]

    def compute(self, cell: Cell, items: Sequence[int], networks: Networks) -> list[Record]:
        blanks = [blank_of(self.stories[item], cell.protocol) for item in items]
        if cell.variant.method == "copy":
            records = [copied(self.stories[item], cell.protocol) for item in items]
        else:
            key = self.config.seed, "fill", cell.protocol, cell.trial
            seeds = [recorded_seed(*key, item) for item in items]
            records = fill_blanks(networks, blanks, cell.variant, self.config, seeds)
        scores = [
            rouge(record["prediction"], blank.reference, any_letters=self.has_any_letters)
            for record, blank in zip(records, blanks, strict=True)
        ]
        return [
            {**record, "reference": blank.reference, **found}
            for record, blank, found in zip(records, blanks, scores, strict=True)
        ]

    def result(self, records: Sequence[Record]) -> ProseResult:
        names = list(dict.fromkeys(cell.variant.name for cell in self.cells))
        measures = {**{name: _field(name) for name in MEASURES}, **COSTS}
        tables, examples = [], []
        for protocol in dict.fromkeys(cell.protocol for cell in self.cells):
            own = [record for record in records if record["protocol"] == protocol]
            rows = rows_of(own, names, measures)
            tables.append(ResultTable(TITLES[protocol], MEASURES, rows))
            item = first_item(own)
            blank, found = blank_of(self.stories[item], protocol), predictions(own, names, item)
            examples.append(
                Example(TITLES[protocol], blank.before, blank.after, blank.reference, found)
            )
        title = title_of(self.config, self.name, f"{self.num_items} stories", trials=True)
        note = f"{NOTE} {LETTERS_NOTE}" if self.has_any_letters else NOTE
        return ProseResult(title, note, tables, examples, records)


def fill_stories(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    stories: Sequence[Story],
    config: InfillProseConfig | None = None,
    *,
    off_the_shelf: Network | None = None,
) -> ProseResult:
    """Fill the blanked-out sentences of stories by every variant, and score them by ROUGE.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        tokenizer: the model's.
        stories: all that are to be filled, such as `load_prose().items`.
        config: protocols, lengths, baselines and so on; what it says of models, data and folders is
            not read.
        off_the_shelf: another model for the same table; it needs `config.off_the_shelf`, its name.
    """
    config = config or InfillProseConfig()
    check_config(config)
    task = Stories(stories, config)
    networks = Networks(Network(model, tokenizer), off_the_shelf)
    return task.result(list(run_cells(task, networks, config)))


def variants(config: InfillProseConfig) -> list[Variant]:
    """The rows of the tables."""
    ours = [
        Variant(f"{config.method}, {length} length", config.method, length=length)
        for length in choice("length", config.length, LENGTHS)
    ]
    left = Variant("left context, oracle length", config.method, left_only=True)
    parallel = [
        Variant(f"parallel {steps}, oracle length", "parallel", steps)
        for steps in dict.fromkeys(config.parallel_steps)
    ]
    other = Variant(f"{other_name(config)}, oracle length", config.method, off_the_shelf=True)
    copy = Variant("longest sentence copied", "copy", length=None)
    return [
        *ours,
        *([other] if config.off_the_shelf else []),
        *([left] if "left_context" in config.baselines else []),
        *(parallel if "parallel" in config.baselines else []),
        *([copy] if "copy" in config.baselines else []),
    ]


def blank_of(story: Story, protocol: str) -> Blank:
    """The story with some of its sentences blanked out, as one blank."""
    first, end = BLANKED[protocol]
    before, reference, after = (
        " ".join(part)
        for part in (story.sentences[:first], story.sentences[first:end], story.sentences[end:])
    )
    return Blank(before + " ", reference, " " + after, end - first)


def copied(story: Story, protocol: str) -> Record:
    """The longest sentence (in characters) that the model would have seen, as the filling."""
    first, end = BLANKED[protocol]
    prompt = [*story.sentences[:first], *story.sentences[end:]]
    return {
        "seed": None,
        "prediction": max(prompt, key=len),
        **dict.fromkeys(("num_tokens", "oracle_tokens", "log_prob", "length_log_prob")),
        **dict.fromkeys(("nfe", "rows"), 0),
        "seconds": 0.0,
    }


def _field(name: str) -> Callable[[Record], float]:
    return lambda record: record[name]
