"""The same command in the same folder, for every evaluation: results are of what is there now."""

import json
import os
import runpy
import shutil
import signal
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, XLNetConfig

from asarm import AnySubsetTransformer
from asarm.drafting.head import DraftHead, DraftHeadConfig
from asarm.evaluation.programs.sources import load_tasks
from asarm.loading import load_tokenizer
from asarm.lock import RunLock
from asarm.run import HEADER

SCRIPTS = Path(__file__).parent.parent / "scripts"
WEIGHT = "transformer.layer.0.ff.layer_1.weight"
SENTENCES = (
    "The ship left port at dawn.;Nobody saw it go.;The sea was calm.;It rained.;It came back."
)


class Kind(NamedTuple):
    """An evaluation: its script, the file of its lines, settings, and how its plan grows."""

    script: str
    ledger: str
    arguments: tuple[str, ...]
    grown: dict[str, int]
    suffix: str = ""  # of its data file
    other: str = ""  # the setting of another model


KINDS = {
    "prose": Kind(
        "infill_nlp",
        "samples.jsonl",
        ("--max_items=3", "--num_trials=1", "--parallel_steps=2", "--protocol=middle"),
        {"max_items": 5, "num_trials": 2},
        ".csv",
        "off_the_shelf",
    ),
    "code": Kind(
        "infill_code",
        "generations.jsonl",
        ("--max_items=2", "--num_trials=1", "--baselines=[]", "--execute=none", "--batch_size=2"),
        {"max_items": 3, "num_trials": 2},
        ".jsonl",
        "off_the_shelf",
    ),
    "study": Kind(
        "speculative_decoding",
        "samples.jsonl",
        ("--num_trials=3", "--length=10", "--method=sequential,onepass", "--batch_size=2"),
        {"num_trials": 5},
        ".txt",
        "compare",
    ),
    "lengths": Kind(
        "gap_lengths",
        "gaps.jsonl",
        ("--max_items=2", "--longest=8", "--num_fills=1"),
        {"max_items": 3},
    ),
}


def csv_of(ending: str) -> str:
    head = ["InputStoryid", *(f"InputSentence{n}" for n in range(1, 5))]
    head += ["RandomFifthSentenceQuiz1", "RandomFifthSentenceQuiz2", "AnswerRightEnding"]
    rows = [[f"id{n}", *SENTENCES.split(";"), f"{n} {ending}", "2"] for n in range(5)]
    return "\n".join(",".join(row) for row in [head, *rows]) + "\n"


def tasks_of(ending: str) -> str:
    tasks = [asdict(task) for task in load_tasks("bundled").tasks[:4]]
    tasks[-1]["test"] += f"\n# {ending}\n"  # of a task that is not evaluated
    return "".join(json.dumps(task) + "\n" for task in tasks)


