"""`python -m asarm infill`, and what all commands share: settings, help, and how they end."""

import io
import json
import re
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from rich.console import Console

import asarm
from asarm import __main__ as command_line
from asarm.command.config import AnimateSettings, InfillSettings
from asarm.command.infill import highlighted, show
from asarm.command.reading import parse_length, read_texts
from asarm.display.spans import FILLED
from asarm.infilling import Candidate, Fill, Infilling

ROOT = Path(__file__).parent.parent
TEXT = "Return the ___ of the file, or ___ if it does not exist."


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command line in this process: its exit code, and what it printed where."""

    def run(*arguments: str, given: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["asarm", *arguments])
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
        code = 0
        try:
            command_line.main()
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


def json_of(call, *arguments: str, given: bytes = b"") -> list[dict]:
    code, out, err = call("infill", "--json", "--num_samples", "2", *arguments, given=given)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def demo():
    return asarm.load("demo")


@pytest.mark.slow
def test_json_is_what_the_library_gives(call, demo):
    options = ["--length", "2-4,1", "--seed", "3", "--best_of", "4", "--temperature", "0.8"]
    wanted = asarm.infill(
        *demo, TEXT, length=[(2, 4), 1], seed=3, num_samples=2, best_of=4, temperature=0.8
    )
    assert json_of(call, TEXT, *options) == [json.loads(json.dumps(asdict(wanted)))]


def test_several_texts_have_a_line_each(call):
    texts = ["return ___ + 1", "def ___(self):"]
    found = json_of(call, *texts, "--length", "2")
    assert [one["parts"] for one in found] == [["return ", " + 1"], ["def ", "(self):"]]


@pytest.mark.slow
def test_a_file_and_standard_input_are_texts_too(call, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode() + b"\n")
    wanted = json_of(call, TEXT, "--length", "1")
    assert json_of(call, "--file", str(path), "--length", "1") == wanted
    assert json_of(call, "--length", "1", given=TEXT.encode() + b"\r\n") == wanted


def test_the_marker_may_be_chosen_and_escaped(call):
    (found,) = json_of(call, "a ___ b ?? c \\?? d", "--blank", "??", "--length", "1")
    assert found["parts"] == ["a ___ b ", " c ?? d"]


def test_the_table_shows_every_text_as_it_is(call):
    text = "\x1b[2J[red]the[/red] ___ :smile: \x1b[31mof"
    code, out, err = call("infill", text, "--length", "1", "--num_samples", "1")
    assert (code, err) == (0, "")
    assert "�[2J[red]the[/red] " in out and " :smile: �[31mof" in out
    assert "\x1b" not in out


def two_blanks() -> Infilling:
    fills = [Fill("[b]", 2, [1, 2], -1.5, -0.75), Fill("two", 1, [3], -2.25, -2.25)]
    candidate = Candidate("a [b], two!", fills, -4.5, -3.75, -0.75, -1.25, 7, 30)
    return Infilling(["a ", ", ", "!"], [candidate], [{1: 0.0}, {1: 0.0}], 0)


def test_what_was_filled_in_stands_out():
    infilling = two_blanks()
    text = highlighted(infilling.parts, infilling.candidates[0])
    assert text.plain == "a [b], two!"
    filled = [text.plain[s.start : s.end] for s in text.spans if s.style == FILLED]
    assert filled == ["[b]", "two"]


def test_the_table_has_both_terms_of_the_score():
    console = Console(width=100, file=io.StringIO())
    show(two_blanks(), console)
    row = next(line for line in console.file.getvalue().splitlines() if line.startswith("1"))
    assert row.split("!")[1].split() == ["-4.50", "-3.75", "-0.75", "2,", "1", "7"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("auto", "auto"),
        ("8", 8),
        ("2-8", (2, 8)),
        ("3, auto,1-2", [3, "auto", (1, 2)]),
    ],
)
def test_lengths(given, wanted):
    assert parse_length(given) == wanted


@pytest.mark.parametrize("given", ["", "x", "-3", "2-", "1.5", "3,,4", "two"])
def test_what_is_no_length(given):
    with pytest.raises(ValueError, match="expected auto, a number of tokens"):
        parse_length(given)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "'bogus'"),
        (["infill"], "no blank"),
        (["infill", "no blank"], "mark one with ___"),
        (["infill", TEXT, "--file", "x.txt"], "both a text and --file x.txt"),
        (["infill", "--file", "nowhere.txt"], "nowhere.txt"),
        (["infill", TEXT, "--length", "long"], "length is 'long'"),
        (["infill", TEXT, "--length", "1,2,3"], "3 entries for 2 blanks"),
        (["infill", TEXT, "--k", "many"], "k is 'many'; expected int or 'auto'"),
        (["infill", TEXT, "--json", "--method", "magic", "--length", "1"], "method is 'magic'"),
        (["infill", TEXT, "--num_samples", "0"], "num_samples is 0"),
        (["infill", TEXT, "--model", "./nowhere"], "./nowhere does not exist"),
        (["infill", TEXT, "--unknown", "1"], "--unknown"),
        (["infill", TEXT, "--k"], "--k"),
        (["infill", TEXT, "--k", "--json"], "k is '--json'"),
        (["infill", "\udcff ___"], "not UTF-8"),
    ],
)
def test_wrong_input_ends_in_one_line(call, arguments, says):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and says in err
    assert err.count("\n") == 1


def test_input_that_is_not_utf8_ends_in_one_line(call):
    code, _, err = call("infill", given=b"a \xff ___")
    assert code == 2
    assert err == "error: standard input is not UTF-8 (byte 2); convert it to UTF-8 first\n"


def test_a_terminal_is_not_waited_for(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(ValueError, match="no text is given"):
        read_texts([], None, "___")


def test_control_c_is_no_fault(call, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(command_line.COMMANDS, "infill", (stop, InfillSettings))
    assert call("infill", TEXT) == (130, "", "\nstopped\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["infill", "a", "b", "--json", "--k", "3"],
        ["infill", "--k", "3", "--json=true", "a", "b"],
        ["infill", "--json", "--k", "3", "a", "b"],
        ["infill", "--k=3", "--json", "a", "b"],
        ["infill", "a", "--json", "b", "--k", "3"],
        ["infill", "a", "--k", "3", "b", "--json"],
        ["infill", "a", "--k=3", "--json=true", "b"],
        ["--k", "3", "infill", "a", "--json", "b"],
        ["infill", "a", "--json", "--k", "3", "--", "b"],
    ],
)
def test_texts_and_flags_come_in_any_order(arguments):
    name, settings = command_line.parse(arguments)
    assert name == "infill"
    assert settings == InfillSettings(texts=["a", "b"], json=True, k=3)


def test_texts_stay_texts():
    """Nothing in them is read as YAML, as a number or as a flag's value."""
    texts = ["null", "1", "[a, b]", "a: 3", "- ___ is one", "true"]
    assert command_line.parse(["infill", *texts])[1].texts == texts
    assert command_line.parse(["animate", "1", "null"])[1].out == "null"
    odd = ["--k", "--x ___", "-h", "--"]
    assert command_line.parse(["infill", "a", "--json", "--", *odd])[1].texts == ["a", *odd]
    dashes = ["--- ___", "-5 ___", "-- ___"]
    assert command_line.parse(["infill", *dashes, "--json", "b"])[1].texts == [*dashes, "b"]


