"""The last lines of a run."""

from __future__ import annotations

from shlex import quote

from asarm.metrics.densities import RATES
from asarm.run import Run
from asarm.training.card import number
from asarm.training.config import TrainingConfig
from asarm.training.loop import TrainingResult
from asarm.training.watch import EVALUATIONS, SAMPLES

SHOWN = 600  # characters of a sample


def summary(result: TrainingResult, config: TrainingConfig) -> str:
    """Compare held-out figures and a sample before and after, and say how to go on."""
    run, folder = Run(result.folder), quote(str(result.folder))
    same_command = f"the same command (--output_dir {quote(config.output_dir)})"
    evaluations = run.read(EVALUATIONS)
    parts = []
    if evaluations:
        parts.append("held-out bits per byte, by mask rate:")
        for figures in (*evaluations[:1], *evaluations[1:][-1:]):
            rates = (f"{rate:.0%}: {number(figures[f'bits_per_byte_{rate}'])}" for rate in RATES)
            parts.append(f"  step {figures['step']}: {', '.join(rates)}")
            parts.append(sample_at(run, figures["step"]))
    if result.best_step not in (None, result.step):
        parts.append(
            "lowest held-out loss: "
            + quote(f"{result.folder}/checkpoints/step-{result.best_step:07d}")
        )
    if result.is_finished:
        parts.append(
            f"finished: {result.step} steps. {folder} is a model folder: "
            f"--model {folder} works with every launcher.\n"
            f"To train longer: the same command with --max_steps {2 * config.max_steps}, for which "
            "the learning rate rises again, to half of its highest. To train "
            f"on from here on other data: --model {folder} --dataset ... --output_dir ..."
        )
    elif result.step == 0:
        parts.append(
            f"stopped before the first step ({result.stopped_by}): nothing is lost, "
            f"{same_command} begins with it"
        )
    else:
        parts.append(
            f"stopped after step {result.step} ({result.stopped_by}); a checkpoint is in "
            f"{folder}: {same_command} goes on from there"
        )
    return "\n".join(filter(None, parts))


def sample_at(run: Run, step: int) -> str:
    """Return the beginning of the first text that was filled at a step."""
    path = run.folder / SAMPLES / f"step-{step:07d}.txt"
    if not path.exists():
        return ""
    text = path.read_text(encoding="utf-8").split("=== filled\n")[1].split("\n\n=== blanked")[0]
    return "\n".join(f"    | {line}" for line in text[:SHOWN].splitlines())
