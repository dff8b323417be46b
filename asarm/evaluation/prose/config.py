"""The settings of the infilling of prose."""

from __future__ import annotations

from dataclasses import dataclass, field

from asarm.evaluation.config import InfillConfig


@dataclass
class InfillProseConfig(InfillConfig):
    """Fill the blanks of stories, complete passages, choose endings: how good is the prose?

    Stories are scored by ROUGE against the sentences that were blanked out, LAMBADA's last words by
    exact match, HellaSwag's endings by accuracy.

    Args:
        dataset: "rocstories", "heldout" (bundled: five consecutive sentences an item), "lambada",
            "hellaswag", or a file in one of their formats; "lambada:FILE" where nothing in a file
            tells that each of its lines is a passage. If null, rocstories where its file lies in
            eval_datasets/, else heldout.
        num_trials: fillings of each blank; what is not sampled is done once. It can be raised, too.
        protocol: of stories: "middle" (the third of five sentences is blank), "short_prompt" (the
            second to fourth are), or "both".
        baselines: left_context (what follows the blank is hidden), parallel (tokens as if they were
            independent) and copy (the longest sentence of the prompt), in any choice.
    """

    output_dir: str = "runs/infill_nlp"
    max_items: int = 20
    num_trials: int = 2
    protocol: str = "both"
    length: str = "both"
    baselines: list[str] = field(default_factory=lambda: ["left_context", "parallel", "copy"])
