"""The process that runs a program and answers what its tests ask. Runs inside the sandbox.

Nothing here is secret or trusted: whatever the program does to this process, it can only change
its own answers.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable
from typing import Any

from asarm.evaluation.programs.inside.confine import refuse_system_calls, set_limits
from asarm.evaluation.programs.inside.wire import Broken, Channel, decode, describe_error, encode

Values = list[Any]  # what the tests hold from afar; a value's place is its number
OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, arguments, named: function(*arguments, **named),
    "attribute": getattr,
    "item": operator.getitem,
    "iterate": iter,
    "next": next,
    "length": len,
    "truth": bool,
    "text": str,
}


def main(arguments: list[str]) -> None:
    """Take a program from the standard input, then requests; answer on the standard output."""
    channel = Channel(*take_standard_streams(), most=1 << 30)
    job = channel.receive()
    if job["refuse_system_calls"]:
        refuse_system_calls()
    set_limits(job["limits"])
    channel.send("started")
    namespace: dict[str, Any] = {}
    values: Values = []
    answer(channel, values, lambda: execute(job["source"], namespace))
    while True:
        try:
            request = channel.receive()
        except Broken:  # the tests are over
            os._exit(0)
        answer(channel, values, lambda r=request: perform(r, namespace, values))  # type: ignore


def take_standard_streams() -> tuple[int, int]:
    """Descriptors of what were the standard input and output; in their places is nothing."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.close(nothing)
    return incoming, outgoing


def execute(source: str, namespace: dict[str, Any]) -> tuple[None, list[None]]:
    exec(compile(source, "<program>", "exec", dont_inherit=True), namespace)
    return None, []


def perform(request: Any, namespace: dict[str, Any], values: Values) -> tuple[Any, list[Any]]:
    """The outcome of a request, and its arguments as they are now where they may have changed."""
    operation, *arguments = decode(request, values.__getitem__)
    if operation == "name":
        if arguments[0] not in namespace:
            raise NameError(f"name {arguments[0]!r} is not defined")
        return namespace[arguments[0]], []
    outcome = OPERATIONS[operation](*arguments)
    given = arguments[1] if operation == "call" else ()
    return outcome, [a if isinstance(a, list | dict | set) else None for a in given]


def answer(channel: Channel, values: Values, work: Callable[[], tuple[Any, list[Any]]]) -> None:
    """Send what some work gives, or the error that it raises, exits included."""

    def keep(value: object) -> list[Any]:
        values.append(value)
        return ["remote", len(values) - 1]

    try:
        outcome, changed = work()
        reply = ["value", encode(outcome, keep), [encode(c, keep) for c in changed]]
    except BaseException as error:
        reply = ["error", *describe_error(error)]
    channel.send(reply)
