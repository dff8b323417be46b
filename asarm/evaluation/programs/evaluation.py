"""The evaluation of programs: gaps are filled, the scoring is tested, programs are run and rated.

In a notebook:

    from asarm.evaluation.programs import config, evaluation, network, sources
    from asarm.evaluation.variants import Networks

    settings = config.InfillCodeConfig(max_items=20)
    networks = Networks(network.CodeNetwork.of(*asarm.load("demo")))
    result = evaluation.infill_code(networks, sources.load_tasks("bundled").first(20), settings)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from rich.console import Console

from asarm.evaluation.engine import Evaluation, lines, timed
from asarm.evaluation.programs import report
from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.network import CodeNetwork
from asarm.evaluation.programs.results import CodeResult, code_result
from asarm.evaluation.programs.scoring import (
    Scorer,
    check_scoring,
    new_scorer,
    score_completions,
)
from asarm.evaluation.programs.sources import (
    load_tasks,
    official,
    read_samples,
    resolve_dataset,
)
from asarm.evaluation.programs.task import Task, TaskSet
from asarm.evaluation.programs.variants import samples_file, variants_of
from asarm.evaluation.published import CODE
from asarm.evaluation.variants import Cell, Networks, Variant, cells_of, load_networks
from asarm.fingerprint import fingerprints
from asarm.infilling.fill import Infilling, fill_templates
from asarm.infilling.posterior import AUTO
from asarm.run import Record, Run
from asarm.sampling import sampler_of
from asarm.schedule import recorded_seed

Key = tuple[int, str, int]


class Scored(NamedTuple):
    """The result, and the completions with their outcomes where they were run."""

    result: CodeResult
    records: Sequence[Record]


@dataclass(frozen=True)
class Programs(Evaluation[Scored]):
    """The evaluation of infilled code: the gaps of tasks are filled by every variant.

    Attributes:
        task_set: the tasks, some of which may be left out.
        config: the settings.
        networks: the networks that fill them; None for completions of unknown origin.
        fingerprints: hashes of the models and the tasks.
        given: completions that are scored instead of generated ones.

    Raises:
        ValueError: a task has no gap for one of the networks.
    """

    kind = CODE
    file = "generations.jsonl"
    unit = "gap"
    leaves = "tables, completions and their outcomes"
    may_change = ("execute", "timeout", "leave_out")
    task_set: TaskSet
    config: InfillCodeConfig
    networks: Networks[CodeNetwork] | None = None
    fingerprints: dict[str, str] | None = None
    given: Sequence[Record] | None = None

    def __post_init__(self) -> None:
        blank = [task for task in self.task_set.kept if not task.canonical_solution.strip()]
        for network in self.networks or ():
            if network is not None:
                network.require_gaps(blank)

    @cached_property
    def batches(self) -> list[list[int]]:
        left_out, size = self.task_set.left_out, self.config.batch_size
        kept = [n for n, task in enumerate(self.task_set.tasks) if task.task_id not in left_out]
        return [list(own) for _, own in groupby(kept, lambda item: item // size)]

    @cached_property
    def cells(self) -> list[Cell]:
        return cells_of(variants_of(self.config), self.config.num_trials)

    @staticmethod
    def key(record: Record) -> Key:
        return record["item"], record["variant"], record["trial"]

    def key_of(self, item: int, cell: Cell) -> Key:
        return item, cell.variant.name, cell.trial

    def compute(self, items: Sequence[int], cell: Cell) -> list[Record]:
        if self.networks is None:
            raise ValueError("no model fills the gaps; give networks, or completions")
        network = self.networks.pick(cell.variant)
        seeds = [recorded_seed(self.config.seed, "fill", cell.trial, item) for item in items]
        own = [self.task_set.tasks[item] for item in items]
        records = fill_batch(network, own, cell.variant, self.config, seeds)
        return [
            {"item": item, "variant": cell.variant.name, "trial": cell.trial, **record}
            for item, record in zip(items, records, strict=True)
        ]

    def finish(self, run: Run, records: Sequence[Record]) -> Scored:
        """Write the completions as OpenAI's script has them, score them, and report.

        Raises:
            ValueError: the self-test fails; the completions are written by then, and no score is.
        """
        if self.given is None:
            names = [variant.name for variant in variants_of(self.config)]
            for name in names:
                own = [record for record in records if record["variant"] == name]
                run.write_lines(samples_file(name, names[0]), official(own))
        found = self.score(records, new_scorer(self.config, run=run, progress=True))
        if found.result.self_test:
            run.write_lines("results.jsonl", found.records)
        run.write("report.md", report.markdown(found.result))
        run.write("summary.json", asdict(found.result))
        return found

    def score(self, records: Sequence[Record], scorer: Scorer | None) -> Scored:
        """Run the programs of completions, where programs are to be run."""
        if scorer is None:
            return Scored(code_result(self.task_set, records, self.config), records)
        checks = check_scoring(self.task_set, scorer, self.networks, self.config)
        scored = score_completions(self.task_set.tasks, records, scorer)
        result = code_result(
            self.task_set, records, self.config, scored=scored, checks=checks, scorer=scorer
        )
        return Scored(result, scored)

    def show(self, found: Scored, console: Console) -> None:
        report.show(found.result, console)
        first = found.result.variants[0].name
        own = [record for record in found.records if record["variant"] == first]
        passed = (record for record in own if record.get("passed"))
        report.show_example(self.task_set.tasks, next(passed, own[0]), console)


def prepare(config: InfillCodeConfig) -> Programs:
    """Load all that the settings name.

    Raises:
        ValueError: a setting that cannot be, something that cannot be had, or nothing isolates
            programs here.
    """
    variants_of(config)  # refuses what cannot be served
    config = replace(config, dataset=resolve_dataset(config.dataset))
    whole = load_tasks(config.dataset).leave_out(config.leave_out)
    evaluation = Programs(whole.first(config.max_items), config)
    if config.samples:
        given = read_samples(config.samples, whole, config.max_items)
        new_scorer(config)  # refuses where nothing isolates programs
        return replace(evaluation, given=given)
    networks = networks_of(config)
    new_scorer(config)
    found = fingerprints(config, whole.tasks, networks)
    return replace(evaluation, networks=networks, fingerprints=found)


def networks_of(config: InfillCodeConfig) -> Networks[CodeNetwork]:
    """Load the models that the settings name."""
    ours, other = load_networks(config)
    mapped = config.whitespace_map
    return Networks(
        CodeNetwork.of(*ours, mapped), CodeNetwork.of(*other, mapped) if other else None
    )


def infill_code(
    networks: Networks[CodeNetwork], task_set: TaskSet, config: InfillCodeConfig
) -> CodeResult:
    """Fill the gaps of all tasks by every variant, run the programs, and return the rates.

    Args:
        networks: the networks that fill them.
        task_set: the tasks; those of `config.leave_out` are left out, and `dataset` and `max_items`
            are not read.
        config: the settings.

    Raises:
        ValueError: nothing isolates programs here, or the self-test of the scoring fails.
    """
    evaluation = Programs(task_set.leave_out(config.leave_out), config, networks)
    scorer = new_scorer(config)
    return evaluation.score(list(lines(evaluation)), scorer).result


def fill_batch(
    network: CodeNetwork,
    own: Sequence[Task],
    variant: Variant,
    config: InfillCodeConfig,
    seeds: Sequence[int],
) -> list[Record]:
    """Fill the gaps of some tasks together; return a record for each."""
    templates = [network.template(task, left_only=variant.left_only) for task in own]
    requested = [
        [AUTO]
        if variant.length == "auto"
        else [(size, size) for size in template.lengths([task.canonical_solution])]
        for template, task in zip(templates, own, strict=True)
    ]

    def fill() -> list[Infilling]:
        return fill_templates(
            network.model,
            templates,
            requested,
            evidence="direct",  # thousands of gaps: the faster one
            seeds=seeds,
            batch_size=len(own),
            sampler=sampler_of(variant.method, k=config.k, steps=variant.steps),
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
        )

    filled, seconds = timed(fill, network.model.device)
    return [
        {"task_id": task.task_id, **_line(found), "seconds": seconds / len(own), "seed": seed}
        for task, found, seed in zip(own, filled, seeds, strict=True)
    ]


def _line(infilling: Infilling) -> Record:
    """Return the record of a filled gap; rows that found its length are counted, too."""
    (candidate,) = infilling.candidates
    return {
        "completion": candidate.fills[0].text,
        "num_tokens": candidate.fills[0].length,
        "log_prob": candidate.log_prob,
        "length_log_prob": candidate.length_log_prob,
        "nfe": candidate.nfe,
        "rows": candidate.rows + infilling.length_rows,
    }
