"""Compare the samplers: quality against network calls, on blanked-out text."""

from asarm.cli import launch
from asarm.evaluation.config import DecodingConfig


def main(config: DecodingConfig) -> None:
    from asarm.evaluation import ablation, engine  # torch loads here, so that --help is instant
    from asarm.evaluation.decoding import DecodingStudy

    if config.grid is None:
        engine.run(config, DecodingStudy.prepare)
    else:
        ablation.run_and_show(config)


if __name__ == "__main__":
    launch(main, DecodingConfig)
