"""Stories, passages and questions: where they come from, what they hold, and how they break."""

import bz2
import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from published import published

from asarm.corpus import held_out_documents
from asarm.evaluation.prose import sources
from asarm.evaluation.prose.formats import CLOZE, Passage, Question, Story, read_items
from asarm.evaluation.prose.sources import held_out_stories, is_plain, load_prose, sentences

HEAD = ",".join(CLOZE)
FIRST = 'a1,Rick grew up.,"He left, at last.",He slept.,He woke.,He is happy.,He is a gang.,1'
SECOND = "b2,Ann ran.,Ann fell.,Ann rose.,Ann ran on.,She lost.,She won.,2"
CSV = "\n".join([HEAD, FIRST, SECOND, ""])
HELLASWAG = "Roofs: A man sits. he\n3\nsleeps.\neats.\nruns.\npulls.\n"
RECORD = {
    "ctx": "A man sits. he",
    "activity_label": "Roofs",
    "endings": ["sleeps.", "eats.", "runs.", "pulls."],
    "label": "3",
}


@pytest.fixture
def write(tmp_path):
    def call(content: str | bytes, name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return call


@pytest.mark.parametrize("content", [CSV, "\ufeff" + CSV, CSV.replace("\n", "\r\n"), CSV + "\n\n"])
def test_a_story_ends_with_its_right_ending(write, content):
    stories = [
        Story(("Rick grew up.", "He left, at last.", "He slept.", "He woke.", "He is happy.")),
        Story(("Ann ran.", "Ann fell.", "Ann rose.", "Ann ran on.", "She won.")),
    ]
    assert read_items(write(content, "stories.csv")) == ("stories", stories)
    assert read_items(write(gzip.compress(content.encode()), "s.csv.gz")) == ("stories", stories)


def test_columns_are_found_by_name(write):
    order = [*reversed(range(len(CLOZE)))]
    lines = [HEAD.split(","), SECOND.split(",")]
    turned = "\n".join(",".join(line[i] for i in order) for line in lines)
    assert read_items(write(turned, "turned.csv")) == read_items(
        write("\n".join([HEAD, SECOND]), "straight.csv")
    )


TITLED_CSV = (
    "storyid,storytitle,sentence1,sentence2,sentence3,sentence4,sentence5\n"
    'x1,A Title,"Rick, grew up.",He left.,He slept.,He woke.,He is happy.\n'
    "x2,,Ann ran.,Ann fell.,Ann rose.,Ann ran on.,She won.\n"
)
TITLED_STORIES = [
    Story(("Rick, grew up.", "He left.", "He slept.", "He woke.", "He is happy.")),
    Story(("Ann ran.", "Ann fell.", "Ann rose.", "Ann ran on.", "She won.")),
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["s.csv", "s.tsv", "s.txt"])
def test_stories_with_titles_between_any_delimiters(write, delimiter, name):
    rows = list(csv.reader(TITLED_CSV.splitlines()))
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    for content in (text.getvalue(), "\ufeff" + text.getvalue()):
        assert read_items(write(content, name)) == ("stories", TITLED_STORIES)


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_cloze_stories_between_any_delimiters(write, delimiter):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(csv.reader(CSV.splitlines()))
    assert read_items(write(text.getvalue(), "s.csv")) == read_items(write(CSV, "t.csv"))


NOVEL = "It was the best of times.\nIt was the worst of times, and so on.\n"
UNKNOWN = {
    "a novel": (NOVEL, "novel.txt"),
    "a page": ("# A title\n\nSome words.\n", "page.md"),
    "a table": ("id\ttext\n1\tSome words here\n", "table.txt"),
    "a program": ("import os\nprint(os.name)\n", "program.py"),
    "compressed": (gzip.compress(NOVEL.encode()), "novel.txt.gz"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_nothing_recognises_is_refused_and_the_way_out_is_named(write, name):
    path = write(*UNKNOWN[name])
    with pytest.raises(ValueError, match="is in no format that its first lines show") as refused:
        load_prose(str(path))
    assert f"--dataset lambada:{path}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_kind_may_be_told(write):
    path = write(NOVEL, "novel.txt")
    prose = load_prose(f"lambada:{path}")
    assert (prose.name, prose.kind) == ("novel.txt", "lambada")
    assert prose.items[0] == Passage("It was the best of", "times.")
    lambada = write(NOVEL, "my_LAMBADA_test.txt")
    assert load_prose(str(lambada)).items == prose.items
    assert load_prose(f"hellaswag:{write(HELLASWAG, 'h.txt')}").kind == "hellaswag"
    assert load_prose(f"stories:{write(TITLED_CSV, 's.dat')}").items == TITLED_STORIES
    with pytest.raises(ValueError, match="line 1 has no column InputStoryid"):
        load_prose(f"stories:{path}")
    with pytest.raises(ValueError, match="lambada:/no/such.txt'; expected rocstories"):
        load_prose("lambada:/no/such.txt")


def test_a_message_shows_some_columns_of_many(write):
    header = ",".join(f"column{n}" for n in range(500))
    with pytest.raises(ValueError, match="column11 and 488 more$") as refused:
        read_items(write(f"{header}\n1\n", "wide.csv"))
    assert len(str(refused.value)) < 400


def test_both_formats_of_lambada_hold_the_same(write):
    texts = ["he said `` no '' and left", "one two"]
    passages = [Passage("he said `` no '' and", "left"), Passage("one", "two")]
    plain = write("\n".join(texts) + "\n", "lambada_plain.txt")
    lines = write("\n".join(json.dumps({"text": t, "domain": None}) for t in texts), "l.jsonl")
    assert read_items(plain) == read_items(lines) == ("lambada", passages)


def test_both_formats_of_hellaswag_hold_the_same(write):
    question = Question("Roofs: A man sits. he", ("sleeps.", "eats.", "runs.", "pulls."), 3)
    packed = write(bz2.compress(HELLASWAG.encode()), "text.txt.bz2")
    lines = write(json.dumps(RECORD) + "\n", "lines.jsonl")
    assert read_items(packed) == read_items(lines) == ("hellaswag", [question])


def test_marks_of_pages_go_as_in_the_text_format(write):
    record = {
        **RECORD,
        "activity_label": "Computers",
        "ctx": "[header] How to buy a tv [title] Decide on the money. [step] The more the better.",
        "endings": ["[substeps] Buy it.", "Sell it. [title] Go."],
        "label": 1,
    }
    _, (question,) = read_items(write(json.dumps(record), "lines.jsonl"))
    assert question.context == (
        "Computers: How to buy a tv. Decide on the money. The more the better."
    )
    assert question.endings == ("Buy it.", "Sell it.. Go.")


def changed(line: str, column: str, value: str) -> str:
    cells = line.split(",")
    cells[CLOZE.index(column)] = value
    return ",".join(cells)


DAMAGED = {
    "no column": (
        CSV.replace("InputSentence3,", ""),
        "s.csv",
        "line 1 has no column InputSentence3",
    ),
    "another csv": ("a,b\n1,2\n", "s.csv", "line 1 has no column InputStoryid, only: a, b"),
    "label": (
        "\n".join([HEAD, FIRST, changed(SECOND, "AnswerRightEnding", "3")]),
        "s.csv",
        "line 3 has '3' in AnswerRightEnding; expected 1 or 2",
    ),
    "no label": (CSV[:-2] + "\n", "s.csv", "line 3 has '' in AnswerRightEnding"),
    "empty sentence": (
        "\n".join([HEAD, changed(SECOND, "InputSentence2", "  ")]),
        "s.csv",
        "line 2 has '  ' in InputSentence2; expected a text that is not empty",
    ),
    "twice": ("\n".join([HEAD, FIRST, SECOND, FIRST]), "s.csv", "line 4 has story a1 again"),
    "cells": ("\n".join([HEAD, FIRST, "b2,Ann ran."]), "s.csv", "line 3 has 2 cells; expected 8"),
    "list": ("[1, 2]\n", "l.jsonl", "line 1 is list; expected a JSON object"),
    "quote": ("\n".join([HEAD, 'b2,"Ann ran.,1']), "s.csv", "line 2 is not CSV"),
    "header only": (HEAD, "s.csv", "has a header and no story"),
    "empty": ("", "s.csv", "is empty (0 bytes)"),
    "latin-1": (f"{CSV}caf\xe9".encode("latin-1"), "s.csv", "line 4 is not UTF-8: byte 0xe9"),
    "cut gz": (gzip.compress(CSV.encode())[:-12], "s.csv.gz", "is cut off or damaged"),
    "no gz": (CSV, "s.csv.gz", "is cut off or damaged"),
    "cut bz2": (bz2.compress(HELLASWAG.encode() * 9)[:-9], "h.bz2", "is cut off or damaged"),
    "no bz2": (HELLASWAG, "h.txt.bz2", "is cut off or damaged"),
    "one word": ("two words\nword\n", "lambada.txt", "line 2 is 'word'; expected a passage of two"),
    "blank line": ("two words\n\ntwo words\n", "lambada.txt", "line 2 is ''"),
    "no json": ('{"text": "a b"}\n{"text"\n', "l.jsonl", "line 2 is not JSON"),
    "no object": ('{"text": "a b"}\n[]\n', "l.jsonl", "line 2 is list; expected a JSON object"),
    "no text": ('{"text": "a b"}\n{"text": null}\n', "l.jsonl", "line 2 has None in text"),
    "no choices": ('{"ctx": "a", "label": 1}', "h.jsonl", "line 1 has no column endings"),
    "no list": (json.dumps({**RECORD, "endings": "x"}), "h.jsonl", "line 1 has 'x' in endings"),
    "no ending": (
        json.dumps({**RECORD, "endings": ["x", ""]}),
        "h.jsonl",
        "line 1 has '' in ending 1",
    ),
    "hidden label": (json.dumps({**RECORD, "label": ""}), "h.jsonl", 'line 1 has label ""'),
    "high label": (json.dumps({**RECORD, "label": 4}), "h.jsonl", "has label 4; expected 0 to 3"),
    "text label": (HELLASWAG + HELLASWAG.replace("3", "4"), "h.txt", 'line 8 has label "4"'),
    "cut text": (HELLASWAG * 2 + "Roofs: A man\n2\n", "h.txt", "has 14 lines; expected 6 for each"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_named_in_one_line_by_file_and_line(write, damage):
    content, name, says = DAMAGED[damage]
    path = write(content, name)
    with pytest.raises(ValueError) as refused:
        read_items(path)
    message = str(refused.value)
    assert str(path) in message and says in message
    assert "\n" not in message


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot read .*nothing.csv"):
        read_items(tmp_path / "nothing.csv")


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """A checkout and a current directory without evaluation data; the current directory."""
    monkeypatch.setattr(sources, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("place", [".", "checkout"])
def test_without_a_name_it_is_rocstories_where_these_are(nowhere, place):
    assert load_prose().name == "held-out prose"
    folder = nowhere / place / "eval_datasets"
    folder.mkdir(parents=True)
    (folder / sources.STORIES_FILE).write_text(CSV)
    assert load_prose() == load_prose("rocstories")
    assert load_prose().name == "ROCStories" and len(load_prose().items) == 2
    assert load_prose("heldout").name == "held-out prose"


def test_missing_rocstories_say_where_from_and_where_to(nowhere):
    with pytest.raises(ValueError) as refused:
        load_prose("rocstories")
    message = str(refused.value)
    assert "https://cs.rochester.edu/nlp/rocstories" in message
    assert str(nowhere / "checkout" / "eval_datasets") in message
    assert "\n" not in message


def test_where_asarm_is_installed_data_go_where_one_starts(nowhere, monkeypatch):
    monkeypatch.setattr(sources, "CHECKOUT", Path("/venv/lib/python3/site-packages"))
    with pytest.raises(ValueError, match=f"put it into {nowhere / 'eval_datasets'}$"):
        load_prose("rocstories")


@pytest.mark.parametrize("name", ["lambada", "hellaswag"])
def test_what_the_hub_cannot_give_may_be_put_there(nowhere, monkeypatch, name):
    def offline(*_, **__):
        raise ConnectionError("Couldn't reach the hub.\nand more")

    with monkeypatch.context() as patch:
        patch.setattr("datasets.load_dataset", offline)
        with pytest.raises(ValueError) as refused:
            load_prose(name)
    message = str(refused.value)
    assert sources.ON_HUB[name].name in message and sources.ON_HUB[name].file in message
    assert "\n" not in message
    (nowhere / "eval_datasets").mkdir()
    content = {"lambada": b"two words\n", "hellaswag": bz2.compress(HELLASWAG.encode())}[name]
    (nowhere / "eval_datasets" / sources.ON_HUB[name].file).write_bytes(content)
    assert load_prose(name).kind == name


def test_rows_of_the_hub_are_read_as_those_of_files(nowhere, monkeypatch, write):
    rows = {"cimec/lambada": [{"text": "he went home", "domain": "x"}], "Rowan/hellaswag": [RECORD]}
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: rows[name])
    assert load_prose("lambada").items == [Passage("he went", "home")]
    assert load_prose("hellaswag").items == read_items(write(json.dumps(RECORD), "h.jsonl"))[1]


def test_unknown_data_are_refused(nowhere):
    with pytest.raises(ValueError, match="'wikipedia'; expected rocstories, heldout, lambada"):
        load_prose("wikipedia")


def test_held_out_stories_are_consecutive_plain_sentences():
    texts = [" ".join(d.text.split()) for d in held_out_documents("prose")]
    stories = held_out_stories()
    assert len(stories) >= 40
    for story in stories:
        assert len(story.sentences) == 5 and all(map(is_plain, story.sentences))
        assert any(" ".join(story.sentences) in text for text in texts)
    found = [sentence for story in stories for sentence in story.sentences]
    assert len(set(found)) > 0.95 * len(found)  # the text itself says some things twice


def test_sentences_of_prose_and_of_nothing_else():
    text = "One e.g. two (see below) is\nenough here.  Is it? Yes!"
    assert sentences(text) == ["One e.g. two (see below) is enough here.", "Is it?", "Yes!"]
    assert sentences("Listing:\n\tx = 1. And so on.") == [""]
    assert is_plain("Four words are enough.")
    assert not is_plain("Three are few.")
    assert not is_plain("No end of it here")
    assert not is_plain("Use x = y[0] for it.")


@pytest.mark.parametrize(
    ("file", "kind", "count"),
    [
        ("cloze_test_val__spring2016.csv", "stories", 1871),
        ("lambada_test_plain_text.txt", "lambada", 5153),
        ("hellaswag_val_full.txt.bz2", "hellaswag", 10042),
    ],
)
def test_published_files_are_read_whole(file, kind, count):
    found = load_prose(str(published(file)))
    assert (found.kind, len(found.items)) == (kind, count)


def test_the_first_published_items():
    story = load_prose(str(published("cloze_test_val__spring2016.csv"))).items[0]
    assert story.sentences[0] == "Rick grew up in a troubled household."
    assert story.sentences[4] == "He is happy now."
    assert load_prose(str(published("lambada_test_plain_text.txt"))).items[0].last_word == "signs"
    question = load_prose(str(published("hellaswag_val_full.txt.bz2"))).items[0]
    assert question.endings[question.label] == "starts pulling up roofing on a roof."
