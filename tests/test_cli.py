"""Settings from flags and files, and how scripts end."""

import os
import threading
from dataclasses import dataclass, field
from itertools import chain

import pytest

from asarm import presets
from asarm.cli import brief, launch


@dataclass
class Settings:
    """Something to do.

    Args:
        methods: names.
        sizes: numbers.
        k: a number, or null.
        share: a share.
        overwrite: a switch.
    """

    methods: list[str] = field(default_factory=lambda: ["assd"])
    sizes: list[int] = field(default_factory=lambda: [1])
    k: int | None = None
    share: float = 0.5
    overwrite: bool = False


def settings_of(monkeypatch, *arguments) -> Settings:
    found = []
    monkeypatch.setattr("sys.argv", ["script", *arguments])
    launch(found.append, Settings)
    return found[0]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--methods", "a,b", "--sizes", "3"],
        ["--methods", "a", "b", "--sizes", "3", "--k", "null"],
        ["--methods=a,b", "--sizes=3"],
        ["--methods", "[a, b]", "--sizes=[3]"],
        ["--methods", "a,", "b", "--sizes", "3,"],
        ["--methods=a, b,", "--sizes", "[", "3", "]"],
    ],
)
def test_lists_may_be_written_in_every_usual_way(monkeypatch, arguments):
    assert settings_of(monkeypatch, *arguments) == Settings(methods=["a", "b"], sizes=[3])


@pytest.mark.parametrize("switch", [["--overwrite"], ["--overwrite=true"], ["--overwrite", "true"]])
def test_a_switch_needs_no_value(monkeypatch, switch):
    wanted = Settings(k=2, overwrite=True)
    assert settings_of(monkeypatch, *switch, "--k", "2") == wanted


def test_flags_win_over_files(monkeypatch, tmp_path):
    (tmp_path / "preset.yaml").write_text("# a preset\nk: 3\nmethods: [x]\n")
    found = settings_of(monkeypatch, "--config", str(tmp_path / "preset.yaml"), "--k", "4")
    assert found == Settings(methods=["x"], k=4)


@pytest.mark.parametrize("place", range(4))
def test_flags_win_over_files_wherever_they_stand(monkeypatch, tmp_path, place):
    (tmp_path / "first.yaml").write_text("k: 1\nshare: 0.1\nsizes: [7]\n")
    (tmp_path / "second.yaml").write_text("k: 3\nshare: 0.3\nmethods: [x]\n")
    files = [f"--config={tmp_path / 'first.yaml'}", "--config", str(tmp_path / "second.yaml")]
    flags = [["--k=4"], ["--methods", "y"], ["--overwrite"]]
    arguments = [*flags[:place], files, *flags[place:]]
    found = settings_of(monkeypatch, *chain(*arguments))
    assert found == Settings(methods=["y"], sizes=[7], k=4, share=0.3, overwrite=True)


def test_settings_may_stand_in_place_of_a_file(monkeypatch):
    assert settings_of(monkeypatch, "--k", "4", "--config", "{k: 3, sizes: [2]}") == Settings(
        sizes=[2], k=4
    )


@pytest.mark.parametrize("value", ["-1e-3", "-0.5", "-.5", "-2", "-1E5"])
def test_a_number_below_zero_is_a_value(monkeypatch, value):
    assert settings_of(monkeypatch, "--share", value).share == float(value)


def test_a_preset_of_the_checkout_is_found_from_anywhere(monkeypatch, tmp_path):
    monkeypatch.setattr(presets, "CHECKOUT", tmp_path / "checkout")
    (tmp_path / "checkout/configs").mkdir(parents=True)
    (tmp_path / "checkout/configs/a.yaml").write_text("k: 3\n")
    monkeypatch.chdir(tmp_path)
    assert settings_of(monkeypatch, "--config", "configs/a.yaml").k == 3
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/a.yaml").write_text("k: 5\n")
    assert settings_of(monkeypatch, "--config=configs/a.yaml").k == 5  # what is here comes first


FILES = [
    (b"", "holds no settings; expected lines such as `seed: 1`"),
    (b"# nothing but a comment\n", "holds no settings"),
    (b"{}\n", "holds no settings"),
    (b"- k\n- 3\n", "holds no mapping"),
    (b"k\n", "holds no mapping"),
    (b"k: 3\nshare: 0.1\nk: 4\n", "has k twice, in lines 1 and 3; leave one"),
    (b"k: 3\n'k': 3\n", "has k twice, in lines 1 and 2"),
    (b"methods: {a: 1, b: {c: 1, c: 2}}\n", "has c twice"),
    (b"methods: [caf\xe9]\n", "is not UTF-8 (byte 14 is 0xe9); save it as UTF-8"),
    ("k: 3\n".encode("utf-16"), "is not UTF-8"),
    (b"k: [3\n", "is not YAML"),
    (b"k: \0\n", "is not YAML"),
    (b"other: 3\n", "other"),
]


@pytest.mark.parametrize(("content", "says"), FILES, ids=str)
def test_files_that_mislead_are_refused_in_one_line(monkeypatch, capsys, tmp_path, content, says):
    (tmp_path / "a.yaml").write_bytes(content)
    assert says in refusal(monkeypatch, capsys, "--config", str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfk: 3\r\n", b"---\nk: 3\n", b"k: 3"])
def test_files_that_are_only_written_otherwise_are_read(monkeypatch, tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    assert settings_of(monkeypatch, "--config", str(tmp_path / "a.yaml")).k == 3


def test_a_pipe_is_read_once(monkeypatch, tmp_path):
    """As `--config <(...)` gives it."""
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=["k: 3\n"])
    writer.start()
    assert settings_of(monkeypatch, "--config", str(tmp_path / "pipe")).k == 3
    writer.join()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--k", "x"], "k is 'x'; expected int or null"),
        (["--sizes", "a"], "sizes is 'a'; expected int"),
        (["--unknown", "3"], "unrecognized arguments: --unknown 3"),
        (["--config", "nowhere.yaml"], "--config is nowhere.yaml, and there is no such file"),
        (["--config", "nowhere.yaml"], f"; presets are in {presets.PRESETS}"),
        (["--config", "/"], "--config is /, a folder"),
        (["--k", "3", "--config"], "--config has no value"),
        (["--config="], "--config has no value"),
        (["--methods"], "--methods has no value; expected some, or [] for none"),
        (["--methods=", "--k=3"], "--methods has no value"),
        (["--k", "-x"], "k"),
    ],
)
def test_wrong_settings_end_in_one_line(monkeypatch, capsys, arguments, says):
    assert says in refusal(monkeypatch, capsys, *arguments)


def refusal(monkeypatch, capsys, *arguments) -> str:
    """The one line in which a script ends."""
    with pytest.raises(SystemExit) as ended:
        settings_of(monkeypatch, *arguments)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_brief_keeps_what_it_does_not_know():
    assert brief("a\n  b") == "a b"


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ValueError("k is 0\nand more"), 2, "error: k is 0\n"),
        (OSError("disk full"), 2, "error: disk full\n"),
        (KeyboardInterrupt(), 130, "\nstopped; the same command goes on from here\n"),
    ],
)
def test_how_a_script_ends(monkeypatch, capsys, error, code, says):
    def main(_):
        raise error

    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(SystemExit) as ended:
        launch(main, Settings)
    assert ended.value.code == code
    assert capsys.readouterr().err == says


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch):
    def main(_):
        raise KeyError("fault")

    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(KeyError):
        launch(main, Settings)
