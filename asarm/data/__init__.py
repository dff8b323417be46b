"""Training data: documents of any origin as blocks of equal length, resumable to the block."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asarm.data.blocks import Batch as Batch
    from asarm.data.blocks import BlockSource as BlockSource
    from asarm.data.blocks import HeldOut as HeldOut
    from asarm.data.config import DataConfig as DataConfig
    from asarm.data.packing import pack as pack
    from asarm.data.retry import DataUnavailable as DataUnavailable
    from asarm.data.sources import is_finite as is_finite
    from asarm.data.sources import open_blocks as open_blocks
    from asarm.data.sources import prepare_blocks as prepare_blocks
    from asarm.data.text_files import read_text as read_text

_HOMES = {
    "Batch": "asarm.data.blocks",
    "BlockSource": "asarm.data.blocks",
    "DataConfig": "asarm.data.config",
    "DataUnavailable": "asarm.data.retry",
    "HeldOut": "asarm.data.blocks",
    "is_finite": "asarm.data.sources",
    "open_blocks": "asarm.data.sources",
    "pack": "asarm.data.packing",
    "prepare_blocks": "asarm.data.sources",
    "read_text": "asarm.data.text_files",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    """Import a name when it is first used: `asarm.data.config` then needs no torch (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'asarm.data' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
