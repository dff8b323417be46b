"""Killed at random moments, one process and two, a run comes to the same end."""

from pathlib import Path

import pytest
from kills import attempt, compare, outcome, run_to_the_end, tiny


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(1, 8), (2, 4)])
def test_killed_runs_end_as_uninterrupted_ones(tmp_path, processes, kills):
    tally = compare(tmp_path, processes, seed=0, kills=kills)
    assert tally.kills == kills and tally.runs >= 1


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    found = []
    for processes in (1, 2):
        config = tiny(tmp_path, dropout=0.0, output_dir=str(tmp_path / f"{processes}"))
        run_to_the_end(config, processes)
        lines = outcome(Path(config.output_dir))["metrics.jsonl"]
        found.append([line["loss"] for line in lines])
    assert len(found[0]) == 12
    assert found[1] == pytest.approx(found[0], rel=1e-5)


@pytest.mark.slow
def test_packed_data_go_on_with_another_number_of_processes(tmp_path):
    whole = tiny(tmp_path, dropout=0.0, output_dir=str(tmp_path / "whole"))
    run_to_the_end(whole)
    config = tiny(tmp_path, dropout=0.0)
    checkpoint = Path(config.output_dir, "checkpoints", "step-0000006")
    assert not attempt(config, 1, checkpoint.exists)
    run_to_the_end(config, 2)
    losses = [
        [line["loss"] for line in outcome(Path(c.output_dir))["metrics.jsonl"]]
        for c in (whole, config)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
def test_two_processes_go_on_from_a_model(tmp_path):
    first = tiny(tmp_path, max_steps=1, output_dir=str(tmp_path / "first"))
    run_to_the_end(first)
    config = tiny(tmp_path, model=first.output_dir, max_steps=3)
    run_to_the_end(config, 2)
    assert len(outcome(Path(config.output_dir))["metrics.jsonl"]) == 3
