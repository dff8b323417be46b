"""Put a trained adapter of smollm2 into the package, in float16; its draft head stays beside it."""

from __future__ import annotations

import json
import shutil
from argparse import ArgumentParser
from pathlib import Path


def main(run: Path, head: Path | None, folder: Path | None) -> None:
    import torch  # here, so that --help is instant
    from safetensors.torch import load_file, save_file

    from asarm.backbones.lora import CONFIG, WEIGHTS
    from asarm.backbones.pretrained_decoder import BLANK
    from asarm.drafting import files
    from asarm.loading import SMOLLM2

    folder = folder or SMOLLM2
    folder.mkdir(exist_ok=True)
    weights = {name: w.to(torch.float16) for name, w in load_file(run / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS)
    config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(run / BLANK, folder / BLANK)
    if head is not None:
        found = {name: w.to(torch.float16) for name, w in load_file(head / files.WEIGHTS).items()}
        save_file(found, folder / files.WEIGHTS)
        shutil.copyfile(head / files.CONFIG, folder / files.CONFIG)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    print(f"{folder} holds {size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument(
        "run", type=Path, help="folder of a finished run of configs/train/decoder.yaml"
    )
    parser.add_argument("--head", type=Path, help="folder of a run that trained its draft head")
    parser.add_argument("--folder", type=Path, help="instead of asarm/smollm2")
    arguments = parser.parse_args()
    main(arguments.run, arguments.head, arguments.folder)
