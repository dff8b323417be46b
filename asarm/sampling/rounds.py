"""Rounds of a sampler, one after the other, until every sequence is finished.

A static decoding asks the device only every few rounds whether it is; on a GPU a round can be
recorded once, as a CUDA graph, and replayed without any Python.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from asarm.sampling.base import Sampler
from asarm.sampling.commit import Outcome
from asarm.sampling.network import Net
from asarm.sampling.state import State

EXECUTIONS = ("eager", "static", "graph")
ROUNDS_AT_ONCE = 8  # of a static decoding; a sequence that is finished takes no part in a round
STAYS = 0.75  # of a batch: if no more are unfinished, the others leave

AfterRound = Callable[[State, Outcome], object]


class Decoding:
    """A batch on its way through a sampler's rounds; finished sequences leave it.

    Args:
        sampler: makes the rounds.
        net: the model.
        state: before the first round.
        execution: "eager": shapes are as small as they can be; "static": they are the same in
            every round, and nothing in it waits for the device; "graph": such a round is recorded
            once, and replayed as a CUDA graph.
        after_round: called after every round of an eager decoding, with what it decided.
        on_commit: called with how many tokens were committed since it was last called.
        max_rounds: after which an eager decoding ends.
    """

    def __init__(
        self,
        sampler: Sampler,
        net: Net,
        state: State,
        *,
        execution: str = "eager",
        after_round: AfterRound | None = None,
        on_commit: Callable[[int], object] = lambda count: None,
        max_rounds: int | None = None,
    ):
        self.sampler, self.net, self.state, self.whole = sampler, net, state, state
        self.execution, self.after_round, self.on_commit = execution, after_round, on_commit
        self.max_rounds, self.reported = max_rounds, 0

    @torch.inference_mode()
    def run(self) -> State:
        """Make all rounds; return the state of the whole batch after them."""
        if self.execution == "eager":
            while self.check_progress():
                self.drop_finished()
                outcome = self.one_round()
                if self.after_round is not None:
                    self.after_round(self.state, outcome)
        elif self.check_progress():
            self.one_round()  # reads the prompts, and so has shapes of its own
            self.run_static()
        if self.state is not self.whole:
            self.whole.put(self.state)
        return self.whole

    def one_round(self) -> Outcome:
        return self.sampler.round(self.net, self.state)

    def run_static(self) -> None:
        """Make rounds of the same shapes, several at once."""
        again: Callable[[], object] | None = None
        while self.check_progress():
            if self.drop_finished() or again is None:
                self.one_round()  # a warm-up, too
                again = self.record() if self.execution == "graph" else self.one_round
            for _ in range(ROUNDS_AT_ONCE):
                again()

    def record(self) -> Callable[[], object]:
        """Record a round as a CUDA graph, which reads and writes what the state holds now."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.round_in_place()
        return graph.replay

    def round_in_place(self) -> None:
        """Make a round that leaves the state in the tensors that held it before."""
        before = self.state.flat()
        self.one_round()
        for name, value in self.state.flat().items():
            if value is not before[name]:
                before[name].copy_(value)
        self.state.assign(before)

    def check_progress(self) -> bool:
        """Raise what went wrong, report new tokens, and return whether any target is left.

        All of this is read from the device at once, which it waits for.

        Raises:
            ValueError: a target distribution held NaN, or drafts came from no distribution.
        """
        state = self.state
        values = (state.left > 0).any(), state.total_committed, state.is_nan, state.is_bad_draft
        is_left, committed, is_nan, is_bad = torch.stack([part.long() for part in values]).tolist()
        if is_nan:
            raise ValueError("the model gives NaN instead of probabilities; check its weights")
        if is_bad:
            raise ValueError(
                "drafts come with probabilities that are NaN, infinite, negative or 0 at the "
                "drafted token, or are more than were requested; expected the distributions that "
                "they were drawn from: check the drafter, or take drafter='self'"
            )
        self.on_commit(committed - self.reported)
        self.reported = committed
        is_last = self.max_rounds is not None and int(state.round_number) >= self.max_rounds
        return bool(is_left) and not is_last

    def drop_finished(self) -> bool:
        """Drop finished sequences, where they are enough; `whole` keeps their final state."""
        state = self.state
        if len(state.num_committed) == 1:
            return False
        stay = (state.left > 0).nonzero()[:, 0]
        if len(stay) > STAYS * len(state.num_committed):
            return False
        if state is not self.whole:
            self.whole.put(state)
        self.state, self.net = state.select(stay), self.net.select(stay)
        return True
