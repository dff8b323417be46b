"""What the infilling of code is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class InfillCodeConfig:
    """Fill the gaps of functions and run their tests: how many programs pass?

    Args:
        model: "demo" (bundled), a local folder, or a hub name.
        revision: branch, tag or commit of the model on the hub.
        dataset: "single-line", "multi-line", "random-span" or "random-span-light" (HumanEval
            infilling, from eval_datasets/), "bundled" (single lines of functions of our own), or a
            .jsonl or .jsonl.gz in the published format. If null, single-line where its file lies in
            eval_datasets/, else bundled.
        output_dir: the run's folder; the same command goes on where it stopped.
        overwrite: throw away what the folder holds, and begin anew.
        max_items: how many tasks, from the first one on; all if null. It can be raised in the same
            folder, not lowered.
        leave_out: ids of tasks that are neither filled nor scored, such as those whose reference
            solution does not pass here.
        num_trials: completions of each gap. It can be raised, too.
        samples: a file of completions to score, in the format of OpenAI's script (task_id,
            completion), instead of generating any.
        length: "oracle" (a gap has as many tokens as the reference: the published protocol), "auto"
            (the model finds the length), or "both".
        method: lossless sampler: onepass, assd, ngram or sequential.
        k: most tokens drafted a round; "auto" chooses them round by round.
        temperature: of the law that is sampled.
        top_k: keep the k most probable tokens.
        top_p: keep the most probable tokens that together reach this share.
        whitespace_map: line ends, tabs and pairs of blanks are tokens of their own, as in the
            released code model; if null, where the tokenizer cannot write them otherwise.
        baselines: left_context (what follows the gap is hidden) and parallel (tokens as if they
            were independent), in any choice.
        parallel_steps: network calls of "parallel", one row of the table each.
        off_the_shelf: another model in the same table: a folder, or xlnet/xlnet-base-cased.
        execute: "sandbox" (programs run where they can do no harm), "unsafe" (they run as they
            are), or "none" (nothing is run, and nothing scored).
        timeout: seconds of CPU time that a program may take, and ten times as many by the clock.
            What ends by the clock, or is killed, is tried again alone before it counts.
        seed: of the completions.
        batch_size: gaps that are filled together.
        device: cpu or cuda; a GPU if null and there is one.
        dtype: of the weights: float32, bfloat16 or float64; float32 if null.
    """

    model: str = "demo"
    revision: str | None = None
    dataset: str | None = None
    output_dir: str = "runs/infill_code"
    overwrite: bool = False
    max_items: int | None = None
    leave_out: list[str] = field(default_factory=list)
    num_trials: int = 1
    samples: str | None = None
    length: str = "oracle"
    method: str = "onepass"
    k: int | Literal["auto"] = "auto"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    whitespace_map: bool | None = None
    baselines: list[str] = field(default_factory=lambda: ["left_context", "parallel"])
    parallel_steps: list[int] = field(default_factory=lambda: [1, 4, 16])
    off_the_shelf: str | None = None
    execute: str = "sandbox"
    timeout: float = 10.0
    seed: int = 0
    batch_size: int = 8
    device: str | None = None
    dtype: str | None = None
