"""Training runs in a picture: finished, going on, or several; and what is no run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asarm.run import CONFIG, HEADER
from asarm.training.files import EVALUATIONS, METRICS
from asarm.training.plots import draw, read_curves, smoothed, training_figure

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "plot_training.py"
PNG = b"\x89PNG\r\n\x1a\n"


def make_run(folder, *, steps=60, evaluated=(0, 20, 40, 60), bits=2.0, torn=False):
    folder.mkdir()
    (folder / CONFIG).write_text(HEADER + "dataset: python\n")
    metrics = [
        {
            "step": step,
            "loss": 9 / step if step != 20 else "nan",
            "learning_rate": 1e-3 / step,
            "mask_rate_low": 0.15,
            "mask_rate_high": 0.15 + step / 100,
        }
        for step in range(10, steps + 1, 10)
    ]
    evaluations = [
        {
            "step": step,
            **{f"bits_per_byte_{rate}": bits + rate / (1 + step) for rate in (0.5, 0.15)},
        }
        for step in evaluated
    ]
    for name, records in ((METRICS, metrics), (EVALUATIONS, evaluations)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        if records:
            (folder / name).write_text(lines + '{"step": 70, "lo' * torn)
    return folder


def lines_of(axes):
    return [line.get_xydata() for line in axes.lines]


def test_a_run_is_drawn_as_logged(tmp_path):
    (run,) = read_curves([make_run(tmp_path / "one")])
    figure = draw([run])
    loss, window, rate, low, half = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "training loss",
        "mask-rate window",
        "learning rate",
        "held-out, mask rate 0.15",
        "held-out, mask rate 0.5",
    ]
    steps = np.arange(10, 61, 10)
    (curve,) = lines_of(loss)
    np.testing.assert_allclose(
        curve, np.stack([steps, np.where(steps == 20, np.nan, 9 / steps)], 1)
    )
    np.testing.assert_allclose(
        [c[:, 1] for c in lines_of(window)], [[0.15] * 6, 0.15 + steps / 100]
    )
    np.testing.assert_allclose(lines_of(rate)[0][:, 1], 1e-3 / steps)
    for axes, share in ((low, 0.15), (half, 0.5)):
        (curve,) = lines_of(axes)
        np.testing.assert_allclose(curve[:, 1], 2 + share / (1 + curve[:, 0]))
        assert axes.get_ylabel() == "bits per byte"
    assert half.get_xlabel() == rate.get_xlabel() == "step"
    assert figure.get_suptitle() == "one" and not figure.legends


def test_several_runs_have_a_colour_each_and_a_legend(tmp_path):
    folders = [make_run(tmp_path / f"{i}", bits=i, steps=60 - 10 * (i % 2)) for i in range(9)]
    figure = draw(read_curves(folders))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [folder.name for folder in folders]
    styles = [(line.get_color(), line.get_linestyle()) for line in legend.get_lines()]
    assert len(set(styles)) == 9
    for axes in figure.axes:
        lines = [(line.get_color(), line.get_linestyle()) for line in axes.lines]
        assert lines[:: len(lines) // 9] == styles


def test_runs_in_folders_of_one_name_are_told_apart(tmp_path):
    folders = []
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        folders.append(make_run(tmp_path / parent / "run"))
    assert [run.name for run in read_curves(folders)] == [str(folder) for folder in folders]


def test_faint_steps_behind_a_smoothed_line(tmp_path):
    figure = draw(read_curves([make_run(tmp_path / "long", steps=2000)]))
    raw, line = figure.axes[0].lines
    assert raw.get_alpha() < 0.5 and line.get_alpha() is None
    assert raw.get_color() == line.get_color()


@pytest.mark.parametrize("half", [0, 1, 5, 100])
def test_smoothing(half):
    values = np.random.default_rng(0).normal(size=40)
    found = smoothed(values, half)
    for i, value in enumerate(found):
        reach = min(half, i)
        assert value == pytest.approx(values[i - reach : i + reach + 1].mean())
    np.testing.assert_allclose(smoothed(np.full(9, 3.0), half), 3)
    holes = smoothed(np.array([np.nan, 1, np.inf, 3]), half)
    assert np.isnan(holes[0]) and holes[1] == 1
    assert smoothed(np.array([]), half).shape == (0,)


@pytest.mark.slow_but_one
@pytest.mark.parametrize(
    "made",
    [
        {"torn": True},
        {"evaluated": ()},
        {"evaluated": (), "steps": 10},
        {"steps": 0, "evaluated": (0,)},
    ],
)
def test_runs_that_go_on(tmp_path, made):
    make_run(tmp_path / "new", **made)
    runs = read_curves([tmp_path / "new"])
    assert training_figure(runs).startswith(PNG)
    texts = [text.get_text() for axes in draw(runs).axes for text in axes.texts]
    assert ("no held-out evaluation yet" in texts) == (not made.get("evaluated", True))
    both = [runs[0], *read_curves([make_run(tmp_path / "old")])]
    assert training_figure(both).startswith(PNG)


def run_script(*arguments, options=()):
    return subprocess.run(
        [sys.executable, *options, SCRIPT, *arguments],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_script_writes_a_picture_and_loads_no_torch(tmp_path):
    out = tmp_path / "picture.png"
    done = run_script(make_run(tmp_path / "one"), "--out", out, options=["-X", "importtime"])
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(PNG)
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "matplotlib.figure" in loaded
    assert not loaded & {"torch", "transformers", "datasets"}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "holds no config.yaml of a run"),
        (lambda folder: make_run(folder, steps=0, evaluated=()), "has logged no training step yet"),
        (
            lambda folder: (make_run(folder) / CONFIG).write_text("a: b"),
            "holds no config.yaml of a",
        ),
        (lambda folder: (make_run(folder) / METRICS).write_text("{\n{}\n"), "line 1 is not JSON"),
    ],
)
def test_what_is_no_run_is_refused_in_a_line(tmp_path, make, message):
    folder = tmp_path / "folder"
    make(folder)
    with pytest.raises(ValueError, match=message) as refused:
        read_curves([folder])
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


@pytest.mark.slow
def test_script_refuses_in_a_line(tmp_path):
    run = make_run(tmp_path / "run")
    for arguments, message in [
        ((run, "--out", "x.pdf"), "expected a name.png in a folder that exists"),
        ((run, "--out", tmp_path / "no" / "x.png"), "expected a name.png in a folder that exists"),
        ((tmp_path / "absent",), "does not exist"),
    ]:
        done = run_script(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert message in done.stderr
