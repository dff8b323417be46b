"""What a run writes and shows once all gaps are filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from asarm.display.tables import new_console
from asarm.evaluation.programs import report
from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.programs.generate import Networks
from asarm.evaluation.programs.protocol import check_scoring, code_result
from asarm.evaluation.programs.results import CodeResult
from asarm.evaluation.programs.samples import official
from asarm.evaluation.programs.scoring import Scorer, score_completions
from asarm.evaluation.programs.task import TaskSet
from asarm.evaluation.programs.variants import samples_file, variants
from asarm.run import Record, Run


def finish(
    run: Run,
    task_set: TaskSet,
    generated: Sequence[Record],
    config: InfillCodeConfig,
    networks: Networks | None,
    scorer: Scorer | None,
) -> CodeResult:
    """Write the completions as OpenAI's script has them, score them, and report.

    Files: samples.jsonl, samples-VARIANT.jsonl; where programs are run results.jsonl and
    outcomes.jsonl; summary.json, report.md.

    Raises:
        ValueError: the self-test fails; the completions are written by then, and no score is.
    """
    if not config.samples:
        names = [variant.name for variant in variants(config)]
        for name in names:
            ours = [record for record in generated if record["variant"] == name]
            run.write_lines(samples_file(name, names[0]), official(ours))
    checks, scored = None, []
    if scorer is not None:
        checks = check_scoring(task_set, scorer, networks, config)
        scored = score_completions(task_set.tasks, generated, scorer)
        run.write_lines("results.jsonl", scored)
    result = code_result(task_set, generated, config, scored=scored, checks=checks, scorer=scorer)
    run.write("summary.json", asdict(result))
    run.write("report.md", report.markdown(result))
    console = new_console()
    report.show(result, console)
    main = [r for r in scored or generated if r["variant"] == result.variants[0].name]
    passed = (record for record in main if record.get("passed"))
    report.show_example(task_set.tasks, next(passed, main[0]), console)
    print(f"tables, completions and what came of them are in {run.folder}")
    return result
