"""`accelerate launch`, whose signals reach the script and whose exit code is the script's.

By itself it answers a signal by ending the processes, or itself alone; and what a process ended
with, it turns into a traceback of its own and exit code 1.
"""

import contextlib
import logging
import os
import signal
import sys
from types import FrameType

import psutil

USER_ERROR, STOPPED, INTERRUPTED = 2, 75, 130  # exit codes after which all has been said
SECONDS_TO_END = 10  # for the processes that are left when one has failed


class Forward:
    """Passes signals on to the processes, each once: they are in sessions of their own."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.last = number
        processes = psutil.Process().children()
        if not processes:
            sys.exit(STOPPED)  # before the script began
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def main() -> int:
    if sys.argv[1:] in (["-h"], ["--help"]):  # of its own: accelerate's takes as long as torch
        print(__doc__, "Its flags are those that `accelerate launch --help` lists.", sep="\n")
        return 0
    forward = Forward()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, forward)
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # torch's default takes those above for itself
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_END))
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.ERROR)  # torch's comments on an end; the processes write for themselves
    try:
        launch_command(launch_command_parser().parse_args())
    except ChildFailedError as error:
        return outcome([failure.exitcode for failure in error.failures.values()], forward.last)
    return 0


def outcome(codes: list[int], last_signal: int) -> int:
    """The exit code of a script whose processes failed with these (a signal's is negative)."""
    for code in (USER_ERROR, STOPPED, INTERRUPTED):
        if code in codes:
            return code
    if last_signal and set(codes) == {-last_signal}:
        return STOPPED  # so early that nobody listened for it yet
    how = (f"by {signal.Signals(-c).name}" if c < 0 else f"with exit code {c}" for c in codes)
    print(f"error: a process ended {', '.join(how)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
