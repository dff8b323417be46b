"""What a run starts from: its settings checked, the model, the optimizer."""

from __future__ import annotations

import re
from importlib.util import find_spec

import torch
from transformers import PreTrainedTokenizerBase

from asarm.backbones.decoder import AnySubsetDecoder
from asarm.data.config import check_data_config
from asarm.drafting.head import DraftHead, DraftHeadConfig
from asarm.loading import BACKBONES, SMOLLM2_ON_HUB, Model, load, load_tokenizer
from asarm.objective import LOSS_SCALES, PROMPT_ATTENTION
from asarm.rows import LoopBackbone
from asarm.schedule import check_kinds
from asarm.training.checks import DEFAULTS, SIZES, check_all_count, check_own, check_types
from asarm.training.config import TRACKERS, TrainingConfig
from asarm.training.objectives import OBJECTIVES

SCRATCH = "xlnet"  # the backbone that runs from scratch make, of `BACKBONES`
NO_MATRIX = re.compile("bias|layer_norm|mask_emb")
LEAST = {
    **dict.fromkeys(("global_batch_size", "batch_size", "max_steps", "log_steps"), 1),
    **dict.fromkeys(("save_steps", "eval_steps", "keep_checkpoints", "max_bad_steps"), 1),
    **dict.fromkeys(("d_model", "n_layer", "n_head", "d_inner"), 1),
    **dict.fromkeys(("head_hidden", "head_rank", "head_starts"), 1),
    **dict.fromkeys(("warmup_steps", "mask_warmup_steps", "weight_decay"), 0),
    "eval_num_decodes": 0,
}
WARMUPS = {
    "warmup_steps": "the highest learning rate",
    "mask_warmup_steps": "the final window of mask rates",
}
LEARNERS = ("model", "draft_head", "both")


def check_config(config: TrainingConfig, num_processes: int) -> None:
    """Refuse what cannot be trained, before anything is loaded.

    Raises:
        ValueError: names the setting, its value and what is expected.
    """
    check_types(config)
    check_data_config(config)
    for name, allowed in (
        ("objective", OBJECTIVES),
        ("learn", LEARNERS),
        ("prompt_attention", PROMPT_ATTENTION),
        ("loss_scale", LOSS_SCALES),
    ):
        if getattr(config, name) not in allowed:
            raise ValueError(
                f"{name} is {getattr(config, name)!r}; expected one of {', '.join(allowed)}"
            )
    for name, least in LEAST.items():
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} is {getattr(config, name)}; expected at least {least}")
    for name in ("start_mask_rate", "min_mask_rate", "max_mask_rate"):
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}; expected between 0 and 1")
    if config.min_mask_rate > config.max_mask_rate:
        raise ValueError(
            f"min_mask_rate is {config.min_mask_rate} and max_mask_rate {config.max_mask_rate}; "
            "expected the lower one first"
        )
    OBJECTIVES[config.objective].check(config)
    if config.learn != "model" and not OBJECTIVES[config.objective].has_draft_head:
        raise ValueError(
            f"learn is {config.learn!r} with the {config.objective} objective; a draft head serves "
            "joint ones"
        )
    if config.lora_rank is not None and config.lora_rank < 1:
        raise ValueError(f"lora_rank is {config.lora_rank}; expected at least 1, or null")
    if config.lora_rank is not None and (config.learn != "model" or config.model == "scratch"):
        raise ValueError(
            f"lora_rank is {config.lora_rank} with learn {config.learn} and model {config.model}; "
            "expected learn model, and the name of a decoder"
        )
    if config.learn == "draft_head" and config.model == "scratch":
        raise ValueError(
            "learn is 'draft_head' and model 'scratch'; give the model that the head drafts for"
        )
    check_kinds(config.orders)
    check_size(config)
    if unknown := set(config.trackers) - set(TRACKERS):
        raise ValueError(
            f"trackers hold {min(unknown)!r}; expected {', '.join(TRACKERS)}, both or none"
        )
    for tracker in config.trackers:
        if find_spec(tracker) is None:
            raise ValueError(
                f"trackers hold {tracker}, which is not installed; pip install {tracker}, or take "
                "--trackers [] (metrics.jsonl is written always)"
            )
    for name in ("learning_rate", "clip_norm"):
        if not getattr(config, name) > 0:
            raise ValueError(f"{name} is {getattr(config, name)}; expected above 0")
    if config.dropout is not None and not 0 <= config.dropout < 1:
        raise ValueError(f"dropout is {config.dropout}; expected at least 0 and below 1, or null")
    if len(config.adam_betas) != 2 or not all(0 <= beta < 1 for beta in config.adam_betas):
        raise ValueError(f"adam_betas are {config.adam_betas}; expected two numbers from 0 to 1")
    accumulation(config, num_processes)
    check_all_count(config)


def check_size(config: TrainingConfig) -> None:
    """Refuse sizes that no network has."""
    if config.d_model % 2 or config.d_model % config.n_head:
        raise ValueError(
            f"d_model is {config.d_model} and n_head {config.n_head}; expected an even width that "
            "the heads divide"
        )


def remarks(config: TrainingConfig) -> list[str]:
    """Return remarks on settings that can be trained, but may be meant otherwise."""
    found = [
        f"{name} is {getattr(config, name)} and max_steps {config.max_steps}: {what} is never "
        "reached; give both"
        for name, what in WARMUPS.items()
        if getattr(config, name) >= config.max_steps
    ]
    start = config.start_mask_rate
    if config.mask_warmup_steps == 0 and start != DEFAULTS.start_mask_rate:
        found.append(
            f"start_mask_rate is {start} and mask_warmup_steps 0: no step has it; give both"
        )
    return found


