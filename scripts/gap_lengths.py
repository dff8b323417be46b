"""Compare estimators of the length of a blank, on held-out prose and code."""

from asarm.cli import launch
from asarm.evaluation.gap_lengths.config import GapLengthsConfig


def main(config: GapLengthsConfig) -> None:
    from asarm.evaluation import engine  # torch loads here, so that --help is instant
    from asarm.evaluation.gap_lengths.study import prepare

    engine.run(config, prepare)


if __name__ == "__main__":
    launch(main, GapLengthsConfig)
