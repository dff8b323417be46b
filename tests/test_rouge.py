"""ROUGE of any script; of English it is rouge-score's, letter for letter."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from published import published
from rouge_score.tokenizers import DefaultTokenizer

from asarm.evaluation.prose.config import InfillProseConfig
from asarm.evaluation.prose.formats import Story
from asarm.evaluation.prose.report import markdown
from asarm.evaluation.prose.sources import Prose, load_prose
from asarm.evaluation.prose.stories import Stories, copied
from asarm.evaluation.prose.tasks import task_of
from asarm.evaluation.variants import Action
from asarm.metrics.rouge import LETTERS_NOTE, AnyLetters, needs_any_letters, rouge

TEXTS = {
    "Russian": ("Он пошёл домой.", "он, пошёл", "Она спала"),
    "Greek": ("Πήγε στο σπίτι.", "πήγε ΣΤΟ", "Κοιμήθηκε εδώ"),
    "Chinese": ("他回家了。", "他回", "我们吃饭"),
    "Japanese": ("彼は家に帰った。", "彼は家", "ねむい"),
    "Korean": ("그는 집에 갔다.", "그는 집에", "나는 잤다"),
    "Hindi": ("वह घर गया।", "वह घर", "मैं सोया"),
    "Arabic": ("ذهب إلى البيت.", "ذهب إلى", "نمت هنا"),
    "Thai": ("เขากลับบ้าน", "เขากลับ", "ฉฝฮ"),
    "German": ("Er ging über die Straße.", "über die Straße", "Schöne Häuser"),
}
ENGLISH = Story(("Rick ran.", "He fell.", "He rose.", "He won.", "He is happy."))
RUSSIAN = Story(("Он встал.", "Он вышел.", "Он пошёл домой.", "Он лёг.", "Он уснул."))


@pytest.mark.parametrize("language", TEXTS)
def test_the_same_text_is_perfect_in_every_script_and_another_is_not(language):
    text, part, other = TEXTS[language]
    assert needs_any_letters([text])
    assert set(rouge(text, text, any_letters=True).values()) == {100}
    assert 0 < rouge(part, text, any_letters=True)["rouge"] < 100
    assert rouge(other, text, any_letters=True)["rouge"] == 0


def test_words_are_whole_and_characters_without_blanks_are_words():
    tokenize = AnyLetters().tokenize
    assert tokenize("हिन्दी में, 12 कि.मी.") == ["हिन्दी", "में", "12", "कि", "मी"]
    assert tokenize("Élan_vital, naïve!") == ["élan", "vital", "naïve"]
    assert tokenize("e\u0301lan") == tokenize("\u00e9lan")
    assert tokenize("他回家。ABC") == ["他", "回", "家", "abc"]


@given(st.text(st.characters(codec="ascii")))
def test_on_ascii_words_are_rouge_scores_own(text):
    assert AnyLetters().tokenize(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


def test_english_with_a_foreign_word_now_and_then_is_english():
    assert not needs_any_letters(["She ran home. " * 500, "The café was closed."])
    assert not needs_any_letters([]) and not needs_any_letters(["“…” — 12"])


def test_published_stories_have_rouge_scores_own_words():
    prose = load_prose(str(published("cloze_test_val__spring2016.csv")))
    assert not task_of(prose, InfillProseConfig()).has_any_letters


CONFIG = InfillProseConfig(protocol="middle", baselines=["copy"], length="oracle", max_items=1)


def result_of(stories: list[Story]):
    """The result of an evaluation whose only variant copies a sentence."""
    task = task_of(Prose("own", "stories", stories), CONFIG)
    (cell, *_) = [c for c in task.cells if c.variant.action is Action.COPY]
    (record,) = task.compute([0], cell)
    about = {"item": 0, "protocol": "middle", "variant": cell.variant.name, "trial": 0}
    return task.result([{**about, **record}])


def page_of(stories: list[Story]):
    """The score of the table's only variant, and the note."""
    result = result_of(stories)
    return result.tables[0].rows[0].scores["rouge1"].mean, result.note


def test_bars_in_a_story_are_not_the_cells_of_a_table():
    story = Story(("A | b was there.", "He fell.", "So | he\nrose.", "He won.", "He is happy."))
    rows = [line for line in markdown(result_of([story])).splitlines() if line.startswith("| ")]
    (reference,) = [row for row in rows if row.startswith("| reference ")]
    assert reference == r"| reference | So \| he rose. |"
    assert r"| A \| b was there. |" in rows[-1]


def test_the_page_says_which_words_are_counted(monkeypatch):
    def perfect(story, protocol):
        return {**copied(story, protocol), "prediction": story.sentences[2]}

    monkeypatch.setattr("asarm.evaluation.prose.stories.copied", perfect)
    score, note = page_of([RUSSIAN, ENGLISH])
    assert score == 100 and LETTERS_NOTE in note
    score, note = page_of([ENGLISH] * 2)
    assert score == 100 and LETTERS_NOTE not in note


def test_more_items_change_no_line():
    prose = Prose("own", "stories", [ENGLISH, RUSSIAN])
    assert all(task_of(prose, replace(CONFIG, max_items=n)).has_any_letters for n in (1, 2))
    assert Stories([RUSSIAN], CONFIG).has_any_letters
    assert not Stories([ENGLISH], CONFIG).has_any_letters
