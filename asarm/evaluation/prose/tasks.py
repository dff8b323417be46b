"""The evaluation of each kind of items, and of the settings that a script has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from asarm.evaluation.engine import lines
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.evaluation import Network, ProseEvaluation, check_config, networks_of
from asarm.evaluation.prose.hellaswag import Endings
from asarm.evaluation.prose.lambada import LastWords
from asarm.evaluation.prose.results import ProseResult
from asarm.evaluation.prose.sources import Prose, load_prose
from asarm.evaluation.prose.stories import Stories
from asarm.evaluation.variants import Networks
from asarm.fingerprint import fingerprints
from asarm.rows import Backbone

EVALUATIONS: dict[str, type[ProseEvaluation]] = {
    "stories": Stories,
    "lambada": LastWords,
    "hellaswag": Endings,
}


def prepare(config: InfillProseConfig) -> ProseEvaluation:
    """Load all that the settings name.

    Raises:
        ValueError: a setting cannot be served, or a model or data are not found.
    """
    check_config(config)
    prose = load_prose(config.dataset)
    evaluation, networks = task_of(prose, config), networks_of(config)
    found = fingerprints(config, prose.items, networks)
    return replace(evaluation, networks=networks, fingerprints=found)


def task_of(prose: Prose, config: InfillProseConfig) -> ProseEvaluation:
    """Return the evaluation of the first `config.max_items` items.

    How stories are scored depends on all of them, so that more items change no line.
    """
    whole = EVALUATIONS[prose.kind](prose.items, config, prose.name)
    if isinstance(whole, Stories):
        whole = replace(whole, any_letters=whole.has_any_letters)
    return replace(whole, items=prose.items[: config.max_items])


def infill_prose(
    model: Backbone,
    tokenizer: PreTrainedTokenizerBase,
    prose: Prose,
    config: InfillProseConfig | None = None,
    *,
    off_the_shelf: Any = None,
) -> ProseResult:
    """Fill the blanks of a set by every variant, and score them.

    Args:
        model: any backbone, such as an `AnySubsetTransformer`.
        tokenizer: the model's tokenizer.
        prose: the result of `load_prose`; all of its items are filled.
        config: protocols, lengths, baselines and so on; its models, data and folders are not read.
        off_the_shelf: another model and its tokenizer for the same table; it needs
            `config.off_the_shelf`, its name.
    """
    config = config or InfillProseConfig()
    check_config(config)
    other = Network(*off_the_shelf) if off_the_shelf else None
    networks = Networks(Network(model, tokenizer), other)
    evaluation = replace(
        EVALUATIONS[prose.kind](prose.items, config, prose.name), networks=networks
    )
    return evaluation.result(list(lines(evaluation)))
