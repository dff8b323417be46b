"""ROUGE, as DiffuLLaMA's and the any-subset papers' evaluations of ROCStories compute it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

LETTERS_NOTE = (
    "Words of these texts are runs of letters, marks and digits of any script, and the single "
    "characters of scripts without blanks (Chinese, Japanese, Thai and others), for rouge-score's "
    "own words have the letters a to z only: the figures compare with those of the same words."
)
FOREIGN = 0.001  # of the letters, beyond which texts are not taken for English
# characters of scripts that put no blanks between words, from Thai to the ideographs
NO_BLANKS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
KINDS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def rouge(prediction: str, reference: str, *, any_letters: bool = False) -> dict[str, float]:
    """Compute F-measures x 100 of ROUGE-1, ROUGE-2 and ROUGE-L, and their average ("rouge").

    The package rouge-score computes them, words not stemmed: the default of Hugging Face's
    `evaluate`, with which the published figures were made (a run's score is the mean of its
    items').

    Args:
        prediction: a text.
        reference: another.
        any_letters: take letters of any script for words (`AnyLetters`); rouge-score's own words
            are of the letters a to z and digits, so that a text in Cyrillic has none.
    """
    scores = _scorer(any_letters).score(reference, prediction)
    found = {kind: 100 * float(scores[kind].fmeasure) for kind in KINDS}
    return {**found, "rouge": sum(found.values()) / len(found)}


def needs_any_letters(texts: Iterable[str]) -> bool:
    """Return whether texts have more letters that are not a to z than a foreign word has."""
    letters = [character.isascii() for text in texts for character in text if character.isalpha()]
    return letters.count(False) > FOREIGN * len(letters)


class AnyLetters:
    """A tokenizer for rouge-score that knows letters; on ASCII it is rouge-score's own."""

    def tokenize(self, text: str) -> list[str]:
        """Split a text into words, in lower case."""
        found = unicodedata.normalize("NFKC", text.lower())
        kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in found)
        return NO_BLANKS.sub(r" \g<0> ", "".join(kept)).split()


@cache
def _scorer(any_letters: bool) -> RougeScorer:
    # here, for all of nltk comes along: a second, for stories alone
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(
        list(KINDS), use_stemmer=False, tokenizer=AnyLetters() if any_letters else None
    )
