"""A reader in a process of its own, or in this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import torch
from datasets import IterableDataset
from transformers import PreTrainedTokenizerBase

from asarm.data import retry
from asarm.data.hub import prepare_process
from asarm.data.reader import ReaderTask, Window, WindowReader
from asarm.data.retry import DataUnavailable, first_line

# a process that trains has threads and a GPU, neither of which survives a fork
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])  # imported once, not by every reader
IGNORED = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")


class Failure(NamedTuple):
    """Why a reader stopped."""

    kind: str  # unavailable, refused or broken
    message: str


class Worker(Protocol):
    """Reads for a training process, and gives one window after another."""

    def receive(self) -> Window | None:
        """Return the next window; None where the reader's part holds no document.

        Raises:
            DataUnavailable: the stream cannot be read, or the reading process died.
            ValueError: what it holds cannot be used.
        """

    def close(self) -> None:
        """End it."""


class InlineWorker:
    """Reads when a window is wanted."""

    def __init__(
        self,
        dataset: IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        task: ReaderTask,
        place: dict[str, Any] | None,
    ):
        self.windows = WindowReader(dataset, tokenizer, task, place).windows()

    def receive(self) -> Window | None:
        return next(self.windows, None)

    def close(self) -> None:
        self.windows.close()  # type: ignore[attr-defined]


class ProcessWorker:
    """Reads ahead by about one window: when the pipe is full, sending waits for `receive`."""

    def __init__(
        self,
        dataset: IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        task: ReaderTask,
        place: dict[str, Any] | None,
    ):
        self.name = f"reader {task.reader + 1} of {task.num_readers}"
        self.connection, theirs = CONTEXT.Pipe()
        patience = (retry.TRIES, retry.FIRST_WAIT)
        self.process = CONTEXT.Process(
            target=serve, args=(theirs, dataset, tokenizer, task, place, patience), daemon=True
        )
        self.process.start()
        theirs.close()  # so that its end is seen here

    def receive(self) -> Window | None:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise DataUnavailable(
                f"{self.name} of the training data died (exit code {self.process.exitcode}); "
                "was it killed for memory? lower shuffle_blocks or workers"
            ) from None
        if isinstance(answer, Failure):
            errors = {"unavailable": DataUnavailable, "refused": ValueError}
            raise errors.get(answer.kind, RuntimeError)(answer.message)
        return answer

    def close(self) -> None:
        """End the process, which has nothing to lose: what was not received is read again."""
        self.connection.close()
        self.process.kill()
        self.process.join()
        self.process.close()


def serve(
    connection: Connection,
    dataset: IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    task: ReaderTask,
    place: dict[str, Any] | None,
    patience: tuple[int, float],
) -> None:
    """Send windows until the other end is gone, which is how a training process that dies ends us.

    Signals go to a whole job, and the process that trains decides what they mean.
    """
    for name in IGNORED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the readers are what is parallel
    torch.set_num_threads(1)
    retry.TRIES, retry.FIRST_WAIT = patience
    prepare_process()
    try:
        for answer in answers(dataset, tokenizer, task, place):
            connection.send(answer)
    except (BrokenPipeError, ConnectionResetError):
        return


def answers(
    dataset: IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    task: ReaderTask,
    place: dict[str, Any] | None,
) -> Iterator[Window | Failure | None]:
    """Yield the reader's windows, then what ended it."""
    try:
        yield from WindowReader(dataset, tokenizer, task, place).windows()
    except DataUnavailable as error:
        yield Failure("unavailable", str(error))
    except ValueError as error:
        yield Failure("refused", first_line(error))
    except Exception:
        yield Failure("broken", traceback.format_exc())
    else:
        yield None
