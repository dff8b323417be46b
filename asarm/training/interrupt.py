"""What can come in the way of a run: signals to stop, and the end of its launcher."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(BaseException):
    """A signal ends what can be ended at once; no Exception, so that nothing mends it."""


class StopSignal:
    """Remembers whether a signal has requested a stop, and which."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._is_at_once = False

    def note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.name == "SIGINT":
            raise KeyboardInterrupt  # requested twice: at once
        self.name = signal.Signals(number).name
        if os.environ.get("RANK", "0") == "0":
            how = "stopping" if self._is_at_once else "stopping after a checkpoint"
            os.write(2, f"\n{self.name}: {how}\n".encode())
        self._obey()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal end the block, also one that came before it: what loses nothing by that.

        Raises:
            Stopped: wherever the block is.
        """
        self._is_at_once = True
        try:
            self._obey()
            yield
        finally:
            self._is_at_once = False

    def _obey(self) -> None:
        if self._is_at_once and self.name:
            self._is_at_once = False  # what cleans up after the block is not ended by the next one
            raise Stopped(self.name)


@contextmanager
def stop_signals() -> Iterator[StopSignal]:
    """Have signals noted instead of obeyed: SIGTERM, SIGUSR1 (Slurm's, before its limit), SIGINT.

    Within another such block both know by one. Outside the main thread signals are left alone.
    """
    noting = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if isinstance(noting, StopSignal):
        yield noting
        return
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.note) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_launcher() -> None:
    """Have the kernel kill this process when the launcher of several is gone.

    Nobody would pass signals on to it any more, and it would go on to hold the run's folder.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and platform.system() == "Linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
