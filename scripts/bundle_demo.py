"""Put a trained model into the package as the bundled one.

`python scripts/bundle_demo.py RUN [FOLDER]`: RUN is the folder of a training run.
"""

import sys
from pathlib import Path

import torch
import yaml

from asarm.evaluation.held_out import held_out_figures, markdown_table
from asarm.loading import DEMO, load
from asarm.run import Run
from asarm.training.card import card
from asarm.training.config import TrainingConfig
from asarm.training.watch import EVALUATIONS

FIGURES = """\
Whole modules and topics that training never saw, in blocks of 256 tokens, bits per byte. Below \
the model: `xz -9` of the same text, and an order-2 byte model of the training text.

{table}"""


def main(run: Path, folder: Path = DEMO) -> None:
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
    main(*map(Path, sys.argv[1:]))
