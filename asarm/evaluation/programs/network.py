"""A model that fills the gaps of programs, with its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from transformers import PreTrainedTokenizerBase

from asarm.codec import Codec
from asarm.evaluation.programs.task import Task
from asarm.infilling.template import Template
from asarm.rows import Backbone
from asarm.text import decode, encode

PROBE = "if a:\n    b"


@dataclass(frozen=True)
class CodeNetwork:
    """A model with its tokenizer.

    Attributes:
        whitespace_map: whether line ends, tabs and pairs of blanks are tokens of their own.
    """

    model: Backbone
    tokenizer: PreTrainedTokenizerBase
    whitespace_map: bool

    @classmethod
    def of(
        cls,
        model: Backbone,
        tokenizer: PreTrainedTokenizerBase,
        whitespace_map: bool | None = None,
    ) -> CodeNetwork:
        """Make the pair; if None, the whitespace map is used where the tokenizer writes no code."""
        if whitespace_map is None:
            whitespace_map = not _writes_code(tokenizer)
        return cls(model, tokenizer, whitespace_map)

    def template(self, task: Task, *, left_only: bool = False) -> Template:
        """Return the program around a task's gap; `left_only` hides what follows it."""
        texts = [task.prompt, "" if left_only else task.suffix]
        return Template.of(
            Codec.of(self.tokenizer, self.whitespace_map), texts, closed=not left_only
        )

    def require_gaps(self, tasks: Sequence[Task]) -> None:
        """Refuse tasks whose true middle has no token, and so no gap to fill.

        Raises:
            ValueError: names the first one.
        """
        for task in tasks:
            try:
                self.template(task).lengths([task.canonical_solution])
            except ValueError as error:
                raise ValueError(
                    f"task {task.task_id} has no gap ({error}); mend its canonical_solution, or "
                    f"leave the task out by --leave_out {quote(task.task_id)}"
                ) from None


def _writes_code(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer gives line ends and indentation back as they were."""
    return decode(tokenizer, encode(tokenizer, PROBE)) == PROBE
