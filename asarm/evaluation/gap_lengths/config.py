"""What the study of gap lengths is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class GapLengthsConfig:
    """Blank out 1 to 8 words of held-out text, and guess how many tokens they were.

    Args:
        model: "demo" (bundled), a local folder, or a hub name.
        revision: branch, tag or commit of the model on the hub.
        output_dir: the run's folder; the same command goes on where it stopped.
        overwrite: throw away what the folder holds, and begin anew.
        max_items: gaps of each kind of text, prose and code. It can be raised in the same folder,
            not lowered.
        longest: the lengths that are weighed are 1 to this many tokens.
        num_fills: fillings drawn of each length, for the estimators that need some.
        whitespace_map: code through XLNet's vocabulary.
        seed: of gaps and fillings.
        device: cpu or cuda; a GPU if null and there is one.
        dtype: of the weights: float32, bfloat16 or float64; float32 if null.
    """

    model: str = "demo"
    revision: str | None = None
    output_dir: str = "runs/gap_lengths"
    overwrite: bool = False
    max_items: int = 100
    longest: int = 32
    num_fills: int = 2
    whitespace_map: bool = False
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
