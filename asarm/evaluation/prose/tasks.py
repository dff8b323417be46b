"""From a set's kind to what is done with it."""

from __future__ import annotations

from dataclasses import replace

from asarm.evaluation.prose.cells import Task
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.hellaswag import Endings
from asarm.evaluation.prose.lambada import LastWords
from asarm.evaluation.prose.sources import Prose
from asarm.evaluation.prose.stories import Stories

TASKS = {"stories": Stories, "lambada": LastWords, "hellaswag": Endings}


def task_of(prose: Prose, config: InfillProseConfig) -> Task:
    """The evaluation of the first `config.max_items` items.

    How stories are scored depends on all of them, so that more items change no line.
    """
    whole = TASKS[prose.kind](prose.items, config, prose.name)
    task = TASKS[prose.kind](prose.items[: config.max_items], config, prose.name)
    if isinstance(whole, Stories) and isinstance(task, Stories):
        return replace(task, any_letters=whole.has_any_letters)
    return task
