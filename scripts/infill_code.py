"""Fill the gaps of functions, and run their tests: HumanEval infilling, or bundled tasks."""

from asarm.cli import launch
from asarm.evaluation.programs.config import InfillCodeConfig


def main(config: InfillCodeConfig) -> None:
    from asarm.evaluation import engine  # torch loads here, so that --help is instant
    from asarm.evaluation.programs.evaluation import prepare

    engine.run(config, prepare)


if __name__ == "__main__":
    launch(main, InfillCodeConfig)
