"""Checks of the arguments that users pass."""

from __future__ import annotations

import re
from numbers import Integral, Real

SURROGATE = re.compile("[\ud800-\udfff]")


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, of Python's or numpy's, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_count(value: object) -> bool:
    """Return whether a value is a whole number from 1."""
    return is_whole(value) and value >= 1  # type: ignore[operator]


def one_of(name: str, value: object, valid: tuple[str, ...]) -> None:
    """Refuse a value that is not one of some names.

    Raises:
        ValueError: it is not; the message names those that are valid.
    """
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(valid)}")


def is_real(value: object) -> bool:
    """Return whether a value is a number, of Python's or numpy's, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def described(value: object) -> str:
    """Describe a wrong argument in a few words."""
    if value is None or isinstance(value, int | float | str):
        return repr(value)
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


def checked_text(text: object, name: str = "the text") -> str:
    """Return a text, once it is known that tokenizers can read it.

    Raises:
        ValueError: it is not a str, or holds half a surrogate pair, which no encoding can write.
    """
    if not isinstance(text, str):
        raise ValueError(f"{name} is {described(text)}; expected a str")
    half = SURROGATE.search(text)
    if half:
        raise ValueError(
            f"{name} holds half a surrogate pair, {half[0]!a}, at character {half.start()}; "
            "expected text that UTF-8 can write: replace it, or decode its bytes as what they are"
        )
    return text
