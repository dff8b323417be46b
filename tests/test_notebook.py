"""The notebook runs from beginning to end, and is shipped without what it printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "asarm" / "notebooks" / "infilling.ipynb"
# in a process of its own, for the machinery of kernels warns of its own accord
EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, kernel_name="here", timeout=300).execute()
nbformat.write(notebook, sys.argv[2])
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook with its outputs, by a kernel of this Python; nothing of the user's is read."""
    folder = tmp_path_factory.mktemp("notebook")
    kernel = folder / "kernels" / "here"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "here", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = {
        **os.environ,
        **{name: str(folder / name.lower()) for name in folders},
        "JUPYTER_PATH": str(folder),
        "JUPYTER_NO_CONFIG": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(NOTEBOOK), str(folder / "executed.ipynb")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / "executed.ipynb", as_version=4)


def printed(executed, source: str) -> str:
    """What the cell printed that has `source` in it."""
    (cell,) = [c for c in executed.cells if c.cell_type == "code" and source in c.source]
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.slow
def test_every_cell_runs_without_a_word_on_stderr(executed):
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_candidates_come_best_first(executed):
    scores = [float(line.split("=")[0]) for line in printed(executed, "one = ").splitlines()]
    assert len(scores) > 1 and scores == sorted(scores, reverse=True)


def test_what_is_nonsense_is_least_probable(executed):
    assert printed(executed, "choices = ").splitlines()[-1].endswith("very happy")


def test_fillings_that_go_together_are_more_probable(executed):
    rows = [line.split(maxsplit=1) for line in printed(executed, "pairs = ").splitlines()]
    log_probs = {fills: float(log_prob) for log_prob, fills in rows}
    assert len(log_probs) == 4
    same, different = (
        [log_probs[str(fills)] for fills in pairs]
        for pairs in ([["i", "i"], ["x", "x"]], [["i", "x"], ["x", "i"]])
    )
    assert min(same) > max(different)


def test_the_evaluation_has_its_rows(executed):
    rows = printed(executed, "infill_prose").splitlines()
    assert len(rows) >= 4 and any(row.endswith("longest sentence copied") for row in rows)


def test_it_is_shipped_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.cell_type == "markdown" or (not cell.outputs and cell.execution_count is None)
