"""Settings of all tests: nothing is fetched, and what hypothesis tries is the same every time."""

import pytest
import torch
from huggingface_hub import constants
from hypothesis import settings

settings.register_profile("laws", deadline=None, derandomize=True, database=None)
settings.load_profile("laws")

torch.set_num_threads(1)  # tiny networks: a second thread costs time, most of all on a busy machine


# whole launchers, real processes, trainings, and enumerations of every outcome
SLOW = {
    *("ablation", "animation", "benchmark", "benchmark_sections", "block_verification"),
    *("code_doubt", "code_left_out", "code_scoring", "code_tasks", "continuation"),
    *("data_held_out", "distribution_of_samplers", "doors", "edges", "gap_lengths", "harness"),
    *("healing", "infill_code", "infilling", "items", "launchers", "lengths", "notebook"),
    *("package", "private_tokenizer", "prose", "readme", "recovery", "rounds", "same_folder"),
    *("sandbox", "sandbox_values", "signals", "speculative_decoding", "stream_network"),
    *("stream_processes", "study", "template", "training", "training_draft_head"),
    *("training_precision", "training_refused", "training_stops", "training_upload", "utf8"),
    *("training_anew", "training_settings", "training_words", "trained_length"),
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path_factory):
    """An empty stand-in of the hub's cache, offline; the folder for models."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder
