"""The lock of a run's folder: no process does there what another one is doing already.

The lock's file has a record for each task of an array. A task locks its own record and signs it; a
run that is not an array locks all of them. The kernel unlocks what a process held, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = "run.lock"
RECORD = 256  # bytes
DOOR = 2**40  # a byte after all records, locked by the one process that may write settings
ALL = (0, DOOR)  # where the records start, and how many bytes they have
HELD = (errno.EACCES, errno.EAGAIN)


class RunLock:
    """A process's hold on a folder, until it is closed, collected as garbage, or the process ends.

    A run that is not an array has the folder from here on, the task of an array from when it was at
    the door.

    Args:
        folder: the folder, which is made if need be.
        task: which task of an array this process is.
        tasks: the number of tasks.

    Raises:
        ValueError: another process has the folder.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, task: int = 0, tasks: int = 1):
        self.folder = folder
        self._own = ALL if tasks == 1 else (task * RECORD, RECORD)
        part = f" (task {task} of {tasks})" if tasks > 1 else ""
        self._signature = f"process {os.getpid()} on {platform.node()}{part}\n".encode()[:RECORD]
        self._descriptor = -1  # of the file, once it is open
        self._made = None if folder.exists() else folder
        folder.mkdir(parents=True, exist_ok=True)
        if tasks == 1:
            self._take()

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let others have the folder."""
        if self._descriptor >= 0:
            self._release()

    @contextmanager
    def alone_at_the_door(self) -> Iterator[bool]:
        """Let in one process at a time, which learns whether nobody else has the folder.

        Raises:
            ValueError: another process does this task of an array, or has the whole folder.
        """
        if self._descriptor < 0:
            self._take(at_the_door=True)
        elif self._is_locked:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, DOOR)
        if not self._is_locked:
            yield True
            return
        try:
            yield _try(self._descriptor, ALL)
        finally:
            start, size = self._own
            _unlock(self._descriptor, 0, start)
            _unlock(self._descriptor, start + size, DOOR + 1 - start - size)

    def _take(self, *, at_the_door: bool = False) -> None:
        """Lock this process's part of the file, and sign it."""
        path, is_ours = self.folder / LOCK, False
        while not is_ours:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._is_locked = self._lock(descriptor, at_the_door)
                is_ours = _is_at(descriptor, path)  # who left last may have just removed it
            finally:
                if not is_ours:
                    os.close(descriptor)
        if self._own == ALL:
            os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, self._signature.ljust(RECORD), self._own[0])
        self._descriptor = descriptor
        about = path, self._made, os.getpid()
        self._release = weakref.finalize(self, _release, descriptor, *about)

    def _lock(self, descriptor: int, at_the_door: bool) -> bool:
        """False where the file system has no locks."""
        try:
            if at_the_door:
                fcntl.lockf(descriptor, fcntl.LOCK_EX, 1, DOOR)
            is_ours = _try(descriptor, self._own)
        except OSError as error:
            warnings.warn(
                f"{self.folder} cannot be locked ({error.strerror}): start no second run in it",
                stacklevel=5,
            )
            return False
        if not is_ours:
            raise ValueError(
                f"{self.folder} is in use by {_holder(descriptor, self._own[0])}; wait for it, "
                "stop it, or take another --output_dir"
            )
        return True


def _try(descriptor: int, where: tuple[int, int]) -> bool:
    """Lock a range of the file; False where another process has some of it."""
    start, size = where
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, size, start)
    except OSError as error:
        if error.errno not in HELD:
            raise
        return False
    return True


def _unlock(descriptor: int, start: int, size: int) -> None:
    if size:  # none would mean all
        fcntl.lockf(descriptor, fcntl.LOCK_UN, size, start)


def _holder(descriptor: int, first: int) -> str:
    """Who has signed one of the records that are locked: the first one before all others."""
    for start in (first, *range(0, os.fstat(descriptor).st_size, RECORD)):
        if _try(descriptor, (start, RECORD)):  # its signature is one of the dead
            _unlock(descriptor, start, RECORD)
        elif signature := os.pread(descriptor, RECORD, start).decode().strip("\0 \n"):
            return signature
    return "another process"


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the file that is open is the one that has the name."""
    try:
        return descriptor >= 0 and os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _release(descriptor: int, path: Path, made: Path | None, process: int) -> None:
    """Unlock; whoever leaves last removes the file, and a folder that it made for nothing."""
    if os.getpid() != process:  # a forked child has no lock
        return
    with suppress(OSError):
        if _try(descriptor, ALL) and _is_at(descriptor, path):
            path.unlink()
            if made:
                made.rmdir()  # which an OSError ends where something lies in it
    os.close(descriptor)
