"""Put a trained model into the package as the bundled one.

`python scripts/bundle_demo.py RUN [FOLDER]`: RUN is the folder of a training run.
"""

import sys
from pathlib import Path

import torch
import yaml

from asarm.evaluation.card import write_card
from asarm.loading import DEMO, load
from asarm.training.config import TrainingConfig


def main(run: Path, folder: Path = DEMO) -> None:
    model, tokenizer = load(run / "model")
    model.to(torch.float16).save_pretrained(folder)
    if folder != DEMO:  # the package has it already, in its compact form
        tokenizer.save_pretrained(folder)
    config = TrainingConfig(**yaml.safe_load((run / "config.yaml").read_text()))
    for name, row in write_card(folder, config, use="demo").items():
        print(name, row)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
