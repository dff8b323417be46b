"""Put a trained model into the package as the bundled one."""

from argparse import ArgumentParser
from pathlib import Path

from asarm.cli import refuse

FIGURES = """\
Whole modules and topics that training never saw, in blocks of 256 tokens, bits per byte. Below \
the model: `xz -9` of the same text, and an order-2 byte model of the training text.

{table}"""


def main(run: Path, folder: Path | None) -> None:
    import torch  # torch and the like load here, so that --help is instant
    import yaml

    from asarm.evaluation.held_out import held_out_figures, markdown_table
    from asarm.loading import DEMO, load
    from asarm.run import Run
    from asarm.training.card import card
    from asarm.training.config import TrainingConfig
    from asarm.training.files import EVALUATIONS

    folder = folder or DEMO
    model, tokenizer = load(run)
    model.to(torch.float16).save_pretrained(folder)
    if folder != DEMO:  # the package has it already, in its compact form
        tokenizer.save_pretrained(folder)
    config = TrainingConfig(**yaml.safe_load((run / "config.yaml").read_text()))
    table = markdown_table(held_out_figures(folder))
    evaluation = Run(run).read(EVALUATIONS)[-1]
    text = card(config, model, evaluation, use="demo", more_figures=FIGURES.format(table=table))
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the --output_dir of a training run")
    parser.add_argument("folder", type=Path, nargs="?", help="another one than the package's")
    options = parser.parse_args()
    try:
        main(options.run, options.folder)
    except (ValueError, OSError) as error:
        refuse(str(error))
