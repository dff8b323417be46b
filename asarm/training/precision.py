"""In which precision a run multiplies matrices: chosen once, then kept wherever it goes on."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from asarm.run import read_settings
from asarm.training.config import TrainingConfig


def with_precision(
    config: TrainingConfig, accelerator: Accelerator, *, may_change: tuple[str, ...]
) -> TrainingConfig:
    """Decide `bf16`: as it is set, as the run began, or as the first device is fast.

    All processes and all starts of a run compute alike, whatever machines they get.
    """
    if config.bf16 is not None:
        return config
    is_fast = is_bf16_fast(accelerator.device)
    is_asked = accelerator.is_main_process and not config.overwrite
    kept = begun_with(config, may_change) if is_asked else None
    if kept is not None and kept != is_fast:
        faster = "bfloat16" if is_fast else "float32"
        print(
            f"bf16 stays {str(kept).lower()}, as the run began; this machine is faster in {faster}"
        )
    (bf16,) = broadcast_object_list([is_fast if kept is None else kept])
    return replace(config, bf16=bf16)


def begun_with(config: TrainingConfig, may_change: tuple[str, ...]) -> bool | None:
    """Return the precision of the run that the folder holds, if that run is this one."""
    stored = stored_settings(config)
    here = {name: v for name, v in asdict(config).items() if name not in ("bf16", *may_change)}
    return stored.get("bf16") if all(stored.get(name) == v for name, v in here.items()) else None


def knows_no_precision(config: TrainingConfig) -> bool:
    """Return whether a version began the folder's run that did not record what it chose."""
    return stored_settings(config).get("bf16", False) is None


def stored_settings(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings of the run that the folder holds; none where it holds none."""
    return read_settings(config.output_dir) or {}


def is_bf16_fast(device: torch.device) -> bool:
    """Return whether a device multiplies matrices faster in bfloat16 than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
