"""Trouble with the network: try again, say so, and give up in the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

TRIES = 8  # after the first; with waits that double, four minutes in all
FIRST_WAIT = 1.0  # seconds
# what the libraries below `datasets` raise and does not derive from OSError
NETWORK_PACKAGES = {"aiohttp", "httpcore", "httpx", "httpx2", "requests", "urllib3"}

Result = TypeVar("Result")


class DataUnavailable(OSError):
    """The data cannot be read now, after several tries: go on later from the same place."""


class Patience:
    """Waits longer and longer from one failure to the next."""

    def __init__(self, what: str):
        self.what = what
        self.failures = 0

    def succeeded(self) -> None:
        self.failures = 0

    def wait(self, error: Exception) -> None:
        """Say what happened and sleep; DataUnavailable after the last try."""
        if not is_network_trouble(error):
            raise error
        reason = first_line(error)
        if self.failures >= TRIES:
            raise DataUnavailable(
                f"cannot read {self.what} after {TRIES} more tries ({reason}); run the same "
                "command again when it can be reached"
            ) from None
        seconds = FIRST_WAIT * 2**self.failures
        self.failures += 1
        print(
            f"cannot read {self.what} ({reason}); try {self.failures} of {TRIES} "
            f"in {seconds:.3g} s",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(seconds)


def patiently(action: Callable[[], Result], what: str) -> Result:
    """Return the action's result, after as many tries as it takes; DataUnavailable in the end."""
    patience = Patience(what)
    while True:
        try:
            return action()
        except Exception as error:
            patience.wait(error)


def is_network_trouble(error: BaseException) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, OSError):
        return True
    packages = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return not packages.isdisjoint(NETWORK_PACKAGES)


def first_line(error: BaseException) -> str:
    """Put an error into one line."""
    kind = type(error).__name__
    lines = str(error).strip().splitlines()
    if not lines:
        return kind
    reason = lines[0].rstrip(".")
    return reason if isinstance(error, ValueError) else f"{kind}: {reason}"
