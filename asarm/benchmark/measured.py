"""What sections of the benchmark measure: figures, and the rows of its tables."""

from __future__ import annotations

from dataclasses import dataclass

PAPER_K = 5
NUM_LAYERS = 2  # of the network whose calls are timed at many lengths


@dataclass(frozen=True)
class Figure:
    """A ratio that was measured, and the wanted value of it, where there is one."""

    what: str
    measured: float
    wanted: float | None = None
    is_limit: bool = False  # the wanted value is "at most", not "at least"
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.wanted is None:
            return ""
        met = self.measured <= self.wanted if self.is_limit else self.measured >= self.wanted
        return "yes" if met else "NO"


@dataclass(frozen=True)
class MethodCost:
    """What one method with one k costs at one fraction of targets, with batch 1."""

    target_fraction: float
    method: str
    k: int | str | None
    is_default: bool  # whether `sample` takes this k where none is given
    nfe: float  # calls per target
    nfe_error: float | None  # its standard error over texts, where there are several
    rows: float  # per target
    milliseconds: float  # per target, median over texts
    speed: float  # sequential's time / this one's, median over texts
    draft: str | None = None  # what drafts: "self" or "head", where there are several


@dataclass(frozen=True)
class PartCost:
    """Calls per target with some of what lowers them, at one k and one fraction of targets."""

    target_fraction: float
    part: str
    k: int
    nfe: float


@dataclass(frozen=True)
class LagAcceptance:
    """The acceptance rate of drafts at one lag; the first token after the known ones is lag 1."""

    target_fraction: float
    draft: str
    lag: int
    drafts: int  # that were verified
    rate: float  # of them that are accepted
    rate_after: float | None  # of those before which all are accepted, where there are any


@dataclass(frozen=True)
class LengthCost:
    """What a call of sequential takes where a fraction of L positions is known, and the cache."""

    length: int
    known_fraction: float
    milliseconds: float  # per call
    cache_bytes: int


@dataclass(frozen=True)
class Baseline:
    """What a sampler takes for one text."""

    method: str
    seconds: float  # per text
    calls: int  # of the network
    tokens: int  # that it samples
    lossless: str  # whether it samples from its own model's distribution
    timed: str  # how: the whole text, or which parts of one
