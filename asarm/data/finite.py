"""Finite data, from their sources to the packed folder: what is packed, and when."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from asarm.corpus import held_out_documents, training_documents
from asarm.data.blocks import HeldOut, batch_of
from asarm.data.cache import cache_dir, make_cache, stale_note, writing
from asarm.data.config import DataConfig
from asarm.data.contents import changes, digests
from asarm.data.files import Survey, local_path, survey
from asarm.data.held_out import HeldOutText, document_hash, hold_out
from asarm.data.packed import BLOCKS, FACTS, HELD_OUT, write_blocks, write_facts
from asarm.data.packing import Packer, bulks, no_counts, pack, parts_of, token_dtype, usable
from asarm.data.text_files import kind_of, read_documents
from asarm.schedule import keyed_generator
from asarm.text import encode_documents

FORMAT = 1  # of the packed folder; another number packs anew
# what the packed blocks depend on, besides the text and the tokenizer
SETTINGS = ("length", "whitespace_map", "last_block", "max_document_bytes")
LOCAL_ORIGIN = ("dataset_column", "txt_documents", "eval_sequences")
PYTHON_ORIGIN = ("python", "repeats", "seed")


def packed_folder(config: DataConfig, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> Path:
    """Return the folder of the packed data, which are packed now if they are not yet.

    Raises:
        ValueError: the data cannot be read, or hold no block.
        OSError: the packed data cannot be kept.
    """
    cache = cache_dir(config)
    found = None if config.dataset == "python" else _survey(config)
    made_of = _settings(config, tokenizer) | _origin(config, found, cache, seed=seed)
    folder = cache / "packed" / fingerprint(made_of)
    if (folder / FACTS).is_file():
        return folder
    with writing(cache):
        shutil.rmtree(folder, ignore_errors=True)  # without its facts it is not whole
        make_cache(cache)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished.", dir=folder.parent))
        try:
            _pack_into(unfinished, config, tokenizer, found, made_of, seed=seed)
            try:
                unfinished.rename(folder)
            except OSError:
                if not (folder / FACTS).is_file():  # else another process was faster, to one end
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    _report(config.dataset, found, folder)
    return folder


def fingerprint(made_of: dict[str, Any]) -> str:
    """Hash all that the packed blocks depend on: of files their content, not their names."""
    settings = [made_of[name] for name in SETTINGS]
    if "files" in made_of:
        origin = [[kind_of(PurePath(name)), digest] for name, digest in made_of["files"].items()]
        origin += [made_of[name] for name in LOCAL_ORIGIN]
    else:
        origin = [made_of[name] for name in PYTHON_ORIGIN]
    key = json.dumps([FORMAT, origin, settings, made_of["tokenizer"]])
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def _settings(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    settings = {name: getattr(config, name) for name in SETTINGS}
    return settings | {"tokenizer": tokenizer_key(tokenizer)}


def _origin(config: DataConfig, found: Survey | None, cache: Path, *, seed: int) -> dict[str, Any]:
    if found is None:
        return dict(zip(PYTHON_ORIGIN, (sys.version, config.repeats, seed), strict=True))
    files = digests(local_path(config.dataset), found.files, cache / "digests")
    return {"files": files} | {name: getattr(config, name) for name in LOCAL_ORIGIN}


def _survey(config: DataConfig) -> Survey:
    return survey(config.dataset, column=config.dataset_column, split=config.dataset_split)


def _report(dataset: str, found: Survey | None, folder: Path) -> None:
    """Say what was left out, how blocks are held out, and which packed data are of use no more."""
    notes = [stale_note(folder)]
    if found is not None and found.left_out:
        notes.append(f"{dataset}: {found.said()}")
    if found is not None and not (folder / HELD_OUT).is_file():
        notes.append(
            f"{dataset} has too few documents, or too long ones, to hold some of them out: blocks "
            "evenly spread over the text are held out"
        )
    for note in filter(None, notes):
        print(note, file=sys.stderr)


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what distinguishes tokenizers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    if backend is not None:
        # padding and truncation are of the last call, and change nothing here
        pieces = json.dumps(json.loads(pieces) | {"padding": None, "truncation": None})
    return hashlib.blake2b(f"{pieces} {tokenizer.eos_token}".encode()).hexdigest()


def python_held_out(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> HeldOut:
    """Pack the bundled held-out documents, evenly spread over prose and code."""
    texts = [document.text for document in held_out_documents()]
    encoded = encode_documents(tokenizer, texts, whitespace_map=config.whitespace_map)
    blocks = pack(encoded, config.length).numpy()
    count = min(config.eval_sequences, len(blocks))
    rows = [i * len(blocks) // count for i in range(count)]
    num_bytes = sum(len(text.encode()) for text in texts)
    names = [f"held-out block {row}" for row in rows]
    return HeldOut(batch_of(blocks[rows], names), num_bytes / sum(map(len, encoded)))


def _pack_into(
    folder: Path,
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    found: Survey | None,
    made_of: dict[str, Any],
    *,
    seed: int,
) -> None:
    counts = no_counts() | {"held_out": 0}
    packer = Packer(config.length, token_dtype(len(tokenizer)))
    last_length = config.length
    if found is None:
        held_out, documents = None, _encoded_python(config, tokenizer, counts, seed=seed)
    else:
        held_out = _hold_out(config, tokenizer, found)
        documents = _encoded_files(config, tokenizer, found, counts, held_out)

    def groups() -> Iterator[np.ndarray]:
        nonlocal last_length
        for some in documents:
            counts["tokens"] += packer.add(some)
            yield packer.take()
        if config.last_block == "pad" and len(packer.rest) > 1:  # a target needs a prompt
            last_length = len(packer.rest)
            yield _padded(packer.rest, config.length, tokenizer)

    counts["blocks"] = write_blocks(folder / BLOCKS, groups(), config.length)
    if found is not None:
        _check_packed(config, counts, held_out)
        _check_unchanged(config, found, made_of)
        if len(found.files) > 1:
            counts |= {"files": len(found.files), "left_out": found.num_left_out}
    write_facts(folder, counts, last_length, held_out, made_of, _name(config))


def _name(config: DataConfig) -> str:
    """Return what the data set is called in the cache."""
    if config.dataset == "python":
        return config.dataset
    return str(local_path(config.dataset).resolve())


def _check_packed(config: DataConfig, counts: dict[str, int], held_out: HeldOutText | None) -> None:
    """Refuse data that leave nothing to train on."""
    if not counts["documents"]:
        raise ValueError(f"dataset {config.dataset} has no usable document ({_summary(counts)})")
    if counts["blocks"] < (1 if held_out else 2):
        raise ValueError(
            f"dataset {config.dataset} fills {counts['blocks']} blocks of {config.length} tokens "
            f"({_summary(counts)}); one to train on and one to hold out are needed: give more text "
            "or a smaller length"
        )


def _check_unchanged(config: DataConfig, found: Survey, made_of: dict[str, Any]) -> None:
    """Refuse blocks of files that others wrote at the same time."""
    now = _origin(config, found, cache_dir(config), seed=0)
    if made_of["files"] != now["files"]:
        raise ValueError(
            f"{changes({'files': made_of['files']}, {'files': now['files']})} while it was packed; "
            "run the same command again when nothing writes it"
        )


def _hold_out(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, found: Survey
) -> HeldOutText | None:
    def encode(document: bytes) -> list[np.ndarray]:
        parts = parts_of(document, config.max_document_bytes, no_counts())
        return [ids for bulk in _in_bulk(parts, config, tokenizer) for ids in bulk]

    counts = no_counts()
    progress = tqdm(_documents(config, found), unit="documents", desc="choosing", disable=None)
    documents = filter(None, (usable(document, counts) for document in progress))
    return hold_out(documents, encode, length=config.length, num_blocks=config.eval_sequences)


def _documents(config: DataConfig, found: Survey) -> Iterator[bytes | str]:
    return read_documents(found.files, config.dataset_column, txt_documents=config.txt_documents)


def _encoded_files(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    found: Survey,
    counts: dict[str, int],
    held_out: HeldOutText | None,
) -> Iterator[list[np.ndarray]]:
    """Yield the ids of the documents, many at a time, in the order in which they are packed."""
    limit = held_out.limit if held_out else 0
    parts = (part for d in _documents(config, found) for part in _parts(d, config, counts, limit))
    with tqdm(unit="B", unit_scale=True, desc="packing", disable=None) as progress:
        for encoded in _in_bulk(parts, config, tokenizer):
            yield encoded
            progress.update(counts["bytes"] - progress.n)


def _encoded_python(
    config: DataConfig, tokenizer: PreTrainedTokenizerBase, counts: dict[str, int], *, seed: int
) -> Iterator[list[np.ndarray]]:
    """Yield the ids of Python's own text, each kind as often as the config says, in new orders.

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
    """Return the order in which the documents of "python" come at this repeat."""
    generator = keyed_generator(seed, "documents", repeat)
    return torch.randperm(size, generator=generator).tolist()


def _parts(
    document: bytes | str, config: DataConfig, counts: dict[str, int], limit: int = 0
) -> list[str]:
    """Split a document that is too long; return nothing if it cannot be used or is held out."""
    if limit and document_hash(document) < limit:
        counts["held_out"] += 1
        return []
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
    """Pad what is left to one block (1, L)."""
    if tokenizer.pad_token_id is None:
        raise ValueError("last_block is pad, and the tokenizer has no pad_token; use drop")
    return np.pad(rest, (0, length - len(rest)), constant_values=tokenizer.pad_token_id)[None]


def _summary(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items() if name != "blocks")
