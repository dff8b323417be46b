"""Signals are obeyed wherever training waits: while data are packed, for the hub, for an upload."""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from kills import outcome, tiny
from test_signals import STOPPED, Training

from asarm.data import finite, hub, retry
from asarm.data.packed import PackedBlocks
from asarm.training import loop, watch
from asarm.training.interrupt import Stopped, StopSignal
from asarm.training.loop import train
from asarm.training.summary import summary

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is over."""
    config = tiny(tmp_path_factory.mktemp("finished"), max_steps=4)
    assert train(config).is_finished
    return config


def raising(number: signal.Signals, calls: list):
    """A function that notes a call and is then asked to stop; it comes to its end all the same."""

    def act(*arguments, **options):
        calls.append(arguments)
        os.kill(os.getpid(), number)

    return act


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_packing_is_stopped_at_once(finished, tmp_path, monkeypatch, number):
    config = tiny(tmp_path, max_steps=4)
    calls: list = []
    encode, stop = finite.encode_documents, raising(number, calls)
    with monkeypatch.context() as patch:
        patch.setattr(finite, "bulks", lambda parts: ([part] for part in parts))
        patch.setattr(finite, "encode_documents", lambda *a, **o: (stop(), encode(*a, **o))[1])
        result = train(config)
    assert len(calls) == 1  # of 200
    assert (result.step, result.is_finished, result.stopped_by) == (0, False, number.name)
    assert f"stopped before the first step ({number.name})" in summary(result, config)
    assert not list(Path(config.cache_dir).rglob("unfinished.*"))
    assert train(config).is_finished
    assert outcome(Path(config.output_dir)) == outcome(Path(finished.output_dir))


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_waiting_for_the_hub_is_stopped_at_once(tmp_path, monkeypatch, number):
    def unreachable():
        raise ConnectionError("no route to host")

    waits: list = []
    monkeypatch.setattr(retry, "time", SimpleNamespace(sleep=raising(number, waits)))
    monkeypatch.setattr(hub, "open_dataset", lambda config: retry.patiently(unreachable, "it"))
    result = train(tiny(tmp_path, dataset="someone/something"))
    assert len(waits) == 1
    assert (result.step, result.stopped_by) == (0, number.name)


@pytest.mark.slow
def test_waiting_for_the_next_blocks_is_stopped_behind_a_checkpoint(
    finished, tmp_path, monkeypatch
):
    config = replace(finished, output_dir=str(tmp_path / "run"))
    next_batch, waits = PackedBlocks.next_batch, []
    wait = raising(signal.SIGUSR1, waits)

    def waiting(self, indices):
        if self.consumed == 2 * config.global_batch_size:
            wait()
            raise ConnectionError("waited to the end")
        return next_batch(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(PackedBlocks, "next_batch", waiting)
        result = train(config)
    assert (result.step, result.stopped_by) == (2, "SIGUSR1")
    assert train(config).is_finished
    assert outcome(Path(config.output_dir)) == outcome(Path(finished.output_dir))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["model", "judge", "first evaluation"])
def test_whatever_comes_before_the_first_step_is_stopped_at_once(
    finished, tmp_path, monkeypatch, where
):
    config = replace(finished, output_dir=str(tmp_path / "run"), judge="a judge")
    calls: list = []
    name = {"model": "start_model", "judge": "load_judge", "first evaluation": "block_bits"}[where]
    with monkeypatch.context() as patch:
        patch.setattr(watch, "load_judge", lambda *_: None)
        patch.setattr(loop if where == "model" else watch, name, raising(signal.SIGTERM, calls))
        assert train(config).stopped_by == "SIGTERM"
    assert len(calls) == 1 and not Path(config.output_dir, "checkpoints").exists()
    assert train(replace(config, judge=None)).is_finished
    assert outcome(Path(config.output_dir)) == outcome(Path(finished.output_dir))


@pytest.mark.slow
def test_an_upload_is_stopped_at_once_and_made_by_the_next_start(finished, tmp_path, monkeypatch):
    config = replace(finished, output_dir=str(tmp_path / "run"), push_to_hub="someone/something")
    calls: list = []
    monkeypatch.setattr(loop, "check_upload", lambda name: None)
    monkeypatch.setattr(loop, "upload", raising(signal.SIGUSR1, calls))
    result = train(config)
    assert (result.step, result.is_finished, result.stopped_by) == (4, False, "SIGUSR1")
    assert Path(config.output_dir, "model.safetensors").exists()
    monkeypatch.setattr(loop, "upload", lambda *arguments: calls.append(arguments))
    assert train(config).is_finished
    assert calls[1:] == [(Path(config.output_dir), "someone/something")]


def test_a_signal_that_came_before_ends_the_block_and_cleaning_up_is_left_alone():
    stop = StopSignal()
    stop.note(signal.SIGTERM, None)  # outside it is noted
    with pytest.raises(Stopped, match="SIGTERM"), stop.at_once():
        pytest.fail("the block was entered")
    with pytest.raises(Stopped):
        stop.name = None
        with stop.at_once():
            try:
                stop.note(signal.SIGTERM, None)
            finally:
                stop.note(signal.SIGUSR1, None)  # a second one does not end this
    with pytest.raises(KeyboardInterrupt):  # asked twice
        stop.note(signal.SIGINT, None)
        stop.note(signal.SIGINT, None)


@pytest.mark.slow
def test_the_command_ends_as_elsewhere_while_data_are_packed(tmp_path):
    """Whole: with several processes the others wait for the one that packs."""
    launcher = str(Path(__file__).parent.parent / "_run_training.sh")
    two = {"ASARM_NUM_PROCESSES": "2", "CUDA_VISIBLE_DEVICES": ""}
    training = Training(tmp_path, "bash", launcher, **two)
    words = random.Random(0).choices(["a", "few", "words", "\n\n"], k=20_000)
    (tmp_path / "text.txt").write_text(" ".join(words) * 1000)  # far more than is packed here
    process = training.start()
    try:
        while not list(tmp_path.glob("cache/packed/unfinished.*/*")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGUSR1)
        output = "".join(process.communicate(timeout=120))
    finally:
        process.kill()
    assert process.returncode == STOPPED, output
    assert output.count("stopped before the first step (SIGUSR1)") == 1
    assert "Traceback" not in output and not list(tmp_path.glob("cache/packed/*"))
