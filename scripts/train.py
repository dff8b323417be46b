"""Train an any-subset model."""

from jsonargparse import auto_cli

from asarm.training.config import TrainingConfig


def main(config: TrainingConfig) -> None:
    from asarm.training.loop import train  # torch loads here, so that --help is instant

    print(f"model written to {train(config)}")


if __name__ == "__main__":
    main(auto_cli(TrainingConfig, as_positional=False))
