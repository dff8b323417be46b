"""What looks like a path is a path: it is never looked for on the hub."""

from dataclasses import replace

import pytest

from asarm.data import DataConfig, is_finite, open_blocks
from asarm.data.hub import open_dataset

PATHS = [
    *("./nowhere", "../nowhere", "/no/such/folder", "~/no/such/file.jsonl", "~"),
    *("missing.txt", "nosuch.csv", "corpus.tx", "a.TXT", "b.jsonl.gz", "user/data.parquet"),
    *("my_texts/", "user/texts/", "a/b/c", "*.txt", "a.txt,b.txt", "my texts", "C:\\texts"),
    *("here/missing", "x" * 300),
]
NAMES = ["imdb", "Skylion007/openwebtext", "bigcode/starcoderdata", "user/wiki-v1.1"]


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    return DataConfig(length=16, cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("dataset", PATHS)
def test_paths_that_are_not_there_are_refused_at_once(config, monkeypatch, dataset):
    monkeypatch.setattr("asarm.data.hub.open_dataset", None)  # would fail if it were called
    assert is_finite(dataset)
    if dataset != "~":  # which is there
        with pytest.raises(ValueError, match=r"dataset .* does not exist"):
            open_blocks(replace(config, dataset=dataset), None, seed=0, global_batch_size=1)


@pytest.mark.parametrize("dataset", NAMES)
def test_names_are_looked_for_on_the_hub_and_that_is_said_first(
    config, monkeypatch, capsys, dataset
):
    def unreachable(config):
        raise ValueError("the hub was asked")

    monkeypatch.setattr("asarm.data.hub.open_dataset", unreachable)
    assert not is_finite(dataset)
    with pytest.raises(ValueError, match="the hub was asked"):
        open_blocks(replace(config, dataset=dataset), None, seed=0, global_batch_size=1)
    said = capsys.readouterr().err
    assert said == f"{dataset} is not a local file or folder: looking for it on the hub\n"


def test_what_is_there_is_a_path_whatever_its_name(config, tmp_path, capsys):
    (tmp_path / "imdb").mkdir()
    assert is_finite("imdb")
    with pytest.raises(ValueError, match=r"is .*imdb meant\?"):
        open_blocks(replace(config, dataset="./imbd"), None, seed=0, global_batch_size=1)


def test_a_home_that_is_not_is_refused(config):
    with pytest.raises(ValueError, match="dataset is ~nobody_of_that_name/x"):
        is_finite("~nobody_of_that_name/x")


@pytest.mark.parametrize("dataset", ["s3://bucket/a.jsonl", "file:///a.txt", "hf://datasets/a/b"])
def test_other_addresses_are_refused(dataset):
    assert not is_finite(dataset)
    with pytest.raises(ValueError, match="expected a local path, an address that begins with http"):
        open_dataset(DataConfig(dataset=dataset))
