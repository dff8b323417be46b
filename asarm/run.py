"""A run's folder: its settings, what it was run with, and the results as they come."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import yaml

from asarm.lock import LOCK, RunLock

CONFIG = "config.yaml"
STARTS = "starts.jsonl"  # a line each time the run was started or taken up again
SUMMARY = "summary.json"  # what an evaluation writes last: it says that all is there
HEADER = "# The settings of this asarm run, defaults included.\n"  # marks a folder as a run's
FINGERPRINTS = "# fingerprints: "  # before JSON, in the line below the header
KIND = "# kind: "  # before what a run is of, in a line below that
SHOWN = 12  # characters of a fingerprint, in a message
Record = dict[str, Any]  # a line of a file of results
NOT_RESULTS = frozenset({"output_dir", "overwrite", "progress"})
PACKAGES = ("asarm", "torch", "transformers", "tokenizers", "datasets", "numpy", "scipy")


@dataclass(frozen=True)
class Plan:
    """What a run is to be.

    Attributes:
        settings: the resolved ones, as JSON has them.
        defaults: the values where nothing is given.
        fingerprints: of what else the results depend on, by content; None where there is nothing.
        overwrite: throw away what the folder holds, and begin anew.
        may_change: settings that a run taken up again may change.
        may_grow: settings that it may raise, for what is there is then a part of the new plan;
            None is as high as can be.
        kind: the kind of run, such as "decoding".
    """

    settings: Mapping[str, Any]
    defaults: Mapping[str, Any]
    fingerprints: Mapping[str, str] | None = None
    overwrite: bool = False
    may_change: Collection[str] = ()
    may_grow: Collection[str] = ()
    kind: str | None = None

    def allows(self, name: str, before: Any, now: Any) -> bool:
        """Return whether the results of a run stay as they are when this setting changes."""
        if name in self.may_grow:
            return now is None or (before is not None and now >= before)
        return name in self.may_change


class Run:
    """The folder of one run. Whatever was appended or written is whole, however the run ends."""

    def __init__(self, folder: str | Path, *, subfolders: Collection[str] = ()):
        self.folder = Path(folder)
        self.changed: dict[str, tuple[Any, Any]] = {}  # settings: before, now
        self.is_anew = False  # whether what the folder held is, or will be, thrown away
        self._subfolders = subfolders
        self._mended: set[str] = set()
        self._plan: Plan
        self._starts: str
        self._lock: RunLock

    @classmethod
    def open(cls, output_dir: str | Path, config: Any, **options: Any) -> Run:
        """Make the folder, or take up the run that it holds: `prepare`, then `begin`."""
        run = cls.prepare(output_dir, config, **options)
        run.begin()
        return run

    @classmethod
    def prepare(
        cls,
        output_dir: str | Path,
        config: Any,
        *,
        overwrite: bool = False,
        may_change: Collection[str] = (),
        may_grow: Collection[str] = (),
        fingerprints: Mapping[str, str] | None = None,
        subfolders: Collection[str] = (),
        kind: str | None = None,
        task: int = 0,
        tasks: int = 1,
    ) -> Run:
        """Lock the folder, and check that the run fits what it holds; nothing there changes yet.

        Args:
            output_dir: the folder.
            config: a dataclass with the settings.
            overwrite: throw away what the folder holds, and begin anew. A task of an array that
                another task has begun anew, and a job that Slurm has requeued, go on instead.
            may_change: settings that a run taken up again may change, besides those that never
                change results (`NOT_RESULTS`). What changed is in `changed` and in starts.jsonl.
            may_grow: settings that it may raise.
            fingerprints: of what else the results depend on (weights, data), by content. The run
                keeps them, and refuses others under the same name.
            subfolders: folders of results, inside the run's.
            kind: the kind of run, which readers of the folder see.
            task: which task of an array this is; each writes down its own starts.
            tasks: the number of tasks.

        Raises:
            ValueError: the folder holds results of other settings, weights or data, or something
                that is not a run, or another process has it.
        """
        run = cls(output_dir, subfolders=subfolders)
        settings, defaults = (
            json.loads(json.dumps(asdict(c)))  # tuples become lists
            for c in (config, type(config)())
        )
        run._plan = Plan(settings, defaults, fingerprints, overwrite, may_change, may_grow, kind)
        run._starts = f"starts.{task}.jsonl" if task else STARTS
        run._refuse_strangers()
        with run._writing(LOCK):
            run._lock = RunLock(run.folder, task, tasks)
        with run._closed_if_refused():
            run._check(is_alone=True)
            if not run.is_anew:
                for path in run.folder.glob("*.jsonl"):
                    run.read(path.name)
        return run

    def begin(self) -> None:
        """Write down the resolved settings and fingerprints (config.yaml) and how the run was
        started (a line of starts.jsonl: command, versions, machine, git commit).

        Raises:
            ValueError: as `prepare`, by what other tasks of an array have begun since.
        """
        with self._closed_if_refused(), self._lock.alone_at_the_door() as is_alone:
            self._write_plan(*self._check(is_alone))

    def _write_plan(
        self, differences: dict[str, tuple[Any, Any]], fingerprints: dict[str, str]
    ) -> None:
        if self.is_anew:
            self._clear()
        elif differences:
            with self._writing(SUMMARY) as path:
                path.unlink(missing_ok=True)
        about = f"{FINGERPRINTS}{json.dumps(fingerprints)}\n" if fingerprints else ""
        about += f"{KIND}{self._plan.kind}\n" if self._plan.kind else ""
        settings = yaml.safe_dump(dict(self._plan.settings), sort_keys=False)
        self.write(CONFIG, HEADER + about + settings)
        changed = {"changed": self.changed} if self.changed else {}
        anew = {"anew": True} if self.is_anew else {}
        self.append(self._starts, {**environment(), **changed, **anew})

    @contextmanager
    def _closed_if_refused(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes have the folder. A run that is collected as garbage does so, too."""
        self._lock.close()

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
        """Return the records of a file of JSON lines, without a last line that is unfinished."""
        path = self.folder / name
        try:
            lines = path.read_bytes().split(b"\n")[:-1]  # after the last line end: nothing, or torn
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

    def holds(self, config: Any) -> bool:
        """Return whether the folder has a run of these settings."""
        stored, _ = self._stored()
        settings = json.loads(json.dumps(asdict(config)))
        return bool(stored) and not _differences(stored, settings, settings)

    def fingerprints(self) -> dict[str, str]:
        """Return what the folder's results depend on, by content."""
        return self._stored()[1] or {}

    def check_fingerprints(self, fingerprints: Mapping[str, str]) -> None:
        """Refuse results that depend on other contents.

        Raises:
            ValueError: names what differs, and both fingerprints.
        """
        for name, before in self.fingerprints().items():
            now = fingerprints.get(name, before)
            if before != now:
                raise ValueError(
                    f"{self.folder} holds results of {name} with fingerprint {before[:SHOWN]}, not "
                    f"{now[:SHOWN]}: its contents changed; put them back, take another "
                    "--output_dir, or --overwrite to throw the results away"
                )

    def _check(self, is_alone: bool) -> tuple[dict[str, tuple[Any, Any]], dict[str, str]]:
        """Refuse a plan that the folder rules out; return changed settings and all fingerprints.

        As long as there is no result, anything may change, but not while others work on it.
        """
        plan = self._plan
        stored, known = self._stored()
        differences = _differences(stored, plan.settings, plan.defaults) if stored else {}
        self.is_anew = plan.overwrite and not self._is_continued()
        self.changed = differences if self._has_results() and not self.is_anew else {}
        if self.is_anew and not is_alone:
            raise ValueError(
                f"{self.folder} is in use by other tasks of an array; wait for them or stop them "
                "before you --overwrite it, or take another --output_dir"
            )
        if self.is_anew or (is_alone and not self._has_results()):
            return differences, dict(plan.fingerprints or {})
        for name, (before, now) in differences.items():
            if not plan.allows(name, before, now):
                only = " (it may only grow)" if name in plan.may_grow else ""
                raise ValueError(
                    f"{self.folder} holds a run with {name} = {shown(before)}, not {shown(now)}"
                    f"{only}; take another --output_dir, or --overwrite to throw its results away"
                )
        if plan.fingerprints and stored and known is None:
            raise ValueError(
                f"{self.folder} holds results of an earlier version, which kept no fingerprints of "
                "weights and data; take another --output_dir, or --overwrite to throw them away"
            )
        self.check_fingerprints(plan.fingerprints or {})
        return differences, {**(known or {}), **(plan.fingerprints or {})}

    def _is_continued(self) -> bool:
        """Return whether another task of this array, or this job before Slurm requeued it, has
        begun the run anew already."""
        if job_id() is None or not is_part_of_job():
            return False
        starts = (
            start for path in self.folder.glob("starts*.jsonl") for start in self.read(path.name)
        )
        return any(start.get("anew") and start.get("job") == job_id() for start in starts)

    def _stored(self) -> tuple[dict[str, Any], dict[str, str] | None]:
        """Return settings and fingerprints of the folder's run; none where there is no run."""
        path = self.folder / CONFIG
        if not path.exists():
            return {}, None
        stored, text = read_settings(self.folder), path.read_text(encoding="utf-8")
        if stored is None:
            raise ValueError(f"{path} was not written by a run; take another --output_dir")
        line = text.removeprefix(HEADER).partition("\n")[0]
        is_known = line.startswith(FINGERPRINTS)
        return stored, json.loads(line.removeprefix(FINGERPRINTS)) if is_known else None

    def _refuse_strangers(self) -> None:
        """Refuse a folder that is not a run's, and leave it as it is, without a lock."""
        if self._stored()[0] or not self.folder.is_dir():
            return
        strangers = sorted(
            p.name for p in self.folder.iterdir() if p.suffix not in (".tmp", ".lock")
        )
        if strangers:
            raise ValueError(
                f"{self.folder} is not a run's folder: it holds {strangers[0]} and no {CONFIG}; "
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


def _differences(
    stored: Mapping[str, Any], settings: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the settings in which a stored run differs: before, now.

    A setting that the stored run does not know, of a version before it, had its default.
    """
    pairs = {
        name: (stored.get(name, defaults.get(name)), settings.get(name, "not set"))
        for name in [*settings, *stored]
        if name not in NOT_RESULTS
    }
    return {name: (before, now) for name, (before, now) in pairs.items() if before != now}


def job_id() -> str | None:
    """Return the Slurm job that this process belongs to: of an array's task, the whole array."""
    return os.environ.get("SLURM_ARRAY_JOB_ID") or os.environ.get("SLURM_JOB_ID")


def is_part_of_job() -> bool:
    """Return whether the job has other starts: tasks of its array, or before a requeue."""
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return "SLURM_ARRAY_JOB_ID" in os.environ or restarts != "0"


def read_settings(folder: str | Path) -> dict[str, Any] | None:
    """Return the settings of the run that a folder holds; None where it holds none.

    Raises:
        ValueError: they are damaged.
    """
    path = Path(folder, CONFIG)
    try:
        content = path.read_bytes() if path.is_file() else b""
        if not content.startswith(HEADER.encode()):
            return None
        found = yaml.safe_load(content.decode())
    except (ValueError, yaml.YAMLError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is damaged: it holds no settings; put them back, take another --output_dir, "
            "or remove the file to begin a run there anew"
        )
    return found


def read_kind(folder: str | Path) -> str | None:
    """Return what a folder's run is of; None where an earlier version made it, or none did."""
    path = Path(folder, CONFIG)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    kinds = [line.removeprefix(KIND) for line in text.splitlines() if line.startswith(KIND)]
    return kinds[0] if kinds else None


def environment() -> dict[str, Any]:
    """Return how and with what this process was started: command, versions, machine, git commit."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "command": shlex.join(sys.orig_argv),
        "python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
        "platform": platform.platform(),
        "device": _device(),
        "git_commit": _git_commit(),
        **({"job": job_id()} if job_id() else {}),
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
    """Return the commit of the checkout that tracks this file, and whether that was changed."""
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
    """Cut off what stands after the last line end: a line whose writer was killed."""
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
    """Return a setting as a config file has it."""
    return "null" if value is None else str(value)
