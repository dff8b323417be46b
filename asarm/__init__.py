"""Any-subset autoregressive language models: exact sampling in any order, in parallel.

`load` gives a model and its tokenizer. `sample` fills the targets of an `Order` by a sampler:
`Sequential`, `ASSD`, `NGram`, `OnePass`, `Parallel`, or one of their names. `log_prob` gives exact
joint log-densities. `infill` fills the blanks of texts, `score` compares given fillings.
`asarm.training.train` trains; the README.md of each folder says more.

Guo & Ermon 2025, "Reviving Any-Subset Autoregressive Models via Principled Parallel Sampling
and Speculative Decoding", arXiv 2504.20456.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asarm.backbones.decoder import AnySubsetDecoder as AnySubsetDecoder
    from asarm.backbones.xlnet import AnySubsetTransformer as AnySubsetTransformer
    from asarm.density import log_prob as log_prob
    from asarm.distribution import Allowed as Allowed
    from asarm.drafting.drafters import Drafter as Drafter
    from asarm.drafting.drafters import Drafts as Drafts
    from asarm.drafting.drafters import Request as Request
    from asarm.drafting.head import HasDraftHead as HasDraftHead
    from asarm.infilling import infill as infill
    from asarm.infilling import score as score
    from asarm.infilling.fill import Candidate as Candidate
    from asarm.infilling.fill import Fill as Fill
    from asarm.infilling.fill import Infilling as Infilling
    from asarm.infilling.scoring import Score as Score
    from asarm.loading import load as load
    from asarm.order import Order as Order
    from asarm.rows import Backbone as Backbone
    from asarm.rows import TrainableBackbone as TrainableBackbone
    from asarm.sampling import ASSD as ASSD
    from asarm.sampling import Costs as Costs
    from asarm.sampling import NGram as NGram
    from asarm.sampling import OnePass as OnePass
    from asarm.sampling import Parallel as Parallel
    from asarm.sampling import Round as Round
    from asarm.sampling import Sampler as Sampler
    from asarm.sampling import SampleResult as SampleResult
    from asarm.sampling import Sequential as Sequential
    from asarm.sampling import sample as sample
    from asarm.sampling.calibration import calibrate as calibrate
    from asarm.training.config import TrainingConfig as TrainingConfig

__version__ = "0.1.0"  # pyproject.toml reads it here

_HOMES = {
    "ASSD": "asarm.sampling",
    "Allowed": "asarm.distribution",
    "AnySubsetDecoder": "asarm.backbones.decoder",
    "AnySubsetTransformer": "asarm.backbones.xlnet",
    "Backbone": "asarm.rows",
    "Candidate": "asarm.infilling.fill",
    "Costs": "asarm.sampling",
    "Drafter": "asarm.drafting.drafters",
    "Drafts": "asarm.drafting.drafters",
    "Fill": "asarm.infilling.fill",
    "HasDraftHead": "asarm.drafting.head",
    "Infilling": "asarm.infilling.fill",
    "NGram": "asarm.sampling",
    "OnePass": "asarm.sampling",
    "Order": "asarm.order",
    "Parallel": "asarm.sampling",
    "Request": "asarm.drafting.drafters",
    "Round": "asarm.sampling",
    "SampleResult": "asarm.sampling",
    "Sampler": "asarm.sampling",
    "Score": "asarm.infilling.scoring",
    "Sequential": "asarm.sampling",
    "TrainableBackbone": "asarm.rows",
    "TrainingConfig": "asarm.training.config",
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
