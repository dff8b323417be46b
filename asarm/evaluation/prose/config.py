"""What the infilling of prose is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class InfillProseConfig:
    """Fill the blanks of stories, complete passages, choose endings: how good is the prose?

    Stories are scored by ROUGE against the sentences that were blanked out, LAMBADA's last words by
    exact match, HellaSwag's endings by accuracy.

    Args:
        model: "demo" (bundled), a local folder, or a hub name.
        revision: branch, tag or commit of the model on the hub.
        dataset: "rocstories", "heldout" (bundled: five consecutive sentences an item), "lambada",
            "hellaswag", or a file in one of their formats; "lambada:FILE" where nothing in a file
            tells that each of its lines is a passage. If null, rocstories where its file lies in
            eval_datasets/, else heldout.
        output_dir: the run's folder; the same command goes on where it stopped.
        overwrite: throw away what the folder holds, and begin anew.
        max_items: how many items, from the first one on. It can be raised in the same folder, not
            lowered.
        num_trials: fillings of each blank; what is not sampled is done once. It can be raised, too.
        protocol: of stories: "middle" (the third of five sentences is blank), "short_prompt" (the
            second to fourth are), or "both".
        length: "oracle" (a blank has as many tokens as the reference: the published protocol),
            "auto" (the model finds the length), or "both".
        method: lossless sampler: onepass, assd, ngram or sequential.
        k: most tokens drafted a round; "auto" chooses them round by round.
        temperature: of the law that is sampled.
        top_k: keep the k most probable tokens.
        top_p: keep the most probable tokens that together reach this share.
        baselines: left_context (what follows the blank is hidden), parallel (tokens as if they were
            independent) and copy (the longest sentence of the prompt), in any choice.
        parallel_steps: network calls of "parallel", one row of the table each.
        off_the_shelf: another model in the same table: a folder, or xlnet/xlnet-base-cased.
        seed: of the fillings.
        batch_size: items that are filled together.
        device: cpu or cuda; a GPU if null and there is one.
        dtype: of the weights: float32, bfloat16 or float64; float32 if null.
    """

    model: str = "demo"
    revision: str | None = None
    dataset: str | None = None
    output_dir: str = "runs/infill_nlp"
    overwrite: bool = False
    max_items: int = 20
    num_trials: int = 2
    protocol: str = "both"
    length: str = "both"
    method: str = "onepass"
    k: int | Literal["auto"] = "auto"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    baselines: list[str] = field(default_factory=lambda: ["left_context", "parallel", "copy"])
    parallel_steps: list[int] = field(default_factory=lambda: [1, 4, 16])
    off_the_shelf: str | None = None
    seed: int = 0
    batch_size: int = 8
    device: str | None = None
    dtype: str | None = None