def test_a_flag_may_stand_between_a_source_and_its_output():
    name, settings = command_line.parse(["animate", "a", "--k", "3", "o.gif", "--seed", "-1"])
    assert (name, settings.source, settings.out, settings.k) == ("animate", "a", "o.gif", 3)
    assert settings.seed == -1


@pytest.mark.parametrize(
    ("command", "settings"), [("infill", InfillSettings), ("animate", AnimateSettings)]
)
def test_help_explains_every_setting(call, command, settings):
    code, out, _ = call(command, "--help")
    assert code == 0
    words = " ".join(out.split())
    flags = words.partition(" options: ")[2]
    for field in fields(settings):
        if "help" in field.metadata:
            assert f"{field.name} {field.metadata['help'][:20]}" in words
        else:
            meaning = re.search(rf"--{field.name} \S+ (.*?)\(type: ", flags)
            assert meaning and len(meaning[1].split()) >= 3, f"--{field.name} is not explained"


def test_alone_it_shows_its_help(call):
    code, out, err = call()
    assert (code, err) == (0, "")
    assert out == call("--help")[1] and "infill" in out and "animate" in out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["infill", "--help"], ["animate", "--help"]])
def test_help_loads_no_torch(arguments):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "asarm", *arguments],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "usage: python -m asarm" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "asarm" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "matplotlib"}