def accumulation(config: TrainingConfig, num_processes: int) -> int:
    """Return how many micro-steps make up a global batch.

    Raises:
        ValueError: it does not come out even.
    """
    at_a_time = config.batch_size * num_processes
    if config.global_batch_size % at_a_time:
        each = config.global_batch_size // num_processes
        fitting = batch_sizes(each)
        fix = (
            f"take a batch_size of {', '.join(map(str, fitting))}"
            if config.global_batch_size % num_processes == 0
            else "take another number of devices, or another global_batch_size"
        )
        raise ValueError(
            f"global_batch_size is {config.global_batch_size}, no multiple of batch_size "
            f"{config.batch_size} x {num_processes} devices; {fix}"
        )
    return config.global_batch_size // at_a_time


def batch_sizes(each: int) -> list[int]:
    """Return the sizes of a micro-step that make up `each`, a device's part of a global batch."""
    return [size for size in range(1, each + 1) if each % size == 0]


def start_model(config: TrainingConfig) -> tuple[Model, PreTrainedTokenizerBase]:
    """Load or make the model to train, on the CPU in float32, and its tokenizer."""
    if config.model == "scratch":
        tokenizer = load_tokenizer(config.tokenizer)
        model = new_model(tokenizer, config)
    else:
        model, tokenizer = load(config.model, revision=config.revision, device="cpu", packed=False)
        for name in SIZES:
            check_own(name, config, model.sizes[name])
        if config.dropout is not None:
            model.set_dropout(config.dropout)
    check_rows(model, config)
    if config.lora_rank is not None:
        add_lora(model, config.lora_rank, config)
    if config.learn != "draft_head":  # else the model stays as it is
        model.trained_length = max(model.trained_length or 0, config.length)
    model.prepare_training(
        gradient_checkpointing=config.gradient_checkpointing, compiled=config.compile
    )
    # without training of its own a head would not fit the trained model any more
    model.set_draft_head(None if config.learn == "model" else start_head(model, config))
    is_frozen = config.learn == "draft_head"
    if is_frozen:
        model.requires_grad_(False)
    return model.train(not is_frozen), tokenizer  # a frozen model drops no activations


def check_rows(model: Model, config: TrainingConfig) -> None:
    """Refuse texts and objectives for which a decoder does not make rows.

    Raises:
        ValueError: names the setting, its value and what is expected.
    """
    if not isinstance(model, AnySubsetDecoder):
        return
    if model.max_length is not None and config.length > model.max_length:
        raise ValueError(
            f"length is {config.length}, and {config.model} has positions or a window for "
            f"{model.max_length} tokens; expected at most {model.max_length}"
        )
    is_causal = config.objective != "parallel" or config.prompt_attention == "causal"
    if model.prompt == "causal" and not is_causal:
        raise ValueError(
            f"prompt_attention is {config.prompt_attention!r}, and tokens of a prompt see what "
            f"precedes them in {config.model}; expected 'causal'"
        )


def add_lora(model: Model, rank: int, config: TrainingConfig) -> None:
    """Have low-rank changes of the weights learn, and not the weights.

    Raises:
        ValueError: the model is no decoder, or has such changes in it already.
    """
    if not isinstance(model, AnySubsetDecoder):
        raise ValueError(
            f"lora_rank is {rank}, and {config.model} is no decoder; leave it out: all "
            "weights learn"
        )
    if model.base is not None:
        raise ValueError(
            f"lora_rank is {rank}, and {config.model} is an adapter; train its base "
            "anew, or leave it out: all weights learn"
        )
    base = SMOLLM2_ON_HUB if config.model == "smollm2-base" else config.model
    torch.manual_seed(config.seed)
    model.add_lora(rank, base, config.revision)


def start_head(model: LoopBackbone, config: TrainingConfig) -> DraftHead:
    """Return the draft head to train, the model's or a new one."""
    head: DraftHead | None = model.draft_head
    if head is not None:
        check_own("head_hidden", config, head.config.hidden)
        check_own("head_rank", config, head.config.rank)
    else:
        torch.manual_seed(config.seed)
        width = model.sizes["d_model"]
        head = DraftHead(DraftHeadConfig(width, hidden=config.head_hidden, rank=config.head_rank))
    return head.float().requires_grad_(True).train()


def new_model(tokenizer: PreTrainedTokenizerBase, config: TrainingConfig) -> Model:
    """Make a model with random weights, of the size that the config gives."""
    torch.manual_seed(config.seed)
    dropout = 0.1 if config.dropout is None else config.dropout
    sizes = {name: getattr(config, name) for name in SIZES}
    return BACKBONES[SCRATCH].new(tokenizer, dropout=dropout, **sizes)


def new_optimizer(objective: torch.nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Make AdamW; matrices decay, while biases, norms and the mask's embedding do not."""
    trained = [(name, p) for name, p in objective.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if p.ndim > 1 and not NO_MATRIX.search(name)]
    others = [p for name, p in trained if p.ndim < 2 or NO_MATRIX.search(name)]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    first, second = config.adam_betas
    return torch.optim.AdamW(groups, config.learning_rate, betas=(first, second))
