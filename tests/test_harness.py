"""The adapter for lm-evaluation-harness: scores are the joint densities, on a task of its own."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import asarm
from asarm import Order
from asarm.loading import load
from asarm.text import encode

pytest.importorskip("lm_eval", reason="lm_eval, the harness, is not installed")

ROOT = Path(__file__).parents[1]
ITEMS = [
    {"question": "To read a file,", "choices": ["call open()", "zq xv kw", "a a a"], "label": 0},
    {"question": "The statement", "choices": ["7 ; ; 7", "is executed", "the the the"], "label": 1},
    {"question": "If the argument is", "choices": ["omitted", "%%%", "} {"], "label": 0},
]
MULTIPLE_CHOICE = """
task: local_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
ROLLING = """
task: local_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: question
metric_list: [{{metric: bits_per_byte}}]
"""
GENERATION = """
task: local_generation
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: "{{{{choices[label]}}}}"
generation_kwargs: {{until: ["."], do_sample: false, temperature: 0.0}}
metric_list: [{{metric: exact_match}}]
"""
TASKS = {"choice": MULTIPLE_CHOICE, "rolling": ROLLING, "generation": GENERATION}


@pytest.fixture(scope="module")
def demo():
    return load("demo", device="cpu")


@pytest.fixture(scope="module")
def harness_model():
    from asarm.evaluation.harness import HarnessModel

    return HarnessModel("demo", device="cpu", batch_size=3, max_length=24)


def asks(*args: str) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def log_likelihood(model, prompt: list[int], target: list[int]) -> float:
    order = Order.left_to_right(len(prompt) + len(target), len(prompt))
    return float(asarm.log_prob(model, torch.tensor([[*prompt, *target]]), order).double().sum())


@pytest.mark.slow
def test_batched_scores_are_joint_densities_whichever_side_has_the_blank(demo, harness_model):
    model, tokenizer = demo
    pairs = [
        ("The list", " is empty"),
        ("The list ", "is empty and so on, for as long as it takes"),
        ("", "One"),
        (" ", "One"),
        ("A file", ""),
        ("def f(a):\n    ", "return a"),
        ("return", "ed."),
    ]
    scores = harness_model.loglikelihood([asks(*pair) for pair in pairs], disable_tqdm=True)
    assert scores[4] == (0.0, True)
    for (context, text), (score, _) in zip(pairs, scores, strict=True):
        if text:
            cut = context.removesuffix(" ") if not context.endswith("    ") else context
            blank = context[len(cut) :]
            prompt = encode(tokenizer, cut) or [tokenizer.eos_token_id]
            expected = log_likelihood(model, prompt, encode(tokenizer, blank + text))
            assert score == pytest.approx(expected, abs=1e-3)


def test_greedy_is_what_greedy_decoding_gives(demo, harness_model):
    model, tokenizer = demo
    prompt = encode(tokenizer, "The return value is the")
    blank = torch.tensor([prompt + [0] * 3])
    order = Order.left_to_right(len(prompt) + 3, len(prompt))
    best = asarm.sample(model, blank, order, "sequential", top_k=1, seed=0).tokens
    words = tokenizer.decode(best[0, len(prompt) :])
    assert encode(tokenizer, words) == best[0, len(prompt) :].tolist()
    partly = tokenizer.decode(best[0, len(prompt) : len(prompt) + 2]) + " zebra"
    scores = harness_model.loglikelihood(
        [asks("The return value is the", text) for text in (words, partly, " zebra")],
        disable_tqdm=True,
    )
    assert [is_greedy for _, is_greedy in scores] == [True, False, False]


def test_long_contexts_are_cut_on_the_left(demo, harness_model):
    model, tokenizer = demo
    context, text = "One, two, three. " * 20, "Four"
    prompt = encode(tokenizer, context.removesuffix(" "))
    target = encode(tokenizer, " " + text)
    expected = log_likelihood(model, prompt[-(24 - len(target)) :], target)
    (found,) = harness_model.loglikelihood([asks(context, text)], disable_tqdm=True)
    assert found[0] == pytest.approx(expected, abs=1e-3)
    ((score, _),) = harness_model.loglikelihood([asks("A", " b" * 40)], disable_tqdm=True)
    expected = log_likelihood(model, encode(tokenizer, "A"), encode(tokenizer, " b" * 40))
    assert score == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("num_words", [1, 30])