CONTENTS = {
    ".csv": csv_of,
    ".jsonl": tasks_of,
    ".txt": lambda ending: "The quick brown fox jumps over the lazy dog.\n" * 6 + ending,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    tokenizer = load_tokenizer("demo")
    torch.manual_seed(0)
    config = XLNetConfig(
        vocab_size=len(tokenizer), d_model=16, n_layer=1, n_head=2, d_inner=16, mask_token_id=6
    )
    AnySubsetTransformer(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def plain_figures(monkeypatch):
    for figure in ("quality_figure", "histogram_figure"):
        monkeypatch.setattr(f"asarm.evaluation.figures.{figure}", lambda *_: b"a figure")
    monkeypatch.setattr("asarm.evaluation.prose.report.figure", lambda *_: b"a figure")


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def model(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "model")


@pytest.fixture
def data(kind, tmp_path) -> Path | None:
    if not kind.suffix:
        return None
    path = tmp_path / f"data{kind.suffix}"
    path.write_text(CONTENTS[kind.suffix]("is the end."))
    return path


@pytest.fixture
def run(kind, model, data, monkeypatch, capsys, tmp_path):
    """The evaluation's script; its exit code and all that it said on the error output."""

    def call(*arguments, folder="run"):
        given = [f"--model={model}", f"--output_dir={tmp_path / folder}", *kind.arguments]
        given += [f"--dataset={data}"] if data else []
        script = SCRIPTS / f"{kind.script}.py"
        monkeypatch.setattr("sys.argv", [str(script), *given, *arguments])
        code = 0
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        return code, capsys.readouterr().err

    return call


def change_a_weight(folder: Path, name: str = WEIGHT) -> None:
    """One number of all; whoever looks at some of them does not see it. The time stays, too."""
    path = folder / "model.safetensors"
    before, weights = path.stat(), load_file(path)
    weights[name].flatten()[3] += 1
    save_file(weights, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_the_config(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_norm_eps": 0.1}))


def change_the_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    pieces = content["model"]["vocab"]
    first, second = list(pieces)[-2:]
    pieces[first], pieces[second] = pieces[second], pieces[first]
    path.write_text(json.dumps(content))


def add_a_head(folder: Path) -> None:
    model = AnySubsetTransformer.from_pretrained(folder)
    model.set_draft_head(DraftHead(DraftHeadConfig(model.config.d_model, hidden=8, rank=4)))
    model.save_pretrained(folder)


def lines(kind: Kind, folder: Path) -> list[dict]:
    """The results without what they took."""
    found = [json.loads(line) for line in (folder / kind.ledger).read_text().splitlines()]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in found]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def cut(kind: Kind, folder: Path) -> None:
    """As if the run had been killed half way, in a line."""
    path = folder / kind.ledger
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name in ("summary.json", "report.md"):
        (folder / name).unlink()


# --- other contents under the same names ---


@pytest.mark.slow_but_one
@pytest.mark.parametrize("change", [change_a_weight, change_the_config, change_the_tokenizer])
def test_another_model_under_the_same_name(kind, run, model, tmp_path, change):
    folder = tmp_path / "run"
    assert run()[0] == 0
    cut(kind, folder)
    before = content(folder)
    change(model)
    code, errors = run()
    assert code == 2 and errors.count("error: ") == 1
    assert f"holds results of model {model} with fingerprint" in errors.splitlines()[-1]
    assert "another --output_dir, or --overwrite" in errors
    assert content(folder) == before
    assert run("--overwrite")[0] == run(folder="fresh")[0] == 0
    assert lines(kind, folder) == lines(kind, tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.suffix])
def test_other_data_under_the_same_name(kind, run, data, tmp_path):
    assert run()[0] == 0
    before = content(tmp_path / "run")
    data.write_text(CONTENTS[kind.suffix]("is THE end."))
    code, errors = run()
    assert code == 2
    assert f"holds results of dataset {data}" in errors.splitlines()[-1]
    assert content(tmp_path / "run") == before
    assert run("--overwrite")[0] == run(folder="fresh")[0] == 0
    assert lines(kind, tmp_path / "run") == lines(kind, tmp_path / "fresh")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.other])
def test_another_model_beside_it_under_the_same_name(kind, run, original, tmp_path):
    other = shutil.copytree(original, tmp_path / "shelf")
    assert run(f"--{kind.other}={other}")[0] == 0
    change_a_weight(other)
    code, errors = run(f"--{kind.other}={other}")
    assert code == 2
    assert f"holds results of model {other}" in errors.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KINDS["prose"]])
def test_rows_of_a_model_that_was_left_out_for_a_while_are_its_own(run, original, tmp_path):
    other = shutil.copytree(original, tmp_path / "shelf")
    assert run(f"--off_the_shelf={other}")[0] == 0
    assert run()[0] == 0
    assert run(f"--off_the_shelf={other}")[0] == 0
    assert run()[0] == 0
    change_a_weight(other)
    code, errors = run(f"--off_the_shelf={other}")
    assert code == 2 and f"results of model {other}, off the shelf" in errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KINDS["study"]])
def test_a_draft_head_is_a_part_of_the_model(run, model, tmp_path):
    assert run("--drafts=self")[0] == 0
    add_a_head(model)
    code, errors = run("--drafts=self")
    assert code == 2 and f"holds results of model {model}" in errors


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KINDS["study"]])
def test_another_judge_under_the_same_name_scores_anew(run, tmp_path):
    tokenizer = load_tokenizer("demo")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=1)
    config.bos_token_id, config.eos_token_id = 1, 2
    judge = tmp_path / "judge"
    GPT2LMHeadModel(config).save_pretrained(judge)
    tokenizer.save_pretrained(judge)

    def judged():
        assert run(f"--judge={judge}")[0] == 0
        rows = json.loads((tmp_path / "run" / "summary.json").read_text())["variants"]
        return [row["judge_perplexity"]["mean"] for row in rows]

    first, before = judged(), content(tmp_path / "run")["samples.jsonl"]
    path = judge / "model.safetensors"
    weights = load_file(path)
    weights["transformer.wte.weight"][weights["transformer.wte.weight"].shape[0] // 2 :] *= -3
    save_file(weights, path, metadata={"format": "pt"})
    assert judged() != first
    assert content(tmp_path / "run")["samples.jsonl"] == before


@pytest.mark.slow
def test_a_folder_of_a_version_without_fingerprints_is_refused(kind, run, tmp_path):
    assert run()[0] == 0
    path = tmp_path / "run" / "config.yaml"
    text = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in text if "fingerprints" not in line))
    before = content(tmp_path / "run")
    code, errors = run()
    assert code == 2 and "an earlier version, which kept no fingerprints" in errors
    assert content(tmp_path / "run") == before
    assert run("--overwrite")[0] == 0


