"""The settings of evaluations: those that all share, and those of the decoding study."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class EvaluationConfig:
    """The settings that every evaluation has.

    Args:
        model: "demo" (bundled), a local folder, or a hub name.
        revision: the branch, tag or commit of the model on the hub.
        output_dir: the run's folder; the same command goes on where it stopped.
        overwrite: throw away what the folder holds, and begin anew.
        max_items: how many items, from the first one on; all if null. It can be raised in the same
            folder, not lowered.
        seed: the seed of everything random.
        device: cpu or cuda; if null, a GPU where there is one.
        dtype: the dtype of the weights: float32, bfloat16 or float64; float32 if null.
    """

    model: str = "demo"
    revision: str | None = None
    output_dir: str = "runs/evaluation"
    overwrite: bool = False
    max_items: int | None = None
    seed: int = 0
    device: str | None = None
    dtype: str | None = None


@dataclass
class SamplingConfig(EvaluationConfig):
    """The settings of an evaluation that samples.

    Args:
        num_trials: how often each item is filled. It can be raised in the same folder, too.
        k: the largest number of drafts per round; "auto" chooses it round by round.
        temperature: the temperature of the sampled distribution.
        parallel_steps: network calls of "parallel", one row of the table each.
        batch_size: items that are filled together.
    """

    num_trials: int = 1
    k: int | Literal["auto"] = "auto"
    temperature: float = 1.0
    parallel_steps: list[int] = field(default_factory=lambda: [1, 4, 16])
    batch_size: int = 8


@dataclass
class InfillConfig(SamplingConfig):
    """The settings of an evaluation that fills blanks whose true content is known.

    Args:
        length: "oracle" (a blank has as many tokens as the reference: the published protocol),
            "auto" (the model finds the length), or "both".
        method: lossless sampler: onepass, assd, ngram or sequential.
        top_k: keep the k most probable tokens.
        top_p: keep the most probable tokens that together reach this probability.
        baselines: left_context (what follows the blank is hidden) and parallel (tokens as if they
            were independent), in any choice.
        off_the_shelf: another model in the same table: a folder, or xlnet/xlnet-base-cased.
        seed: the seed of the fillings.
    """

    dataset: str | None = None
    length: str = "oracle"
    method: str = "onepass"
    top_k: int | None = None
    top_p: float | None = None
    baselines: list[str] = field(default_factory=lambda: ["left_context", "parallel"])
    off_the_shelf: str | None = None


@dataclass
class DecodingConfig(SamplingConfig):
    """Blank out most of a text, fill it by every method, and compare quality with network calls.

    Args:
        compare: further models that fill the same blanks, such as the same one off the shelf: each
            a folder or a hub name, "@revision" after it or not; of the same tokenizer.
        dataset: "heldout" (bundled prose and code), "heldout-prose", "heldout-code", "wikitext-2",
            "openwebtext" (as much of it as is needed), or a file or folder of any kind that
            training reads.
        dataset_column: the field of such files that holds the text.
        txt_documents: what a document in a .txt is: the whole "file", a "paragraph" (up to a blank
            line) or a "line".
        max_items: blocks of the text that are used, from the first one on; all if null.
        num_trials: blocks that are filled; beyond their number, blocks are repeated, split anew. It
            can be raised in the same folder, not lowered.
        length: tokens in a block.
        prompt_share: fraction of the tokens that stay visible; at least one token does.
        order: random_split (a random prompt, the blanks from left to right), left_to_right (the
            prompt is the beginning) or random_permutation (a random prompt, the blanks in random
            order).
        method: sequential, assd, ngram, onepass and parallel, in any choice.
        parallel_steps: network calls of "parallel", one row of the table each; what exceeds the
            number of blanks is left out.
        draft_temperature: the temperature of the drafts, which changes the cost alone; that of the
            target distribution if null.
        acceptance_slack: added to the probability of accepting a draft; above 0 it is lossy.
        coupling: block (keeps the most drafts), rejection (one draft after the other, the paper's),
            or gumbel (every lossless method gives the same text).
        drafts: the drafters of assd and onepass, each in turn: head (the model's learned draft
            head), self (the network's own rows). What a model lacks is left out.
        whitespace_map: read line ends, tabs and double spaces as the published models for code do.
        seed: the seed of blocks, splits and samples.
        judge: a causal language model (smollm2, hub name or folder, also with "@revision") whose
            perplexity is reported too.
        batch_size: sequences that are decoded together.
        grid: an ablation: values of some settings; a study of each combination, in a folder of
            its own inside output_dir, then one table and one figure of all.
    """

    compare: list[str] = field(default_factory=list)
    dataset: str = "heldout"
    dataset_column: str = "text"
    txt_documents: str = "file"
    output_dir: str = "runs/speculative_decoding"
    num_trials: int = 32
    length: int = 256
    prompt_share: float = 0.05
    order: str = "random_split"
    method: list[str] = field(
        default_factory=lambda: ["sequential", "assd", "ngram", "onepass", "parallel"]
    )
    parallel_steps: list[int] = field(default_factory=lambda: [4, 8, 16, 32, 64, 128])
    draft_temperature: float | None = None
    acceptance_slack: float = 0.0
    coupling: str = "block"
    drafts: list[str] = field(default_factory=lambda: ["head", "self"])
    whitespace_map: bool = False
    judge: str | None = None
    batch_size: int = 1
    grid: dict[str, list[int | float | str]] | None = None
