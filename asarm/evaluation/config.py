"""What the study of samplers is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class DecodingConfig:
    """Blank out most of a text, fill it by every method, and compare quality with network calls.

    Args:
        model: "demo" (bundled), a local folder, or a hub name.
        revision: branch, tag or commit of the model on the hub.
        compare: further models that fill the same blanks, such as the same one off the shelf: each
            a folder or a hub name, "@revision" behind it or not; of the same tokenizer.
        dataset: "heldout" (bundled prose and code), "heldout-prose", "heldout-code", "wikitext-2",
            "openwebtext" (as much of it as is needed), or a file or folder of any kind that
            training reads.
        dataset_column: where the records of such files have their text.
        txt_documents: what ends as a document in a .txt: the whole "file", "paragraph" (at a blank
            line) or "line".
        output_dir: the run's folder; the same command goes on where it stopped.
        overwrite: throw away what the folder holds, and begin anew.
        max_items: blocks of the text that are used, from the first one on; all if null.
        num_trials: blocks that are filled; beyond their number, blocks come again, split anew. It
            can be raised in the same folder, not lowered.
        length: tokens in a block.
        prompt_share: share of the tokens that stay visible; at least one token does.
        order: random_split (a random prompt, the blanks from left to right), left_to_right (the
            prompt is the beginning) or random_permutation (a random prompt, the blanks in random
            order).
        method: sequential, assd, ngram, onepass and parallel, in any choice.
        k: most tokens drafted a round; "auto" chooses them round by round.
        parallel_steps: network calls of "parallel", one row of the table each; what exceeds the
            number of blanks is left out.
        temperature: of the law that is sampled.
        draft_temperature: of the drafts alone, the law stays as it is; `temperature` if null.
        acceptance_slack: added to the probability of accepting a draft; above 0 it is lossy.
        coupling: block (keeps the most drafts), rejection (one draft after the other, the paper's),
            or gumbel (every lossless method gives the same text).
        drafts: what drafts for assd and onepass, each in turn: head (the model's learned draft
            head), self (the network's own rows). What a model lacks is left out.
        whitespace_map: read line ends, tabs and double spaces as the published models for code do.
        seed: of blocks, splits and samples.
        judge: a causal language model (hub name or folder, "@revision" behind it or not) whose
            perplexity is reported too.
        batch_size: sequences that are decoded together.
        device: cpu or cuda; a GPU if null and there is one.
        dtype: of the weights: float32, bfloat16 or float64; float32 if null.
        grid: an ablation: values of some settings; a study of each combination, in a folder of
            its own inside output_dir, then one table and one figure of all.
    """

    model: str = "demo"
    revision: str | None = None
    compare: list[str] = field(default_factory=list)
    dataset: str = "heldout"
    dataset_column: str = "text"
    txt_documents: str = "file"
    output_dir: str = "runs/speculative_decoding"
    overwrite: bool = False
    max_items: int | None = None
    num_trials: int = 32
    length: int = 256
    prompt_share: float = 0.05
    order: str = "random_split"
    method: list[str] = field(
        default_factory=lambda: ["sequential", "assd", "ngram", "onepass", "parallel"]
    )
    k: int | Literal["auto"] = "auto"
    parallel_steps: list[int] = field(default_factory=lambda: [4, 8, 16, 32, 64, 128])
    temperature: float = 1.0
    draft_temperature: float | None = None
    acceptance_slack: float = 0.0
    coupling: str = "block"
    drafts: list[str] = field(default_factory=lambda: ["head", "self"])
    whitespace_map: bool = False
    seed: int = 0
    judge: str | None = None
    batch_size: int = 1
    device: str | None = None
    dtype: str | None = None
    grid: dict[str, list[int | float | str]] | None = None
