"""Training: `train(TrainingConfig(...))`."""

from typing import TYPE_CHECKING

from asarm.training.config import TrainingConfig as TrainingConfig

if TYPE_CHECKING:
    from asarm.training.loop import TrainingResult as TrainingResult
    from asarm.training.loop import train as train

__all__ = ["TrainingConfig", "TrainingResult", "train"]


def __getattr__(name: str) -> object:
    """Import the loop when it is first used: settings alone then need no torch (PEP 562)."""
    if name not in ("TrainingResult", "train"):
        raise AttributeError(f"module 'asarm.training' has no attribute {name!r}")
    from asarm.training import loop

    return getattr(loop, name)
