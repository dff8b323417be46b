"""Tries to do what no program may, and prints a list of what it could. Runs inside a sandbox."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asarm.sandbox.inside.confine import refuse_system_calls


def main(arguments: list[str]) -> None:
    attempt = json.loads(arguments[0])
    refuse_system_calls()
    print(json.dumps(breaches(attempt)))


def breaches(attempt: dict[str, Any]) -> list[str]:
    """Return which of these succeed: reaching a port of the machine, a file, a process outside."""
    attempts: dict[str, Callable[[], object]] = {
        "reaches the network": lambda: reach(attempt["port"]),
        "reads files of the user's": lambda: Path(attempt["secret"]).read_text(),
        "sees other processes": lambda: os.kill(os.getppid(), 0) if os.getppid() > 1 else refuse(),
        "is the superuser": lambda: os.setuid(0),
    }
    for place in attempt["places"]:
        attempts[f"writes to {place}"] = lambda p=place: write(p)  # type: ignore[misc]
    return [name for name, work in attempts.items() if succeeds(work)]


def succeeds(work: Callable[[], object]) -> bool:
    try:
        work()
    except OSError:
        return False
    return True


def refuse() -> None:
    raise PermissionError


def reach(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=2).close()


def write(folder: str) -> None:
    path = Path(folder) / f".{uuid.uuid4().hex}"
    path.touch()
    path.unlink()
