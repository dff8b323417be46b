"""Values that cross between the tests' process and the program's, which it does not trust.

Plain values are copied: numbers, texts, dates, errors, and containers of them. Containers that can
be changed are numbered in each message, so that what is one object at one side is one object at the
other, and what a call changes in its arguments, however deep, is changed where they came from.
Everything else stays where it is and is queried from afar. What arrives is built of Python's own
types, so nothing of the program's ever runs next to its tests.

A value is JSON's own, or [name, content]; a message is a value and the contents of its containers,
to which ["@", number] refers.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from typing import Any, Protocol

SMALL = 1 << 53  # larger integers travel in hexadecimal, in linear time
LONG = 1000  # characters of an error's text
CONTAINERS: dict[str, Any] = {  # those that can be changed, special ones first
    kind.__name__: kind
    for kind in (OrderedDict, defaultdict, Counter, dict, list, set, deque, bytearray)
}
CHANGEABLE = tuple(CONTAINERS.values())
TYPES: dict[str, type] = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, range, tuple, frozenset, type(None))
    + (dict, list, set, bytearray)
}
Parts = tuple[type, Callable[[Any], Sequence[Any]], Callable[..., Any]]
PLAIN: dict[str, Parts] = {  # what a value is made of, and how it is made; datetimes are dates
    "bytes": (bytes, lambda v: [v.hex()], bytes.fromhex),
    "complex": (complex, lambda v: [v.real, v.imag], complex),
    "range": (range, lambda v: [v.start, v.stop, v.step], range),
    "Fraction": (Fraction, lambda v: [v.numerator, v.denominator], Fraction),
    "Decimal": (Decimal, lambda v: [str(v)], Decimal),
    "datetime": (
        datetime,
        lambda v: [*v.timetuple()[:6], v.microsecond, v.tzinfo, v.fold],
        lambda *parts: datetime(*parts[:8], fold=parts[8]),
    ),
    "date": (date, lambda v: [v.year, v.month, v.day], date),
    "time": (
        time,
        lambda v: [v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold],
        lambda *parts: time(*parts[:5], fold=parts[5]),
    ),
    "timedelta": (timedelta, lambda v: [v.days, v.seconds, v.microseconds], timedelta),
    "timezone": (timezone, lambda v: v.__getinitargs__(), timezone),
}
LATE = {  # of modules that are only loaded where they are needed
    ("zoneinfo", "ZoneInfo"): lambda v: [v.key],
    ("uuid", "UUID"): lambda v: [v.hex],
}
# modules of errors that mean nothing to whoever runs tests, as unittest's own would
ERRORS = {"builtins", "json.decoder", "decimal", "binascii", "struct", "re", "_csv", "zlib"}
ERRORS |= {"statistics", "queue", "_queue", "graphlib", "zoneinfo"}
RECORD = set(vars(namedtuple("Record", ""))) | {"__annotations__", "__orig_bases__"}
RECORD |= {"__static_attributes__", "__firstlineno__", "__annotate_func__", "__annotations_cache__"}


class Side(Protocol):
    """What one side knows of the other's values and classes, by their numbers."""

    def keep(self, value: object) -> list[Any]:
        """Return a placeholder of a value that cannot be copied."""

    def find(self, name: str, number: Any) -> Any:
        """Return what a placeholder of the other side means."""

    def number_of(self, kind: type) -> int | None:
        """Return the number of a class; None where the other side has none for it."""

    def class_of(self, number: int | None, make: Callable[[], type]) -> type:
        """Return the class of a number, made where it is not known yet."""


