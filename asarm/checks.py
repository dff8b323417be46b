"""Questions that are asked of arguments at the door."""

from __future__ import annotations

from numbers import Integral, Real


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, of Python's or numpy's, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """Whether a value is a number, of Python's or numpy's, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def described(value: object) -> str:
    """What a wrong argument is, in a few words."""
    if value is None or isinstance(value, int | float | str):
        return repr(value)
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")
