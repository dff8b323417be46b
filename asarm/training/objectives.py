"""The training objectives by name: what each draws for a micro-batch, and the loss of that.

Shapes: B batch, L length, S starts of a sequence.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from asarm.drafting.objective import DraftObjective, draw_starts
from asarm.objective import joint_loss, parallel_loss
from asarm.order import Order
from asarm.rows import LoopBackbone, TrainableBackbone
from asarm.schedule import joint_orders, parallel_orders
from asarm.training.config import TrainingConfig


class TrainingObjective(nn.Module):
    """An objective that a run minimises; its module is made of the model and the settings.

    `forward` takes ids (B, L) and what `draw` returned for them, and gives the loss in nats.

    Attributes:
        settings: the settings of `TrainingConfig` that this objective reads and others may not.
        has_draft_head: whether a draft head can be trained with it.
    """

    settings: ClassVar[tuple[str, ...]]
    has_draft_head: ClassVar[bool] = False

    @classmethod
    def check(cls, config: TrainingConfig) -> None:
        """Refuse settings of its own that are outside their range, before anything is loaded.

        Raises:
            ValueError: names the setting, its value and what is expected.
        """

    @staticmethod
    @abstractmethod
    def draw(
        lengths: Tensor, rates: Tensor, kinds: Sequence[str], config: TrainingConfig, **key: Any
    ) -> tuple[Any, ...]:
        """Draw orders, and whatever else the loss needs, for sequences of `lengths` (B,).

        Args:
            lengths: (B,) tokens that are not padding.
            rates: (B,) mask rates.
            kinds: (B) kinds of order.
            config: the settings of the run.
            key: `seed`, `step` and `indices`, which make the draws, see `joint_orders`.
        """


class JointObjective(TrainingObjective):
    """The exact joint loss of targets, each given the prompt and the targets before it."""

    settings = ("loss_scale",)
    has_draft_head = True

    def __init__(self, model: TrainableBackbone, config: TrainingConfig):
        super().__init__()
        self.model, self.loss_scale = model, config.loss_scale

    @staticmethod
    def draw(
        lengths: Tensor, rates: Tensor, kinds: Sequence[str], config: TrainingConfig, **key: Any
    ) -> tuple[Order]:
        return (joint_orders(lengths, rates, kinds, **key),)

    def forward(self, input_ids: Tensor, order: Order) -> Tensor:
        return joint_loss(self.model, input_ids, order, loss_scale=self.loss_scale)


class ParallelObjective(TrainingObjective):
    """The loss of masked diffusion: targets do not see one another."""

    settings = ("prompt_attention",)

    def __init__(self, model: TrainableBackbone, config: TrainingConfig):
        super().__init__()
        self.model, self.prompt_attention = model, config.prompt_attention

    @staticmethod
    def draw(
        lengths: Tensor, rates: Tensor, kinds: Sequence[str], config: TrainingConfig, **key: Any
    ) -> tuple[Order, Tensor]:
        return parallel_orders(lengths, rates, kinds, **key)

    def forward(self, input_ids: Tensor, order: Order, num_visible: Tensor) -> Tensor:
        return parallel_loss(
            self.model, input_ids, order, num_visible, prompt_attention=self.prompt_attention
        )


class DraftHeadObjective(DraftObjective, TrainingObjective):
    """The rejection rate of a draft head's drafts, and the joint loss where the model learns too.

    `learn` chooses it, in place of the joint objective alone.
    """

    settings = ("loss_scale", "head_hidden", "head_rank", "head_starts")
    has_draft_head = True

    def __init__(self, model: LoopBackbone, config: TrainingConfig):
        joint = config.loss_scale if config.learn == "both" else None
        super().__init__(model, model.draft_head, loss_scale=joint)

    @staticmethod
    def draw(
        lengths: Tensor, rates: Tensor, kinds: Sequence[str], config: TrainingConfig, **key: Any
    ) -> tuple[Order, Tensor]:
        order = joint_orders(lengths, rates, kinds, **key)
        return order, draw_starts(order, config.head_starts, **key)


OBJECTIVES: dict[str, type[TrainingObjective]] = {
    "joint": JointObjective,
    "parallel": ParallelObjective,
}


def objective_of(config: TrainingConfig) -> type[TrainingObjective]:
    """Return the objective that the settings `objective` and `learn` choose."""
    return OBJECTIVES[config.objective] if config.learn == "model" else DraftHeadObjective
