"""The main job from the command line, on a tiny random model."""

import json
import runpy
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from transformers import XLNetConfig

from asarm import AnySubsetTransformer
from asarm.evaluation.ablation import cells
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.trials import variants_of
from asarm.loading import load_tokenizer

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts" / "speculative_decoding.py"
PRESETS = sorted((ROOT / "configs" / "decode").glob("*.yaml"))
SMALL = ["--num_trials=3", "--length=10", "--parallel_steps=3", "--prompt_share=0.3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer("demo")
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=len(tokenizer), d_model=32, n_layer=2, n_head=2, d_inner=64, mask_token_id=6
    )
    AnySubsetTransformer(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog, and nobody minds.\n" * 4)
    return path


@pytest.fixture
def run(monkeypatch, capsys, model, text, tmp_path):
    """Run the script; its exit code, output and error output. Figures take most of the time."""

    def call(*arguments, folder="run", draws=False):
        for figure in () if draws else ("quality_figure", "histogram_figure"):
            monkeypatch.setattr(f"asarm.evaluation.figures.{figure}", lambda *_: b"a figure")
        given = [f"--model={model}", f"--dataset={text}", f"--output_dir={tmp_path / folder}"]
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *given, *SMALL, *arguments])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return call


def lines_of(folder: Path) -> list[dict]:
    lines = (folder / "samples.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all(record.pop("seconds") >= 0 for record in records)
    return records


def test_the_main_job_from_beginning_to_end(run, tmp_path):
    code, output, errors = run(draws=True)
    assert code == 0, errors
    for shown in ("sequential", "onepass", "parallel 3", "blanked", "filled by", "calls"):
        assert shown in output
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {
        *("config.yaml", "starts.jsonl", "samples.jsonl", "summary.json", "report.md"),
        *("quality.png", "histograms.png"),
    }
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["num_trials"] == 3
    assert [row["name"] for row in summary["variants"]][-1] == "parallel 3"
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings == asdict(DecodingConfig(**settings))
    assert settings["length"] == 10


@pytest.mark.slow_but_one
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_killed_run_goes_on_to_the_same_lines(run, tmp_path, batch_size):
    arguments = f"--batch_size={batch_size}", "--method=sequential,onepass"
    assert run(*arguments, folder="whole")[0] == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    path = tmp_path / "run" / "samples.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # in the middle of a line
    for leftover in ("summary.json", "report.md"):
        (tmp_path / "run" / leftover).unlink()
    assert not path.read_bytes().endswith(b"\n")
    assert run(*arguments)[0] == 0
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(run, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("asarm.evaluation.study.token_entropy", interrupt)
        code, _, errors = run()
    assert code == 130
    assert "the same command goes on" in errors
    assert run()[0] == 0
    assert len(lines_of(tmp_path / "run")) == 15


@pytest.mark.slow
def test_disk_full_keeps_what_was_written(run, tmp_path, monkeypatch):
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        code, _, errors = run()
    assert code == 2
    assert "samples.jsonl (No space left on device)" in errors.splitlines()[-1]
    assert len(lines_of(tmp_path / "run")) >= 3
    assert run()[0] == 0
    assert len(lines_of(tmp_path / "run")) == 15


@pytest.mark.slow
def test_a_folder_of_other_settings_is_refused(run, tmp_path):
    assert run("--method=sequential")[0] == 0
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    code, _, errors = run("--method=sequential", "--seed=1")
    assert code == 2
    assert "seed = 0, not 1" in errors and "--overwrite" in errors
    assert errors.count("\n") == 1
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before
    assert run("--method=sequential", "--seed=1", "--overwrite")[0] == 0
    assert len(lines_of(tmp_path / "run")) == 3


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = load_tokenizer("demo")
    folder = tmp_path_factory.mktemp("judge")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1)
    config.bos_token_id, config.eos_token_id = 1, 2
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_judge_may_be_called_afterwards_and_scores_nothing_twice(run, tmp_path, judge):
    assert run("--method=sequential,assd")[0] == 0
    before = lines_of(tmp_path / "run")
    code, output, errors = run("--method=sequential,assd", f"--judge={judge}")
    assert code == 0, errors
    assert "judge" in output
    assert lines_of(tmp_path / "run") == before
    rows = json.loads((tmp_path / "run" / "summary.json").read_text())["variants"]
    assert all(row["judge_perplexity"]["mean"] > 1 for row in rows)
    scores = (tmp_path / "run" / "judge.jsonl").read_bytes()
    assert len(scores.splitlines()) == len({record["text"] for record in before})
    assert run("--method=sequential,assd", f"--judge={judge}")[0] == 0
    assert (tmp_path / "run" / "judge.jsonl").read_bytes() == scores


@pytest.mark.slow
def test_models_are_compared_in_one_run(run, tmp_path, model):
    other = tmp_path / "shelf"
    shutil.copytree(model, other)
    code, output, errors = run("--method=sequential,parallel", f"--compare={other}", draws=True)
    assert code == 0, errors
    assert "shelf" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [row["name"] for row in summary["variants"]][2:] == [
        *("sequential, shelf", "parallel 3, shelf"),
    ]
    records = lines_of(tmp_path / "run")
    assert len(records) == 3 * 2 * 2
    ours, theirs = records[0], records[2]
    assert theirs["model"] == str(other)
    assert ours["tokens"] == theirs["tokens"]  # the same weights, blanks and seed


def test_models_of_other_tokenizers_are_refused(run, tmp_path, model):
    other = tmp_path / "other"
    shutil.copytree(model, other)
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(content))
    code, _, errors = run(f"--compare={other}")
    assert code == 2 and "whose tokenizer is another" in errors and errors.count("\n") == 1


