"""The training loop."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import (
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast_object_list,
    gather_object,
)
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.data import Batch, BlockSource, DataUnavailable, is_finite, open_blocks, prepare_blocks
from asarm.loading import Model
from asarm.run import NOT_RESULTS, Run, shown
from asarm.schedule import warm_up_then_decay
from asarm.training.anew import refuse_loss
from asarm.training.checkpoint import Checkpoints, Progress
from asarm.training.config import TrainingConfig
from asarm.training.export import check_upload, export, upload
from asarm.training.files import DATA
from asarm.training.interrupt import Stopped, StopSignal, stop_signals
from asarm.training.objectives import objective_of
from asarm.training.precision import knows_no_precision, with_precision
from asarm.training.setup import (
    batch_sizes,
    check_config,
    new_optimizer,
    remarks,
    start_model,
)
from asarm.training.step import StepPlan, accumulate, apply_gradients, plan_step
from asarm.training.watch import SAMPLES, Monitor

# What a resumed run may change. It changes only rounding and, for batch_size, which activations
# dropout draws; max_steps moves the end of the learning rate.
MAY_CHANGE = (
    *("max_steps", "batch_size", "gradient_checkpointing", "compile", "cache_dir"),
    *("log_steps", "save_steps", "keep_checkpoints", "eval_steps", "eval_num_decodes", "judge"),
    *("max_bad_steps", "trackers", "push_to_hub"),
)
NAMES_SHOWN = 8  # blocks, in a message
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
SUBFOLDERS = (CHECKPOINTS, TENSORBOARD, "wandb", SAMPLES)


@dataclass(frozen=True)
class TrainingResult:
    """How far a run came."""

    folder: Path  # of the run; an ordinary model folder once it is finished
    step: int
    is_finished: bool
    is_main: bool  # whether this is the run's first process, which reports to the user
    stopped_by: str | None = None  # the signal, or the trouble with the data
    best_step: int | None = None  # of the lowest held-out loss


class Stop(NamedTuple):
    """Why no further step is made."""

    reason: str
    error: Exception | None = None  # that nothing but a change can mend


def train(config: TrainingConfig) -> TrainingResult:
    """Train by the config, from the run's last checkpoint if there is one.

    Every process of a run calls this. Data, orders and mask rates are keyed by the step, dropout by
    micro-batch and process as well, so that a run that was killed goes on, with the same batch size
    and processes, to the result of an uninterrupted one.

    Raises:
        ValueError: settings, model or data that cannot be; a folder that another run has; NaN or
            infinite gradients in `max_bad_steps` steps in a row.
        OSError: the disk is full, or the folder cannot be written.
    """
    check_config(config, int(os.environ.get("WORLD_SIZE", 1)))
    with ExitStack() as stack:
        stop = stack.enter_context(stop_signals())
        try:
            with stop.at_once():
                trainer = set_up(config, stop, stack)
                data_state = trainer.begin()
        except Stopped:
            return stopped_early(config, stop)
        return trainer.train(data_state)


def set_up(config: TrainingConfig, stop: StopSignal, stack: ExitStack) -> Trainer:
    """Open the folder, the model and the data of a run; the stack gets what has to be closed."""
    accelerator = new_accelerator(config)
    config = with_precision(config, accelerator, may_change=may_change(config))
    if config.push_to_hub and accelerator.is_main_process:
        check_upload(config.push_to_hub)
    run = stack.enter_context(open_run(config, accelerator))
    model, tokenizer = start_model(config)
    with accelerator.main_process_first(), accelerator.local_main_process_first():
        prepare_blocks(config, tokenizer, seed=config.seed)
    blocks = open_blocks(
        config,
        tokenizer,
        seed=config.seed,
        global_batch_size=config.global_batch_size,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    stack.callback(blocks.close)
    trainer = Trainer(config, accelerator, run, model, tokenizer, blocks, stop)
    stack.callback(trainer.monitor.close)
    return trainer


def stopped_early(config: TrainingConfig, stop: StopSignal) -> TrainingResult:
    """Return the result of a start that a signal ended before it made a step."""
    folder = Path(config.output_dir)
    steps = Checkpoints(folder / CHECKPOINTS, keep=config.keep_checkpoints).steps()
    return TrainingResult(
        folder,
        step=steps[-1] if steps else 0,
        is_finished=False,
        is_main=int(os.environ.get("RANK", 0)) == 0,
        stopped_by=stop.name,
    )


class Trainer:
    """Trains a run that is set up."""

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        run: Run,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        blocks: BlockSource,
        stop: StopSignal,
    ):
        self.config, self.accelerator, self.run = config, accelerator, run
        self.blocks, self.stop = blocks, stop
        self.checkpoints = Checkpoints(run.folder / CHECKPOINTS, keep=config.keep_checkpoints)
        self.model, self.tokenizer = model.to(accelerator.device), tokenizer
        objective = objective_of(config)(model, config).to(accelerator.device)
        self.objective = accelerator.prepare_model(objective)
        self.optimizer = new_optimizer(objective, config)
        self.monitor = Monitor(run, config, accelerator, blocks.held_out)
        self.progress = Progress(num_processes=accelerator.num_processes)
        self.saved_step: int | None = None

    def begin(self) -> dict[str, Any]:
        """Go to where the run is, and say what the model is worth before its first step.

        This returns the state of the data.
        """
        data_state = self.restore()
        is_finished = self.progress.step == self.config.max_steps
        if not is_finished:
            self.report_data(data_state)
        self.begin_run()
        if not is_finished:
            self.report_rate()
            self.monitor.start(self.progress.step)
            if self.progress.step == 0:
                self.monitor.evaluate(self.model, self.tokenizer, 0)
        return data_state

    def train(self, data_state: dict[str, Any]) -> TrainingResult:
        """Train from wherever the run is to its last step, or until something stops it."""
        while self.progress.step < self.config.max_steps:
            plan = plan_step(self.progress.step, self.config, self.accelerator.num_processes)
            batch = self.read(plan)
            if isinstance(batch, Stop):
                self.save(data_state)
                if batch.error is not None:
                    raise batch.error
                return self.result(stopped_by=batch.reason)
            self.make_step(batch, plan)
            data_state = self.blocks.state_dict()
            is_best = self.is_due(self.config.eval_steps) and self.evaluate()
            if is_best or self.is_due(self.config.save_steps):
                self.save(data_state)
        return self.finish()

    def read(self, plan: StepPlan) -> Batch | Stop:
        """Read this process's blocks of a step; where any process has to stop, all do, and why."""
        found: Batch | Stop
        try:
            with self.stop.at_once():  # the data may be waited for
                found = self.blocks.next_batch(plan.indices(self.accelerator.process_index))
        except Stopped as signal:
            found = Stop(str(signal))
        except DataUnavailable as error:
            found = Stop(str(error))
        except Exception as error:  # raised again when all processes have saved where they are
            found = Stop(str(error), error)
        wants_stop = torch.tensor(float(isinstance(found, Stop)), device=self.accelerator.device)
        if self.accelerator.reduce(wants_stop, reduction="sum").item():
            return found if isinstance(found, Stop) else Stop("another process")
        return found

    def make_step(self, batch: Batch, plan: StepPlan) -> None:
        """Change the weights, unless loss or gradients are not finite."""
        try:
            losses = accumulate(
                self.objective,
                batch,
                plan,
                self.config,
                self.accelerator,
                bf16=bool(self.config.bf16),
            )
            loss = self.accelerator.reduce(losses.sum(), reduction="mean")
            norm, is_good = apply_gradients(
                self.objective, self.optimizer, loss, plan, self.config.clip_norm
            )
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            raise ValueError(out_of_memory(self.config, self.accelerator.num_processes)) from None
        self.progress.step += 1
        self.progress.bad_steps = 0 if is_good else self.progress.bad_steps + 1
        self.monitor.log(plan, float(loss), norm)
        if self.progress.bad_steps >= self.config.max_bad_steps:
            raise ValueError(self.bad_steps(losses, batch))

    def bad_steps(self, losses: Tensor, batch: Batch) -> str:
        """Say that a run learns nothing any more, if so; all processes agree on it."""
        size = self.config.batch_size
        bad = [i for i in range(len(batch.names)) if not losses[i // size].isfinite()]
        names = gather_object([batch.names[i] for i in bad or range(len(batch.names))])
        shown_names = ", ".join(names[:NAMES_SHOWN]) + ", ..." * (len(names) > NAMES_SHOWN)
        saved = "..."
        if self.saved_step:
            saved = quote(str(self.checkpoints.path(self.saved_step) / "model"))
        return (
            f"loss or gradients were NaN or infinite in {self.progress.bad_steps} steps in a row, "
            f"the last one step {self.progress.step} with {shown_names}; look at these data, or go "
            f"on with a lower rate: --model {saved} --learning_rate ... --output_dir ..."
        )

    def is_due(self, every: int) -> bool:
        step = self.progress.step
        return step % every == 0 or step == self.config.max_steps

    def evaluate(self) -> bool:
        """Compute held-out figures; return whether they are the best so far."""
        loss = self.monitor.evaluate(self.model, self.tokenizer, self.progress.step)
        best = self.progress.best_loss
        if math.isfinite(loss) and (best is None or loss < best):
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
            return True
        return False

    def save(self, data_state: dict[str, Any]) -> None:
        """Write a checkpoint, unless it is there; every process adds the state of its data."""
        step, process = self.progress.step, self.accelerator.process_index
        if step == self.saved_step:
            return
        if self.accelerator.is_main_process:
            self.checkpoints.begin(step)
        self.accelerator.wait_for_everyone()
        self.checkpoints.write_data_state(step, process, data_state)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.checkpoints.finish(self.progress, self.model, self.tokenizer, self.optimizer)
        self.accelerator.wait_for_everyone()
        self.saved_step = step

    def restore(self) -> dict[str, Any]:
        """Resume from the newest whole checkpoint, if there is one; return the data's state."""
        newest = None
        if self.accelerator.is_main_process and not self.run.is_anew:
            newest = self.checkpoints.newest_whole()
            if newest is None:
                refuse_loss(self.run, self.config, self.checkpoints)
        (step,) = broadcast_object_list([newest])
        if step is not None:
            processes, process = self.accelerator.num_processes, self.accelerator.process_index
            self.progress = self.checkpoints.progress(step)
            self.checkpoints.restore(step, self.model, self.optimizer)
            self.blocks.load_state_dict(self.checkpoints.data_state(step, process, processes))
            self.progress.num_processes = processes
            self.saved_step = step
        if self.progress.step > self.config.max_steps:
            raise ValueError(
                f"max_steps is {self.config.max_steps}, and the run has made {self.progress.step} "
                f"steps; take more, or the model of {self.checkpoints.path(self.progress.step)}"
            )
        return self.blocks.state_dict()

    def begin_run(self) -> None:
        """Write down the settings, once settings, data and checkpoints are found to fit."""
        if self.accelerator.is_main_process:
            self.run.begin()
            for name, (before, now) in self.run.changed.items():
                print(f"{name} was {shown(before)} and is {shown(now)} from here on")
        self.accelerator.wait_for_everyone()

    def report_data(self, data_state: dict[str, Any]) -> None:
        """Say what the data are, and refuse others in another process."""
        keys = gather_object([str(data_state.get("data"))])
        if len(set(keys)) > 1:
            raise ValueError(
                "the processes have different data; give all nodes one --dataset and --cache_dir"
            )
        counts = self.blocks.statistics.items()
        counted = [f"{count:,} {name.replace('_', ' ')}" for name, count in counts if count]
        if self.accelerator.is_main_process and counted:
            print("data:", ", ".join(counted))

    def report_rate(self) -> None:
        """Say that the learning rate jumps, where a run gets another end."""
        before, now = self.run.changed.get("max_steps", (0, 0))
        if before == now or not self.progress.step:
            return
        config, last = self.config, self.progress.step - 1
        rate_before, rate_now = (
            config.learning_rate
            * warm_up_then_decay(step, warmup_steps=config.warmup_steps, max_steps=end)
            for step, end in ((last, before), (last + 1, now))
        )
        print(
            f"the learning rate was {rate_before:.3g} and goes on at {rate_now:.3g}: it "
            f"falls to 0 at step {now}"
        )

    def finish(self) -> TrainingResult:
        """Make the run's folder a model folder, and upload it where `push_to_hub` says."""
        stopped_by = None
        if self.accelerator.is_main_process:
            self.run.write(DATA, dict(self.blocks.statistics))
            export(self.run, self.config, self.model, self.tokenizer)
            if name := self.config.push_to_hub:
                try:
                    with self.stop.at_once():  # the hub may be waited for
                        upload(self.run.folder, name)
                except Stopped as signal:
                    stopped_by = str(signal)
        self.accelerator.wait_for_everyone()
        return self.result(is_finished=stopped_by is None, stopped_by=stopped_by)

    def result(self, *, is_finished: bool = False, stopped_by: str | None = None) -> TrainingResult:
        is_main = self.accelerator.is_main_process
        return TrainingResult(
            self.run.folder,
            self.progress.step,
            is_finished,
            is_main,
            stopped_by,
            self.progress.best_step,
        )


def may_change(config: TrainingConfig) -> tuple[str, ...]:
    """Return the settings that a run which is taken up again may change."""
    # of packed data the content is compared, wherever it lies
    of_packed = ("dataset", "workers") if is_finite(config.dataset) else ()
    unknown = ("bf16",) if knows_no_precision(config) else ()
    return (*MAY_CHANGE, *NOT_RESULTS, *of_packed, *unknown)


def new_accelerator(config: TrainingConfig) -> Accelerator:
    """Make the processes of the run, as their launcher started them."""
    folders = ProjectConfiguration(config.output_dir, str(Path(config.output_dir, TENSORBOARD)))
    # one process may pack data for hours, or wait for the network, while the others wait for it;
    # the death of one is seen by their launcher
    patient = InitProcessGroupKwargs(timeout=timedelta(days=1))
    return Accelerator(
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[patient],
        log_with=list(config.trackers) or None,
        project_config=folders,
    )


@contextmanager
def open_run(config: TrainingConfig, accelerator: Accelerator) -> Iterator[Run]:
    """Open the run's folder, which the first process locks; `begin_run` writes into it."""
    if not accelerator.is_main_process:
        yield Run(config.output_dir)
        return
    run = Run.prepare(
        config.output_dir,
        config,
        overwrite=config.overwrite,
        may_change=may_change(config),
        subfolders=SUBFOLDERS,
    )
    with closing(run):
        for remark in remarks(config):
            print(remark)
        yield run


def out_of_memory(config: TrainingConfig, num_processes: int) -> str:
    """Say what to try where memory is not enough."""
    each = config.global_batch_size // num_processes
    smaller = [size for size in batch_sizes(each) if size < config.batch_size]
    if smaller:
        fix = (
            f"take --batch_size {smaller[-1]} (accumulation {each // smaller[-1]}), which changes "
            "only rounding and what dropout draws, or --gradient_checkpointing"
        )
    else:
        fix = "take --gradient_checkpointing, or a smaller --length"
    return f"out of memory with batch_size {config.batch_size} on a device; {fix}"
