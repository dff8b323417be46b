"""The lock of a run's folder, between real processes."""

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from asarm.lock import LOCK, RunLock


@contextmanager
def elsewhere(folder, task: int = 0, tasks: int = 1) -> Iterator[int]:
    """Another process that has the folder, as this task, until it is killed; its number."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        lock = RunLock(folder, task, tasks)
        with lock.alone_at_the_door():
            pass
        os.write(writing, b"locked")
        signal.pause()
    os.close(writing)
    assert os.read(reading, 6) == b"locked"
    os.close(reading)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def take(folder, task=0, tasks=1) -> bool:
    """Whether this process would be alone there."""
    with RunLock(folder, task, tasks) as lock, lock.alone_at_the_door() as is_alone:
        return is_alone


@pytest.mark.parametrize("other", [(0, 1), (1, 3)])
def test_a_second_process_is_told_who_has_the_folder(tmp_path, other):
    with elsewhere(tmp_path, *other) as child:
        with pytest.raises(ValueError, match=f"{tmp_path} is in use by process {child} on") as said:
            take(tmp_path)
        assert ("(task 1 of 3)" in str(said.value)) == (other == (1, 3))
        assert "wait for it, stop it, or take another --output_dir" in str(said.value)
        with pytest.raises(ValueError, match=f"process {child} on"):
            take(tmp_path, 1, 3)  # the same task, or a task where one has all
    assert take(tmp_path)  # a dead process has nothing
    assert not list(tmp_path.iterdir())


def test_other_tasks_of_an_array_come_in_and_are_told_that_they_are_not_alone(tmp_path):
    with elsewhere(tmp_path, 0, 3):
        assert not take(tmp_path, 2, 3)
        with elsewhere(tmp_path, 2, 3) as child:
            assert not take(tmp_path, 1, 3)
            with pytest.raises(ValueError, match=f"process {child} on .*task 2 of 3"):
                take(tmp_path, 2, 3)
        assert not take(tmp_path, 2, 3)
        assert (tmp_path / LOCK).exists()
    assert take(tmp_path, 1, 3)


def test_names_of_the_dead_are_not_given(tmp_path):
    with elsewhere(tmp_path, 0, 3):
        pass  # leaves its signature
    with elsewhere(tmp_path, 1, 3) as child, pytest.raises(ValueError, match=f"process {child} on"):
        take(tmp_path)


def test_a_task_waits_at_the_door_until_the_one_before_has_begun(tmp_path):
    lock = RunLock(tmp_path, 0, 2)
    reading, writing = os.pipe()
    with lock.alone_at_the_door() as is_alone:
        assert is_alone
        child = os.fork()
        if not child:
            os.write(writing, b"s")
            with RunLock(tmp_path, 1, 2).alone_at_the_door() as is_alone:
                os.write(writing, b"no"[: 1 + is_alone])
            os._exit(0)
        assert os.read(reading, 1) == b"s"
        os.set_blocking(reading, False)
        for _ in range(100):
            with pytest.raises(BlockingIOError):
                os.read(reading, 1)
        os.set_blocking(reading, True)
    assert os.read(reading, 2) == b"n"  # it was not alone
    os.waitpid(child, 0)
    lock.close()
    os.close(reading), os.close(writing)


def test_a_folder_made_for_nothing_is_removed_and_a_lock_that_was_removed_is_none(tmp_path):
    folder = tmp_path / "new"
    lock = RunLock(folder)
    (folder / LOCK).unlink()
    with RunLock(folder):
        assert (folder / LOCK).exists()
    lock.close()
    lock.close()
    assert list(tmp_path.iterdir()) == [folder]  # the second found it there
    with RunLock(tmp_path / "other"):
        pass
    assert list(tmp_path.iterdir()) == [folder]


def test_a_lock_goes_with_the_one_who_has_it_and_not_with_its_children(tmp_path):
    lock = RunLock(tmp_path)
    child = os.fork()
    if not child:
        lock.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / LOCK).exists()
    del lock
    assert not (tmp_path / LOCK).exists()


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.lockf", refused)
    for tasks in (1, 2):
        with pytest.warns(UserWarning, match="cannot be locked .No locks available"):
            assert take(tmp_path, 0, tasks)
