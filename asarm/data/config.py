"""What a training run's data are, and how they become blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

KINDS = ("prose", "code", "test")
TXT_DOCUMENTS = ("paragraph", "line", "file")


@dataclass
class DataConfig:
    """Read documents, tokenize them, and cut them into blocks of equal length.

    Args:
        dataset: "python" (the text that ships with Python); a local file, or a folder with all that
            is in and below it: .txt, .md, .raw, .jsonl, .json, .csv, .tsv, .parquet, .arrow (text
            formats also as .gz, .bz2, .xz or .zst, in UTF-8 or UTF-16) and what
            datasets.save_to_disk wrote (of several splits train, or name the folder of one); an
            http(s) URL of a .txt, .jsonl or .parquet; or a name on the hub.
        dataset_config: the hub data set's configuration.
        dataset_data_dir: folder inside the hub's repository.
        dataset_split: the hub data set's split.
        dataset_column: where records (jsonl, json, csv, parquet, arrow, the hub) have their text.
        txt_documents: what ends as a document in a .txt: "paragraph" (at a blank line), "line" or
            the whole "file". A .md is one document, and each line of a .raw is one.
        whitespace_map: read line ends, tabs and double spaces as the published models for code do.
        repeats: "python" only: how often an epoch holds its prose, its code and its tests.
        length: tokens a block.
        last_block: "drop" or "pad" what is left after the last whole block; finite data only.
        max_document_bytes: longer documents are split, at a line end where there is one.
        shuffle_blocks: streams only: blocks of one window, inside which their order is random.
        workers: streams only: reading processes of each training process; 0 reads in the process
            that trains.
        cache_dir: where packed data are kept; $ASARM_CACHE or ~/.cache/asarm if null.
        eval_sequences: blocks held out: of whole documents, chosen by a hash of their text.
    """

    dataset: str = "python"
    dataset_config: str | None = None
    dataset_data_dir: str | None = None
    dataset_split: str = "train"
    dataset_column: str = "text"
    txt_documents: str = "paragraph"
    whitespace_map: bool = False
    repeats: dict[str, int] = field(default_factory=lambda: {"prose": 8, "code": 4, "test": 1})
    length: int = 512
    last_block: str = "drop"
    max_document_bytes: int = 1_000_000
    shuffle_blocks: int = 1024
    workers: int = 2
    cache_dir: str | None = None
    eval_sequences: int = 64


def check_data_config(config: DataConfig) -> None:
    """Refuse settings that cannot be served, by an error that names the setting."""
    lowest = {
        "length": 2,
        "max_document_bytes": 4,  # the longest character
        "shuffle_blocks": 1,
        "workers": 0,
        "eval_sequences": 1,
    }
    for name, least in lowest.items():
        if getattr(config, name) < least:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least {least}")
    if config.last_block not in ("drop", "pad"):
        raise ValueError(f"last_block is {config.last_block!r}; expected drop or pad")
    check_txt_documents(config.txt_documents)
    if not config.dataset:
        raise ValueError("dataset is empty; expected python, a file, a folder, a URL or a hub name")
    counts = config.repeats
    if set(counts) != set(KINDS) or min(counts.values()) < 0 or not any(counts.values()):
        raise ValueError(
            f"repeats is {counts}; expected a count for each of {', '.join(KINDS)}, one above 0"
        )


def check_txt_documents(value: str) -> None:
    """Refuse a value that is none of `TXT_DOCUMENTS`."""
    if value not in TXT_DOCUMENTS:
        raise ValueError(f"txt_documents is {value!r}; expected one of {', '.join(TXT_DOCUMENTS)}")
