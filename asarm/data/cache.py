"""The folder in which packed data are kept."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from asarm.data.config import DataConfig
from asarm.data.packed import FACTS
from asarm.fetch import cache_folder

ABANDONED = 24 * 3600  # seconds after which an unfinished folder is of a packing that was killed
TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# Packed data of asarm; they can be made again.\n"
)


def cache_dir(config: DataConfig) -> Path:
    """Return the folder in which packed data are kept."""
    return cache_folder(config.cache_dir)


def make_cache(folder: Path) -> None:
    """Make the folder, and remove packings in it that were killed long ago."""
    (folder / "packed").mkdir(parents=True, exist_ok=True)
    for unfinished in (folder / "packed").glob("unfinished.*"):
        files = [unfinished, *unfinished.glob("*")]
        with suppress(OSError):  # the other process has just finished or removed it
            # what another process packs now is younger
            if time.time() - max(f.stat().st_mtime for f in files) > ABANDONED:
                shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one line that packed data cannot be kept there, and what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot keep packed data in {folder} ({error.strerror or error}): make room, or name "
            "another folder with --cache_dir"
        ) from None


def stale_note(folder: Path) -> str:
    """Name packings of what the data set of this one held before; empty where there are none."""
    facts = _facts(folder)
    stale = [
        other
        for other in sorted(folder.parent.iterdir())
        if (found := _facts(other)).get("dataset") == facts["dataset"]
        and found["made_of"].get("files") != facts["made_of"].get("files")
    ]
    if not stale:
        return ""
    size = sum(file.stat().st_size for other in stale for file in other.iterdir())
    names = ", ".join(other.name for other in stale)
    return (
        f"{folder.parent} keeps packed data ({size / 1e6:.3g} MB) of what {facts['dataset']} held "
        f"before; remove what no run goes on with: {names}"
    )


def _facts(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError):  # another process packs or removes it
        return {}
