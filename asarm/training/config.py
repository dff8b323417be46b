"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from asarm.data.config import DataConfig

TRACKERS = ("tensorboard", "wandb")
TRACKER_SETS = {"both": TRACKERS, "none": ()}


@dataclass
class TrainingConfig(DataConfig):
    """Train an any-subset model: from scratch, or on from a model that exists.

    Without --config, --model and --dataset the command takes the settings of
    configs/train/smoke.yaml: a small model, from scratch, in two minutes. Other presets are in the
    same folder.

    Args:
        output_dir: the run's folder; the same command goes on where it stopped.
        overwrite: throw away what the folder holds, and begin anew.
        model: "scratch", or what to start from: demo, a folder, or a hub name.
        revision: branch, tag or commit of that model on the hub.
        tokenizer: the tokenizer, from scratch: "demo", a folder, or a hub name.
        d_model: the width, from scratch.
        n_layer: the number of layers, from scratch.
        n_head: the number of attention heads, from scratch.
        d_inner: the width of the feed-forward part, from scratch.
        dropout: rate of activations dropped in training; if null the model's own, and 0.1
            from scratch.
        global_batch_size: sequences a step, over all devices.
        batch_size: sequences that a device takes at a time; the rest of a step is accumulated.
        max_steps: steps of the whole run, at the last of which the learning rate has fallen to 0.
        learning_rate: the highest; it rises linearly over warmup_steps, then falls to 0.
        warmup_steps: steps until the highest learning rate.
        weight_decay: the weight decay of AdamW, on matrices only.
        adam_betas: the betas of AdamW.
        clip_norm: the gradient's norm is cut to this.
        objective: the loss: joint (exact), or parallel (targets do not see one another).
        prompt_attention: what visible tokens see, parallel objective: full, prompt or causal.
        learn: which parameters are trained: model, draft_head (a head that drafts for a frozen
            model), or both.
        lora_rank: learn low-rank changes of the weights of this rank (LoRA) instead of the weights;
            of decoders, and with the library peft.
        head_hidden: width of a new draft head.
        head_rank: rank of the change that it makes to a hidden state.
        head_starts: places in a sequence from which a draft head drafts in training.
        loss_scale: the scale of each sequence's loss, joint objective: none, mask_rate or snr.
        orders: weights of the kinds of order: ascending, permuted, span, left_to_right.
        start_mask_rate: fraction of positions that are targets, at the first step.
        min_mask_rate: the lowest fraction, from mask_warmup_steps on.
        max_mask_rate: the highest fraction, from mask_warmup_steps on.
        mask_warmup_steps: steps from the first mask rate to the final window.
        bf16: matrix products in bfloat16; if null, where the hardware on which the run begins is
            fast at it.
        gradient_checkpointing: compute activations twice instead of keeping them.
        compile: compile the layers (torch.compile).
        seed: the seed of weights, data order, orders, mask rates and dropout.
        log_steps: steps from one line of metrics to the next.
        save_steps: steps from one checkpoint to the next.
        keep_checkpoints: the number of last checkpoints that are kept, on top of the best.
        eval_steps: steps from one held-out evaluation to the next.
        eval_num_decodes: texts that are filled at each evaluation, to look at.
        judge: a causal language model (smollm2, a folder, or a hub name) whose perplexity of these
            texts is reported too.
        max_bad_steps: steps with NaN or infinite gradients, in a row, before the run gives up.
        trackers: tensorboard, wandb, both or none; metrics.jsonl is written always.
        push_to_hub: name on the hub that the finished model is uploaded to; it and the login are
            checked when the run begins.
    """

    output_dir: str = "runs/train"
    overwrite: bool = False
    model: str = "scratch"
    revision: str | None = None
    tokenizer: str = "demo"
    d_model: int = 256
    n_layer: int = 4
    n_head: int = 4
    d_inner: int = 1024
    dropout: float | None = None
    global_batch_size: int = 32
    batch_size: int = 8
    max_steps: int = 1000
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    weight_decay: float = 0.01
    adam_betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    clip_norm: float = 1.0
    objective: str = "joint"
    prompt_attention: str = "full"
    learn: str = "model"
    lora_rank: int | None = None
    head_hidden: int = 256
    head_rank: int = 64
    head_starts: int = 24
    loss_scale: str = "none"
    orders: dict[str, float] = field(default_factory=lambda: {"ascending": 1.0})
    start_mask_rate: float = 0.15
    min_mask_rate: float = 0.05
    max_mask_rate: float = 0.99
    mask_warmup_steps: int = 0
    bf16: bool | None = None
    gradient_checkpointing: bool = False
    compile: bool = False
    seed: int = 0
    log_steps: int = 10
    save_steps: int = 100
    keep_checkpoints: int = 2
    eval_steps: int = 100
    eval_num_decodes: int = 2
    judge: str | None = None
    max_bad_steps: int = 5
    trackers: list[str] = field(default_factory=lambda: ["tensorboard"])
    push_to_hub: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.trackers, list) and len(self.trackers) == 1:
            self.trackers = list(TRACKER_SETS.get(self.trackers[0], self.trackers))
