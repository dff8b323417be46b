"""The process that runs the tests and gives the verdict. Runs inside a sandbox of its own.

The program runs in another process (`guest`), out of reach: it sees neither the tests nor the
token, shares no memory and no namespace with them, and can only answer what the tests ask it.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from typing import Any

from asarm.evaluation.programs.inside.confine import set_limits
from asarm.evaluation.programs.inside.wire import (
    Broken,
    Channel,
    Gone,
    decode,
    encode,
    rebuild_error,
)


class CannotCross(BaseException):
    """A test gives the program something that cannot be copied into its process."""


class Program:
    """The other process, asked for names, calls and whatever else its values can do."""

    def __init__(self, channel: Channel):
        self.channel = channel

    def start(self, job: dict[str, Any]) -> None:
        """Hand over the program; returns when its process is ready, before the program runs."""
        self.channel.send(job)
        if self.channel.receive() != "started":
            raise self.channel.fail(Broken("it does not start"))

    def ask(self, *request: Any) -> Any:
        """The outcome of an operation: see `guest.OPERATIONS`. Raises what the program raised."""
        self.channel.send(encode(request, number_of))
        outcome, changed = self.take()
        if request[0] == "call":
            for argument, now in zip(request[2], changed, strict=False):
                _overwrite(argument, now)
        return outcome

    def take(self) -> tuple[Any, list[Any]]:
        """The outcome and the changed arguments in the next answer."""
        kind, *content = self._reply()
        try:
            if kind == "value":
                outcome, changed = content
                return decode(outcome, self._remote), [decode(c, self._remote) for c in changed]
            error = rebuild_error(content)
        except Exception as nonsense:  # only a meddling program can have written it
            reason = f"no answer but nonsense: {type(nonsense).__name__}"
            raise self.channel.fail(Broken(reason)) from None
        raise error

    def _reply(self) -> list[Any]:
        reply = self.channel.receive()
        return reply if isinstance(reply, list) and reply else ["nonsense"]

    def _remote(self, number: int) -> Remote:
        return Remote(self, int(number))


class Remote:
    """A value that stays in the program's process: a function, an iterator, an object.

    It equals nothing but itself, however its class compares.
    """

    def __init__(self, program: Program, number: int):
        self._program, self._number = program, number

    def _ask(self, operation: str, *arguments: Any) -> Any:
        return self._program.ask(operation, self, *arguments)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask("call", arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("attribute", name)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)

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


def number_of(value: object) -> list[Any]:
    """What stands for a value of the program's; the tests' own values cannot be left behind."""
    if isinstance(value, Remote):
        return ["remote", value._number]
    raise CannotCross(f"a test gives the program a {type(value).__name__}")


def _overwrite(argument: Any, now: Any) -> None:
    """Do to an argument in place what the program did to its copy."""
    if type(now) is not type(argument) or argument == now:
        return
    argument.clear()
    if isinstance(argument, list):
        argument.extend(now)
    elif isinstance(argument, dict | set):
        argument.update(now)


class Names(dict[str, Any]):
    """Global names of the tests: their own, Python's, and then those of the program."""

    def __init__(self, program: Program):
        self._program = program

    def __missing__(self, name: str) -> Any:
        if name.startswith("__") or hasattr(builtins, name):
            raise KeyError(name)
        return self._program.ask("name", name)


def judge(program: Program, test: str, entry_point: str) -> str:
    """Run `check(entry_point)`: "passed", or "failed:" with the error's class.

    Raises:
        Broken: the program's process has answered nonsense, or (Gone) it has ended.
        CannotCross: the test cannot be run with the program in another process.
    """
    try:
        program.take()  # what became of the program's own text
        names = Names(program)
        names[entry_point] = candidate = program.ask("name", entry_point)
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
    program = Program(Channel(incoming, outgoing, most=int(job["limits"]["output_bytes"])))
    program.start({name: job[name] for name in ("source", "limits", "refuse_system_calls")})
    write_line(report, {"started": True})
    try:
        verdict = {"result": judge(program, job["test"], job["entry_point"])}
    except Gone:
        verdict = {"gone": "its exit code tells why"}
    except Broken as error:
        verdict = {"result": f"failed: {error}"}
    except CannotCross as error:
        verdict = {"cannot": str(error)}
    write_line(report, verdict | {"token": job["token"]})


def write_line(descriptor: int, content: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(content).encode() + b"\n")