# --- what is printed, and who reads it ---


@pytest.mark.slow_but_one
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "utf-8"])
def test_a_terminal_of_another_encoding_loses_nothing(encoding, monkeypatch):
    def printed(*arguments: str) -> str:
        terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.argv", ["asarm", *arguments])
        monkeypatch.setattr("sys.stdout", terminal)
        command_line.main()
        return terminal.buffer.getvalue().decode(encoding)

    text, options = "é ___ 日本 😀", ["--length", "1", "--num_samples", "1"]
    (line,) = printed("infill", text, *options, "--json").splitlines()
    assert json.loads(line)["parts"] == text.split("___")
    shown = "日本 😀" if encoding == "utf-8" else "\\u65e5\\u672c \\U0001f600"
    assert shown in printed("infill", text, *options)


PRINTS = {
    "a line": "print('x')",
    "many lines": "for _ in range(9999): print('x' * 99)",
    "a table": "from asarm.display.tables import new_console; new_console().print('x' * 9999)",
}


@pytest.mark.slow_but_one
@pytest.mark.parametrize("options", [[], ["-u"]], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("kind", PRINTS)
def test_a_reader_that_has_read_enough_ends_it_silently(options, kind):
    code = f"""
import sys
from asarm.cli import run_to_end
def main(_):
    sys.stdin.read()
    {PRINTS[kind]}
run_to_end(main, None)
"""
    running = subprocess.Popen(
        [sys.executable, *options, "-c", code],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    running.stdout.close()
    running.stdout = None
    _, told = running.communicate()
    assert (running.returncode, told) == (141, b"")


def test_a_broken_pipe_elsewhere_is_told(call, monkeypatch):
    def stop(_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setitem(command_line.COMMANDS, "infill", (stop, InfillSettings))
    assert call("infill", TEXT) == (2, "", "error: [Errno 32] Broken pipe\n")


@pytest.mark.slow
def test_a_file_of_8000_words_is_filled_by_what_is_near_its_blanks(call, tmp_path, monkeypatch):
    """The network is never shown more than it was trained on, however long the text is."""
    before, after = "Return the name of the file. " * 700, " It is a list of values. " * 700
    path = tmp_path / "long.txt"
    path.write_text(f"{before}The file ___ exist.{after}The end is ___.\n", encoding="utf-8")
    model, tokenizer = asarm.load("demo")
    model.config.trained_length = 256
    monkeypatch.setattr("asarm.command.infill.load", lambda *_, **__: (model, tokenizer))
    longest, forward = [], model.forward

    def spy(content, query, cache=None):
        longest.append(max(int(p.max()) for p in (content.positions, query.positions) if p.numel()))
        return forward(content, query, cache)

    monkeypatch.setattr(model, "forward", spy)
    (found,) = json_of(call, "--file", str(path), "--length", "1-3")
    assert max(longest) < 256
    assert found["parts"] == [f"{before}The file ", f" exist.{after}The end is ", "."]
    for own in found["candidates"]:
        first, last = (fill["text"] for fill in own["fills"])
        assert own["text"] == f"{before}The file {first} exist.{after}The end is {last}."
