"""Runs programs against their tests, every one in sandboxes of its own.

The protocol is that of OpenAI's human-eval-infilling: the program's text, then the test's, then
`check(entry_point)`; it passes when nothing raises. Here the two texts run in two processes, each
in its own sandbox, so that a verdict cannot be forged:

- The tests' process (`judge`) never runs the program's code. It requests the names from the other
one
  and calls that the tests use, and gets copies of plain values, so that real numbers are compared
  by Python's real `==`. Its report carries a random token, and is written after `check` returned.
- The program's process (`guest`) has neither the tests nor the token, nor the pipe of the report,
  nor a way to see the other process. Frames, gc, patched builtins, native code and exits reach
  only what it has itself: its own answers. To pass, it has to answer as the tests want.

What this leaves of Python's freedom: objects of a program's own classes, but for named tuples and
errors, stay in its process and equal nothing but themselves; builtins used in a test are Python's
even where the program names its own alike; the program's text has to be whole without the test's;
tests give the program plain values (`inside.values`) and what they got from it, no functions,
objects or files of their own; what a program keeps of its arguments, and what it has returned, is
not changed by what the tests do to theirs later.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from secrets import token_hex
from types import ModuleType
from typing import IO, Any, NamedTuple

from asarm.sandbox.inside import guest, judge
from asarm.sandbox.isolation import Isolation, environment
from asarm.sandbox.processes import (
    CLOSED_PIPES,
    Process,
    end,
    how_it_ended,
    last_line,
    read_line,
)

START_SECONDS = 120.0  # for a sandbox to start on a machine that has much else to do
TIMED_OUT, NO_SANDBOX, CANNOT_RUN = "timed out", "no sandbox", "cannot be run"
MACHINES = (TIMED_OUT, NO_SANDBOX, "killed: SIGKILL", CLOSED_PIPES)  # it may be at fault


@dataclass(frozen=True)
class Limits:
    """What a program may use, its tests included.

    Without isolation the superuser's processes are not counted, and an ordinary user's all are.
    """

    seconds: float = 100.0  # by the wall's clock, generously: the machine may be busy
    cpu_seconds: float = 10.0  # per process, in whole seconds
    memory_bytes: int = 512 << 20  # address space, per process
    output_bytes: int = 4 << 20  # of one answer to the tests; what is printed goes nowhere
    file_bytes: int = 16 << 20  # per file, and in the temporary folder as a whole
    processes: int = 16  # threads count as well
    open_files: int = 64


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Outcome:
    """Whether a program passed its test, and in words: "failed: AssertionError", "timed out"."""

    passed: bool
    result: str

    @property
    def is_doubtful(self) -> bool:
        """Whether the machine may be at fault: it was busy, out of memory, or made no sandbox."""
        return self.result.startswith(MACHINES)


class Program(NamedTuple):
    """A program, and the test that it has to pass."""

    source: str
    test: str  # defines check(candidate)
    entry_point: str  # the name that `check` is called with


def run_programs(
    programs: Sequence[Program],
    *,
    isolation: Isolation,
    limits: Limits = DEFAULT_LIMITS,
    workers: int | None = None,
) -> Iterator[tuple[int, Outcome]]:
    """Yield the place and outcome of every program, as they finish; some are doubtful.

    Args:
        programs: what to run, equal ones as often as they are there.
        isolation: from `isolation.find_isolation`.
        limits: for every single program.
        workers: how many programs run at once; as many as there are cores by default.
    """
    runs = Runs(isolation, limits)
    pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))
    places: dict[Future[Outcome], int] = {}
    try:
        places = {pool.submit(runs.run, program): i for i, program in enumerate(programs)}
        waiting = set(places)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield places[future], future.result()
    finally:  # also where the caller wants no more
        runs.stop()
        pool.shutdown(cancel_futures=True)


class Runs:
    """Runs programs, one per call, from any thread; can be stopped as a whole."""

    def __init__(self, isolation: Isolation, limits: Limits):
        self._isolation, self._limits = isolation, limits
        self._alive: set[Process] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, program: Program) -> Outcome:
        """Return the outcome of one program; with isolation, all that it started ends with it."""
        try:
            return self._run(program)
        except OSError as error:  # no process, pipe or file is to be had here
            return Outcome(False, f"{NO_SANDBOX}: {error.strerror or error}")

    def _run(self, program: Program) -> Outcome:
        token = token_hex(16)
        with ExitStack() as stack:
            job, *errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(3))
            self._write_job(job, program, token)
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            (requests, send), (answers, reply) = os.pipe(), os.pipe()
            try:
                streams = {"stdin": requests, "stdout": reply, "stderr": errors[0]}
                program_side = self._start(guest, folder=folder, **streams)
                stack.callback(self._end, program_side)
                streams = {"stdin": job, "stdout": subprocess.PIPE, "stderr": errors[1]}
                pipes = (answers, send)
                test_side = self._start(
                    judge, *map(str, pipes), folder=folder, pass_fds=pipes, **streams
                )
                stack.callback(self._end, test_side)
            finally:
                for descriptor in (requests, send, answers, reply):
                    os.close(descriptor)
            return self._outcome(test_side, program_side, token, errors)

    def stop(self) -> None:
        """End what runs now, and start nothing any more."""
        with self._lock:
            self._stopped = True
            for process in self._alive:
                process.terminate()

    def _write_job(self, file: IO[bytes], program: Program, token: str) -> None:
        """Fill a file with what `judge` has to know."""
        job = program._asdict() | {
            "token": token,
            "limits": asdict(self._limits),
            "refuse_system_calls": self._isolation.isolates,
        }
        file.write(json.dumps(job).encode())
        file.seek(0)

    def _start(self, module: ModuleType, *arguments: str, folder: str, **streams: Any) -> Process:
        space = self._limits.file_bytes
        command = self._isolation.command(module, *arguments, space=space)
        own_folder = {} if self._isolation.isolates else {"HOME": folder, "TMPDIR": folder}
        with self._lock:
            if self._stopped:
                raise RuntimeError("the run was stopped")
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment() | own_folder,
                start_new_session=True,
                **streams,
            )
            self._alive.add(process)
        return process

    def _end(self, process: Process) -> None:
        """End a process and its session, or its sandbox."""
        with self._lock:
            self._alive.discard(process)
        end(process, by_itself=self._isolation.isolates)

    def _outcome(
        self,
        test_side: Process,
        program_side: Process,
        token: str,
        errors: Sequence[IO[bytes]],
    ) -> Outcome:
        """Return what the tests' process reports."""
        if read_line(test_side, START_SECONDS) != {"started": True}:
            return self._no_sandbox("it does not start", errors)
        report = read_line(test_side, self._limits.seconds)
        if report is None:
            return Outcome(False, TIMED_OUT)
        if report.get("token") != token:  # the answers were too much for it, or the machine's fault
            ending = how_it_ended(test_side)
            killed = ending.startswith("killed")
            return Outcome(False, ending) if killed else self._no_sandbox(ending, errors)
        if "cannot" in report:
            return Outcome(False, f"{CANNOT_RUN}: {report['cannot']}")
        if "gone" in report:
            return Outcome(False, how_it_ended(program_side))
        return Outcome(report["result"] == "passed", report["result"])

    def _no_sandbox(self, what: str, errors: Sequence[IO[bytes]]) -> Outcome:
        texts = filter(None, map(last_line, errors))
        return Outcome(False, ": ".join([NO_SANDBOX, "; ".join([what, *texts])]))
