"""A run's folder: what was asked for, what it was done with, and the results as they come."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import yaml

CONFIG = "config.yaml"
STARTS = "starts.jsonl"  # a line each time the run was started or taken up again
HEADER = "# The settings of this asarm run, defaults included.\n"  # marks a folder as a run's
NOT_RESULTS = frozenset({"output_dir", "overwrite", "progress"})
PACKAGES = ("asarm", "torch", "transformers", "tokenizers", "datasets", "numpy", "scipy")


class Run:
    """The folder of one run. Whatever was appended or written is whole, however the run ends."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._mended: set[str] = set()

    @classmethod
    def open(
        cls,
        output_dir: str | Path,
        config: Any,
        *,
        overwrite: bool = False,
        may_change: Collection[str] = (),
    ) -> Run:
        """Make the folder, or take up the run that it holds.

        Writes the resolved settings (config.yaml) and how the run was started (a line of
        starts.jsonl: command, versions, machine, git commit).

        Args:
            output_dir: the folder.
            config: a dataclass with the settings.
            overwrite: throw away the results of a run with other settings.
            may_change: settings that a run taken up again may change, beside those that never
                change results (`NOT_RESULTS`).

        Raises:
            ValueError: the folder holds results of other settings, or something that is no run.
        """
        run = cls(output_dir)
        settings = json.loads(json.dumps(asdict(config)))  # tuples become lists
        with run._writing(CONFIG):
            run.folder.mkdir(parents=True, exist_ok=True)
        difference = run._difference(settings, NOT_RESULTS | set(may_change))
        if overwrite and difference:
            run._clear()
        elif difference and run._has_results():
            raise ValueError(
                f"{output_dir} holds a run with {difference}; "
                "take another --output_dir, or --overwrite to throw its results away"
            )
        run.write(CONFIG, HEADER + yaml.safe_dump(settings, sort_keys=False))
        run.append(STARTS, environment())
        return run

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Add a line of JSON to a file; it is on the disk when this returns."""
        line = json.dumps(record, ensure_ascii=False) + "\n"
        with self._writing(name) as path:
            if name not in self._mended:
                _cut_torn_line(path)
            self._mended.discard(name)  # until this line is whole
            with open(path, "ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            self._mended.add(name)

    def read(self, name: str) -> list[dict[str, Any]]:
        """The records of a file of JSON lines, without a last line that was never finished."""
        path = self.folder / name
        if not path.exists():
            return []
        lines = path.read_bytes().split(b"\n")[:-1]  # behind the last line end: nothing, or torn
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise ValueError(
                f"{path} is damaged: line {_first_bad(lines)} is not JSON; remove that line, and "
                "the same command makes it anew"
            ) from None

    def write(self, name: str, content: bytes | str | dict[str, Any] | list[Any]) -> None:
        """Write a file whole or not at all: bytes and text as they are, anything else as JSON."""
        if not isinstance(content, bytes | str):
            content = json.dumps(content, indent=2) + "\n"
        with self._writing(name) as path:
            temporary = path.with_name(f"{name}.tmp")
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(temporary, path)

    def _difference(self, settings: dict[str, Any], ignored: Collection[str]) -> str | None:
        """The first setting in which the folder's run differs, in words."""
        path = self.folder / CONFIG
        if not path.exists():
            self._refuse_strangers()
            return None
        text = path.read_text(encoding="utf-8")
        stored = yaml.safe_load(text) if text.startswith(HEADER) else None
        if not isinstance(stored, dict):
            raise ValueError(f"{path} was not written by a run; take another --output_dir")
        for name in dict.fromkeys([*settings, *stored]):
            before, now = stored.get(name, "not set"), settings.get(name, "not set")
            if name not in ignored and before != now:
                return f"{name} = {_shown(before)}, not {_shown(now)}"
        return None

    def _refuse_strangers(self) -> None:
        strangers = sorted(p.name for p in self.folder.iterdir() if p.suffix != ".tmp")
        if strangers:
            raise ValueError(
                f"{self.folder} is no run's folder: it holds {strangers[0]} and no {CONFIG}; "
                "take another --output_dir"
            )

    def _has_results(self) -> bool:
        return any(path.name != STARTS for path in self.folder.glob("*.jsonl"))

    def _clear(self) -> None:
        """Remove the run's files, but no folder."""
        with self._writing(CONFIG):
            files = [path for path in self.folder.iterdir() if path.is_file()]
            for path in sorted(files, key=lambda path: path.name == CONFIG):  # it goes last
                path.unlink()

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """Say in one line what could not be written."""
        path = self.folder / name
        try:
            yield path
        except OSError as error:
            raise type(error)(
                f"cannot write {path} ({error.strerror or error}); what was written before is "
                "kept: make room or take another --output_dir, and run the same command again"
            ) from None


def environment() -> dict[str, Any]:
    """How and with what this process was started: command, versions, machine, git commit."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "command": shlex.join(sys.orig_argv),
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
        "platform": platform.platform(),
        "device": _device(),
        "git_commit": _git_commit(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # asarm run from a checkout
        return None


def _device() -> str:
    import torch  # here, so that what only reads a run does not wait for it

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def _git_commit() -> str | None:
    """The commit of the checkout that this file is tracked in, and whether it was changed since."""
    try:
        if not _git("ls-files", Path(__file__).name):
            return None
        changes = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD") + (" and changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return cast(str, done.stdout).strip()


def _cut_torn_line(path: Path) -> None:
    """Cut off what stands behind the last line end: a line whose writer was killed."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)


def _first_bad(lines: list[bytes]) -> int:
    for number, line in enumerate(lines, start=1):
        try:
            json.loads(line)
        except ValueError:
            return number
    return 0


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
