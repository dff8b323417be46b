"""What files hold, as digests: the same bytes under another name, date or mount are the same."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

SETTLED = 2.0  # seconds after which a further change of a file has a time of its own
CHUNK = 1 << 20
SHOWN = 3  # changes in a message

Stamps = dict[str, list[int]]


def digests(root: Path, files: Iterable[Path], store: Path) -> dict[str, str]:
    """Hash what each file holds, by its name in the root; of a saved folder, its rows.

    A digest is kept in the folder `store`, and holds while size, inode and both times of the file
    are what they were. One of these times cannot be set: a file that was edited and dated back is
    read again.
    """
    kept_in = store / f"{hashlib.blake2b(bytes(root.resolve()), digest_size=16).hexdigest()}.json"
    kept, stamps = _read(kept_in), stamps_of(root, files)
    found = {n: kept[n][1] for n, stamp in stamps.items() if kept.get(n, [None])[0] == stamp}
    new = {name: stamp for name, stamp in stamps.items() if name not in found}
    if new:
        found |= _digest_all(root, new)
        now = time.time_ns()
        known = {
            name: [stamp, found[name]]
            for name, stamp in stamps.items()
            if name not in new or now - max(stamp[1:3]) > SETTLED * 1e9
        }
        with suppress(OSError):  # then the digests are computed again at the next start
            _write(kept_in, known)
    parts: dict[str, list[str]] = {}
    for path in files:
        names = [_name(root, part) for part in _parts(path)]
        parts[_name(root, path)] = [found[name] for name in names]
    return {name: own[0] if len(own) == 1 else _joined(own) for name, own in parts.items()}


def stamps_of(root: Path, files: Iterable[Path]) -> Stamps:
    """Return the size, both times and the inode of each file, of those inside a saved folder."""
    stats = {_name(root, part): part.stat() for path in files for part in _parts(path)}
    return {n: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for n, s in stats.items()}


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say in which settings and files two packings differ."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    said = [
        words
        for name in names
        for words in (
            _changed_files(before.get(name) or {}, now.get(name) or {})
            if name == "files"
            else [
                "the tokenizer changed"
                if name == "tokenizer"
                else f"{name} was {before.get(name)} and is {now.get(name)}"
            ]
        )
    ]
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return ", ".join(said[:SHOWN]) + more


def _changed_files(before: dict[str, str], now: dict[str, str]) -> list[str]:
    said = {
        name: "is new" if name not in before else "is gone" if name not in now else "changed"
        for name in sorted({**before, **now})
        if before.get(name) != now.get(name)
    }
    return [f"{name} {what}" for name, what in said.items()]


def _name(root: Path, path: Path) -> str:
    return path.name if path == root else path.relative_to(root).as_posix()


def _parts(path: Path) -> list[Path]:
    """Return the files that hold the rows of a saved folder; any other file itself."""
    return sorted(path.glob("*.arrow")) if path.is_dir() else [path]


def _digest_all(root: Path, stamps: Stamps) -> dict[str, str]:
    size = sum(stamp[0] for stamp in stamps.values())
    found = {}
    with tqdm(total=size, unit="B", unit_scale=True, desc="checking", disable=None) as progress:
        for name in stamps:
            found[name] = _digest(root if root.is_file() else root / name, progress)
    return found


def _digest(path: Path, progress: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                progress.update(len(chunk))
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); check the file") from None
    return digest.hexdigest()


def _joined(own: list[str]) -> str:
    return hashlib.blake2b(" ".join(own).encode(), digest_size=16).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # none yet, or damaged: then they are computed anew
        return {}


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
