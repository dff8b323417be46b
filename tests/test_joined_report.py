"""Runs of any kind on one page, with the published figures beside them."""

import json
import re
import runpy
from dataclasses import asdict
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from asarm.display.tables import markdown_image
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.excerpts import excerpts
from asarm.evaluation.gap_lengths.config import GapLengthsConfig
from asarm.evaluation.joined import join, read_run
from asarm.evaluation.programs.config import InfillCodeConfig
from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.published import beside_ours, kind_of
from asarm.run import Run, read_kind

SCRIPT = Path(__file__).parent.parent / "scripts" / "report.py"
PNG = b"\x89PNG and more"
SINGLE_LINE = InfillCodeConfig(dataset="single-line")
ESTIMATE = {"mean": 0.5, "error": 0.25}
DECODED = {
    **{"item": 0, "model": "demo", "method": "onepass", "steps": None, "lossless": True},
    **{"nfe": 3, "num_targets": 2, "tokens": [1, 2, 3, 4], "prompt": [0, 3]},
    **{"text": "one <two> three * four", "given": [[0, 4], [15, 22]]},
}
PAGE = "# A title\n\nA note.\n\n![quality](quality.png)\n\n## Against sequential\n\n| a |\n"


def finished(folder: Path, config, *, page=PAGE, summary=None, **files) -> Path:
    """A run's folder as an evaluation leaves it."""
    run = Run.open(folder, config)
    run.write("report.md", page)
    run.write("summary.json", summary or {})
    run.write("quality.png", PNG)
    for name, lines in files.items():
        run.write_lines(f"{name}.jsonl", lines)
    return folder


def decoding(folder: Path, **changes) -> Path:
    row = {"model": "demo", "method": "assd", "judge_perplexity": ESTIMATE, "seconds": ESTIMATE}
    row |= {"judge_entropy": None, "nfe_per_target": ESTIMATE, "tokens_per_round": ESTIMATE}
    return finished(
        folder, DecodingConfig(), summary={"variants": [row]}, samples=[DECODED], **changes
    )


def test_runs_of_all_kinds_make_one_page(tmp_path):
    prose = {"item": 0, "protocol": "middle", "variant": "onepass", "trial": 0}
    prose |= {"prediction": "A *starred* cat.", "reference": "The dog."}
    stories = {"tables": [{"title": "short_prompt: three", "rows": []}]}
    code = {"task_id": "t/1", "completion": "    return a < b\n", "result": "passed"}
    folders = [
        decoding(tmp_path / "first"),
        finished(tmp_path / "second", DecodingConfig(grid={"k": [1]})),
        finished(tmp_path / "third", InfillProseConfig(), summary=stories, samples=[prose]),
        finished(tmp_path / "fourth", SINGLE_LINE, results=[code]),
    ]
    out = tmp_path / "pages" / "all.md"
    out.parent.mkdir()
    join(folders, out)
    page = out.read_text()
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        f"## {n}. A title" for n in (1, 2, 3, 4)
    ]
    assert page.count("# Evaluation report") == 1
    assert page.count("### Against sequential") == 4
    assert page.count("### Sampled texts") == 3
    assert page.count("### Published figures") == 3
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)
    assert len(images) == len(set(images)) == 4
    assert all((out.parent / image).read_bytes() == PNG for image in images)
    assert r"<b>A \*starred\* cat.</b> (reference: The dog.)" in page
    assert "<b>    return a &lt; b\n</b>" in page and "t/1: passed" in page


def test_what_was_filled_in_is_bold_and_the_rest_is_as_it_was(tmp_path):
    page = "\n".join(excerpts(Run(decoding(tmp_path / "run")), asdict(DecodingConfig())))
    (text,) = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert text == "one <b>&lt;two&gt; three</b> * four"
    assert unescape(re.sub("</?b>", "", text)) == DECODED["text"]
    assert "3 network calls for 2 blanks" in page


@pytest.mark.parametrize("seed", range(5))
def test_long_lines_are_wrapped_at_blanks_only(tmp_path, seed):
    words = " ".join("x" * (1 + (seed + 3 * n) % 13) for n in range(90))
    record = {**DECODED, "text": words, "given": [[0, 4], [300, len(words)]]}
    run = Run(finished(tmp_path / "run", DecodingConfig(), samples=[record]))
    page = "\n".join(excerpts(run, asdict(DecodingConfig())))
    (text,) = re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
    plain = re.sub("</?b>", "", text)
    assert plain.replace("\n", " ") == words
    assert max(map(len, plain.split("\n"))) <= 101


