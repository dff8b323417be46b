"""What the evaluations are told."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DecodingConfig:
    """Blank out most of a text, fill it by every method, and compare quality with network calls.

    Args:
        model: "demo" (bundled), a local folder, or a hub name.
        revision: branch, tag or commit of the model on the hub.
        dataset: "heldout" (bundled prose and code), "wikitext-2", or a UTF-8 text file.
        output_dir: the run's folder; the same command goes on where it stopped.
        overwrite: throw away what the folder holds of a run with other settings.
        num_trials: blocks of text to fill; beyond their number, blocks come again, split anew.
        max_length: tokens in a block.
        prompt_share: share of the tokens that stay visible; at least one token does.
        methods: sequential, assd, ngram, onepass and parallel, in any choice.
        k: most tokens drafted a round; each method's fastest on a CPU if null.
        parallel_steps: network calls of "parallel", one row of the table each; what exceeds the
            number of blanks is left out.
        temperature: of the law that is sampled.
        coupling: rejection, or gumbel (every lossless method gives the same text).
        seed: of blocks, splits and samples.
        judge: a causal language model (hub name or folder) whose perplexity is reported too.
        batch_size: sequences that are decoded together.
        device: cpu or cuda; a GPU if null and there is one.
        dtype: of the weights: float32, bfloat16 or float64; float32 if null.
    """

    model: str = "demo"
    revision: str | None = None
    dataset: str = "heldout"
    output_dir: str = "runs/speculative_decoding"
    overwrite: bool = False
    num_trials: int = 32
    max_length: int = 256
    prompt_share: float = 0.05
    methods: list[str] = field(
        default_factory=lambda: ["sequential", "assd", "ngram", "onepass", "parallel"]
    )
    k: int | None = None
    parallel_steps: list[int] = field(default_factory=lambda: [4, 8, 16, 32, 64, 128])
    temperature: float = 1.0
    coupling: str = "rejection"
    seed: int = 0
    judge: str | None = None
    batch_size: int = 1
    device: str | None = None
    dtype: str | None = None
