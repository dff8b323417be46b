"""Few cases of many settings: every combination of the values of a few settings, not of all."""

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest


def covering(strength: int, **axes: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrizes a test with few cases that hold every combination of values of `strength` axes.

    The next case is always the first of those that hold most combinations that are still missing.
    """
    cases, numbers = list(product(*axes.values())), {}
    held = [  # the combinations of a case, as a set of bits
        sum(
            1 << numbers.setdefault((some, *(case[i] for i in some)), len(numbers))
            for some in combinations(range(len(axes)), strength)
        )
        for case in cases
    ]
    missing, taken = (1 << len(numbers)) - 1, []
    while missing:
        best = max(range(len(cases)), key=lambda number: (held[number] & missing).bit_count())
        missing &= ~held[best]
        taken.append(cases[best])
    return pytest.mark.parametrize(list(axes), taken)
