"""Settings of all tests: nothing is fetched, and what hypothesis tries is the same every time."""

import pytest
import torch
from huggingface_hub import constants
from hypothesis import settings

settings.register_profile("laws", deadline=None, derandomize=True, database=None)
settings.load_profile("laws")

torch.set_num_threads(1)  # tiny networks: a second thread costs time, most of all on a busy machine


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path_factory):
    """An empty stand-in of the hub's cache, offline; the folder for models."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder
