"""Put a trained model into the package, or a draft head of the model that is there."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from asarm.cli import refuse

FIGURES = """\
Whole modules and topics that training never saw, in blocks of 256 tokens, bits per byte. Below \
the model: `xz -9` of the same text, and an order-2 byte model of the training text.

{table}"""
HEADING = "## Draft head"
HEAD = """
{heading}

`draft_head.safetensors`, {size:,} parameters in float8, was trained on top of these weights by \
`configs/train/draft_head.yaml`. Of held-out drafts, 1 to 12 ranks ahead and at 15, 50 and 95% \
blank, it expects {last:.1%} to be rejected; of the network's own, {first:.1%} are.
"""


def main(run: Path, folder: Path | None) -> None:
    import yaml  # torch and the like load here, so that --help is instant

    from asarm.loading import DEMO, load
    from asarm.run import Run
    from asarm.training.config import TrainingConfig
    from asarm.training.files import EVALUATIONS

    model, tokenizer = load(run, packed=False)
    config = TrainingConfig(**yaml.safe_load((run / "config.yaml").read_text()))
    evaluations = Run(run).read(EVALUATIONS)
    if config.learn == "draft_head":
        bundle_head(model, evaluations, folder or DEMO)
    else:
        bundle_model(model, tokenizer, config, evaluations[-1], folder or DEMO)


def bundle_model(model: Any, tokenizer: Any, config: Any, evaluation: Any, folder: Path) -> None:
    """The model in float16, and its card."""
    import torch

    from asarm.loading import DEMO
    from asarm.metrics.held_out import held_out_figures, markdown_table
    from asarm.training.card import card

    model.to(torch.float16).save_pretrained(folder)
    if folder != DEMO:  # the package has it already, in its compact form
        tokenizer.save_pretrained(folder)
    table = markdown_table(held_out_figures(folder))
    text = card(config, model, evaluation, use="demo", more_figures=FIGURES.format(table=table))
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(table)


def bundle_head(model: Any, evaluations: Any, folder: Path) -> None:
    """The head of a model that is in the folder already, and a paragraph of its card."""
    import torch

    from asarm.drafting.files import save_draft_head

    head = model.draft_head
    size = sum(weight.numel() for weight in head.parameters())
    first, last = (evaluations[n]["drafts_rejected"] for n in (0, -1))
    save_draft_head(head.to(torch.float8_e4m3fn), folder)  # a draft needs no more
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8").partition(f"\n{HEADING}")[0]
    text += HEAD.format(heading=HEADING, size=size, first=first, last=last)
    card.write_text(text, encoding="utf-8")
    print(text[text.index(HEADING) :])


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the --output_dir of a training run")
    parser.add_argument("folder", type=Path, nargs="?", help="another one than the package's")
    options = parser.parse_args()
    try:
        main(options.run, options.folder)
    except (ValueError, OSError) as error:
        refuse(str(error))
