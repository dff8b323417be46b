"""The study of samplers from beginning to end: load, fill, judge, tables and figures, in a folder.

Every process fills and judges its share of the trials; whichever finds all of it there makes the
tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.evaluation import figures, report, trials
from asarm.evaluation.blocks import load_blocks
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.items import Ledger, Share, begin_run, prepare_run
from asarm.evaluation.study import decode_trials
from asarm.fingerprint import of_blocks, of_model
from asarm.loading import load, name_and_revision
from asarm.metrics import judge
from asarm.run import Record, Run

SAMPLES, SCORES = "samples.jsonl", "judge.jsonl"


@dataclass(frozen=True)
class DecodingResult:
    """A finished study.

    Attributes:
        title: what was done, in a line.
        summary: means, errors and tests of each variant, as summary.json has them.
        samples: a record for each trial and variant, with the judge's scores where there is one.
        tokenizer: of the samples.
        folder: where all of it is.
    """

    title: str
    summary: report.Summary
    samples: list[Record]
    tokenizer: PreTrainedTokenizerBase
    folder: Path


class Shelf:
    """What several studies of one process load once."""

    def __init__(self) -> None:
        self._held: dict[Any, Any] = {}

    def get(self, load: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What `load` gives for these arguments."""
        about = load, arguments, tuple(sorted(options.items()))
        if about not in self._held:
            self._held[about] = load(*arguments, **options)
        return self._held[about]


