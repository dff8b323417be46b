"""What a sampler is, and the options of those that draft.

A sampler may live in a module of its own, which imports this one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from asarm.checks import is_count, is_real, one_of
from asarm.distribution import check_temperature
from asarm.drafting.drafters import Drafter, Drafts, self_drafter
from asarm.rows import Backbone
from asarm.sampling.commit import Outcome
from asarm.sampling.cost import COSTS, MAX_DRAFTS, Costs, RoundWork
from asarm.sampling.lengths import AutoLength, DraftLengths, FixedLength
from asarm.sampling.network import Net
from asarm.sampling.randomness import Purpose
from asarm.sampling.state import State
from asarm.sampling.verify import VERIFIERS


class Sampler(ABC):
    """A way to fill the targets of a batch, round by round: a frozen dataclass of its options.

    A subclass has a name, says whether it is lossless, and makes a round. The defaults of all else
    are those of a sampler that drafts nothing.

    Attributes:
        name: by which results and messages call it.
        can_be_static: whether its rounds can have the same shapes, and never wait for the device.
        k: the largest number of drafts of a round; None where nothing is drafted.
        verifier: a name of `VERIFIERS`.
        tolerance: of that verifier.
        draft_temperature: of the drafts alone; the target's if None.
    """

    name: ClassVar[str]
    can_be_static: ClassVar[bool] = False
    k: int | Literal["auto"] | None = None
    verifier: str = "block"
    tolerance: float = 0.0
    draft_temperature: float | None = None

    @property
    @abstractmethod
    def is_lossless(self) -> bool:
        """Whether its samples have exactly the distribution of `Sequential`."""

    @property
    def draws_conditionals(self) -> bool:
        """Whether each token is drawn and scored given all tokens of lower rank.

        Where it is not, the samples are scored in one more call, which does not count, and the
        tokens to the left of a position cannot say what it may hold: see `Allowed.without_moves`.
        """
        return self.is_lossless

    @abstractmethod
    def round(self, net: Net, state: State) -> Outcome:
        """Make one round of the whole batch, and say what it decided.

        - It commits by `verify_and_commit` or `commit_unverified`, and by nothing else.
        - In each unfinished sequence it commits at least one token, and one for each network call.
        - It changes nothing where `state.left` is 0: static rounds go on past the end of a text.
        - If `net.is_static`, all rounds but the first have the same shapes, and nothing in them
          waits for the device.
        """

    def make_drafter(self, model: Backbone) -> Drafter:
        """Return the drafter of its rounds, which is never asked where nothing is drafted.

        Raises:
            ValueError: the model has not got what the drafter needs.
        """
        return self_drafter

    def costs_on(self, device: torch.device) -> Costs | None:
        """Return the costs by which it chooses numbers of drafts; None where it chooses none."""
        return None

    def make_lengths(self, device: torch.device, num_targets: int) -> DraftLengths:
        """Return how many drafts its rounds have: no more than a text has targets."""
        return FixedLength(1)


@dataclass(frozen=True)
class Speculative(Sampler):
    """Options shared by all samplers that draft.

    Args:
        k: the largest number of drafts of a round; "auto" chooses them round by round, from what
            was accepted so far and `costs`. In `ASSD`, the exact first token counts as one of the
            k, as in the paper.
        verifier: "block", with the highest acceptance rate (arXiv 2403.10444); "rejection", one
            draft after the other (the paper's); or "gumbel", with which every lossless sampler, k
            and batch gives the same text.
        draft_temperature: of the drafts alone; changes the cost, never the distribution. The
            target's if None.
        tolerance: added to the probability of accepting a draft, the paper's r_atol; above 0 the
            sampler is lossy.
        costs: for k = "auto", what calls, rows and drafts take; those of `asarm.calibrate` for a
            model and device, usual ones of the device's type if None.

    Raises:
        ValueError: an option outside its range.
    """

    k: int | Literal["auto"] = "auto"
    verifier: str = "block"
    draft_temperature: float | None = None
    tolerance: float = 0.0
    costs: Costs | None = None

    can_be_static: ClassVar[bool] = True
    min_auto: ClassVar[int] = 1  # drafts that "auto" chooses at least

    def __post_init__(self) -> None:
        if self.k != "auto":
            if not is_count(self.k):
                raise ValueError(f"k is {self.k!r}; expected at least 1 draft a round, or 'auto'")
            object.__setattr__(self, "k", int(self.k))  # numpy's integers are taken, too
        one_of("verifier", self.verifier, tuple(VERIFIERS))
        is_tolerance = is_real(self.tolerance) and 0 <= self.tolerance < math.inf
        if not is_tolerance or (self.tolerance > 0 and self.verifier == "gumbel"):
            raise ValueError(
                f"tolerance is {self.tolerance!r} with verifier {self.verifier!r}; "
                "expected a finite number from 0, and 0 with verifier 'gumbel'"
            )
        if self.draft_temperature is not None:
            check_temperature("draft_temperature", self.draft_temperature)

    @property
    def is_lossless(self) -> bool:
        return self.tolerance == 0

    @property
    def draws_conditionals(self) -> bool:
        return True  # a tolerance changes what is accepted, not the target distributions

    @abstractmethod
    def work(self, k: int) -> RoundWork:
        """Return what a round with k drafts has."""

    def work_by_length(self) -> tuple[tuple[int, RoundWork], ...]:
        """Return the cost of a round for every number of drafts that "auto" may choose."""
        return tuple((k, self.work(k)) for k in range(self.min_auto, MAX_DRAFTS + 1))

    def costs_on(self, device: torch.device) -> Costs | None:
        if self.k != "auto":
            return None
        return self.costs or COSTS.get(device.type, COSTS["cuda"])

    def make_lengths(self, device: torch.device, num_targets: int) -> DraftLengths:
        costs = self.costs_on(device)
        if costs is None:
            return FixedLength(min(int(self.k), num_targets))
        return AutoLength(self.work_by_length(), costs, device)


def draw_exact(net: Net, state: State, hidden: Tensor) -> Drafts:
    """Draw the next token from the target distribution: a draft that is always accepted."""
    ranks, is_left = state.num_committed[:, None], state.left > 0
    probs = net.target_probs(state, hidden, ranks)  # (B, 1, V)
    tokens = net.draw(probs, ranks, Purpose.TARGET, state.round_number, is_left[:, None])
    return Drafts(tokens, probs, is_left.long())
