"""Join finished evaluation runs of any kind into one Markdown page: tables, figures, texts, and
the published figures beside ours."""

from argparse import ArgumentParser
from pathlib import Path

from asarm.cli import refuse
from asarm.evaluation.joined import join


def main(runs: list[str], out: Path) -> None:
    join(runs, out)
    print(f"the report of {', '.join(runs)} is in {out}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the --output_dir of an evaluation")
    parser.add_argument("--out", type=Path, default="report.md", help="the page, a .md")
    options = parser.parse_args()
    try:
        main(options.runs, options.out)
    except (ValueError, OSError) as error:
        refuse(str(error))