def test_texts_of_few_trials_and_every_model_are_shown(tmp_path):
    samples = [
        {
            **DECODED,
            "item": item,
            "model": model,
            "method": method,
            "lossless": method != "parallel",
        }
        for item in range(5)
        for model in ("demo", "other")
        for method, lossless in (("sequential", True), ("onepass", True), ("parallel", False))
    ]
    run = Run(finished(tmp_path / "run", DecodingConfig(), samples=samples))
    titles = [line for line in excerpts(run, asdict(DecodingConfig())) if line.startswith("Trial")]
    assert [title.split(":")[0] for title in titles] == [
        *("Trial 0, demo, onepass", "Trial 0, demo, parallel"),
        *("Trial 0, other, onepass", "Trial 0, other, parallel"),
        *("Trial 1, demo, onepass", "Trial 1, other, onepass"),
    ]


VARIANTS = ["onepass, oracle length", "left context only, oracle length", "a baseline"]


def lines_of(names, **common):
    """Lines as a finished run has them: by item, and by the variant's name."""
    return [
        {"item": item, "variant": name, "trial": trial, **common}
        | {"prediction": f"{name[:3]} {item}.{trial}", "completion": f"{name[:3]} {item}.{trial}"}
        | {"task_id": f"t/{item}"}
        for item in range(3)
        for name in sorted(names)
        for trial in range(2)
    ]


def test_texts_are_those_of_the_first_variant_of_the_plan_and_name_it(tmp_path):
    rows = [{"name": name} for name in VARIANTS]
    tables = {"tables": [{"title": "middle: a", "rows": rows}]}
    prose = finished(
        tmp_path / "prose",
        InfillProseConfig(),
        summary=tables,
        samples=[
            *lines_of(VARIANTS, protocol="middle", reference="r"),
            *lines_of(VARIANTS[1:], protocol="short_prompt", reference="r"),
        ],
    )
    page = "\n".join(excerpts(Run(prose), asdict(InfillProseConfig()), tables))
    assert "middle, onepass, oracle length:\n\n- <b>one 0.0</b>" in page
    assert "short\\_prompt, left" in page or "short_prompt, left context only" in page
    assert "a b" not in page and ".1<" not in page

    code = {"variants": [{"name": name, "rates": []} for name in VARIANTS]}
    lines = lines_of(VARIANTS, result="passed")
    folder = finished(tmp_path / "code", SINGLE_LINE, summary=code, results=lines)
    join([folder], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "onepass, oracle length:" in page and page.count("<pre>") == 3
    assert "<b>one 0.0</b>" in page and "<b>lef" not in page and "<b>a b" not in page


def test_published_figures_are_marked_and_ours_stand_beside_them(tmp_path):
    run = read_run(decoding(tmp_path / "run"))
    page = "\n".join(beside_ours(run.settings, run.summary))
    assert "not run here" in page and "published, not run" in page
    assert "| assd: judge PPL | 107.6 ± 1.6 | 0.5 ± 0.2 |" in page
    assert "| sequential: judge PPL | 107.9 ± 1.6 | - |" in page
    assert "| assd: judge entropy | 7.64 | - |" in page
    assert "dataset = heldout" in page
    rows = [{"scores": {"rouge1": {"mean": 17.25, "error": None}}}]
    tables = [{"title": "middle: a", "rows": []}, {"title": "short_prompt: b", "rows": rows}]
    page = "\n".join(beside_ours(asdict(InfillProseConfig()), {"tables": tables}))
    assert "ROUGE-1 | 18.0 | 17.2 |" in page
    rate = {"variants": [{"rates": [{"k": 1, "all": {"mean": 0.4}}]}]}
    page = "\n".join(beside_ours(asdict(SINGLE_LINE), rate))
    assert "| 38.59 | 40.00 |" in page
    nothing = [{"tables": tables[1:]}, {"variants": []}, {"variants": [{"rates": []}]}]
    nothing[0]["tables"][0]["rows"] = []
    for config, summary in zip(
        (InfillProseConfig(), DecodingConfig(), SINGLE_LINE), nothing, strict=True
    ):
        assert any(line.endswith("| - |") for line in beside_ours(asdict(config), summary))


def test_there_are_no_published_figures_of_other_things():
    assert kind_of({"seed": 0}) is None and beside_ours({"seed": 0}, {}) == []
    endings = {"tables": [{"title": "the ending that follows", "rows": []}]}
    assert beside_ours(asdict(InfillProseConfig(dataset="hellaswag")), endings) == []
    assert beside_ours(asdict(InfillCodeConfig(dataset="bundled")), {"variants": []}) == []
    assert beside_ours(asdict(DecodingConfig(grid={"k": [1]})), {"cells": []}) == []


def test_folders_of_one_name_keep_their_own_figures(tmp_path):
    folders = [decoding(tmp_path / parent / "run") for parent in ("a", "b")]
    (folders[1] / "quality.png").write_bytes(b"another")
    join(folders, tmp_path / "page.md")
    found = {path.read_bytes() for path in (tmp_path / "page_figures").iterdir()}
    assert found == {PNG, b"another"}


@pytest.mark.parametrize("name", ["a b.md", "ü (1).md", "50% & <more> #2.md"])
def test_images_are_shown_whatever_the_names_hold(tmp_path, name):
    folder = decoding(tmp_path / "my run [1]", page=PAGE)
    out = tmp_path / "out dir" / name
    out.parent.mkdir()
    join([folder], out)
    (image,) = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", out.read_text())
    assert not set(image) & set(" <>()")  # what CommonMark ends or refuses a path at
    assert (out.parent / unquote(image)).read_bytes() == PNG


def test_words_of_an_image_hold_no_brackets():
    assert markdown_image("m on a [b] c\\", "d e.png") == "![m on a (b) c](d%20e.png)"


@pytest.fixture
def report(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return call


def test_the_script_writes_the_page(report, tmp_path):
    folder, out = decoding(tmp_path / "run"), tmp_path / "page.md"
    code, output, errors = report(folder, "--out", out)
    assert code == 0, errors
    assert str(out) in output
    assert out.read_text().startswith("# Evaluation report\n")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda run: (run / "config.yaml").unlink(), "is not a run folder"),
        (lambda run: (run / "config.yaml").write_text("a: 1\n"), "is not a run folder"),
        (lambda run: (run / "summary.json").unlink(), "is not finished: it has no summary.json"),
        (lambda run: (run / "report.md").unlink(), "is not finished: it has no report.md"),
        (lambda run: (run / "quality.png").unlink(), "quality.png is not there"),
        (lambda run: (run / "samples.jsonl").write_text("{\n"), "samples.jsonl is damaged"),
        (lambda run: (run / "summary.json").write_text("{"), "summary.json is damaged"),
    ],
)
def test_what_is_no_finished_run_is_one_line(report, tmp_path, break_it, says):
    folder, good = decoding(tmp_path / "run"), decoding(tmp_path / "good")
    break_it(folder)
    code, _, errors = report(good, folder, "--out", tmp_path / "page.md")
    assert code == 2
    assert says in errors and str(folder) in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "page.md").exists()


