"""A run's folder: what was asked for, what it was done with, and the results as they come."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
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

    def __init__(self, folder: str | Path, *, subfolders: Collection[str] = ()):
        self.folder = Path(folder)
        self.changed: dict[str, tuple[Any, Any]] = {}  # settings: before, now
        self._subfolders = subfolders
        self._mended: set[str] = set()

    @classmethod
    def open(
        cls,
        output_dir: str | Path,
        config: Any,
        *,
        overwrite: bool = False,
        may_change: Collection[str] = (),
        subfolders: Collection[str] = (),
        task: int = 0,
    ) -> Run:
        """Make the folder, or take up the run that it holds.

        Writes the resolved settings (config.yaml) and how the run was started (a line of
        starts.jsonl: command, versions, machine, git commit).

        Args:
            output_dir: the folder.
            config: a dataclass with the settings.
            overwrite: throw away the results of a run with other settings.
            may_change: settings that a run taken up again may change, beside those that never
                change results (`NOT_RESULTS`). What changed is in `changed` and in starts.jsonl.
            subfolders: folders of results, inside the run's.
            task: which of several jobs that work on the same run this is; each writes down its
                own starts.

        Raises:
            ValueError: the folder holds results of other settings, or something that is no run.
        """
        run = cls(output_dir, subfolders=subfolders)
        settings, defaults = (
            json.loads(json.dumps(asdict(c)))  # tuples become lists
            for c in (config, type(config)())
        )
        with run._writing(CONFIG):
            run.folder.mkdir(parents=True, exist_ok=True)
        differences = run._differences(settings, defaults)
        fatal = [name for name in differences if name not in may_change]
        if overwrite and fatal:
            run._clear()
        elif fatal and run._has_results():
            before, now = differences[fatal[0]]
            raise ValueError(
                f"{output_dir} holds a run with {fatal[0]} = {shown(before)}, not {shown(now)}; "
                "take another --output_dir, or --overwrite to throw its results away"
            )
        else:
            run.changed = differences if run._has_results() else {}
        run.write(CONFIG, HEADER + yaml.safe_dump(settings, sort_keys=False))
        changed = {"changed": run.changed} if run.changed else {}
        run.append(f"starts.{task}.jsonl" if task else STARTS, {**environment(), **changed})
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
        try:
            lines = path.read_bytes().split(b"\n")[
                :-1
            ]  # behind the last line end: nothing, or torn
        except FileNotFoundError:
            return []
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise ValueError(
                f"{path} is damaged: line {_first_bad(lines)} is not JSON; remove that line, and "
                "the same command makes it anew"
            ) from None

    def cut(self, name: str, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Leave only the records of a file that are to be kept; the file is whole at any time."""
        records = self.read(name)
        kept = [record for record in records if keep(record)]
        if len(kept) < len(records):
            self.write_lines(name, kept)

    def write_lines(self, name: str, records: Iterable[dict[str, Any]]) -> None:
        """Write a file of JSON lines, whole or not at all."""
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        self.write(name, "".join(lines))

    def write(self, name: str, content: bytes | str | dict[str, Any] | list[Any]) -> None:
        """Write a file whole or not at all: bytes and text as they are, anything else as JSON."""
        if not isinstance(content, bytes | str):
            content = json.dumps(content, indent=2) + "\n"
        with self._writing(name) as path:
            path.parent.mkdir(exist_ok=True)
            # a name of its own, for several jobs may write the same file
            temporary = path.with_name(f"{path.name}.{platform.node()}-{os.getpid()}.tmp")
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(temporary, path)

    def _differences(
        self, settings: dict[str, Any], defaults: dict[str, Any]
    ) -> dict[str, tuple[Any, Any]]:
        """The settings in which the folder's run differs: before, now.

        A setting that the folder does not know, of a version before it, had its default.
        """
        path = self.folder / CONFIG
        if not path.exists():
            self._refuse_strangers()
            return {}
        text = path.read_text(encoding="utf-8")
        stored = yaml.safe_load(text) if text.startswith(HEADER) else None
        if not isinstance(stored, dict):
            raise ValueError(f"{path} was not written by a run; take another --output_dir")
        pairs = {
            name: (stored.get(name, defaults.get(name)), settings.get(name, "not set"))
            for name in [*settings, *stored]
            if name not in NOT_RESULTS
        }
        return {name: (before, now) for name, (before, now) in pairs.items() if before != now}

    def _refuse_strangers(self) -> None:
        paths = self.folder.iterdir()
        strangers = sorted(p.name for p in paths if p.suffix not in (".tmp", ".lock"))
        if strangers:
            raise ValueError(
                f"{self.folder} is no run's folder: it holds {strangers[0]} and no {CONFIG}; "
                "take another --output_dir"
            )

    def _has_results(self) -> bool:
        lines = any(not path.match("starts*") for path in self.folder.glob("*.jsonl"))
        return lines or any((self.folder / name).exists() for name in self._subfolders)

    def _clear(self) -> None:
        """Remove the run's files, and no folder but its own."""
        with self._writing(CONFIG):
            for name in self._subfolders:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            files = [p for p in self.folder.iterdir() if p.is_file() and p.suffix != ".lock"]
            for path in sorted(files, key=lambda path: path.name == CONFIG):  # it goes last
                path.unlink(missing_ok=True)

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


def shown(value: Any) -> str:
    """A setting as a config file has it."""
    return "null" if value is None else str(value)
