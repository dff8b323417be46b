"""Reading from processes, ending them, and telling how they ended."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from contextlib import suppress
from signal import SIGKILL, SIGXCPU, SIGXFSZ, Signals
from typing import IO, Any

Process = subprocess.Popen[bytes]
LAST_EXIT_CODE = 128  # beyond it lie the signals, as shells have it
LIMIT_SIGNALS: dict[int, str] = {SIGXCPU: "cpu time", SIGXFSZ: "file size"}
CLOSED_PIPES = "failed: it closed its pipes"  # or was killed on a machine that is slow to say so
GRACE_SECONDS = 2.0  # between the end of a process and of its sandbox
END_SECONDS = 5.0  # for a sandbox to end by itself


def read_line(process: Process, seconds: float) -> dict[str, Any] | None:
    """Read a process's next line of JSON: empty where it ended, None where it took too long."""
    assert process.stdout
    deadline = time.monotonic() + seconds
    descriptor, line = process.stdout.fileno(), b""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        byte = os.read(descriptor, 1)  # lines are few and short, and the next is not to be taken
        if not byte:
            return {}
        line += byte
    content: dict[str, Any] = json.loads(line)
    return content


def how_it_ended(process: Process) -> str:
    """Say why a process gave no answer, from its exit code."""
    try:
        code = process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return CLOSED_PIPES
    number = -code if code < 0 else code - LAST_EXIT_CODE
    if number in LIMIT_SIGNALS:
        return f"killed: {LIMIT_SIGNALS[number]}"
    if number in set(Signals):
        return f"killed: {Signals(number).name}"
    return f"failed: exited with {code}"


def last_line(file: IO[bytes]) -> str:
    """Return the last line of what a process wrote to a file."""
    file.seek(0)
    return (file.read().decode(errors="replace").strip().splitlines() or [""])[-1]


def end(process: Process, *, by_itself: bool) -> None:
    """End a process and its session.

    Args:
        process: started in a session of its own.
        by_itself: whether it is the outermost of a sandbox, which ends the others and then itself.
    """
    if by_itself:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
    with suppress(ProcessLookupError):  # nobody is left in its session
        os.killpg(process.pid, SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()
