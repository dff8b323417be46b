"""Infilling of prose: stories by ROUGE, LAMBADA's last words, HellaSwag's endings."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asarm.evaluation.prose.cells import Network as Network
    from asarm.evaluation.prose.config import InfillProseConfig as InfillProseConfig
    from asarm.evaluation.prose.hellaswag import choose_endings as choose_endings
    from asarm.evaluation.prose.lambada import complete_passages as complete_passages
    from asarm.evaluation.prose.results import ProseResult as ProseResult
    from asarm.evaluation.prose.sources import load_prose as load_prose
    from asarm.evaluation.prose.stories import fill_stories as fill_stories

_HOMES = {
    "InfillProseConfig": "config",
    "Network": "cells",
    "ProseResult": "results",
    "choose_endings": "hellaswag",
    "complete_passages": "lambada",
    "fill_stories": "stories",
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