class Encoder:
    """Makes one message.

    Args:
        side: that the message is made at.
        given: containers that keep their numbers, those of the message that is answered.
    """

    def __init__(self, side: Side, given: Sequence[Any] = ()):
        self.side = side
        self.containers = list(given)  # by number
        self._numbers = {id(value): n for n, value in enumerate(self.containers)}

    def encode(self, value: Any) -> Any:
        """Return the form in which a value crosses.

        Instances of subclasses arrive as the type itself, which compares alike, unless it was made
        to compare otherwise: that does not cross.
        """
        if value is None or isinstance(value, bool | float | str):
            return value
        if isinstance(value, int):
            return value if -SMALL < value < SMALL else ["int", f"{value:x}"]
        if isinstance(value, CHANGEABLE):
            return ["@", self._number(value)]
        if isinstance(value, tuple | frozenset):
            return self._group(value)
        for name, (kind, parts, _) in PLAIN.items():
            if isinstance(value, kind) and _is_plain(value):
                return [name, [self.encode(part) for part in parts(value)]]
        if isinstance(value, BaseException):
            return ["error", self._error(value)]
        if isinstance(value, type):
            return self._class(value)
        late = type(value).__module__, type(value).__name__
        if late in LATE:
            return ["late", [*late, *LATE[late](value)]]
        return self.side.keep(value)

    def contents(self) -> list[Any]:
        """Return the contents of all containers, those that are found on the way included."""
        found: list[Any] = []
        for value in self.containers:  # it grows meanwhile
            found.append([name := _name(value), self._content(name, value)])
        return found

    def _number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.containers)
            self.containers.append(value)
        return self._numbers[id(value)]

    def _content(self, name: str, value: Any) -> list[Any]:
        """Return what a container is made with, and what it holds."""
        if name == "bytearray":
            return [None, value.hex()]
        made_with = {"deque": "maxlen", "defaultdict": "default_factory"}.get(name)
        extra = self.encode(getattr(value, made_with)) if made_with else None
        if isinstance(value, dict):
            return [extra, [[self.encode(k), self.encode(v)] for k, v in list(value.items())]]
        return [extra, [self.encode(item) for item in list(value)]]

    def _group(self, value: Any) -> list[Any]:
        items = [self.encode(item) for item in value]
        if isinstance(value, frozenset):
            return ["frozenset", items]
        if type(value) is not tuple and _fields(type(value)) is not None:
            return ["record", [self._record(type(value)), items]]
        return ["tuple", items]

    def _class(self, kind: type) -> list[Any]:
        if TYPES.get(kind.__name__) is kind:
            return ["type", kind.__name__]
        if issubclass(kind, BaseException):
            return ["error class", self._error_class(kind)]
        if _is_record(kind):
            return ["record class", self._record(kind)]
        return self.side.keep(kind)

    def _record(self, kind: type) -> list[Any]:
        return [self.side.number_of(kind), kind.__name__, list(_fields(kind) or ())]

    def _error_class(self, kind: type) -> list[Any]:
        """Return number, module if it is one of Python's, name, and the classes below it."""
        module, name = kind.__module__, kind.__name__[:80]
        if module in ERRORS and getattr(sys.modules.get(module), name, None) is kind:
            number = None if module == "builtins" else self.side.number_of(kind)
        else:
            module, number = "", self.side.number_of(kind)
        below = [] if module == "builtins" else kind.__bases__
        bases = [self._error_class(base) for base in below if issubclass(base, BaseException)]
        return [number, module, name, bases]

    def _error(self, error: BaseException) -> list[Any]:
        """Class, text, arguments, attributes with notes, and what it was raised from."""
        kind = self._error_class(type(error))
        try:
            text = str(error)[:LONG]
        except BaseException:  # the error is the program's, and so is its __str__
            text = ""
        arguments = list(error.args)
        if isinstance(error, OSError) and len(arguments) == 2 and error.filename is not None:
            arguments.append(error.filename)
        attributes = {n: v for n, v in vars(error).items() if _is_attribute(n)}
        try:
            parts = [self.encode(a) for a in arguments]
            about = [[n, self.encode(v)] for n, v in attributes.items()]
            return [kind, text, parts, about, self.encode(error.__cause__)]
        except RecursionError:
            return [kind, text, [text], [], None]