@dataclass(frozen=True)
class Decoding:
    """A study whose settings are checked, whose models are loaded, and whose folder is locked."""

    config: DecodingConfig
    share: Share
    run: Run
    fingerprints: Mapping[str, str]
    models: Mapping[str, AnySubsetTransformer]
    tokenizer: PreTrainedTokenizerBase
    blocks: Tensor  # (N, L)
    referee: judge.Judge | None

    @classmethod
    def prepare(
        cls, config: DecodingConfig, *, share: Share | None = None, shelf: Shelf | None = None
    ) -> Decoding:
        """Load all that the settings name, and see whether it fits what the folder holds.

        Raises:
            ValueError: a setting that cannot be, something that cannot be had, models of different
                tokenizers, drafts that none can make, or a folder that holds something else or is
                in use.
        """
        trials.check(config)
        shelf, share = shelf or Shelf(), share or Share()
        models, tokenizer = _load_models(config, shelf)
        if not trials.variants(config, trials.headed(models)):
            raise ValueError(f"drafts is {config.drafts}, and no model has a draft head; add self")
        blocks = shelf.get(
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
        referee = shelf.get(judge.load_judge, config.judge, device) if config.judge else None
        found = {
            f"model {name}": shelf.get(of_model, model, tokenizer) for name, model in models.items()
        }
        # of an endless text more trials read more blocks, and its first one stands for all
        same = blocks[:1] if config.dataset == trials.ENDLESS else blocks
        found[dataset_name(config)] = of_blocks(same)
        run = prepare_run(
            config, share, may_change=("judge",), may_grow=("num_trials",), fingerprints=found
        )
        return cls(config, share, run, found, models, tokenizer, blocks, referee)

    @classmethod
    def open(cls, config: DecodingConfig, *, share: Share | None = None) -> Decoding:
        """`prepare`, then `begin`."""
        study = cls.prepare(config, share=share)
        study.begin()
        return study

    def begin(self) -> None:
        """Write down what is done here; until then the folder stays as it was."""
        begin_run(self.run, self.share, self.fingerprints)

    @property
    def variants(self) -> list[trials.Variant]:
        """What is compared: the rows of the table."""
        return trials.variants(self.config, trials.headed(self.models))

    def describe(self) -> str:
        """What lies ahead, in a line or two."""
        return trials.describe(self.blocks, self.config)

    def fill(self, *, progress: bool = False) -> None:
        """Fill this process's share of the blanks, and have it judged; what is done, stays done."""
        samples, scores = self._ledgers()
        done, batches = samples.records(), self.share.of(trials.item_batches(self.config))
        own = {item for items in batches for item in items}
        filled = [record for record in done if record["item"] in own]
        total = len(own) * len(self.variants)
        new = decode_trials(
            self.models, self.tokenizer, self.blocks, self.config, done=filled, share=self.share
        )
        bar = {"unit": "text", "disable": not (progress and self.share.is_first)}
        for record in tqdm(new, "filling", total, initial=len(filled), **bar):
            samples.append(record)
            filled.append(record)
        if self.referee is not None:
            groups = _texts(filled, batches, samples.key)
            for score in tqdm(self.referee.score(groups, scores.records()), "judging", **bar):
                scores.append(score)

    def result(self) -> DecodingResult | None:
        """All of it in numbers; None where other processes still work on it."""
        ledger, scores = self._ledgers()
        planned = range(len(self.variants))
        samples = ledger.merge([(i, v) for i in range(self.config.num_trials) for v in planned])
        if samples is None:
            return None
        if self.referee is not None:
            judged = scores.merge({self.referee.key_of(sample["text"]) for sample in samples})
            if judged is None:
                return None
            samples = report.add_scores(samples, judged, self.referee)
        title, summary = report.title(samples, self.config), report.summarise(samples)
        return DecodingResult(title, summary, samples, self.tokenizer, self.run.folder)

    def write(self, result: DecodingResult) -> None:
        """Tables and figures."""
        self.run.write("report.md", report.markdown(result.summary, result.title))
        self.run.write("quality.png", figures.quality_figure(result.summary, result.title))
        self.run.write("histograms.png", figures.histogram_figure(result.samples, result.title))
        self.run.write("summary.json", result.summary)  # the last: it says that all is there

    def _ledgers(self) -> tuple[Ledger, Ledger]:
        """Samples in the order of trials and variants, and scores."""
        place = {variant: n for n, variant in enumerate(self.variants)}

        def key(record: Record) -> tuple[int, int]:
            item, variant = trials.key(record)
            if variant not in place:
                raise ValueError(
                    f"{self.run.folder} holds texts by {variant.name} with drafts of a head that "
                    f"{variant.model} has no more; put it back, or --overwrite"
                )
            return item, place[variant]

        samples = Ledger(self.run, SAMPLES, key, self.share)
        return samples, Ledger(self.run, SCORES, judge.key, self.share)


def decode_study(config: DecodingConfig, *, progress: bool = False) -> DecodingResult:
    """A whole study by this process, written into `config.output_dir`, which holds it in the end.

    Raises:
        ValueError: as `Decoding.open`.
    """
    study = Decoding.open(config)
    study.fill(progress=progress)
    result = study.result()
    if result is None:
        raise ValueError(f"{config.output_dir} is being worked on by others; wait for them")
    study.write(result)
    return result


def _load_models(
    config: DecodingConfig, shelf: Shelf
) -> tuple[dict[str, AnySubsetTransformer], PreTrainedTokenizerBase]:
    """The models by name, and the tokenizer of all."""
    where = {"device": config.device, "dtype": config.dtype}
    own, *others = trials.model_names(config)
    model, tokenizer = shelf.get(load, config.model, revision=config.revision, **where)
    models = {own: model}
    for name in others:
        source, revision = name_and_revision(name)
        models[name], other = shelf.get(load, source, revision=revision, **where)
        if other.get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"compare holds {name}, whose tokenizer is another than that of {own}; expected "
                "models of one tokenizer, for they fill the same blanks"
            )
    return models, tokenizer


def dataset_name(config: DecodingConfig) -> str:
    """What the fingerprint of the blocks is kept as."""
    return f"dataset {config.dataset} in blocks of {config.length} tokens"


def _num_blocks(config: DecodingConfig) -> int | None:
    """How many blocks are taken: of an endless text no more than are needed."""
    if config.dataset != trials.ENDLESS:
        return config.max_items
    return min(config.num_trials, config.max_items or config.num_trials)


def _texts(
    records: Iterable[Record],
    batches: Sequence[Sequence[int]],
    key: Callable[[Record], tuple[int, int]],
) -> Iterator[list[str]]:
    """The texts of each batch of items, in order."""
    by_item: dict[int, list[str]] = {}
    for record in sorted(records, key=key):
        by_item.setdefault(record["item"], []).append(record["text"])
    for items in batches:
        yield [text for item in items for text in by_item[item]]
