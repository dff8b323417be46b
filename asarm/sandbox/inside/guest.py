"""The process that runs a program and answers the requests of its tests. Runs inside the sandbox.

Nothing here is secret or trusted: whatever the program does to this process, it can only change
its own answers.
"""

from __future__ import annotations

import builtins
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

from asarm.sandbox.inside.confine import refuse_system_calls, set_limits
from asarm.sandbox.inside.values import Decoder, Encoder
from asarm.sandbox.inside.wire import Broken, Channel

# an error that cannot even be reported
UNKNOWN: list[Any] = ["error", [[None, "builtins", "Exception", []], "", [], [], None]]
OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, arguments, named: function(*arguments, **named),
    "attribute": getattr,
    "set attribute": setattr,
    "item": operator.getitem,
    "set item": operator.setitem,
    "delete item": operator.delitem,
    "iterate": iter,
    "next": next,
    "length": len,
    "truth": bool,
    "text": str,
}


def main(arguments: list[str]) -> None:
    """Take a program from the standard input, then requests; answer on the standard output."""
    channel = Channel(*take_standard_streams(), max_bytes=1 << 30)
    job = channel.receive()
    if job["refuse_system_calls"]:
        refuse_system_calls()
    set_limits(job["limits"])
    channel.send("started")
    namespace: dict[str, Any] = {}
    side = Guest()
    answer(channel, side, lambda request: execute(job["source"], namespace))
    while True:
        try:
            message = channel.receive()
        except Broken:  # the tests are over
            os._exit(0)
        answer(channel, side, lambda request: perform(request, namespace), message)


class Guest:
    """A `values.Side`: what the tests hold from afar. A value's place is its number."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._numbers: dict[int, int] = {}  # by identity: one object has one number

    def keep(self, value: object) -> list[Any]:
        return ["remote", self._number(value)]

    def find(self, name: str, number: Any) -> Any:
        return getattr(builtins, number) if name == "builtin" else self._values[number]

    def number_of(self, kind: type) -> int:
        return self._number(kind)

    def class_of(self, number: int | None, make: Callable[[], type]) -> type:
        return make() if number is None else self._values[number]

    def _number(self, value: object) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._values)
            self._values.append(value)
        return self._numbers[id(value)]


def take_standard_streams() -> tuple[int, int]:
    """Take the standard input and output, leave nothing in their places, and return descriptors."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.close(nothing)
    return incoming, outgoing


def execute(source: str, namespace: dict[str, Any]) -> None:
    exec(compile(source, "<program>", "exec", dont_inherit=True), namespace)


def perform(request: Any, namespace: dict[str, Any]) -> Any:
    """Return the outcome of a request."""
    operation, *arguments = request
    if operation == "name":
        if arguments[0] not in namespace:
            raise NameError(f"name {arguments[0]!r} is not defined")
        return namespace[arguments[0]]
    return OPERATIONS[operation](*arguments)


def answer(
    channel: Channel, side: Guest, work: Callable[[Any], Any], message: Any = (None, ())
) -> None:
    """Send what some work gives, or the error that it raises, exits included.

    With it goes what the request's containers hold now, where that is something else.
    """
    request, contents = message
    try:
        decoder = Decoder(side, contents)
        given = decoder.containers
        kind, outcome = "value", work(decoder.decode(request))
    except BaseException as error:
        kind, outcome = "error", error
    try:
        reply = pack(side, kind, outcome, given, contents)
    except BaseException as error:
        try:
            reply = pack(side, "error", error, [], [])
        except BaseException:
            reply = ["error", UNKNOWN, []]
        reply[2] = [None] * len(contents) + reply[2]
    channel.send(reply)


def pack(
    side: Guest, kind: str, outcome: Any, given: Sequence[Any], contents: Sequence[Any]
) -> list[Any]:
    """Make a reply: its kind, a value, and what is in containers, None for what is as it was."""
    encoder = Encoder(side, given)
    value, now = encoder.encode(outcome), encoder.contents()
    before = [*contents, *[None] * len(now)]
    pairs = zip(now, before, strict=False)
    # by their texts: a list that holds 1 equals one that holds True, and nan equals nothing
    return [kind, value, [None if repr(n) == repr(b) else n for n, b in pairs]]
