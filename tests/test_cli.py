"""Settings from flags and files, and how scripts end."""

from dataclasses import dataclass, field

import pytest

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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--k", "x"], "k is 'x'; expected int or null"),
        (["--sizes", "a"], "sizes is 'a'; expected int"),
        (["--unknown", "3"], "unrecognized arguments: --unknown 3"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--methods"], "methods"),
    ],
)
def test_wrong_settings_end_in_one_line(monkeypatch, capsys, arguments, says):
    with pytest.raises(SystemExit) as ended:
        settings_of(monkeypatch, *arguments)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1


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
