"""Where published evaluation data lie: in `eval_datasets/`, of the checkout or where one starts."""

from __future__ import annotations

from pathlib import Path

FOLDER = "eval_datasets"
INSTALLED = {"site-packages", "dist-packages"}  # folders that nobody puts data into


def find(file: str, checkout: Path) -> Path | None:
    """The file in the folder of the checkout or of the current directory, if it is there."""
    paths = (folder / FOLDER / file for folder in (checkout, Path()))
    return next((path for path in paths if path.is_file()), None)


def place(checkout: Path) -> Path:
    """Where a file is to be put: in the checkout, or where one starts where asarm is installed."""
    home = checkout if INSTALLED.isdisjoint(checkout.parts) else Path.cwd()
    return home / FOLDER
