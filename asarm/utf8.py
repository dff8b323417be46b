"""Which bytes go on with a text in UTF-8: an automaton over the pieces of a vocabulary.

Byte-level pieces may end inside a character. Whether another piece can follow, and whether a text
can end there, is known from the state that the bytes so far have led to.

Shapes: S live states, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

COMPLETE = 0  # the state at the end of a character; 1, 2 and 3: so many bytes are missing
NUM_STATES = 8  # that a text can go on from; 4 to 7: after E0, ED, F0 and F4 not all bytes go on
DEAD, UNKNOWN = NUM_STATES, NUM_STATES + 1
# the bytes that each state goes on with (first, last), and the state that they lead to
STEPS = {
    COMPLETE: [
        *[(0x00, 0x7F, COMPLETE), (0xC2, 0xDF, 1), (0xE0, 0xE0, 4), (0xE1, 0xEC, 2)],
        *[(0xED, 0xED, 5), (0xEE, 0xEF, 2), (0xF0, 0xF0, 6), (0xF1, 0xF3, 3), (0xF4, 0xF4, 7)],
    ],
    1: [(0x80, 0xBF, COMPLETE)],
    2: [(0x80, 0xBF, 1)],
    3: [(0x80, 0xBF, 2)],
    4: [(0xA0, 0xBF, 1)],
    5: [(0x80, 0x9F, 1)],
    6: [(0x90, 0xBF, 2)],
    7: [(0x80, 0x8F, 2)],
}
# where the bytes before are unknown, those that no character begins with say nothing
STEPS[UNKNOWN] = [*STEPS[COMPLETE], (0x80, 0xBF, UNKNOWN)]


def transitions(pieces: Sequence[bytes]) -> Tensor:
    """Compute the state after each piece, (S + 2, V), from every live one, `DEAD` and `UNKNOWN`."""
    by_byte = np.full((NUM_STATES + 2, 256), DEAD)
    for state, steps in STEPS.items():
        for first, last, to in steps:
            by_byte[state, first : last + 1] = to
    lengths = np.array([len(piece) for piece in pieces])
    text = np.frombuffer(b"".join(pieces), dtype=np.uint8)
    starts = lengths.cumsum() - lengths
    states = np.repeat(np.arange(NUM_STATES + 2)[:, None], len(pieces), axis=1)
    for n in range(lengths.max(initial=0)):
        longer = (lengths > n).nonzero()[0]
        states[:, longer] = by_byte[states[:, longer], text[starts[longer] + n]]
    return torch.from_numpy(states)
