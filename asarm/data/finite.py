"""Finite data, from their sources to the packed folder: what is packed, and when."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from asarm.corpus import held_out_documents, training_documents
from asarm.data.blocks import HeldOut, batch_of
from asarm.data.config import DataConfig
from asarm.data.packed import FACTS, write_blocks, write_facts
from asarm.data.packing import Packer, bulks, no_counts, pack, parts_of, token_dtype, usable
from asarm.data.text_files import find_files, read_documents
from asarm.schedule import keyed_generator
from asarm.text import encode_documents

FORMAT = 1  # of the packed folder; another number packs anew
ABANDONED = 24 * 3600  # seconds after which an unfinished folder is of a packing that was killed


def packed_folder(config: DataConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> Path:
    """The folder of the packed data, which are packed now if they are not yet.

    Raises:
        ValueError: the data cannot be read, or hold no block.
    """
    parent = cache_dir(config) / "packed"
    folder = parent / fingerprint(config, tokenizer, seed=seed)
    if (folder / FACTS).is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)  # without its facts it is not whole
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished.", dir=parent))
    try:
        _pack_into(unfinished, config, tokenizer, seed=seed)
        try:
            unfinished.rename(folder)
        except OSError:
            if not (folder / FACTS).is_file():  # else another process was faster, to the same end
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def cache_dir(config: DataConfig) -> Path:
    """Where packed data are kept."""
    named = config.cache_dir or os.environ.get("ASARM_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "asarm"


def fingerprint(config: DataConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> str:
    """Hex of all that the packed blocks depend on."""
    if config.dataset == "python":
        origin: Any = [sys.version, config.repeats, seed]
    else:
        files = [(path.resolve(), path.stat()) for path in find_files(config.dataset)]
        origin = [(str(p), s.st_size, s.st_mtime_ns) for p, s in files]
        origin.append(config.dataset_column)
    settings = (
        config.length,
        config.whitespace_map,
        config.last_block,
        config.max_document_bytes,
    )
    key = json.dumps([FORMAT, origin, settings, tokenizer_key(tokenizer)])
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hex that tells tokenizers apart."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    if backend is not None:
        # padding and truncation are of the last call, and change nothing here
        pieces = json.dumps(json.loads(pieces) | {"padding": None, "truncation": None})
    return hashlib.blake2b(f"{pieces} {tokenizer.eos_token}".encode()).hexdigest()


def python_held_out(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> HeldOut:
    """Blocks of the bundled held-out documents, evenly spread over prose and code."""
    texts = [document.text for document in held_out_documents()]
    encoded = encode_documents(tokenizer, texts, whitespace_map=config.whitespace_map)
    blocks = pack(encoded, config.length).numpy()
    count = min(config.eval_sequences, len(blocks))
    rows = [i * len(blocks) // count for i in range(count)]
    num_bytes = sum(len(text.encode()) for text in texts)
    names = [f"held-out block {row}" for row in rows]
    return HeldOut(batch_of(blocks[rows], names), num_bytes / sum(map(len, encoded)))


def _pack_into(
    folder: Path, config: DataConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> None:
    counts = no_counts()
    packer = Packer(config.length, token_dtype(len(tokenizer)))
    last_length = config.length

    def groups() -> Iterator[np.ndarray]:
        nonlocal last_length
        for documents in _encoded(config, tokenizer, counts, seed=seed):
            counts["tokens"] += packer.add(documents)
            yield packer.take()
        if config.last_block == "pad" and len(packer.rest) > 1:  # a target needs a prompt
            last_length = len(packer.rest)
            yield _padded(packer.rest, config.length, tokenizer)

    counts["blocks"] = write_blocks(folder, groups(), config.length)
    if not counts["documents"]:
        raise ValueError(f"dataset {config.dataset} has no usable document ({_said(counts)})")
    if counts["blocks"] < 2 and config.dataset != "python":
        raise ValueError(
            f"dataset {config.dataset} fills {counts['blocks']} blocks of {config.length} tokens "
            f"({_said(counts)}); one to train on and one to hold out are needed: give more text "
            "or a smaller length"
        )
    write_facts(folder, counts, last_length)


def _encoded(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, counts: dict[str, int], *, seed: int
) -> Iterator[list[np.ndarray]]:
    """The documents' ids, many documents at a time, in the order in which they are packed."""
    if config.dataset == "python":
        yield from _encoded_python(config, tokenizer, counts, seed=seed)
        return
    documents = read_documents(find_files(config.dataset), config.dataset_column)
    parts = (part for d in documents for part in _parts(d, config, counts))
    with tqdm(unit="B", unit_scale=True, desc="packing", disable=None) as progress:
        for encoded in _in_bulk(parts, config, tokenizer):
            yield encoded
            progress.update(counts["bytes"] - progress.n)


def _encoded_python(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, counts: dict[str, int], *, seed: int
) -> Iterator[list[np.ndarray]]:
    """Python's own text, each kind as often as the config says, every time in an order of its own.

    A document that comes several times is tokenized, and counted, once.
    """
    documents = training_documents()
    repeats = [config.repeats["test" if d.is_test else d.kind] for d in documents]
    parts = [
        _parts(d.text, config, counts) if repeat else []
        for d, repeat in zip(documents, repeats, strict=True)
    ]
    bulks_of_ids = _in_bulk((part for p in parts for part in p), config, tokenizer)
    size = sum(map(len, parts))
    ids = chain.from_iterable(bulks_of_ids)
    progress = tqdm(ids, total=size, unit="documents", desc="tokenizing", disable=None)
    remaining = iter(progress)
    encoded = [list(islice(remaining, len(p))) for p in parts]
    progress.close()
    for repeat in range(max(repeats)):
        order = document_order(len(documents), seed, repeat)
        yield [ids for d in order if repeat < repeats[d] for ids in encoded[d]]


def document_order(size: int, seed: int, repeat: int) -> list[int]:
    """In which order the documents of "python" come at this repeat."""
    generator = keyed_generator(seed, "documents", repeat)
    return torch.randperm(size, generator=generator).tolist()


def _parts(document: bytes | str, config: DataConfig, counts: dict[str, int]) -> list[str]:
    """The document in parts that are not too long; none where it cannot be used."""
    data = usable(document, counts)
    return parts_of(data, config.max_document_bytes, counts) if data else []


def _in_bulk(
    parts: Iterable[str], config: DataConfig, tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[np.ndarray]]:
    dtype = token_dtype(len(tokenizer))
    for bulk in bulks(parts):
        encoded = encode_documents(tokenizer, bulk, whitespace_map=config.whitespace_map)
        yield [np.array(ids, dtype) for ids in encoded]


def _padded(rest: np.ndarray, length: int, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """What is left as one block (1, L)."""
    if tokenizer.pad_token_id is None:
        raise ValueError("last_block is pad, and the tokenizer has no pad_token; use drop")
    return np.pad(rest, (0, length - len(rest)), constant_values=tokenizer.pad_token_id)[None]


def _said(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if name != "blocks")


def _remove_abandoned(parent: Path) -> None:
    """Packings that were killed long ago; what another process packs now is younger."""
    for folder in parent.glob("unfinished.*"):
        files = [folder, *folder.glob("*")]
        with suppress(OSError):  # the other process has just finished or removed it
            if time.time() - max(f.stat().st_mtime for f in files) > ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)
