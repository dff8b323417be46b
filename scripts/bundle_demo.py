"""Put a trained model into the package as the bundled one: `python scripts/bundle_demo.py RUN`."""

import sys
from pathlib import Path

import torch
import yaml

from asarm.evaluation.card import write_card
from asarm.loading import DEMO, load
from asarm.training.config import TrainingConfig


def main(run: Path) -> None:
    model, _ = load(run / "model")
    model.to(torch.float16).save_pretrained(DEMO)
    config = TrainingConfig(**yaml.safe_load((run / "config.yaml").read_text()))
    for name, row in write_card(DEMO, config, use="demo").items():
        print(name, row)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
