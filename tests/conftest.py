"""Settings of all tests: nothing is fetched, and what hypothesis tries is the same every time."""

import pytest
import torch
from huggingface_hub import constants
from hypothesis import settings

settings.register_profile("laws", deadline=None, derandomize=True, database=None)
settings.load_profile("laws")

torch.set_num_threads(1)  # tiny networks: a second thread costs time, most of all on a busy machine


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    """Of a test marked `slow_but_one` all cases are slow but the first."""
    seen = set()
    for item in items:
        test = item.path, getattr(item, "originalname", None)
        if item.get_closest_marker("slow_but_one") and test in seen:
            item.add_marker(pytest.mark.slow)
        seen.add(test)


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path_factory):
    """An empty stand-in of the hub's cache, offline; the folder for models."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder
