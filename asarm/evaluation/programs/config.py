"""The settings of the infilling of code."""

from __future__ import annotations

from dataclasses import dataclass, field

from asarm.evaluation.config import InfillConfig


@dataclass
class InfillCodeConfig(InfillConfig):
    """Fill the gaps of functions and run their tests: how many programs pass?

    Args:
        dataset: "single-line", "multi-line", "random-span" or "random-span-light" (HumanEval
            infilling, from eval_datasets/), "bundled" (single lines of functions of our own), or a
            .jsonl or .jsonl.gz in the published format. If null, single-line where its file lies in
            eval_datasets/, else bundled.
        leave_out: ids of tasks that are neither filled nor scored, such as those whose reference
            solution does not pass here.
        num_trials: completions of each gap. It can be raised, too.
        samples: a file of completions to score, in the format of OpenAI's script (task_id,
            completion), instead of generating any.
        whitespace_map: whether line ends, tabs and pairs of blanks are tokens, as in the
            released code model; if null, where the tokenizer cannot write them otherwise.
        execute: "sandbox" (programs run where they can do no harm), "unsafe" (they run as they
            are), or "none" (nothing is run, and nothing scored).
        timeout: seconds of CPU time that a program may take, and ten times as many by the clock.
            A program that the clock ends, or that is killed, is tried again alone before it counts.
    """

    output_dir: str = "runs/infill_code"
    leave_out: list[str] = field(default_factory=list)
    samples: str | None = None
    whitespace_map: bool | None = None
    execute: str = "sandbox"
    timeout: float = 10.0