def test_a_run_of_training_is_called_one(report, tmp_path):
    folder = tmp_path / "my run"
    Run.open(folder, DecodingConfig()).append("metrics.jsonl", {"step": 1})
    code, _, errors = report(folder, "--out", tmp_path / "page.md")
    assert code == 2 and "is a run of training" in errors and errors.count("\n") == 1
    assert f"plot_training.py '{folder}'" in errors


def test_other_wrong_arguments_are_one_line(report, tmp_path):
    assert "is not a run folder" in report(tmp_path / "nowhere")[2]
    folder = decoding(tmp_path / "run")
    assert "ends in .md" in report(folder, "--out", tmp_path / "page.txt")[2]
    code, _, errors = report(folder, "--out", tmp_path / "no" / "page.md")
    assert code == 2 and "page" in errors and errors.count("\n") == 1
    assert json.loads((folder / "summary.json").read_text())


def test_a_run_of_gap_lengths_has_a_page_whose_summary_is_a_list(tmp_path):
    folder = finished(tmp_path / "gaps", GapLengthsConfig(), summary=[{"kind": "prose"}])
    join([folder], tmp_path / "all.md")
    assert "## 1. A title" in (tmp_path / "all.md").read_text()


def test_a_run_says_its_kind_and_an_earlier_one_is_known_by_its_settings(tmp_path):
    code = {"task_id": "t/1", "completion": "pass", "variant": "v", "item": 0, "trial": 0}
    said, unsaid = (Run.open(tmp_path / name, SINGLE_LINE, kind=kind)
                    for name, kind in (("said", "code"), ("unsaid", None)))  # fmt: skip
    assert (read_kind(said.folder), read_kind(unsaid.folder)) == ("code", None)
    assert read_kind(tmp_path) is None
    for run in (said, unsaid):
        run.write_lines("generations.jsonl", [code])
        assert any("t/1" in line for line in excerpts(run, asdict(SINGLE_LINE)))
    assert any("t/1" in line for line in excerpts(said, {}))
    assert excerpts(unsaid, {}) == []
    said.close()
    assert said.holds(SINGLE_LINE)
    assert read_kind(Run.open(tmp_path / "said", SINGLE_LINE, kind="code").folder) == "code"
