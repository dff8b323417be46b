"""Models and tokenizers by name: the bundled one, a local folder, or a name on the hub."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from asarm.backbones import lora
from asarm.backbones.decoder import AnySubsetDecoder
from asarm.backbones.pretrained import XLNET_VOCAB_SIZE, without_progress_bar
from asarm.backbones.pretrained_decoder import BLANK
from asarm.backbones.xlnet import AnySubsetTransformer
from asarm.drafting.files import CONFIG as CONFIG_OF_HEAD
from asarm.drafting.files import WEIGHTS as WEIGHTS_OF_HEAD
from asarm.drafting.files import load_draft_head
from asarm.fetch import smollm2_base

Model = AnySubsetTransformer | AnySubsetDecoder
# By the model_type of config.json; every other causal language model is an AnySubsetDecoder.
BACKBONES: dict[str, Any] = {"xlnet": AnySubsetTransformer}
DEMO, SMOLLM2 = Path(__file__).parent / "demo", Path(__file__).parent / "smollm2"
BUNDLED = {"demo": DEMO, "smollm2": SMOLLM2}  # SMOLLM2 holds an adapter
SMOLLM2_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"  # as adapters name what we fetch
XLNET_TOKENIZER = "xlnet/xlnet-base-cased"  # of the released models, which may lack a tokenizer
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
NUMBER = re.compile(r"\d+")
MAX_REASON = 200  # characters of what another library says
# What reading a model's files ends in where they are damaged or do not fit one another.
UNREADABLE = (
    OSError,
    ValueError,
    AttributeError,
    EOFError,
    KeyError,
    TypeError,
    RuntimeError,
    SafetensorError,
    UnpicklingError,
    StrictDataclassError,
)


def load(
    name_or_path: str | Path = "demo",
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    packed: bool = True,
) -> tuple[Model, PreTrainedTokenizerBase]:
    """Load a model, ready to sample from, and its tokenizer, which pads on the right.

    XLNet's checkpoints become an `AnySubsetTransformer`, every other causal language model of
    transformers (Llama, Qwen, SmolLM, ...) an `AnySubsetDecoder`.

    Args:
        name_or_path: "demo" or "smollm2" for the bundled ones, a folder, or a hub name such as
            "xlnet/xlnet-base-cased", "therealgabeguo/ASARM" or "HuggingFaceTB/SmolLM2-135M".
        revision: branch, tag or commit on the hub ("nlp", "code", ...).
        subfolder: where the model is inside its folder.
        device: where to; a GPU if None and there is one.
        dtype: of the weights, "bfloat16" or torch.bfloat16 for example; float32 if None.
        packed: on a CPU in bfloat16, hold the weights a second time as they are read fastest
            there, see `AnySubsetTransformer.pack`.

    Raises:
        ValueError: nothing there, no model that can be an any-subset model, weights missing or not
            finite, or a tokenizer that is absent or of another size.
    """
    device, dtype = resolve_device(device), resolve_dtype(dtype)
    where = {"subfolder": subfolder or ""} | ({"revision": revision} if revision else {})
    source = _source(name_or_path)
    adapter = _find(source, lora.CONFIG, where)
    if adapter is None:
        model, tokenizer = _load_model(name_or_path, source, where, dtype)
    else:
        model, tokenizer = _load_adapted(source, where, Path(adapter).parent, dtype)
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            raise ValueError(f"weight {name} of {name_or_path} holds NaN or infinity")
    weights = _find(source, WEIGHTS_OF_HEAD, where)
    if weights is not None and _find(source, CONFIG_OF_HEAD, where) is not None:
        head = load_draft_head(Path(weights).parent, model)
        model.set_draft_head(head.to(device, model.dtype).eval().requires_grad_(False))
    model.to(device).eval()
    return model.pack() if packed else model, tokenizer


def _load_model(
    name_or_path: str | Path, source: str, where: dict[str, str], dtype: torch.dtype
) -> tuple[Model, PreTrainedTokenizerBase]:
    """Load a model with all its weights, and its tokenizer."""
    config = _load_config(name_or_path, source, where)
    tokenizer = load_tokenizer(
        name_or_path,
        vocab_size=config.vocab_size,
        may_be_smaller=config.model_type not in BACKBONES,
        **where,
    )
    config.pad_token_id = tokenizer.pad_token_id
    if config.model_type in BACKBONES:
        config.mask_token_id = tokenizer.mask_token_id
    else:
        _find(source, BLANK, where)  # fetched from the hub, if it is there
    return _load_weights(name_or_path, source, where, config, dtype), tokenizer


def _load_adapted(
    source: str, where: dict[str, str], folder: Path, dtype: torch.dtype
) -> tuple[AnySubsetDecoder, PreTrainedTokenizerBase]:
    """Load the model that an adapter changes, and merge the adapter into its weights."""
    for file in (lora.WEIGHTS, BLANK):
        if _find(source, file, where) is None:
            raise ValueError(
                f"{source} has {lora.CONFIG} and no {file}; put the whole folder there"
            )
    base, revision = _base_of(folder)
    of_base = {"subfolder": ""} | ({"revision": revision} if revision else {})
    model, tokenizer = _load_model(base, _source(base), of_base, dtype)
    if not isinstance(model, AnySubsetDecoder):
        raise ValueError(f"{source} is an adapter of {base}; expected one of a decoder")
    model.read_adapter(folder)
    return model, tokenizer


def _base_of(adapter: Path) -> tuple[str, str | None]:
    """Return the name of an adapter's base, as `load` knows it, and its revision."""
    name, revision = lora.base_of(adapter)
    return ("smollm2-base", None) if name == SMOLLM2_ON_HUB else (name, revision)


