"""A decoding as an animation: what the frames hold, where text stands, and the file."""

import io

import pytest
import torch
from fakes import ConditionalTable
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import asarm
from asarm import Order, sample
from asarm import __main__ as command_line
from asarm.codec import Codec
from asarm.data.evaluated import load_blocks
from asarm.display.animation import (
    ACCEPTED,
    DRAFTED,
    DRAWN,
    MAX_TOKENS,
    REPLACED,
    check_size,
    film,
    frames,
    pieces,
    shown,
)
from asarm.display.animation_drawing import COLORS, LAST, WIDTH, gif, lay_out
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.decoding import DecodingStudy
from asarm.evaluation.engine import lines
from asarm.run import Run
from asarm.sampling import SAMPLERS, has_option, sampler_of

DRAFTING = [name for name in SAMPLERS if has_option(name, "k")]


@pytest.fixture(scope="module")
def demo():
    return asarm.load("demo")


def decode_table(method: str, k: int, seed: int, length: int = 9):
    """A text of few tokens from a backbone whose drafts are often wrong."""
    model = ConditionalTable(length=length, vocab_size=2, seed=seed)
    order = Order.random_split(length, 0.2, seed=seed)
    ids = torch.zeros(1, length, dtype=torch.long)
    sampler = sampler_of(method, k=k, steps=min(k, 3))
    result = sample(model, ids, order, sampler, seed=seed, trace=True)
    return result, order


