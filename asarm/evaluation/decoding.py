"""The study of samplers: texts are filled by every sampler, judged and compared.

Every process fills and judges its part of the trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from asarm.data.evaluated import load_blocks
from asarm.evaluation import example, figures, report, trials
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.engine import Evaluation, Work
from asarm.evaluation.items import Ledger, item_batches
from asarm.evaluation.published import DECODING
from asarm.evaluation.study import Decode, decoder, record_of, timed_sample, warm_up
from asarm.evaluation.variants import Cell, Variant
from asarm.fingerprint import of_blocks, of_model
from asarm.loading import load, name_and_revision
from asarm.metrics import judge
from asarm.rows import Backbone
from asarm.run import SUMMARY, Record, Run

SCORES = "judge.jsonl"


@dataclass(frozen=True)
class DecodingResult:
    """The result of a study.

    Attributes:
        title: the models, the data and the number of trials, in a line.
        summary: means, errors and tests of each variant, which summary.json holds.
        samples: a record for each trial and variant, with the judge's scores where there is one.
        tokenizer: the tokenizer of the samples.
        folder: the run folder.
    """

    title: str
    summary: report.Summary
    samples: list[Record]
    tokenizer: PreTrainedTokenizerBase
    folder: Path


Cache = Callable[..., Any]  # calls a function with arguments, or returns an earlier result


def new_cache() -> Cache:
    """Make a cache of models and data, which several studies of one process share."""
    return cache(lambda load, *arguments, **options: load(*arguments, **options))


@dataclass(frozen=True)
class DecodingStudy(Evaluation[DecodingResult]):
    """The study of samplers: the same blanks filled by every method, and by every model.

    Attributes:
        config: the settings.
        models: the models by their `trials.model_names`; all have the same tokenizer.
        tokenizer: the tokenizer of all models.
        blocks: (N, L) tokens to blank out; they are repeated where there are more trials.
        judge: a causal language model that scores the texts, if any.
        fingerprints: hashes of the models and the blocks.
    """

    kind = DECODING
    may_change = ("judge",)
    may_grow = ("num_trials",)
    config: DecodingConfig
    models: Mapping[str, Backbone]
    tokenizer: PreTrainedTokenizerBase
    blocks: Tensor
    judge: judge.Judge | None = None
    fingerprints: Mapping[str, str] | None = None

    @classmethod
    def prepare(cls, config: DecodingConfig, cached: Cache | None = None) -> DecodingStudy:
        """Load all that the settings name.

        Raises:
            ValueError: a setting cannot be served, a model or data are not found, models differ in
                their tokenizers, or no model can make the drafts.
        """
        trials.check(config)
        cached = cached or new_cache()
        models, tokenizer = _load_models(config, cached)
        if not trials.variants_of(config, trials.headed(models)):
            raise ValueError(f"drafts is {config.drafts}, and no model has a draft head; add self")
        blocks = cached(
            load_blocks,
            tokenizer,
            config.dataset,
            config.length,
            num_blocks=_num_blocks(config),
            whitespace_map=config.whitespace_map,
            dataset_column=config.dataset_column,
            txt_documents=config.txt_documents,
        )
        device = next(iter(models.values())).device
        found = {
            f"model {name}": cached(of_model, model, tokenizer) for name, model in models.items()
        }
        # of an endless text more trials read more blocks; the first block identifies all of them
        same = blocks[:1] if config.dataset == trials.ENDLESS else blocks
        found[dataset_name(config)] = of_blocks(same)
        own_judge = cached(judge.load_judge, config.judge, device) if config.judge else None
        return cls(config, models, tokenizer, blocks, own_judge, found)

    @property
    def batches(self) -> list[list[int]]:
        return item_batches(self.config.num_trials, self.config.batch_size)

    @cached_property
    def cells(self) -> list[Cell]:
        return [Cell(v) for v in trials.variants_of(self.config, trials.headed(self.models))]

    @cached_property
    def _places(self) -> dict[Variant, int]:
        """The place of each variant among the cells."""
        return {cell.variant: place for place, cell in enumerate(self.cells)}

    @cached_property
    def _text_of(self) -> Decode:
        return decoder(self.tokenizer, self.config)

    def key(self, record: Record) -> tuple[int, int]:
        item, variant = trials.key(record)
        if variant not in self._places:
            raise ValueError(
                f"{self.config.output_dir} holds texts by {variant.name} with drafts of a head "
                f"that {variant.model} has no more; put it back, or --overwrite"
            )
        return item, self._places[variant]

    def key_of(self, item: int, cell: Cell) -> tuple[int, int]:
        return item, self._places[cell.variant]

    def compute(self, items: Sequence[int], cell: Cell) -> list[Record]:
        batch = trials.batch_of(items, self.blocks, self.config)
        model = self.models[cell.variant.model]
        result, seconds = timed_sample(model, batch, cell.variant, self.config)
        return [
            record_of(batch, row, cell.variant, result, seconds, self._text_of)
            for row in range(len(items))
        ]

    def needs_warm(self, cell: Cell) -> Variant:
        return replace(cell.variant, steps=None)

    def warm_up(self, items: Sequence[int], cell: Cell) -> None:
        batch = trials.batch_of(items, self.blocks, self.config)
        warm_up(self.models[cell.variant.model], batch, cell.variant, self.config)

    def describe(self) -> str:
        return trials.describe(self.blocks, self.config)

    def review(
        self, work: Work[DecodingResult], records: Sequence[Record], *, progress: bool
    ) -> None:
        """Have the judge score the texts, batch by batch."""
        if self.judge is None:
            return
        scores = self._scores(work)
        groups = _texts(records, work.shard.of(self.batches), self.key)
        judged = self.judge.score(groups, scores.records())
        quiet = not (progress and work.shard.is_first)
        for score in tqdm(judged, "judging", unit=self.unit, disable=quiet):
            scores.append(score)

    def reviewed(self, work: Work[DecodingResult], records: list[Record]) -> list[Record] | None:
        if self.judge is None:
            return records
        judged = self._scores(work).merge({self.judge.key_of(r["text"]) for r in records})
        return None if judged is None else report.add_scores(records, judged, self.judge)

    def _scores(self, work: Work[DecodingResult]) -> Ledger:
        return Ledger(work.run, SCORES, judge.key, work.shard)

    def finish(self, run: Run, records: Sequence[Record]) -> DecodingResult:
        title, summary = report.title(records, self.config), report.summarise(records)
        run.write("report.md", report.markdown(summary, title))
        run.write("quality.png", figures.quality_figure(summary, title))
        run.write("histograms.png", figures.histogram_figure(records, title))
        run.write(SUMMARY, summary)
        return DecodingResult(title, summary, list(records), self.tokenizer, run.folder)

    def show(self, result: DecodingResult, console: Console) -> None:
        report.show(result.summary, result.title, console)
        example.show_example(result.samples, console)


def _load_models(
    config: DecodingConfig, cached: Cache
) -> tuple[dict[str, Backbone], PreTrainedTokenizerBase]:
    """Load the models by name, and the tokenizer of all."""
    where = {"device": config.device, "dtype": config.dtype}
    own, *others = trials.model_names(config)
    model, tokenizer = cached(load, config.model, revision=config.revision, **where)
    models = {own: model}
    for name in others:
        source, revision = name_and_revision(name)
        models[name], other = cached(load, source, revision=revision, **where)
        if other.get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"compare holds {name}, whose tokenizer is another than that of {own}; expected "
                "models of one tokenizer, for they fill the same blanks"
            )
    return models, tokenizer


def dataset_name(config: DecodingConfig) -> str:
    """Return the name under which the fingerprint of the blocks is kept."""
    return f"dataset {config.dataset} in blocks of {config.length} tokens"


def _num_blocks(config: DecodingConfig) -> int | None:
    """Return how many blocks are read: of an endless text no more than are needed."""
    if config.dataset != trials.ENDLESS:
        return config.max_items
    return min(config.num_trials, config.max_items or config.num_trials)


def _texts(
    records: Iterable[Record],
    batches: Sequence[Sequence[int]],
    key: Callable[[Record], tuple[int, int]],
) -> Iterator[list[str]]:
    """Yield the texts of each batch of items, in order."""
    by_item: dict[int, list[str]] = {}
    for record in sorted(records, key=key):
        by_item.setdefault(record["item"], []).append(record["text"])
    for items in batches:
        yield [text for item in items for text in by_item[item]]
