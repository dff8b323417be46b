"""Where the data of a config come from, and which kind of source that makes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from asarm.data.blocks import BlockSource
from asarm.data.config import DataConfig, check_data_config
from asarm.data.files import local_path, suggestion
from asarm.data.finite import packed_folder, python_held_out
from asarm.data.packed import PackedBlocks
from asarm.data.text_files import READERS, kind_of


def open_blocks(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    global_batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> BlockSource:
    """Open the blocks of one of the training processes.

    Finite data ("python", local files and folders) are packed first, unless they are already;
    anything else is streamed.

    Args:
        config: which data.
        tokenizer: the tokenizer of the model.
        seed: the seed of every order; the same in all processes.
        global_batch_size: blocks that all processes together take at a time.
        process_index: which process this is.
        num_processes: the number of processes.

    Raises:
        ValueError: a setting that cannot be, or data that cannot be had; in one line.
        DataUnavailable: a stream that the network does not let be opened.
    """
    check_data_config(config)
    if is_finite(config.dataset):
        held_out = python_held_out(config, tokenizer) if config.dataset == "python" else None
        return PackedBlocks(
            packed_folder(config, tokenizer, seed=seed),
            seed=seed,
            global_batch_size=global_batch_size,
            held_out=held_out,
            eval_sequences=config.eval_sequences,
        )
    if process_index == 0 and "://" not in config.dataset:
        note = suggestion(local_path(config.dataset))
        print(
            f"{config.dataset} is not a local file or folder{note}: looking for it on the hub",
            file=sys.stderr,
        )
    from asarm.data.hub import open_dataset  # here: `datasets` takes seconds, and only streams
    from asarm.data.stream import StreamBlocks  # need it

    return StreamBlocks(
        open_dataset(config),
        config,
        tokenizer,
        seed=seed,
        process_index=process_index,
        num_processes=num_processes,
    )


def prepare_blocks(config: DataConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> None:
    """Pack finite data, in one process, before all open them. Streams need nothing."""
    check_data_config(config)
    if is_finite(config.dataset):
        packed_folder(config, tokenizer, seed=seed)


def is_finite(dataset: str) -> bool:
    """Return whether it is packed as a whole: Python's text, and what may be a local path."""
    return dataset == "python" or ("://" not in dataset and is_path(dataset))


def is_path(dataset: str) -> bool:
    """Return whether it exists, could not be a name on the hub, or is likelier a mistyped path.

    Names on the hub are a word, or an owner and a word, without a suffix that data files have.
    """
    path = Path(dataset)
    if os.path.exists(local_path(dataset)) or dataset[0] in ".~" or kind_of(path) in READERS:
        return True
    if len(path.parts) == 1:
        return bool(path.suffix) or not _is_hub_name(dataset)
    return path.parent.exists() or not _is_hub_name(dataset)


def _is_hub_name(dataset: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(dataset)
    except HFValidationError:
        return False
    return True