@pytest.mark.slow_but_one
@pytest.mark.parametrize("method", SAMPLERS)
@settings(max_examples=20)
@given(k=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_a_frame_is_a_network_call(method, k, seed):
    result, order = decode_table(method, k, seed)
    found = list(frames(result.trace[0]))
    assert [frame.calls for frame in found] == list(range(int(result.nfe) + 1))
    settled = [{p: m for p, m in f.marks.items() if m.kind != DRAFTED} for f in found]
    assert [frame.tokens for frame in found] == [len(marks) for marks in settled]
    assert found[0].tokens == 0 and found[-1].tokens == int(order.num_targets)
    for before, after in zip(settled, settled[1:], strict=False):
        assert set(before) < set(after)  # every call makes something final, which stays as it is
        assert all(after[p].token == m.token and after[p].kind == m.kind for p, m in before.items())
        assert {p for p, m in after.items() if m.is_new} == set(after) - set(before)
    tokens = {p: mark.token for p, mark in settled[-1].items()}
    targets = order.is_target[0].nonzero().flatten().tolist()
    assert tokens == {p: int(result.tokens[0, p]) for p in targets}


@pytest.mark.parametrize("method", DRAFTING)
@settings(max_examples=20)
@given(k=st.integers(2, 6), seed=st.integers(0, 10_000))
def test_colours_tell_what_became_of_every_draft(method, k, seed):
    result, _ = decode_table(method, k, seed)
    found = list(frames(result.trace[0]))
    kinds = [mark.kind for mark in found[-1].marks.values()]
    assert kinds.count(ACCEPTED) == int(result.accepted)
    refused = sum(not all(own.accepted) for own in result.trace[0])
    assert kinds.count(REPLACED) == refused
    drafted = sum(m.kind == DRAFTED for frame in found for m in frame.marks.values())
    assert drafted == int(result.drafted)
    for before, after in zip(found, found[1:], strict=False):
        for position, mark in after.marks.items():
            pending = before.marks.get(position)
            was_drafted = pending is not None and pending.kind == DRAFTED
            if mark.is_new and mark.kind in (ACCEPTED, REPLACED):
                assert was_drafted
                assert mark.kind == REPLACED or mark.token == pending.token
            if mark.is_new and mark.kind == DRAWN:
                assert not was_drafted


def test_what_nobody_verifies_is_not_called_accepted():
    result, _ = decode_table("parallel", 2, 0)
    last = list(frames(result.trace[0]))[-1]
    assert {mark.kind for mark in last.marks.values()} == {DRAWN}


@given(ids=st.lists(st.integers(8, 4095), min_size=1, max_size=12))
def test_pieces_make_the_text(demo_codec, ids):
    """Bytes that are parts of characters included."""
    cut = pieces(demo_codec, ids)
    assert len(cut) == len(ids)
    assert "".join(cut) == demo_codec.decode(ids)


@pytest.fixture(scope="module")
def demo_codec(demo):
    return Codec(demo[1])


def test_a_character_belongs_to_the_token_that_completes_it(demo_codec):
    ids = demo_codec.encode("a 😀!")
    assert [piece for piece in pieces(demo_codec, ids) if piece][-2:] == ["😀", "!"]


@given(text=st.text("abc \n", max_size=60), cut=st.integers(1, 5), columns=st.integers(3, 12))
def test_words_stay_whole_and_every_character_has_its_place(text, cut, columns):
    parts = [text[i : i + cut] for i in range(0, len(text), cut)]
    places = lay_out(parts, columns)
    assert [len(own) for own in places] == [len(part) for part in parts]
    flat = [place for own in places for place in own]
    assert flat == sorted(flat)
    visible = [place for c, place in zip(text, flat, strict=True) if not c.isspace()]
    assert len(set(visible)) == len(visible)
    assert all(column < columns for _, column in visible)
    start = 0
    for word in text.split():
        start = text.index(word, start)
        rows = {row for row, _ in flat[start : start + len(word)]}
        assert len(rows) == -(-len(word) // columns)
        start += len(word)
    for n, character in enumerate(text[:-1]):
        if character == "\n":
            assert flat[n + 1] == (flat[n][0] + 1, 0)


@pytest.mark.parametrize(
    ("text", "width", "wanted"),
    [
        (" the", 3, "the"),
        (" inform", 4, "inf…"),
        ("ab", 1, "…"),
        (" ", 1, "␣"),
        ("\n\n", 1, "⏎"),
        ("\t", 1, "⇥"),
        ("\x1b", 1, "�"),
    ],
)
def test_how_a_token_is_shown(text, width, wanted):
    assert shown(text, width) == wanted


@pytest.fixture(scope="module")
def decoded(demo):
    """A film of the demo model with all kinds of tokens in it."""
    model, tokenizer = demo
    ids = torch.tensor([tokenizer("Return the name of the file. " * 4)["input_ids"]])
    order = Order.random_split(ids.shape[1], 0.4, seed=1)
    result = sample(model, ids, order, "onepass", k=4, seed=2, trace=True)
    return film(tokenizer, result, order, title="onepass, k = 4"), result


def test_the_file_is_a_small_animation_that_ends_in_rest(decoded):
    found, result = decoded
    content = gif(found)
    assert len(content) < 1_000_000
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == int(result.nfe) + 1
        assert image.width == WIDTH and image.info["loop"] == 0
        image.seek(image.n_frames - 1)
        assert image.info["duration"] == LAST
        colors = {color for _, color in image.convert("RGB").getcolors(1 << 16)}
    kinds = {mark.kind for mark in found.frames[-1].marks.values()}
    assert {ACCEPTED, REPLACED, DRAWN} == kinds
    for kind in kinds:
        assert tuple(bytes.fromhex(COLORS[kind][1:])) in colors


def test_every_call_is_seen(decoded):
    with Image.open(io.BytesIO(gif(decoded[0]))) as image:
        pictures = []
        for n in range(image.n_frames):
            image.seek(n)
            pictures.append(image.convert("RGB").tobytes())
    assert len(set(pictures)) == len(pictures)


def test_a_result_without_a_trace_is_refused(demo):
    model, tokenizer = demo
    order = Order.left_to_right(4, 2)
    result = sample(model, torch.full((1, 4), 40), order)
    with pytest.raises(ValueError, match="has no trace"):
        film(tokenizer, result, order, title="onepass")
    with pytest.raises(ValueError, match="more than a picture can show"):
        check_size(MAX_TOKENS + 1)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs `python -m asarm animate` in this process: its exit code, and what it printed where."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["asarm", "animate", *arguments])
        code = 0
        try:
            command_line.main()
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "tokens"),
    [
        (["The ship left ___ at dawn, and ___", "--length", "2,3"], 5),
        (["one two three four five six", "--prompt_share", "0.5", "--method", "assd"], 3),
    ],
)
def test_texts_become_animations(call, tmp_path, arguments, tokens):
    out = tmp_path / "out.gif"
    code, said, err = call(*arguments, str(out))
    assert (code, err) == (0, "")
    with Image.open(out) as image:
        assert said == f"{out}: {tokens} tokens in {image.n_frames - 1} network calls\n"


