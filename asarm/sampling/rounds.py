"""Rounds of a sampler, one after the other, until every sequence is finished.

A static decoding asks the device only every few rounds whether it is; on a GPU a round can be
recorded once, as a CUDA graph, and replayed without any Python.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from asarm.sampling.decoding import Decoding

ROUNDS_AT_ONCE = 8  # of a static decoding; a sequence that is finished takes no part in a round


def repeat(decoding: Decoding, one_round: Callable[[], None]) -> None:
    """Make rounds until every sequence is finished, as the decoding wants them made."""
    if decoding.execution == "eager":
        while decoding.unfinished():
            decoding.drop_finished()
            one_round()
    elif decoding.unfinished():
        one_round()  # reads the prompts, and so has shapes of its own
        repeat_static(decoding, one_round)


def repeat_static(decoding: Decoding, one_round: Callable[[], None]) -> None:
    """Make rounds of the same shapes, several at once."""
    again = None
    while decoding.unfinished():
        if decoding.drop_finished() or again is None:
            one_round()  # a warm-up, too
            again = record(decoding, one_round) if decoding.execution == "graph" else one_round
        for _ in range(ROUNDS_AT_ONCE):
            again()


def record(decoding: Decoding, one_round: Callable[[], None]) -> Callable[[], None]:
    """A round as a CUDA graph, which reads and writes what the decoding holds now."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        in_place(decoding, one_round)
    return graph.replay


def in_place(decoding: Decoding, one_round: Callable[[], None]) -> None:
    """Make a round that leaves the decoding's state in the tensors that held it before."""
    before = decoding.state()
    one_round()
    for name, value in decoding.state().items():
        if value is not before[name]:
            before[name].copy_(value)
    decoding.set_state(before)
