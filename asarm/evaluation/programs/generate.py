"""Fills the gaps of tasks by every variant, batch after batch.

Everything random is keyed by (run seed, item, trial), and batches are formed by item index, so that
neither interruptions nor the number of processes change a completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from time import perf_counter
from typing import NamedTuple

from tqdm import tqdm

from asarm.evaluation.items import Ledger, Share
from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.network import Network
from asarm.evaluation.programs.task import Task, TaskSet
from asarm.evaluation.programs.variants import Variant, variants
from asarm.infilling.fill import Infilling, fill_templates
from asarm.infilling.posterior import AUTO
from asarm.loading import load
from asarm.run import Record
from asarm.sampling import sampler_of
from asarm.schedule import recorded_seed

Key = tuple[int, str, int]


class Networks(NamedTuple):
    """The model that is evaluated, and another one in the same table."""

    ours: Network
    off_the_shelf: Network | None = None

    def pick(self, variant: Variant) -> Network:
        """The variant's."""
        network = self.off_the_shelf if variant.off_the_shelf else self.ours
        if network is None:
            raise ValueError(f"no model for the row {variant.name}; give one as off_the_shelf")
        return network


def load_networks(config: InfillCodeConfig) -> Networks:
    """The models that the settings name."""

    def load_one(name: str, revision: str | None = None) -> Network:
        loaded = load(name, revision=revision, device=config.device, dtype=config.dtype)
        return Network.of(*loaded, config.whitespace_map)

    other = load_one(config.off_the_shelf) if config.off_the_shelf else None
    return Networks(load_one(config.model, config.revision), other)


def key(record: Record) -> Key:
    """What a line is about; sorts as the lines of a run do."""
    return record["item"], record["variant"], record["trial"]


def expected_keys(tasks: Sequence[Task], config: InfillCodeConfig) -> list[Key]:
    """Of all lines of a finished run."""
    return [
        (item, variant.name, trial)
        for item in _kept(tasks, config)
        for variant in variants(config)
        for trial in range(config.num_trials)
    ]


def fill_tasks(
    networks: Networks,
    tasks: Sequence[Task],
    config: InfillCodeConfig,
    *,
    done: Iterable[Record] = (),
    share: Share | None = None,
) -> Iterator[Record]:
    """A line for every gap, variant and trial of this process's share.

    Args:
        networks: what fills them.
        tasks: whose gaps.
        config: how; `variants` are its.
        done: lines of an earlier, interrupted run, which are not given again; the others are the
            same, their times apart, as if it had not been interrupted.
        share: this process's part of the batches.
    """
    found = {key(record) for record in done}
    size, planned = config.batch_size, variants(config)
    kept = _kept(tasks, config)
    require_gaps(networks, tasks, config)
    batches = [list(own) for _, own in groupby(kept, lambda item: item // size)]
    for items in (share or Share()).of(batches):
        for variant in planned:
            for trial in range(config.num_trials):
                missing = {item for item in items if (item, variant.name, trial) not in found}
                if not missing:
                    continue
                seeds = [recorded_seed(config.seed, "fill", trial, item) for item in items]
                parts = [tasks[item] for item in items]
                records = fill_batch(networks.pick(variant), parts, variant, config, seeds)
                for item, record in zip(items, records, strict=True):
                    if item in missing:
                        about = {"item": item, "variant": variant.name, "trial": trial}
                        yield {**about, **record}


def require_gaps(networks: Networks, tasks: Sequence[Task], config: InfillCodeConfig) -> None:
    """Refuse tasks that have nothing to fill, for any of the models.

    Raises:
        ValueError: names the first one.
    """
    kept = (tasks[item] for item in _kept(tasks, config))
    blank = [task for task in kept if not task.canonical_solution.strip()]
    for network in filter(None, networks):
        network.require_gaps(blank)


def _kept(tasks: Sequence[Task], config: InfillCodeConfig) -> list[int]:
    """The items that are not left out."""
    return [item for item, task in enumerate(tasks) if task.task_id not in config.leave_out]


def fill_with_progress(
    ledger: Ledger, networks: Networks, task_set: TaskSet, config: InfillCodeConfig
) -> list[Record] | None:
    """What `fill_tasks` gives, kept line by line; None where other array tasks are not finished."""
    done, share = ledger.records(), ledger.share
    lines = fill_tasks(networks, task_set.tasks, config, done=done, share=share)
    expected = expected_keys(task_set.tasks, config)
    quiet = not share.is_first
    bar = tqdm(lines, "filling", len(expected), initial=len(done), unit="gap", disable=quiet)
    for record in bar:
        ledger.append(record)
    return ledger.merge(expected)


def fill_batch(
    network: Network,
    tasks: Sequence[Task],
    variant: Variant,
    config: InfillCodeConfig,
    seeds: Sequence[int],
) -> list[Record]:
    """The gaps of some tasks filled together, one line each."""
    templates = [network.template(task, left_only=variant.left_only) for task in tasks]
    asked = [
        [(size, size) for size in template.lengths([task.canonical_solution])]
        if variant.length == "oracle"
        else [AUTO]
        for template, task in zip(templates, tasks, strict=True)
    ]
    start = perf_counter()
    filled = fill_templates(
        network.model,
        templates,
        asked,
        evidence="direct",  # thousands of gaps: the faster one
        seeds=seeds,
        batch_size=len(tasks),
        sampler=sampler_of(variant.method, k=config.k, steps=variant.steps),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
    )
    seconds = (perf_counter() - start) / len(tasks)
    return [
        {"task_id": task.task_id, **_line(infilling), "seconds": seconds, "seed": seed}
        for task, infilling, seed in zip(tasks, filled, seeds, strict=True)
    ]


def _line(infilling: Infilling) -> Record:
    """What a run keeps of a filled gap; the rows are those, too, that found its length."""
    (candidate,) = infilling.candidates
    return {
        "completion": candidate.fills[0].text,
        "num_tokens": candidate.fills[0].length,
        "log_prob": candidate.log_prob,
        "length_log_prob": candidate.length_log_prob,
        "nfe": candidate.nfe,
        "rows": candidate.rows + infilling.length_rows,
    }
