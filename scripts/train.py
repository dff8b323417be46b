"""Train an any-subset model."""

import re
import sys
from pathlib import Path

from asarm.cli import PATIENCE, given_flags, launch, let_first_process_speak, wait_to_be_ended
from asarm.training.config import TrainingConfig
from asarm.training.interrupt import end_with_launcher, stop_signals

PRESETS = Path(__file__).parents[1] / "configs" / "train"
STOPPED = 75  # exit code of a run that a signal, or the network, stopped after a checkpoint
LOST = r"closed by peer|reset by peer|broken pipe|remote process exited"  # gloo's words, NCCL's


def main(config: TrainingConfig) -> None:
    with stop_signals():  # from here on, although torch takes seconds to load
        # torch loads here, so that --help is instant
        from asarm.training.checks import without_idle
        from asarm.training.loop import train
        from asarm.training.summary import summary

        config = without_idle(config, given_flags(sys.argv[1:]))
        try:
            result = train(config)
        except RuntimeError as error:
            if re.search(LOST, str(error), re.IGNORECASE):
                wait_to_be_ended(1, 2 * PATIENCE)  # another process failed, and says why
            raise
        if result.is_main:
            print(summary(result, config), flush=True)
        if not result.is_finished:
            let_first_process_speak(STOPPED)
            sys.exit(STOPPED)


if __name__ == "__main__":
    end_with_launcher()
    preset = PRESETS / "smoke.yaml"
    launch(main, TrainingConfig, default_preset=preset, instead=("model", "dataset"))