@pytest.fixture(scope="module")
def study(demo, tmp_path_factory):
    """The folder of a small run, and its records."""
    model, tokenizer = demo
    config = DecodingConfig(
        output_dir=str(tmp_path_factory.mktemp("run") / "study"),
        method=["assd", "onepass", "parallel"],
        parallel_steps=[2, 3],
        order="random_permutation",
        num_trials=2,
        length=24,
        temperature=0.8,
        k=3,
    )
    run = Run.open(config.output_dir, config)
    blocks = load_blocks(tokenizer, "heldout-prose", 24, num_blocks=2)
    records = list(lines(DecodingStudy(config, {"demo": model}, tokenizer, blocks)))
    run.write_lines("samples.jsonl", records)
    return config.output_dir, records


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], ("onepass", None)),
        (["--method", "assd"], ("assd", None)),
        (["--method", "parallel", "--steps", "3"], ("parallel", 3)),
    ],
)
def test_a_run_is_decoded_again_as_it_was(call, tmp_path, study, arguments, wanted):
    """Its text, or else a line on stderr would say that it is another."""
    folder, records = study
    record = next(r for r in records if r["item"] == 0 and (r["method"], r["steps"]) == wanted)
    out = tmp_path / "out.gif"
    code, said, err = call(folder, str(out), *arguments)
    assert (code, err) == (0, "")
    tokens, calls = record["num_targets"], record["nfe"]
    assert said == f"{out}: {tokens} tokens in {calls} network calls\n"


def test_a_text_that_comes_out_otherwise_is_not_passed_over(call, tmp_path, study):
    folder, records = study
    run = Run(tmp_path / "changed")
    changed = [{**record, "seed": record["seed"] + 1} for record in records]
    run.folder.mkdir()
    run.write("config.yaml", (Run(folder).folder / "config.yaml").read_bytes())
    run.write_lines("samples.jsonl", changed)
    code, _, err = call(str(run.folder), str(tmp_path / "out.gif"))
    assert code == 0 and "another than the run's" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["some text"], "animate.out"),
        (["some text", "out.png"], "out is 'out.png'; expected a name.gif"),
        (["some text", "no/such/out.gif"], "in a folder that exists"),
        (["", "out.gif"], "has 0 tokens"),
        (["a ___ b", "out.gif", "--length", "x"], "length is 'x'"),
        (["word " * 1100, "out.gif"], "more than a picture can show"),
        (["runs/nowhere", "out.gif"], "runs/nowhere is not a folder"),
        (["a b c d", "out.gif", "--method", "parallel"], "steps is None"),
        (["a b c d", "out.gif", "--prompt_share", "2"], "prompt_share is 2.0"),
    ],
)
def test_wrong_input_ends_in_one_line(call, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and says in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_study_are_refused(call, tmp_path, study):
    out = str(tmp_path / "out.gif")
    code, _, err = call(str(tmp_path), out)
    assert code == 2 and "has no decodings in samples.jsonl" in err
    code, _, err = call(study[0], out, "--method", "sequential")
    assert code == 2
    assert "no sequential; it has assd, onepass, parallel 2, parallel 3" in err


def test_options_are_refused_before_lengths_are_looked_for(call, tmp_path, monkeypatch):
    def too_early(*_, **__):
        pytest.fail("lengths come first")

    monkeypatch.setattr("asarm.command.animate.choose_lengths", too_early)
    code, out, err = call("a ___", str(tmp_path / "a.gif"), "--temperature", "-1")
    assert (code, out) == (2, "") and err.startswith("error: temperature is -1")
