"""Train an any-subset model."""

import sys
from pathlib import Path

from asarm.cli import launch
from asarm.training.config import TrainingConfig

PRESETS = Path(__file__).parents[1] / "configs" / "train"
STOPPED = 75  # exit code of a run that a signal, or the network, stopped behind a checkpoint


def main(config: TrainingConfig) -> None:
    # torch loads here, so that --help is instant
    from asarm.training.loop import train
    from asarm.training.summary import summary

    result = train(config)
    if result.is_main:
        print(summary(result, config))
    if not result.is_finished:
        sys.exit(STOPPED)


if __name__ == "__main__":
    launch(main, TrainingConfig, default_preset=PRESETS / "smoke.yaml")
