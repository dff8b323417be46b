"""Draw what one or several training runs have logged, finished or not."""

from argparse import ArgumentParser
from pathlib import Path

from asarm.cli import refuse


def main(runs: list[str], out: Path) -> None:
    from asarm.training.plots import read_curves, training_figure  # matplotlib loads here

    if out.suffix != ".png" or not out.parent.is_dir():
        raise ValueError(f"--out is {out}; expected a name.png in a folder that exists")
    out.write_bytes(training_figure(read_curves(runs)))
    print(f"loss, mask rates, learning rate and held-out curves of {', '.join(runs)} are in {out}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the --output_dir of a training run")
    parser.add_argument("--out", type=Path, default="training.png", help="the picture, a PNG")
    options = parser.parse_args()
    try:
        main(options.runs, options.out)
    except (ValueError, OSError) as error:
        refuse(str(error))
