"""What a run reports while it goes on: metrics, held-out densities, filled texts."""

from __future__ import annotations

import json
import math
import secrets
import sys
from statistics import mean
from time import perf_counter
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from asarm.data import HeldOut
from asarm.display.spans import BLANK, printable, segments_of
from asarm.drafting.head import DraftHead
from asarm.loading import Model
from asarm.metrics.densities import RATES, bits_per_token, block_bits, draft_rejections
from asarm.metrics.judge import Judge, load_judge
from asarm.run import Run
from asarm.sampling import OnePass, sample
from asarm.schedule import ascending_orders
from asarm.training.config import TrainingConfig
from asarm.training.files import EVALUATIONS, METRICS, SAMPLES, WANDB
from asarm.training.step import StepPlan

SAMPLE_RATE = 0.5  # mask rate of the texts that are filled


class Monitor:
    """Writes what happens into the run's folder, to trackers and to the terminal.

    All processes call it; the first one writes.
    """

    def __init__(
        self, run: Run, config: TrainingConfig, accelerator: Accelerator, held_out: HeldOut
    ):
        self.run, self.config, self.accelerator = run, config, accelerator
        self.held_out = held_out
        self.judge: Judge | None = None
        self.is_main = accelerator.is_main_process
        self.is_tracked = False
        self.bar: tqdm | None = None

    def start(self, step: int) -> None:
        """Drop the records of steps that are made again, and begin to show progress."""
        if self.is_main:
            for name in (METRICS, EVALUATIONS):
                self.run.cut(name, lambda record: step > 0 and record["step"] <= step)
            if self.config.trackers:
                self.accelerator.init_trackers("asarm", init_kwargs=self._tracker_options(step))
                self.is_tracked = True
            if self.config.judge:
                self.judge = load_judge(self.config.judge, self.accelerator.device)
            self.bar = tqdm(
                total=self.config.max_steps,
                initial=step,
                unit="step",
                desc="training",
                mininterval=0.2 if sys.stderr.isatty() else 20,
            )
        self.clock, self.last_step = perf_counter(), step

    def _tracker_options(self, step: int) -> dict[str, dict[str, Any]]:
        """Return the trackers' options: a run that goes on continues its own curves."""
        folder = self.run.folder.resolve()
        options: dict[str, dict[str, Any]] = {}
        options["tensorboard"] = {"purge_step": step + 1} if step else {}
        if "wandb" in self.config.trackers:
            same_run = {"id": self._wandb_id(step), "resume": "allow"}
            options["wandb"] = {"name": folder.name, "dir": str(folder), **same_run}
        return options

    def _wandb_id(self, step: int) -> str:
        """Return W&B's id of the run, drawn when it begins, and kept in its folder."""
        path = self.run.folder / WANDB
        if step == 0 or not path.exists():
            self.run.write(WANDB, {"id": secrets.token_hex(8)})
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])

    def log(self, plan: StepPlan, loss: float, norm: float) -> None:
        """Log a finished step: to metrics.jsonl, the trackers and the bar."""
        done = plan.step + 1
        if self.bar is not None:
            self.bar.update()
        if done % self.config.log_steps and done != self.config.max_steps:
            return
        now = perf_counter()
        sequences = (done - self.last_step) * self.config.global_batch_size
        speed = sequences * self.config.length / (now - self.clock)
        self.clock, self.last_step = now, done
        low, high = plan.mask_window
        record = {
            "step": done,
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": plan.learning_rate,
            "mask_rate_low": low,
            "mask_rate_high": high,
            "tokens_per_second": round(speed, 1),
        }
        if self.is_main:
            self.run.append(METRICS, {k: _finite(v) for k, v in record.items()})
            self.accelerator.log({k: v for k, v in record.items() if k != "step"}, step=done)
        if self.bar is not None:
            self.bar.set_postfix_str(
                f"loss {loss:.3f}, {speed:,.0f} tokens/s, lr {plan.learning_rate:.1e}, "
                f"mask {low:.2f}-{high:.2f}",
                refresh=False,
            )

    def evaluate(self, model: Model, tokenizer: PreTrainedTokenizerBase, step: int) -> float:
        """Measure held-out joint densities and fill texts; return the mean loss over the rates,
        nats a token, or the rejection rate of drafts where a draft head learns.

        Blocks are divided among the processes.
        """
        was_training = model.training
        model.eval()
        accelerator, blocks = self.accelerator, self.held_out.blocks
        process, size = accelerator.process_index, len(blocks.lengths)
        mine = range(process, size, accelerator.num_processes)
        found = block_bits(model, blocks, mine, batch_size=self.config.batch_size)
        found = accelerator.reduce(found.to(accelerator.device), reduction="sum").cpu()
        bits = bits_per_token(found)
        loss = mean(bits) * math.log(2)
        figures: dict[str, Any] = {}
        if (head := model.draft_head) is not None:
            figures = {"drafts_rejected": self._drafts_rejected(model, head, mine)}
            loss = figures["drafts_rejected"] if self.config.learn == "draft_head" else loss
        if self.is_main:
            record = {"step": step, "loss": loss, **figures}
            for rate, value in zip(RATES, bits, strict=True):
                record[f"bits_per_token_{rate}"] = value
                record[f"bits_per_byte_{rate}"] = value / self.held_out.bytes_per_token
            record |= self._fill_texts(model, tokenizer, step)
            self.run.append(EVALUATIONS, {k: _finite(v) for k, v in record.items()})
            held_out = {f"held_out/{k}": v for k, v in record.items() if k != "step"}
            accelerator.log(held_out, step=step)
        accelerator.wait_for_everyone()
        model.train(was_training)
        self.clock, self.last_step = perf_counter(), step
        return loss

    def _drafts_rejected(self, model: Model, head: DraftHead, mine: range) -> float:
        """Return the expected rejection rate of drafts of held-out tokens, over the mask rates."""
        blocks, size = self.held_out.blocks, self.config.batch_size
        found = draft_rejections(model, head, blocks, mine, batch_size=size)
        found = self.accelerator.reduce(found.to(self.accelerator.device), reduction="sum")
        return float(found[0] / found[1])

    def _fill_texts(
        self, model: Model, tokenizer: PreTrainedTokenizerBase, step: int
    ) -> dict[str, Any]:
        """Fill blanked held-out blocks with onepass, and keep the texts; what a judge says."""
        config, blocks = self.config, self.held_out.blocks
        number = min(config.eval_num_decodes, len(blocks.lengths))
        if number == 0:
            return {}
        chosen = [i * len(blocks.lengths) // number for i in range(number)]
        lengths = blocks.lengths[chosen]
        order = ascending_orders(lengths, SAMPLE_RATE, seed=0, step=0, indices=chosen)
        ids = blocks.input_ids[chosen, : int(lengths.max())]
        result = sample(model, ids.to(model.device), order, OnePass(), seed=0)
        texts, perplexities = [], []
        for b, tokens in enumerate(result.tokens.tolist()):
            prompt = order.order[b, : int(order.num_prompt[b])].tolist()
            texts.append(filled_text(tokenizer, tokens[: int(lengths[b])], prompt))
            if self.judge is not None:
                text = tokenizer.decode(tokens[: int(lengths[b])], skip_special_tokens=True)
                perplexities.append(self.judge.perplexity(str(text)))
        self.run.write(f"{SAMPLES}/step-{step:07d}.txt", "\n\n".join(texts) + "\n")
        nfe = float((result.nfe / order.num_targets).mean())
        record: dict[str, Any] = {"calls_per_target": nfe}
        if perplexities:
            record["judge_perplexity"] = mean(perplexities)
        return record

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.is_tracked:  # end_training would end the processes' group too, on this one alone
            for tracker in self.accelerator.trackers:
                tracker.finish()


def filled_text(tokenizer: PreTrainedTokenizerBase, tokens: list[int], prompt: list[int]) -> str:
    """Show a text with blanks, and the same text filled."""
    parts = segments_of(tokenizer, tokens, prompt)
    blanked = "".join(BLANK * p.num_tokens if p.is_target else printable(p.text) for p in parts)
    filled = "".join(printable(part.text) for part in parts)
    return f"=== blanked\n{blanked}\n=== filled\n{filled}"


def _finite(value: Any) -> Any:
    """Return a value for JSON, which has no NaN and no infinity: these become words."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