def load_tokenizer(
    name_or_path: str | Path = "demo",
    *,
    vocab_size: int | None = None,
    may_be_smaller: bool = False,
    **where: str,
) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, padding on the right.

    Args:
        name_or_path: of the model.
        vocab_size: how many tokens it has to have, if that is known.
        may_be_smaller: or fewer.
        where: the revision and the subfolder.

    Raises:
        ValueError: there is none, it cannot be read, or it has another size.
    """
    source = _source(name_or_path)
    if _find(source, "tokenizer.json", where) is None:
        if (adapter := _find(source, lora.CONFIG, where)) is not None:
            base, revision = _base_of(Path(adapter).parent)
            of_base = {"revision": revision} if revision else {}
            return load_tokenizer(
                base, vocab_size=vocab_size, may_be_smaller=may_be_smaller, **of_base
            )
        if _find(source, "spiece.model", where) is not None:
            raise ValueError(
                f"{name_or_path} has only spiece.model; put tokenizer.json beside it "
                f"({XLNET_TOKENIZER} has the one of the same pieces)"
            )
        if vocab_size != XLNET_VOCAB_SIZE or source == XLNET_TOKENIZER:
            raise ValueError(f"{name_or_path} has no tokenizer.json; put it beside the weights")
        warnings.warn(
            f"{name_or_path} has no tokenizer; taking that of {XLNET_TOKENIZER}", stacklevel=2
        )
        return load_tokenizer(XLNET_TOKENIZER, vocab_size=vocab_size)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="right", **where)
    except UNREADABLE as error:
        raise ValueError(
            f"the tokenizer of {name_or_path} cannot be read ({reason_of(error)}); put whole files "
            "tokenizer.json and tokenizer_config.json beside the weights"
        ) from None
    size = len(tokenizer)
    if vocab_size is not None and (size > vocab_size or (size < vocab_size and not may_be_smaller)):
        raise ValueError(
            f"{name_or_path} has a tokenizer of {len(tokenizer)} pieces and a model of "
            f"{vocab_size}; put the model's own tokenizer beside it"
        )
    return tokenizer


def name_and_revision(model: str) -> tuple[str, str | None]:
    """Split "name@revision" in two; a folder may have such a name itself."""
    name, at, revision = model.rpartition("@")
    return (name, revision) if at and not Path(model).exists() else (model, None)


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Find the device asked for, or the GPU if there is one.

    Raises:
        ValueError: there is no such device, or it has no float64.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if str(device).partition(":")[0] == "mps":
        raise ValueError(
            f"device is {str(device)!r}, which has no float64, and random numbers are drawn in "
            "float64; take 'cpu'"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device {str(device)!r} cannot be used here ({reason}); take 'cpu'"
        ) from None
    return torch.device(device)


def resolve_dtype(dtype: str | torch.dtype | None = None) -> torch.dtype:
    """Find the dtype asked for, float32 if None.

    Raises:
        ValueError: it names no dtype of weights.
    """
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
    if dtype is None:
        return torch.float32
    if dtype in known.values():
        return dtype  # type: ignore[return-value]
    if dtype not in known:
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(known)}")
    return known[dtype]


def _source(name_or_path: str | Path) -> str:
    """Say what transformers is to look for: a folder or a hub name."""
    name = str(name_or_path)
    if name in BUNDLED:
        return str(BUNDLED[name])
    if name == "smollm2-base":
        return str(smollm2_base())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    looks_like_path = isinstance(name_or_path, Path) or name.count("/") != 1 or name[0] in "./~"
    if path.exists() or looks_like_path:
        what = "is a file" if path.exists() else "does not exist"
        raise ValueError(
            f"model folder {name} {what}; give a folder with config.json and model.safetensors, "
            "a hub name such as xlnet/xlnet-base-cased, or demo"
        )
    return name


def _find(source: str, file: str, where: dict[str, str]) -> str | None:
    """Find the path of a model's file, fetched from the hub if need be; None if it has none."""
    if Path(source).is_dir():
        path = Path(source, where.get("subfolder", ""), file)
        return str(path) if path.is_file() else None
    try:
        return hf_hub_download(
            source, file, subfolder=where.get("subfolder"), revision=where.get("revision")
        )
    except LocalEntryNotFoundError as error:  # the hub cannot be asked
        name = "/".join(filter(None, [where.get("subfolder"), "config.json"]))
        if isinstance(try_to_load_from_cache(source, name, revision=where.get("revision")), str):
            return None  # what the model has was fetched before
        problem: Exception = error
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problem = error
    reason = str(problem).split("\n")[0].strip().rstrip(".")
    raise ValueError(
        f"cannot get {file} of {source} from the hub ({reason}); check the name and the "
        "network, or give a folder that holds the model"
    ) from None


