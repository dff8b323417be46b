"""Infilling of prose: stories by ROUGE, LAMBADA's last words, HellaSwag's endings."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asarm.evaluation.prose.config import InfillProseConfig as InfillProseConfig
    from asarm.evaluation.prose.results import ProseResult as ProseResult
    from asarm.evaluation.prose.sources import Prose as Prose
    from asarm.evaluation.prose.sources import load_prose as load_prose
    from asarm.evaluation.prose.tasks import infill_prose as infill_prose

_HOMES = {
    "InfillProseConfig": "config",
    "Prose": "sources",
    "ProseResult": "results",
    "infill_prose": "tasks",
    "load_prose": "sources",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Import a name when it is first used: the config then needs no torch (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