@pytest.mark.slow_but_one
@pytest.mark.parametrize("judged", [False, True])
def test_array_tasks_share_the_work(run, tmp_path, monkeypatch, judge, judged):
    arguments = ["--method=sequential,onepass", "--num_trials=5", "--batch_size=2"]
    arguments += [f"--judge={judge}"] if judged else []
    assert run(*arguments, folder="whole")[0] == 0
    for name, value in {"COUNT": 2, "MIN": 0, "MAX": 1, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    for task in (1, 0):
        assert not (tmp_path / "run" / "summary.json").exists()
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        code, output, errors = run(*arguments)
        assert code == 0, errors
        assert ("others still work" in output) == (task == 1)
    assert lines_of(tmp_path / "run") == lines_of(tmp_path / "whole")
    assert not list((tmp_path / "run").glob("*-*.jsonl"))
    for name in ["judge.jsonl"] if judged else []:
        scores = [(tmp_path / folder / name).read_text() for folder in ("run", "whole")]
        assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            None,
            "wikitext-2, openwebtext, or an existing text file",
        ),
        (b"", "is empty"),
        (b"caf\xe9 " * 100, "is not UTF-8"),
        (b"short", "less than one block of 10"),
    ],
)
def test_wrong_text_is_one_line(run, tmp_path, content, says):
    path = tmp_path / "given.txt"
    if content is not None:
        path.write_bytes(content)
    code, _, errors = run(f"--dataset={path}")
    assert code == 2
    assert says in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--method=asd"], "'asd'; expected sequential, assd, ngram, onepass, parallel"),
        (["--k=0"], "k is 0"),
        (["--k=two"], "k is 'two'; expected int or 'auto'"),
        (["--temperature=-1"], "temperature is -1"),
        (["--coupling=gumball"], "coupling is 'gumball'; expected block, rejection, gumbel"),
        (["--model=/no/such/model"], "/no/such/model"),
        (["--dtype=float12"], "float12"),
        (["--device=tpu9"], "tpu9"),
        (["--judge=/no/such/judge"], "judge '/no/such/judge' cannot be loaded"),
        (["--length=1"], "length is 1"),
    ],
)
def test_wrong_settings_are_one_line(run, arguments, says):
    code, _, errors = run(*arguments)
    assert code == 2
    assert says in errors.splitlines()[-1]
    assert errors.count("\n") <= 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none_is_one_line(run):
    code, _, errors = run("--device=cuda")
    assert code == 2
    assert "'cuda' cannot be used here" in errors
    assert errors.count("\n") == 1


def test_refused_settings_can_be_put_right_in_the_same_folder(run):
    assert run("--temperature=-1")[0] == 2
    assert run("--method=onepass")[0] == 0


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_hold_differences_and_name_what_they_reproduce(preset):
    assert PRESETS
    text = preset.read_text()
    assert text.startswith("# ")
    parser = ArgumentParser()
    parser.add_class_arguments(DecodingConfig)
    parsed = parser.parse_path(str(preset))
    default = asdict(DecodingConfig())
    settings = DecodingConfig(**vars(parsed))
    for cell in cells(settings) if settings.grid else []:
        assert variants_of(cell.config)
    assert variants_of(settings)
    changed = yaml.safe_load(text)
    assert changed
    assert all(parsed[name] != default[name] for name in changed)
