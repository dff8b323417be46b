"""Any-subset autoregressive language models: exact sampling in any order, in parallel.

Guo & Ermon 2025, "Reviving Any-Subset Autoregressive Models via Principled Parallel Sampling
and Speculative Decoding", arXiv 2504.20456.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asarm.density import log_prob as log_prob
    from asarm.infilling import infill as infill
    from asarm.infilling import score as score
    from asarm.loading import load as load
    from asarm.model import AnySubsetTransformer as AnySubsetTransformer
    from asarm.order import Order as Order
    from asarm.sampling import SampleResult as SampleResult
    from asarm.sampling import sample as sample
    from asarm.sampling.calibration import calibrate as calibrate

__version__ = "0.1.0"  # pyproject.toml reads it here

_HOMES = {
    "AnySubsetTransformer": "asarm.model",
    "Order": "asarm.order",
    "SampleResult": "asarm.sampling",
    "calibrate": "asarm.sampling.calibration",
    "infill": "asarm.infilling",
    "load": "asarm.loading",
    "log_prob": "asarm.density",
    "sample": "asarm.sampling",
    "score": "asarm.infilling",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that `import asarm` is instant (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'asarm' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
