"""The upload of a finished model: asked about when the run begins, made when it is over."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import FakeHub
from huggingface_hub.errors import OfflineModeIsEnabled
from kills import tiny

from asarm.training import export
from asarm.training.loop import train


@pytest.fixture
def online(monkeypatch):
    found = FakeHub()
    monkeypatch.setattr(export, "HfApi", lambda: found)
    return found


@pytest.mark.slow_but_one
@pytest.mark.parametrize(
    ("name", "whole"),
    [("someone/x", "someone/x"), ("a-lab/x", "a-lab/x"), ("x", "someone/x")],
)
def test_the_upload_holds_the_model_and_nothing_else(online, tmp_path, name, whole):
    config = tiny(tmp_path, max_steps=1, push_to_hub=name)
    assert train(config).is_finished
    (upload,) = online.uploads
    assert upload["repo_id"] == whole
    assert Path(upload["folder_path"]) == Path(config.output_dir)
    assert "model.safetensors" not in upload["allow_patterns"]  # by pattern
    assert not {"*", "metrics.jsonl", "checkpoints/*"} & set(upload["allow_patterns"])
    assert name in Path(config.output_dir, "README.md").read_text()


def raising(error):
    def act(*arguments, **options):
        raise error

    return act


@pytest.mark.slow
def test_an_upload_that_fails_says_so_and_the_model_is_there(online, tmp_path):
    online.upload_folder = raising(ConnectionError("no route to host"))
    config = tiny(tmp_path, max_steps=1, push_to_hub="someone/x")
    with pytest.raises(ValueError, match="cannot upload to someone/x .*the same command again"):
        train(config)
    assert Path(config.output_dir, "model.safetensors").exists()
    del online.upload_folder
    assert train(config).is_finished and len(online.uploads) == 1


def status(code: int) -> Exception:
    error = OSError(f"{code} says the hub")
    error.response = SimpleNamespace(status_code=code)  # as the client's errors have it
    return error


@pytest.mark.parametrize("name", ["two words", "a/b/c", "-x", "someone/x.git", "x" * 97])
def test_a_name_that_no_model_can_have_is_refused_at_the_start(online, tmp_path, name):
    refused(tmp_path, name, f"push_to_hub is {name!r}, and .*; expected OWNER/NAME and a login")


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ({"name": "else"}, "else, who is logged in, is not someone and not of that organisation"),
        ({"name": "someone", "auth": {"accessToken": {"role": "read"}}}, "someone may only read"),
    ],
)
def test_who_may_not_write_is_refused_at_the_start(online, tmp_path, who, says):
    online.who = who
    refused(tmp_path, "someone/x", says)


@pytest.mark.parametrize("code", [401, 403])
def test_a_login_that_does_not_hold_is_refused_at_the_start(online, tmp_path, code):
    online.whoami = raising(status(code))
    refused(tmp_path, "someone/x", f"{code} says the hub; expected .*`hf auth login`")


def test_where_nobody_is_logged_in_it_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_api.get_token", lambda: None)
    refused(tmp_path, "someone/x", "no token found.*; expected .*`hf auth login`")


def refused(folder: Path, name: str, says: str) -> None:
    config = tiny(folder, push_to_hub=name)
    with pytest.raises(ValueError, match=says) as info:
        train(config)
    assert "\n" not in str(info.value)
    assert not Path(config.output_dir).exists()  # before anything is done


@pytest.mark.slow_but_one
@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), status(503), OfflineModeIsEnabled("off")], ids=str
)
def test_a_hub_that_cannot_be_asked_now_is_asked_at_the_end(online, tmp_path, capsys, error):
    online.whoami = raising(error)
    assert train(tiny(tmp_path, max_steps=1, push_to_hub="someone/x")).is_finished
    assert "the hub cannot be reached now" in capsys.readouterr().out
    assert len(online.uploads) == 1


def test_an_error_of_the_program_is_not_taken_for_one_of_the_hub(online, tmp_path):
    online.whoami = raising(KeyError("fault"))
    with pytest.raises(KeyError):
        train(replace(tiny(tmp_path), push_to_hub="someone/x"))
