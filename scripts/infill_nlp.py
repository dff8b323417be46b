"""Fill blanks in prose and say how good it is: ROCStories, LAMBADA, HellaSwag, held-out text."""

from asarm.cli import launch
from asarm.evaluation.prose.config import InfillProseConfig


def main(config: InfillProseConfig) -> None:
    from asarm.evaluation import engine  # torch loads here, so that --help is instant
    from asarm.evaluation.prose.tasks import prepare

    engine.run(config, prepare)


if __name__ == "__main__":
    launch(main, InfillProseConfig)
