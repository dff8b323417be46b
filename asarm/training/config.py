"""What a training run is told."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TrainingConfig:
    """Train an any-subset model from scratch on the text that ships with Python.

    Args:
        output_dir: the run's folder: checkpoint, metrics, and in the end `model/`.
        overwrite: throw away what the folder holds of a run with other settings.
        tokenizer: "demo", or a folder with a tokenizer.
        d_model: width of the model.
        n_layer: layers of the model.
        n_head: attention heads of the model.
        d_inner: width of the feed-forward part.
        dropout: share of activations dropped in training.
        repeats: how often an epoch holds the prose, the code and the tests of Python.
        length: tokens a sequence.
        batch_size: sequences a step.
        micro_batch_size: sequences that go through the network at a time.
        max_steps: steps of the whole run.
        learning_rate: the highest; it rises linearly over `warmup_steps`, then falls to 0.
        warmup_steps: steps until the highest learning rate.
        weight_decay: of AdamW, on matrices only.
        clip_norm: the gradient's norm is cut to this.
        min_mask_rate: the lowest share of positions that are targets.
        max_mask_rate: the highest.
        orders: weights of the kinds of order: ascending, permuted, span.
        loss_scale: none, mask_rate or snr.
        bf16: matrix products in bfloat16.
        seed: of weights, data order, orders and mask rates.
        log_steps: steps from one line of metrics to the next.
        save_steps: steps from one checkpoint to the next.
    """

    output_dir: str = "runs/train"
    overwrite: bool = False
    tokenizer: str = "demo"
    d_model: int = 256
    n_layer: int = 4
    n_head: int = 4
    d_inner: int = 1024
    dropout: float = 0.0
    repeats: dict[str, int] = field(default_factory=lambda: {"prose": 8, "code": 4, "test": 1})
    length: int = 256
    batch_size: int = 32
    micro_batch_size: int = 8
    max_steps: int = 1800
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    min_mask_rate: float = 0.05
    max_mask_rate: float = 0.99
    orders: dict[str, float] = field(
        default_factory=lambda: {"ascending": 0.5, "permuted": 0.25, "span": 0.25}
    )
    loss_scale: str = "mask_rate"
    bf16: bool = True
    seed: int = 0
    log_steps: int = 10
    save_steps: int = 100
