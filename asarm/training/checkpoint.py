"""Checkpoints that are whole or not there: written aside, checked by their sums, some kept.

A checkpoint is a folder `step-0000100` with an ordinary model folder in it, what the optimizer
remembers, each process's place in the data, and `checksums.json` over all of these.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file
from transformers import PreTrainedTokenizerBase

from asarm.drafting.files import WEIGHTS
from asarm.loading import Model

STATE, OPTIMIZER, CHECKSUMS = "state.json", "optimizer.safetensors", "checksums.json"


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # steps done
    bad_steps: int = 0  # of them the last ones, not applied for want of finite gradients
    best_step: int | None = None
    best_loss: float | None = None  # held-out, nats a token
    num_processes: int = 1


class Checkpoints:
    """The checkpoints of a run, of which `keep` of the last and the best are kept."""

    def __init__(self, folder: Path, *, keep: int):
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:07d}"

    def steps(self) -> list[int]:
        """Return the steps of what lies there under the name of a checkpoint, ascending."""
        names = (path.name.removeprefix("step-") for path in self.folder.glob("step-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def newest_whole(self) -> int | None:
        """Return the step of the newest checkpoint whose sums are right; warn of damaged ones."""
        for step in reversed(self.steps()):
            problem = damage(self.path(step))
            if problem is None:
                return step
            warnings.warn(f"{self.path(step)} is damaged ({problem}): going back", stacklevel=2)
        return None

    def temporary(self, step: int) -> Path:
        """Return where the processes write the checkpoint of a step before it is one."""
        return self.folder / f"{self.path(step).name}.tmp"

    def begin(self, step: int) -> None:
        """Make the temporary folder, and room: what other writers left half done goes."""
        with writing(self.temporary(step)):
            for leftover in self.folder.glob("*.tmp"):
                shutil.rmtree(leftover)
            self.temporary(step).mkdir(parents=True)

    def write_data_state(self, step: int, process: int, state: dict[str, Any]) -> None:
        """Write one process's place in the data.

        Raises:
            OSError: the folder is not there for this process, or the disk is full.
        """
        if not self.temporary(step).is_dir():
            raise OSError(
                f"{self.temporary(step)} is not there for process {process}, though the first one "
                "made it; all nodes must see the same --output_dir"
            )
        with writing(self.temporary(step)):
            torch.save(state, self.temporary(step) / _data_name(process))

    def finish(
        self,
        progress: Progress,
        model: Model,
        tokenizer: PreTrainedTokenizerBase,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Write the rest, then make it a checkpoint by its name; remove what is not kept."""
        temporary = self.temporary(progress.step)
        with writing(temporary):
            model.save_pretrained(temporary / "model")
            tokenizer.save_pretrained(temporary / "model")
            save_file(_optimizer_tensors(optimizer), temporary / OPTIMIZER)
            (temporary / STATE).write_text(json.dumps(asdict(progress), indent=2) + "\n")
            sums = {name: checksum(temporary / name) for name in _files(temporary)}
            for process in range(progress.num_processes):
                if _data_name(process) not in sums:
                    raise OSError(f"{_data_name(process)} of another process is not seen here")
            (temporary / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n")
            for name in [*sums, CHECKSUMS]:
                _sync(temporary / name)
            if self.path(progress.step).exists():  # a damaged one
                shutil.rmtree(self.path(progress.step))
            os.replace(temporary, self.path(progress.step))
            _sync(self.folder)
        self._prune(progress)

    def _prune(self, progress: Progress) -> None:
        """Remove what is old, and what is newer: it is damaged, or the run went back before it."""
        newer = [step for step in self.steps() if step > progress.step]
        older = [step for step in self.steps() if step <= progress.step][: -self.keep]
        for step in {*newer, *older} - {progress.best_step}:
            shutil.rmtree(self.path(step))

    def progress(self, step: int) -> Progress:
        """Read what the checkpoint of a step says of the run."""
        return Progress(**json.loads((self.path(step) / STATE).read_text()))

    def restore(self, step: int, model: Model, optimizer: torch.optim.Optimizer) -> None:
        """Put weights and the optimizer's memory back."""
        model.load_weights(self.path(step) / "model")
        if model.draft_head is not None:
            load_model(model.draft_head, self.path(step) / "model" / WEIGHTS)
        found: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in load_file(self.path(step) / OPTIMIZER).items():
            index, _, key = name.partition(".")
            found.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": found})

    def data_state(self, step: int, process: int, num_processes: int) -> dict[str, Any]:
        """Read a process's place in the data; where it did not take part, that of the first.

        The data refuse it if they cannot be shared among another number of processes.
        """
        took_part = self.progress(step).num_processes
        name = _data_name(process if num_processes == took_part else 0)
        state: dict[str, Any] = torch.load(self.path(step) / name, weights_only=True)
        return state


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint; None where it is whole."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
        for name, expected in sums.items():
            if checksum(folder / name) != expected:
                return f"{name} has another checksum"
    except (OSError, ValueError) as error:
        return str(error)
    return None


def checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in one line what could not be written; nothing half-written stays."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        is_ours = isinstance(error, OSError | SafetensorError) or "write" in str(error)
        if not is_ours:
            raise
        shutil.rmtree(folder, ignore_errors=True)
        others = [path for path in folder.parent.glob("step-*") if path.suffix != ".tmp"]
        raise OSError(
            f"cannot write the checkpoint {folder.stem} ({_reason(error)}); "
            f"{'the one before is kept' if others else 'there is none before it'}: make room, and "
            "run the same command again"
        ) from None


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return strerror or str(error).splitlines()[0]


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": tensor.contiguous()
        for index, entries in state.items()
        for key, tensor in entries.items()
    }


def _files(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path.relative_to(folder).as_posix() for path in paths]


def _sync(path: Path) -> None:
    """Have the operating system put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _data_name(process: int) -> str:
    return f"data-{process:05d}.pt"