class Decoder:
    """Reads one message; any error means that it is none of `Encoder`'s.

    Args:
        side: that the message arrives at.
        contents: the contents of its containers.
        given: the containers that it answers about; they are changed to what it says, all of them
            or none.
    """

    def __init__(self, side: Side, contents: Sequence[Any], given: Sequence[Any] = ()):
        self.side = side
        if len(contents) < len(given):
            raise ValueError("a message has no word of what it was given")
        self.containers = [*given, *map(self._empty, contents[len(given) :])]
        changes = []
        for value, content in zip(self.containers, contents, strict=True):
            if content is not None:  # as it was
                name, (extra, items) = content
                if name != _name(value):
                    raise ValueError(f"a container became a {name}")
                changes.append((value, name, self.decode(extra), self._items(name, items)))
        for change in changes:
            _fill(*change)

    def decode(self, value: Any) -> Any:
        """Return the value that `Encoder.encode` was given."""
        if not isinstance(value, list):
            if isinstance(value, dict):
                raise ValueError("a message holds no objects")
            return value
        name, content = value
        if name == "@":
            return self.containers[content]
        if name in PLAIN:
            return PLAIN[name][2](*map(self.decode, content))
        rare: dict[str, Callable[[], Any]] = {
            "int": lambda: int(content, 16),
            "tuple": lambda: tuple(map(self.decode, content)),
            "frozenset": lambda: frozenset(map(self.decode, content)),
            "record": lambda: self._record(content[0])._make(map(self.decode, content[1])),
            "record class": lambda: self._record(content),
            "error": lambda: self._error(*content),
            "error class": lambda: self._error_class(*content),
            "type": lambda: TYPES[content],
            "late": lambda: _late(*content),
        }
        return rare[name]() if name in rare else self.side.find(name, content)

    def _empty(self, content: Any) -> Any:
        name, (extra, _) = content
        return deque(maxlen=extra) if name == "deque" else CONTAINERS[name]()

    def _items(self, name: str, items: Any) -> Any:
        if name == "bytearray":
            return bytes.fromhex(items)
        if issubclass(CONTAINERS[name], dict):
            return {self.decode(k): self.decode(v) for k, v in items}
        found = map(self.decode, items)
        return set(found) if name == "set" else list(found)

    def _record(self, about: Sequence[Any]) -> Any:
        number, name, fields = about
        make: Callable[..., type] = namedtuple
        return self.side.class_of(number, lambda: make(name, fields))

    def _error_class(self, number: Any, module: str, name: str, bases: list[Any]) -> type:
        known = getattr(sys.modules.get(module), name, None) if module in ERRORS else None
        if isinstance(known, type) and issubclass(known, BaseException):
            return known
        found = tuple(self._error_class(*base) for base in bases)
        if not name.isidentifier() or not found:
            raise ValueError("an error has no class")
        return self.side.class_of(number, lambda: type(name, found, {"__str__": _text}))

    def _error(
        self, about: Any, text: str, arguments: Any, attributes: Any, cause: Any
    ) -> BaseException:
        kind: Any = self._error_class(*about)
        parts = tuple(map(self.decode, arguments))
        try:
            error = kind(*parts)
        except TypeError:  # an __init__ of its own, which had other arguments
            error = kind.__new__(kind)
            error.args = parts
        if not isinstance(error, BaseException):
            raise ValueError("an error is none")
        error.__dict__.update({n: self.decode(v) for n, v in attributes if _is_attribute(n)})
        error.__cause__ = self.decode(cause)
        error.__dict__["_text"] = str(text)
        return error


def _is_attribute(name: str) -> bool:
    return name == "__notes__" or not name.startswith("_")


def _name(container: Any) -> str:
    return next(name for name, kind in CONTAINERS.items() if isinstance(container, kind))


def _is_plain(value: Any) -> bool:
    """Return whether a value has no time zone that runs code of its own."""
    zone = getattr(value, "tzinfo", None) if isinstance(value, datetime | time) else None
    known = zone is None or isinstance(zone, timezone)
    return known or (type(zone).__module__, type(zone).__name__) in LATE


def _fields(kind: type) -> tuple[str, ...] | None:
    """Return the fields of a class of named tuples."""
    fields = getattr(kind, "_fields", None)
    return fields if isinstance(fields, tuple) and issubclass(kind, tuple) else None


def _is_record(kind: type) -> bool:
    """Return whether a class of named tuples has nothing but its fields."""
    fields = _fields(kind) if kind.__bases__ == (tuple,) else None
    bare = fields is not None and not getattr(kind, "_field_defaults", None)
    return bare and set(vars(kind)) <= RECORD.union(fields or ())


def _late(module: str, name: str, *parts: Any) -> Any:
    if (module, name) not in LATE:
        raise ValueError("a class is none that is known")
    return getattr(import_module(module), name)(*parts)


def _text(error: BaseException) -> str:
    """Return the text of an error whose class is the other side's."""
    return str(error.__dict__.get("_text", ""))


def _fill(value: Any, name: str, extra: Any, items: Any) -> None:
    """Make a container hold what it is to hold, whatever methods its own class has."""
    kind = CONTAINERS[name]
    if name == "defaultdict":
        value.default_factory = extra
    kind.clear(value)
    if issubclass(kind, dict):
        for key, item in items.items():
            kind.__setitem__(value, key, item)
    elif name == "set":
        set.update(value, items)
    else:
        kind.extend(value, items)
