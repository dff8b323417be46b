"""Train an any-subset model."""

from asarm.cli import launch
from asarm.training.config import TrainingConfig


def main(config: TrainingConfig) -> None:
    from asarm.training.loop import train  # torch loads here, so that --help is instant

    print(f"model written to {train(config)}")


if __name__ == "__main__":
    launch(main, TrainingConfig)
