"""Where the data of a config come from, and which kind of source that makes."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from asarm.data.blocks import BlockSource
from asarm.data.config import DataConfig, check_data_config
from asarm.data.finite import packed_folder, python_held_out
from asarm.data.packed import PackedBlocks
from asarm.data.text_files import READERS


def open_blocks(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    global_batch_size: int,
    process_index: int = 0,
    num_processes: int = 1,
) -> BlockSource:
    """The blocks of one of the training processes.

    Finite data ("python", local files and folders) are packed first, unless they are already;
    anything else is streamed.

    Args:
        config: which data.
        tokenizer: what turns them into tokens.
        seed: of every order; the same in all processes.
        global_batch_size: blocks that all processes together take at a time.
        process_index: which process this is.
        num_processes: how many there are.

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
    """What one process does before all open the data: pack what is finite. Streams need nothing."""
    check_data_config(config)
    if is_finite(config.dataset):
        packed_folder(config, tokenizer, seed=seed)


def is_finite(dataset: str) -> bool:
    """Whether it is packed as a whole: Python's text, and whatever looks like a local path."""
    if dataset == "python":
        return True
    path = Path(dataset).expanduser()
    looks_local = path.is_absolute() or dataset[0] in ".~" or dataset.endswith(tuple(READERS))
    return path.exists() or (looks_local and "://" not in dataset)