def test_rolling_predicts_every_token_once_in_windows(demo, harness_model, num_words):
    model, tokenizer = demo
    text = " ".join(f"word{n} of" for n in range(num_words))
    ids = [tokenizer.eos_token_id, *encode(tokenizer, text)]
    expected, size = 0.0, 24
    for start in range(1, len(ids), size - 1):
        end = min(start + size - 1, len(ids))
        first = max(0, end - size) if start > 1 else 0
        expected += log_likelihood(model, ids[first:start], ids[start:end])
    found = harness_model.loglikelihood_rolling([asks(text), asks("")], disable_tqdm=True)
    assert (len(ids) > size) == (num_words == 30)
    assert found == [pytest.approx(expected, abs=1e-3), 0.0]


def test_what_it_does_not_do_it_says():
    from asarm.evaluation.harness import HarnessModel

    with pytest.raises(ValueError, match="batch_size is many; expected a number.* or auto"):
        HarnessModel("demo", batch_size="many")
    with pytest.raises(ValueError, match="max_length is 1"):
        HarnessModel("demo", max_length=1)


@pytest.mark.parametrize(
    ("asked", "most", "is_"), [("auto", None, 16), ("auto:4", 2, 2), (5, 3, 5)]
)
def test_the_batch_size_may_be_left_to_the_model(asked, most, is_):
    from asarm.evaluation.harness import HarnessModel

    found = HarnessModel("demo", device="cpu", batch_size=asked, max_batch_size=most)
    assert found.batch_size == is_


def test_the_harness_default_device_is_the_cpu_where_there_is_no_gpu(monkeypatch, caplog):
    from asarm.evaluation.harness import HarnessModel

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert HarnessModel("demo", device="cuda:0").model.device.type == "cpu"
    assert "no GPU here for device cuda:0" in caplog.text
    with pytest.raises(ValueError, match="device 'nosuch' cannot be used here"):
        HarnessModel("demo", device="nosuch")


@pytest.mark.slow
def test_wrong_arguments_are_one_line(monkeypatch, capsys):
    from asarm.evaluation import harness

    words = "lm_eval run --model asarm --tasks hellaswag --model_args pretrained=demo,max_length=1"
    monkeypatch.setattr("sys.argv", words.split())
    with pytest.raises(SystemExit) as ended:
        harness.main()
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: max_length is 1; expected at least 2 tokens"


def test_what_cannot_be_generated_is_refused_before_anything_is(harness_model, monkeypatch):
    from asarm.evaluation import harness

    called = []
    monkeypatch.setattr(harness, "continue_texts", lambda *a, **k: called.append(1) or ["x"] * 2)
    good, long = ("a", {"max_gen_toks": 3}), ("b", {"max_gen_toks": 24})
    for bad, says in ((long, "max_gen_toks is 24 with max_length 24"), (("c", {"n": 1}), "hold n")):
        with pytest.raises(ValueError, match=says):
            harness_model.generate_until([asks(*good), asks(*bad)])
    assert not called
    assert harness_model.generate_until([asks(*good)] * 2, disable_tqdm=True) == ["x", "x"]


@pytest.mark.slow
def test_a_task_runs_from_the_command_line(demo, tmp_path):
    model, tokenizer = demo
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    for name, task in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(task.format(file=data))
    out = tmp_path / "out"
    words = (
        f"--model asarm --model_args pretrained=demo --batch_size auto --gen_kwargs max_gen_toks=9 "
        f"--tasks local_choice,local_rolling,local_generation --include_path {tmp_path} "
        f"--output_path {out} --log_samples"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "asarm.evaluation.harness"]
    command += words.split()
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (generated,) = out.rglob("samples_local_generation_*.jsonl")
    for line in generated.read_text().splitlines():
        ((text,),) = json.loads(line)["resps"]
        assert "." not in text and len(encode(tokenizer, text)) <= 9
    (report,) = out.rglob("results_*.json")
    results = json.loads(report.read_text())["results"]
    correct, bits, num_bytes = 0, 0.0, 0
    for item in ITEMS:
        question, end = encode(tokenizer, item["question"]), tokenizer.eos_token_id
        scores = [
            log_likelihood(model, question, encode(tokenizer, f" {choice}"))
            for choice in item["choices"]
        ]
        correct += scores.index(max(scores)) == item["label"]
        bits -= log_likelihood(model, [end], question) / math.log(2)
        num_bytes += len(item["question"].encode())
    assert results["local_choice"]["acc,none"] == pytest.approx(correct / len(ITEMS))
    assert results["local_rolling"]["bits_per_byte,none"] == pytest.approx(bits / num_bytes)