def reason_of(error: BaseException) -> str:
    """Repeat what an error of another library says, in a line of no great length."""
    said = " ".join(str(error).split()).rstrip(".")
    short = said if len(said) <= MAX_REASON else said[:MAX_REASON] + "..."
    is_clear = isinstance(error, OSError) or type(error) is ValueError
    return short if is_clear and short else f"{type(error).__name__}: {short}"


@contextmanager
def without_report() -> Iterator[None]:
    """Have transformers read weights without a table of what does not fit: `check_loaded` tells."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with without_progress_bar():
            yield
    finally:
        logging.set_verbosity(verbosity)


def check_loaded(name: str | Path, model: torch.nn.Module, report: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of their config.json: what is absent would be random.

    Args:
        name: of the model.
        model: what came of it.
        report: what transformers says of loading it.

    Raises:
        ValueError: some have another shape, are absent, or are those of further layers.
    """
    for weight, found, wanted in sorted(report["mismatched_keys"])[:1]:
        raise ValueError(
            f"weight {weight} of {name} has shape {tuple(found)}, and by config.json it has "
            f"{tuple(wanted)}; put the config.json of these weights beside them"
        )
    absent = sorted(report["missing_keys"])
    if absent:
        raise ValueError(
            f"{name} lacks {len(absent)} weights of the language model that its config.json "
            f"describes, {absent[0]} among them; is it a checkpoint with a language model's head?"
        )
    kinds = {NUMBER.sub("", weight) for weight in model.state_dict()}
    surplus = sorted(w for w in report["unexpected_keys"] if NUMBER.sub("", w) in kinds)
    if surplus:
        raise ValueError(
            f"{name} holds {len(surplus)} weights of layers that its config.json does not have, "
            f"{surplus[0]} among them; put the config.json of these weights beside them"
        )


def _load_config(name_or_path: str | Path, source: str, where: dict[str, str]) -> Any:
    """Read what a model's config.json says of its network."""
    path = _find(source, "config.json", where)
    if path is None:
        what = "expected a model's folder"
        if checkpoints := sorted(Path(source).glob("checkpoints/step-*/model")):
            what = f"the run is not finished: take {checkpoints[-1]}"
        raise ValueError(f"{name_or_path} has no config.json; {what}")
    try:
        json.loads(Path(path).read_text(encoding="utf-8"))
        config = AutoConfig.from_pretrained(source, **where)
    except UNREADABLE as error:
        reason = reason_of(error)
        raise ValueError(f"config.json of {name_or_path} cannot be read: {reason}") from None
    if config.model_type not in {*BACKBONES, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}:
        raise ValueError(
            f"{name_or_path} holds a model of type {config.model_type}; expected XLNet or a causal "
            "language model of transformers, such as Llama, Qwen or SmolLM"
        )
    return config


def _load_weights(
    name_or_path: str | Path,
    source: str,
    where: dict[str, str],
    config: Any,
    dtype: torch.dtype,
) -> Model:
    """Make the network of a config and read its weights, all of which must be there and finite."""
    if all(_find(source, file, where) is None for file in WEIGHTS):
        if _find(source, "pytorch_model.bin", where) is None:
            raise ValueError(f"{name_or_path} has no {WEIGHTS[0]}; expected a checkpoint")
        warnings.warn(
            f"{name_or_path} keeps its weights as a pickle; reading tensors only", stacklevel=3
        )
    try:
        with without_report():
            backbone = BACKBONES.get(config.model_type, AnySubsetDecoder)
            model, report = backbone.from_pretrained(
                source,
                config=config,
                dtype=dtype,
                weights_only=True,
                ignore_mismatched_sizes=True,  # they are refused below, by their names
                output_loading_info=True,
                **where,
            )
    except UNREADABLE as error:
        if type(error) is ValueError:
            raise  # the model refuses its config in its own words
        raise ValueError(
            f"the weights of {name_or_path} cannot be read ({reason_of(error)}); are they whole? "
            "Copy or fetch them again"
        ) from None
    check_loaded(name_or_path, model, report)
    return model
