"""The process that runs the tests and gives the verdict. Runs inside a sandbox of its own.

The program runs in another process (`guest`), out of reach: it sees neither the tests nor the
token, shares no memory and no namespace with them, and can only answer the tests' requests.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Callable, Sequence
from types import BuiltinFunctionType
from typing import Any

from asarm.sandbox.inside.confine import set_limits
from asarm.sandbox.inside.values import Decoder, Encoder
from asarm.sandbox.inside.wire import Broken, Channel, Gone


class CannotCross(BaseException):
    """A test gives the program something that cannot be copied into its process."""


class Program:
    """The other process, which is queried for names, calls and whatever else its values can do.

    It is a `values.Side`: what is the program's is known by numbers.
    """

    def __init__(self, channel: Channel):
        self.channel = channel
        self._remotes: dict[int, Remote] = {}
        self._classes: dict[int, type] = {}  # of named tuples and errors, made here
        self._numbers: dict[type, int] = {}

    def start(self, job: dict[str, Any]) -> None:
        """Hand over the program; returns when its process is ready, before the program runs."""
        self.channel.send(job)
        if self.channel.receive() != "started":
            raise self.channel.fail(Broken("it does not start"))

    def request(self, *request: Any) -> Any:
        """Request an operation (`guest.OPERATIONS`); return its outcome or raise its error.

        What it has changed in the arguments, however deep, is changed.
        """
        encoder = Encoder(self)
        value = encoder.encode(request)
        self.channel.send([value, encoder.contents()])
        return self.take(encoder.containers)

    def take(self, given: Sequence[Any] = ()) -> Any:
        """Take the outcome from the next answer, about containers that the program was given."""
        reply = self.channel.receive()
        try:
            kind, value, contents = reply
            outcome = Decoder(self, contents, given).decode(value)
            if kind == "value":
                return outcome
            if kind != "error" or not isinstance(outcome, BaseException):
                raise ValueError("an answer is none")
        except Exception as nonsense:  # only a meddling program can have written it
            reason = f"no answer but nonsense: {type(nonsense).__name__}"
            raise self.channel.fail(Broken(reason)) from None
        raise outcome

    def keep(self, value: object) -> list[Any]:
        """Return a placeholder of a value of the program's; the tests' own cannot be left there."""
        if isinstance(value, Remote):
            return ["remote", value._number]
        name = getattr(value, "__name__", "")
        if isinstance(value, BuiltinFunctionType) and getattr(builtins, name, None) is value:
            return ["builtin", name]
        raise CannotCross(f"a test gives the program a {type(value).__name__}")

    def find(self, name: str, number: Any) -> Remote:
        if name != "remote":
            raise ValueError(f"a message holds a {name}")
        return self._remotes.setdefault(int(number), Remote(self, int(number)))

    def number_of(self, kind: type) -> int | None:
        return self._numbers.get(kind)

    def class_of(self, number: int | None, make: Callable[[], type]) -> type:
        if int(number or 0) not in self._classes:
            kind = self._classes[int(number or 0)] = make()
            self._numbers[kind] = int(number or 0)
        return self._classes[int(number or 0)]


class Remote:
    """A value that stays in the program's process: a function, an iterator, an object.

    It equals nothing but itself, however its class compares.
    """

    _program: Program
    _number: int

    def __init__(self, program: Program, number: int):
        self.__dict__.update(_program=program, _number=number)

    def _ask(self, operation: str, *arguments: Any) -> Any:
        return self._program.request(operation, self, *arguments)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask("call", arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("attribute", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set attribute", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set item", key, value)

    def __delitem__(self, key: Any) -> None:
        self._ask("delete item", key)

    def __iter__(self) -> Any:
        return self._ask("iterate")

    def __next__(self) -> Any:
        return self._ask("next")

    def __len__(self) -> int:
        return self._ask("length")

    def __bool__(self) -> bool:
        return self._ask("truth") is True

    def __str__(self) -> str:
        return self._ask("text")


class Names(dict[str, Any]):
    """Holds the global names of the tests: their own, Python's, and then those of the program."""

    def __init__(self, program: Program):
        self._program = program

    def __missing__(self, name: str) -> Any:
        if name.startswith("__") or hasattr(builtins, name):
            raise KeyError(name)
        return self._program.request("name", name)


def judge(program: Program, test: str, entry_point: str) -> str:
    """Run `check(entry_point)`: "passed", or "failed:" with the error's class.

    Raises:
        Broken: the program's process has answered nonsense, or (Gone) it has ended.
        CannotCross: the test cannot be run with the program in another process.
    """
    try:
        program.take()  # the outcome of the program's own text
        names = Names(program)
        names[entry_point] = candidate = program.request("name", entry_point)
        exec(compile(test, "<test>", "exec", dont_inherit=True), names)
        names["check"](candidate)
    except (Broken, CannotCross):
        raise
    except BaseException as error:  # an exit or an interrupt of the program's is a failure as well
        result = f"failed: {type(error).__name__}"
    else:
        result = "passed"
    if program.channel.broken:  # and the tests have caught the error
        raise program.channel.broken
    return result


def main(arguments: list[str]) -> None:
    """Take a job from the standard input; report on the standard output, in lines of JSON.

    The first line says that the program's process has started; the second holds the job's token
    and the verdict, written after `check` has returned or raised.
    """
    job = json.load(sys.stdin)
    report = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what the tests print
    set_limits(job["limits"] | {"processes": 1 << 20})
    incoming, outgoing = map(int, arguments)
    program = Program(Channel(incoming, outgoing, max_bytes=int(job["limits"]["output_bytes"])))
    program.start({name: job[name] for name in ("source", "limits", "refuse_system_calls")})
    write_line(report, {"started": True})
    try:
        verdict = {"result": judge(program, job["test"], job["entry_point"])}
    except Gone:
        verdict = {"gone": "its exit code says why"}
    except Broken as error:
        verdict = {"result": f"failed: {error}"}
    except CannotCross as error:
        verdict = {"cannot": str(error)}
    write_line(report, verdict | {"token": job["token"]})


def write_line(descriptor: int, content: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(content).encode() + b"\n")
