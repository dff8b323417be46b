"""Which files of a local path hold data, and which are left out and why."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from asarm.data.text_files import DAMAGES, READERS, is_json_lines, json_records, kind_of, read_lines
from asarm.run import CONFIG, HEADER

SHOWN = 5  # names of a reason to leave files out, in a message


@dataclass
class Survey:
    """The files of a data set, sorted, and the names of what is left out, by the reason."""

    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @property
    def num_left_out(self) -> int:
        """How many files and folders are left out."""
        return sum(map(len, self.left_out.values()))

    def said(self) -> str:
        """Say in a line what is read and what is left out."""
        reasons = [
            f"{len(names)} {why} ({', '.join(names[:SHOWN])}{', ...' * (len(names) > SHOWN)})"
            for why, names in self.left_out.items()
        ]
        read = f"{len(self.files)} {'file is' if len(self.files) == 1 else 'files are'} read"
        return f"{read}, {self.num_left_out} left out: {'; '.join(reasons)}"


def find_files(dataset: str, *, column: str = "text", split: str | None = "train") -> list[Path]:
    """Return the files that `survey` finds."""
    return survey(dataset, column=column, split=split).files


def survey(dataset: str, *, column: str = "text", split: str | None = "train") -> Survey:
    """Find the file itself, or the files of the kinds in `READERS` in and below the folder.

    A folder that `datasets` has saved (`save_to_disk`) counts as its rows; of several splits it
    saved, the one of that name is taken, and none is where it is None. Links are followed, and no
    file is taken twice. What is hidden (its name begins with a dot) is left out, and so are runs'
    folders.

    Raises:
        ValueError: there is no such path, it holds no data, or it cannot be read.
    """
    path = local_path(dataset)
    kinds = ", ".join(READERS)
    if os.path.isfile(path):  # unlike its method this takes names that cannot be
        if kind_of(path) not in READERS:
            raise ValueError(f"dataset is {dataset}; expected a file that ends in {kinds}")
        return Survey([path])
    if not os.path.isdir(path):
        raise ValueError(
            f"dataset {dataset} does not exist{suggestion(path)}; name a file ({kinds}) or a folder"
        )
    walk = _Walk(path, column, split)
    try:
        walk.visit(path)
    except OSError as error:
        raise ValueError(
            f"cannot read {error.filename} ({error.strerror}); allow it, or give it a name that "
            "begins with a dot to leave it out"
        ) from None
    if not walk.found.files:
        reasons = f" ({walk.found.said()})" if walk.found.left_out else ""
        raise ValueError(
            f"dataset {dataset} holds no file that ends in {kinds}{reasons}; name another"
        )
    return walk.found


def local_path(dataset: str) -> Path:
    """Return the path that a user means; ValueError where it names the home of no user."""
    try:
        return Path(dataset).expanduser()
    except RuntimeError as error:
        raise ValueError(f"dataset is {dataset} ({error}); name the whole path") from None


def suggestion(path: Path) -> str:
    """Suggest the name next to it that it may be meant to be; nothing where there is none."""
    try:
        names = os.listdir(path.parent)
    except OSError:  # the folder does not exist either
        return ""
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" (is {path.with_name(close[0])} meant?)" if close else ""


class _Walk:
    """A way through a folder and all that are below or linked."""

    def __init__(self, root: Path, column: str, split: str | None):
        self.root, self.column, self.split = root, column, split
        self.found = Survey()
        self.seen: dict[tuple[int, int], Path] = {}  # by device and inode

    def visit(self, path: Path) -> None:
        """Take a file, or what is in a folder, or leave it out."""
        why = self._reason_against(path)
        if why is not None:
            name = path.relative_to(self.root).as_posix()
            self.found.left_out.setdefault(why, []).append(name + "/" * path.is_dir())
        elif path.is_file() or _is_saved(path):
            self.found.files.append(path)
        elif (path / "dataset_dict.json").is_file():
            self._visit_splits(path)
        else:
            for inner in sorted(path.iterdir()):
                self.visit(inner)

    def _reason_against(self, path: Path) -> str | None:
        if path == self.root:
            self._is_new(path)
            return None
        if path.name.startswith("."):
            return "hidden"
        if not path.exists():
            return "linked to nothing"
        if not self._is_new(path):
            return "read already under another name"
        if path.is_dir():
            return "of a run" if _is_run(path) else None
        if kind_of(path) not in READERS or not path.is_file():
            return "of a kind that is not read"
        return "without records" if self._is_no_data(path) else None

    def _is_new(self, path: Path) -> bool:
        stat = path.stat()
        return self.seen.setdefault((stat.st_dev, stat.st_ino), path) == path

    def _is_no_data(self, path: Path) -> bool:
        """Return whether it is a .json of another purpose: one object without such a column."""
        try:
            if kind_of(path) != ".json" or _has_several_rows(path):
                return False
            records = json_records(path)
        except (*DAMAGES, ValueError):  # which reading it says
            return False
        return len(records) == 1 and isinstance(records[0], dict) and self.column not in records[0]

    def _visit_splits(self, folder: Path) -> None:
        splits = [path for path in sorted(folder.iterdir()) if _is_saved(path)]
        names = [path.name for path in splits]
        if self.split not in names:
            lacking = "" if self.split is None else f" and no split {self.split!r}"
            raise ValueError(
                f"{folder} holds {', '.join(names)}{lacking}; name the folder of one as dataset"
            )
        others = [p.relative_to(self.root).as_posix() for p in splits if p.name != self.split]
        if others:
            self.found.left_out.setdefault("of another split", []).extend(others)
        self.found.files.append(folder / self.split)


def _has_several_rows(path: Path) -> bool:
    """Return whether it is a .json with an object a line, and more than one."""
    rows = islice((line for line in read_lines(path) if line.strip()), 2)
    return is_json_lines(path) and len(list(rows)) > 1


def _is_saved(path: Path) -> bool:
    """Return whether `datasets` has saved a data set there."""
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def _is_run(path: Path) -> bool:
    config = path / CONFIG
    if not config.is_file():
        return False
    with config.open(encoding="utf-8", errors="replace") as file:
        return file.read(len(HEADER)) == HEADER
