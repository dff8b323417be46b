"""The bundled tasks, made anew from the functions each time: nothing can be out of date."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import resources

from asarm.evaluation.programs.task import Task

CHECK = "check_"


def bundled_tasks() -> list[Task]:
    """Return a single-line task for each line of each bundled function's body."""
    source = resources.files(__package__).joinpath("functions.py").read_text(encoding="utf-8")
    return list(make_tasks(source))


def make_tasks(source: str) -> Iterator[Task]:
    """Blank out each line of each function's body: its docstring stays, its test is `check_NAME`.

    Args:
        source: the text of a module whose functions, with docstrings, are followed by their tests.
    """
    lines = source.splitlines(keepends=True)
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    texts = {f.name: "".join(lines[f.lineno - 1 : f.end_lineno]) for f in functions}
    for function in functions:
        if function.name.startswith(CHECK):
            continue
        test = texts[CHECK + function.name].replace(f"def {CHECK}{function.name}(", "def check(")
        docstring_end = function.body[0].end_lineno or 0
        for number in range(docstring_end, function.end_lineno or 0):
            if not lines[number].strip():
                continue
            yield Task(
                task_id=f"bundled/{function.name}/L{number - docstring_end}",
                entry_point=function.name,
                prompt="".join(lines[function.lineno - 1 : number]),
                suffix="".join(lines[number + 1 : function.end_lineno]),
                canonical_solution=lines[number],
                test=test,
            )
