"""Values and requests between the tests' process and the program's, which it does not trust.

Plain values are copied. Everything else stays where it is and is asked from afar: `Remote`. What
arrives is built of Python's own types only, so nothing of the program's ever runs beside its tests.
"""

from __future__ import annotations

import builtins
import json
import os
import struct
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

Keep = Callable[[object], list[Any]]  # what stands for a value that cannot be copied
Find = Callable[[int], object]  # what stands for such a value at the other side
SEQUENCES: dict[str, Any] = {kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)}
SMALL = 1 << 53  # larger integers travel in hexadecimal, in linear time
HEADER = struct.Struct("!I")


class Broken(BaseException):
    """The other side talks nonsense; no test may take this for an error of the program's."""


class Gone(Broken):
    """The other side has ended, or closed its pipes."""


def encode(value: Any, keep: Keep) -> Any:
    """What stands for a value in JSON.

    Subclasses of copied types (a Counter, a named tuple) arrive as the type itself, which compares
    alike, unless it was made to compare otherwise: that does not cross.
    """
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return value if -SMALL < value < SMALL else ["int", f"{value:x}"]
    if isinstance(value, dict):
        return ["dict", [[encode(k, keep), encode(v, keep)] for k, v in value.items()]]
    for name, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return [name, [encode(item, keep) for item in value]]
    return _encode_rare(value, keep)


def _encode_rare(value: Any, keep: Keep) -> list[Any]:
    if isinstance(value, bytes | bytearray):
        return ["bytearray" if isinstance(value, bytearray) else "bytes", value.hex()]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, range):
        return ["range", [encode(n, keep) for n in (value.start, value.stop, value.step)]]
    if isinstance(value, Fraction):
        return ["Fraction", [encode(n, keep) for n in (value.numerator, value.denominator)]]
    if isinstance(value, Decimal):
        return ["Decimal", str(value)]
    return keep(value)


def decode(message: Any, find: Find) -> Any:
    """The value that `encode` was given; any error means that the message is none of its."""
    if not isinstance(message, list):
        if isinstance(message, dict):
            raise ValueError("a message holds no objects")
        return message
    name, content = message
    if name == "dict":
        return {decode(k, find): decode(v, find) for k, v in content}
    if name in SEQUENCES:
        return SEQUENCES[name](decode(item, find) for item in content)
    rare: dict[str, Callable[[], Any]] = {
        "int": lambda: int(content, 16),
        "bytes": lambda: bytes.fromhex(content),
        "bytearray": lambda: bytearray.fromhex(content),
        "complex": lambda: complex(*content),
        "range": lambda: range(*(decode(n, find) for n in content)),
        "Fraction": lambda: Fraction(*(decode(n, find) for n in content)),
        "Decimal": lambda: Decimal(content),
        "remote": lambda: find(content),
    }
    return rare[name]()


class Channel:
    """Messages in JSON over two descriptors, each behind its length."""

    def __init__(self, incoming: int, outgoing: int, *, most: int):
        self._incoming, self._outgoing, self._most = incoming, outgoing, most
        self.broken: Broken | None = None  # for good, whoever catches the error

    def send(self, message: Any) -> None:
        content = json.dumps(message).encode()
        view = memoryview(HEADER.pack(len(content)) + content)
        try:
            while view:
                view = view[os.write(self._outgoing, view) :]
        except OSError as error:
            raise self.fail(Gone(f"cannot be written to: {error.strerror}")) from None

    def receive(self) -> Any:
        """The next message.

        Raises:
            Broken: more than `most` bytes come, or no JSON.
            Gone: nothing comes, and nothing will.
        """
        (size,) = HEADER.unpack(self._read(HEADER.size))
        if size > self._most:
            raise self.fail(Broken(f"an answer of {size} bytes is longer than {self._most}"))
        try:
            return json.loads(self._read(size))
        except (ValueError, RecursionError, MemoryError) as error:
            raise self.fail(Broken(f"no answer but nonsense: {type(error).__name__}")) from None

    def _read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = os.read(self._incoming, min(size - len(parts), 1 << 16))
            if not part:
                raise self.fail(Gone("nothing more comes"))
            parts += part
        return bytes(parts)

    def fail(self, error: Broken) -> Broken:
        """Remember why nothing can be asked any more."""
        self.broken = error
        return error


def describe_error(error: BaseException) -> list[Any]:
    """Names of an error's classes, most special first, and its text."""
    names = [kind.__name__[:80] for kind in type(error).__mro__]
    try:
        text = str(error)[:1000]
    except BaseException:  # the error is the program's, and so is its __str__
        text = ""
    return [names, text]


def rebuild_error(description: Any) -> BaseException:
    """An error with the same name and text, of the closest class that is Python's own."""
    names, text = description
    known = [getattr(builtins, name, None) for name in names]
    bases = [k for k in known if isinstance(k, type) and issubclass(k, BaseException)]
    base = next((k for k in bases if not issubclass(k, BaseExceptionGroup)), Exception)
    # some classes want more than a text (UnicodeDecodeError), which a test has no use for
    methods = {"__init__": lambda self, *_: None, "__str__": lambda self: str(text)}
    name = names[0][:80] if names and names[0].isidentifier() else base.__name__
    return type(name, (base,), methods)()