# --- the same contents ---


@pytest.mark.slow
def test_overwriting_computes_anew(kind, run, tmp_path):
    folder = tmp_path / "run"
    assert run()[0] == 0
    first, path = lines(kind, folder), folder / kind.ledger
    path.write_text(path.read_text().replace("}\n", ', "old": true}\n'))
    assert run()[0] == 0 and all("old" in record for record in lines(kind, folder))
    assert run("--overwrite")[0] == 0 and lines(kind, folder) == first


@pytest.mark.slow
def test_a_plan_may_grow_and_keeps_what_is_there(kind, run, tmp_path):
    folder, more = tmp_path / "run", [f"--{name}={value}" for name, value in kind.grown.items()]
    assert run()[0] == 0
    kept = (folder / kind.ledger).read_bytes().splitlines()
    assert run(*more)[0] == run(*more, folder="fresh")[0] == 0
    assert set(kept) < set((folder / kind.ledger).read_bytes().splitlines())
    assert lines(kind, folder) == lines(kind, tmp_path / "fresh")
    before = content(folder)
    code, errors = run()
    name, value = next(iter(kind.grown.items()))
    assert code == 2 and f"{name} = {value}, not" in errors and "may only grow" in errors
    assert content(folder) == before


@pytest.mark.slow_but_one
def test_a_second_process_is_refused(kind, run, tmp_path):
    assert run()[0] == 0
    before, folder = content(tmp_path / "run"), tmp_path / "run"
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with RunLock(folder):
            os.write(writing, b"s")
            signal.pause()
    assert os.read(reading, 1)
    code, errors = run("--overwrite")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert code == 2
    assert f"{folder} is in use by process {child} on" in errors.splitlines()[-1]
    (folder / "run.lock").unlink()
    assert content(folder) == before


@pytest.mark.parametrize(
    ("kind", "wrong", "says"),
    [
        (KINDS["prose"], "--temperature=-1", "temperature is -1"),
        (KINDS["prose"], "--top_p=2", "top_p is 2"),
        (KINDS["code"], "--top_k=0", "top_k is 0"),
        (KINDS["code"], "--temperature=.nan", "temperature is nan"),
        (KINDS["study"], "--temperature=.inf", "temperature is inf"),
        (KINDS["study"], "--acceptance_slack=-0.1", "acceptance_slack is -0.1"),
        (KINDS["study"], "--draft_temperature=-1", "draft_temperature is -1"),
        (KINDS["study"], "--coupling=twice", "coupling is 'twice'"),
        (KINDS["lengths"], "--longest=0", "longest is 0"),
    ],
)
def test_settings_that_cannot_be_overwrite_nothing(run, tmp_path, wrong, says):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(f"{HEADER}seed: 0\n")
    (folder / "samples.jsonl").write_text('{"a": 1}\n')
    before = content(folder)
    code, errors = run(wrong, "--overwrite")
    assert code == 2 and says in errors.splitlines()[-1]
    assert content(folder) == before


@pytest.mark.parametrize("kind", [KINDS["code"]])
def test_a_task_without_a_gap_overwrites_nothing(run, data, tmp_path):
    assert run()[0] == 0
    before = content(tmp_path / "run")
    first, *others = data.read_text().splitlines(keepends=True)
    first = json.dumps({**json.loads(first), "canonical_solution": "", "suffix": ""}) + "\n"
    data.write_text("".join([first, *others]))
    code, errors = run("--overwrite")
    assert code == 2 and "has no gap" in errors
    assert content(tmp_path / "run") == before
