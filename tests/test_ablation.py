"""Grids of studies: every cell as if it had been run alone, collected by whoever is last."""

import json
import runpy
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import XLNetConfig

from asarm import AnySubsetTransformer
from asarm.evaluation import ablation_report
from asarm.evaluation.ablation import AXES, cells, run_ablation
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.decoding import DecodingStudy
from asarm.evaluation.engine import Work
from asarm.evaluation.items import Shard
from asarm.loading import load_tokenizer
from asarm.metrics.repetition import token_entropy

SCRIPT = Path(__file__).parent.parent / "scripts" / "speculative_decoding.py"
GRID = {"k": [1, 3], "length": [8, 10]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer("demo")
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=len(tokenizer), d_model=16, n_layer=1, n_head=2, d_inner=16, mask_token_id=6
    )
    AnySubsetTransformer(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True, scope="module")
def plain_figures():
    """The studies' own figures take most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        for figure in ("quality_figure", "histogram_figure"):
            patch.setattr(f"asarm.evaluation.figures.{figure}", lambda *_: b"a figure")
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and nobody minds.\n" * 4)
    return str(path)


def settings(model, text, folder):
    return DecodingConfig(
        model=model,
        dataset=text,
        output_dir=str(folder / "ablation"),
        num_trials=2,
        prompt_share=0.3,
        method=["assd", "onepass"],
        grid=GRID,
    )


@pytest.fixture
def config(model, text, tmp_path):
    return settings(model, text, tmp_path)


@pytest.fixture(scope="module")
def whole(model, text, tmp_path_factory):
    """The grid, by one process without interruption."""
    return run_ablation(settings(model, text, tmp_path_factory.mktemp("whole")))


def lines_of(folder: Path) -> list[dict]:
    """The samples without their times."""
    records = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert all(record.pop("seconds") >= 0 for record in records)
    return records


def without_times(summary: dict) -> dict:
    cells = json.loads(json.dumps(summary))["cells"]
    timed = ("seconds", "speedup")
    for cell in cells:
        cell["variants"] = [
            {name: value for name, value in row.items() if name not in timed}
            for row in cell["variants"]
        ]
        cell.pop("tests_against_sequential")
    return {**summary, "cells": cells}


def test_cells_are_all_combinations_in_folders_of_their_own(config):
    planned = cells(config)
    assert [cell.folder for cell in planned] == [
        *("k=1,length=8", "k=1,length=10", "k=3,length=8", "k=3,length=10"),
    ]
    for cell in planned:
        assert cell.config.grid is None
        changed = {n for n, v in asdict(cell.config).items() if v != getattr(config, n)}
        assert changed == {"k", "length", "grid", "output_dir"}
    (named,) = cells(replace(config, grid={"method": ["assd"], "model": ["a/b"]}))
    assert named.folder == "method=assd,model=a-b"
    assert (named.config.method, named.config.model) == (["assd"], "a/b")


def test_a_whole_ablation_is_the_studies_of_its_cells(config, tmp_path, whole):
    result, folder = whole, whole.folder
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "starts.jsonl", "summary.json", "report.md", "ablation.png"),
        *(cell.folder for cell in cells(config)),
    }
    assert json.loads((folder / "summary.json").read_text()) == result.summary
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
    cell = cells(config)[2]
    alone = replace(cell.config, output_dir=str(tmp_path / "alone"))
    work = Work.prepare(DecodingStudy.prepare(alone), Shard())
    work.begin()
    work.fill()
    study = work.finish()
    assert lines_of(folder / cell.folder) == lines_of(tmp_path / "alone")
    row = study.summary["variants"][1]
    assert row["method"] == "onepass" and row["k"] == 3
    found = result.summary["cells"][2]
    assert found["values"] == {"k": 3, "length": 8}
    assert found["variants"][1]["nfe_per_target"] == row["nfe_per_target"]
    page = (folder / "report.md").read_text()
    assert "| k | length | method | NFE/target |" in page
    rows = [line.split(" | ")[:3] for line in page.splitlines() if line.startswith(("| 1", "| 3"))]
    assert rows == [
        [f"| {k}", str(length), method]
        for k in (1, 3)
        for length in (8, 10)
        for method in ("assd", "onepass")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_array_tasks_give_what_one_run_gives_and_the_last_collects(config, whole, tmp_path, order):
    *first, last = order
    for task in first:
        assert run_ablation(config, shard=Shard(task, 3)) is None
    assert not (tmp_path / "ablation" / "summary.json").exists()
    result = run_ablation(config, shard=Shard(last, 3))
    assert without_times(result.summary) == without_times(whole.summary)
    for cell in cells(config):
        ours, theirs = (folder / cell.folder for folder in (result.folder, whole.folder))
        assert lines_of(ours) == lines_of(theirs)


@pytest.mark.slow
def test_a_killed_ablation_goes_on_to_the_same(config, whole, monkeypatch):
    calls = []

    def dying(tokens):
        calls.append(tokens)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return token_entropy(tokens)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("asarm.evaluation.study.token_entropy", dying)
        run_ablation(config)
    assert without_times(run_ablation(config).summary) == without_times(whole.summary)


@pytest.mark.slow
def test_more_values_and_a_judge_may_come_later_but_no_other_settings(config):
    config = replace(config, length=8, method=["onepass"])
    run_ablation(replace(config, grid={"k": [1]}))
    before = lines_of(Path(config.output_dir, "k=1"))
    result = run_ablation(replace(config, grid={"k": [1, 2]}))
    assert [cell["values"] for cell in result.summary["cells"]] == [{"k": 1}, {"k": 2}]
    assert lines_of(Path(config.output_dir, "k=1")) == before
    with pytest.raises(ValueError, match="seed = 0, not 1"):
        run_ablation(replace(config, grid={"k": [1, 2]}, seed=1))
    again = replace(config, grid={"k": [1, 2]}, seed=1, overwrite=True)
    assert run_ablation(again) is not None
    assert lines_of(Path(config.output_dir, "k=1")) != before


def changed(model: str, folder: Path) -> None:
    """Other weights in the folder of a model."""
    weights = load_file(Path(model, "model.safetensors"))
    weights["lm_loss.bias"][7] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.slow
def test_no_table_mixes_models_of_one_name(config, tmp_path):
    model = shutil.copytree(config.model, tmp_path / "model")
    config = replace(config, model=str(model), grid={"k": [1, 2, 3]}, length=8)
    assert run_ablation(config, shard=Shard(1, 3)) is None
    before = (tmp_path / "ablation" / "config.yaml").read_bytes()
    changed(config.model, model)
    with pytest.raises(ValueError, match=f"k=2 holds results of model {model} with fingerprint"):
        run_ablation(config)
    assert (tmp_path / "ablation" / "config.yaml").read_bytes() == before
    assert {path.name for path in (tmp_path / "ablation").iterdir()} >= {"k=2", "config.yaml"}
    assert run_ablation(config, shard=Shard(0, 3)) is None
    with pytest.raises(ValueError, match=f"holds results of model {model} with fingerprint"):
        run_ablation(config, shard=Shard(2, 3))  # the last one, which would collect
    assert not (tmp_path / "ablation" / "summary.json").exists()
    assert run_ablation(replace(config, overwrite=True)) is not None


@pytest.mark.slow
def test_more_trials_wait_for_all_cells(config, tmp_path):
    first = run_ablation(replace(config, num_trials=1))
    more = replace(config, num_trials=2)
    assert run_ablation(more, shard=Shard(0, 2)) is None
    assert not (first.folder / "summary.json").exists()  # that of fewer trials
    result = run_ablation(more, shard=Shard(1, 2))
    fresh = run_ablation(replace(more, output_dir=str(tmp_path / "fresh")))
    assert without_times(result.summary) == without_times(fresh.summary)
    with pytest.raises(ValueError, match="num_trials = 2, not 1 .it may only grow"):
        run_ablation(replace(config, num_trials=1))


def test_slack_is_an_axis_of_categories_and_says_what_is_lossy(config):
    grid = {"acceptance_slack": [0.0, 0.5], "method": ["assd"]}
    result = run_ablation(replace(config, grid=grid, k=3, length=8))
    rows = [row for cell in result.summary["cells"] for row in cell["variants"]]
    assert [row["lossless"] for row in rows] == [True, False]
    assert ablation_report.axis_of(result.summary) == "acceptance_slack"
    head, lines = ablation_report.table(result.summary, page=True)
    assert head[:3] == ["acceptance_slack", "method", "k"]
    assert [line[0] for line in lines] == ["0", "0.5"]


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({}, "grid is empty"),
        ({"batch_size": [1]}, f"grid holds batch_size; expected some of {', '.join(AXES)}"),
        ({"k": []}, "grid holds no values for k; expected ints"),
        ({"k": [2.5]}, "grid holds 2.5 for k; expected ints"),
        ({"order": [1]}, "grid holds 1 for order; expected strs"),
        ({"k": [2, 2]}, "a value of k twice"),
        ({"k": [2, 0]}, "k is 0; expected at least 1"),
        ({"order": ["random_split", "backwards"]}, "order is 'backwards'"),
    ],
)
def test_wrong_grids_are_refused_before_anything_is_made(config, tmp_path, grid, says):
    with pytest.raises(ValueError, match=says):
        run_ablation(replace(config, grid=grid))
    assert not (tmp_path / "ablation").exists()


def test_the_launchers_script_takes_a_grid(config, tmp_path, monkeypatch, capsys):
    preset = tmp_path / "grid.yaml"
    changed = {n: v for n, v in asdict(config).items() if v != getattr(DecodingConfig(), n)}
    preset.write_text(yaml.safe_dump({**changed, "grid": {"k": [1, 2]}}))
    arguments = [f"--config={preset}", "--num_trials=1", "--length=8", "--method=onepass"]
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    output = " ".join(capsys.readouterr().out.split())
    assert "k=2 (2 of 2)" in output
    name = Path(config.model).name
    assert f"{name} on text.txt: k, 2 studies of 1 trials" in output
    assert "table, figure and all studies are in" in output
