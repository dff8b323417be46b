"""Sampling from any-subset models: `sample`, the samplers and their result."""

from asarm.sampling.api import sample
from asarm.sampling.base import Sampler, Speculative
from asarm.sampling.cost import Costs
from asarm.sampling.result import Round, SampleResult
from asarm.sampling.samplers import (
    ASSD,
    SAMPLERS,
    NGram,
    OnePass,
    Parallel,
    Sequential,
    has_option,
    lossless_names,
    sampler_of,
)
from asarm.sampling.verify import VERIFIERS

__all__ = [
    "ASSD",
    "SAMPLERS",
    "VERIFIERS",
    "Costs",
    "NGram",
    "OnePass",
    "Parallel",
    "Round",
    "SampleResult",
    "Sampler",
    "Sequential",
    "Speculative",
    "has_option",
    "lossless_names",
    "sample",
    "sampler_of",
]
