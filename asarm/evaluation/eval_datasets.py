"""The folder `eval_datasets/` of published data, in the checkout or the current directory."""

from __future__ import annotations

from pathlib import Path

FOLDER = "eval_datasets"
INSTALLED = {"site-packages", "dist-packages"}  # folders that users put no data into


def find(file: str, checkout: Path) -> Path | None:
    """Return a file in the folder of the checkout or of the current directory, if it is there."""
    paths = (folder / FOLDER / file for folder in (checkout, Path()))
    return next((path for path in paths if path.is_file()), None)


def place(checkout: Path) -> Path:
    """Return the folder that users put data into: of the checkout, or of the current directory."""
    home = checkout if INSTALLED.isdisjoint(checkout.parts) else Path.cwd()
    return home / FOLDER
