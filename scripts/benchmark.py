"""Measure time and memory against the original method, in one run."""

import sys

from asarm.benchmark.config import BenchmarkConfig, parse


def main(config: BenchmarkConfig) -> None:
    from asarm.benchmark.run import run  # torch loads here, so that --help is instant

    report = run(config)
    print(f"\n{report.markdown()}\nwritten to {config.output_dir}")


if __name__ == "__main__":
    try:
        main(parse())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
