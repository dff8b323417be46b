"""Published data on this machine: in `eval_datasets/`, like a user's, or beside the checkout."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ROOT / "eval_datasets", ROOT.parent / "shared" / "data"


def published(name: str) -> Path:
    """The file or folder of this name, without which the test that asks for it is skipped."""
    for folder in FOLDERS:
        if (folder / name).exists():
            return folder / name
    pytest.skip(f"{name} is neither in eval_datasets/ nor in ../shared/data")
