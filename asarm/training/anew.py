"""Whether a run without a whole checkpoint may begin at its first step: not over what it has."""

from __future__ import annotations

from shlex import quote

from asarm.run import Run
from asarm.training.checkpoint import Checkpoints
from asarm.training.config import TrainingConfig
from asarm.training.export import WEIGHTS
from asarm.training.files import METRICS
from asarm.training.precision import stored_settings


def refuse_loss(run: Run, config: TrainingConfig, checkpoints: Checkpoints) -> None:
    """Let a run begin at its first step only where nothing is lost by that.

    Raises:
        ValueError: the folder holds a model, damaged checkpoints, or the logs of a run whose
            checkpoints are gone.
    """
    if problem := _what_would_be_lost(run, config, checkpoints):
        ways = ["put a whole one back", "--overwrite to throw this run away and begin anew"]
        if _has_model(run):
            model = f"--model {quote(str(run.folder))} --output_dir ..."
            ways.insert(1, f"{model} to train on from its model")
        raise ValueError(
            f"{run.folder} holds {problem}; expected one to go on from: {', or '.join(ways)}"
        )


def _what_would_be_lost(run: Run, config: TrainingConfig, checkpoints: Checkpoints) -> str | None:
    """Say what a run that begins anew would write over; None where it loses nothing."""
    if steps := checkpoints.steps():
        return f"{len(steps)} checkpoints, the last of step {steps[-1]}, and none of them is whole"
    if _has_model(run):
        return "a finished model and no checkpoint"
    logged = max((record["step"] for record in run.read(METRICS)), default=0)
    before = stored_settings(config).get("save_steps", 0)  # of the start before this one
    first_save = max(config.save_steps, before, *run.changed.get("save_steps", (0,)))
    return f"the logs of {logged} steps and no checkpoint" if logged > first_save else None


def _has_model(run: Run) -> bool:
    return any(path for name in WEIGHTS for path in run.folder.glob(name))
