"""ROUGE, as DiffuLLaMA's and the any-subset papers' evaluations of ROCStories compute it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

KINDS = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def rouge(prediction: str, reference: str) -> dict[str, float]:
    """F-measures x 100 of ROUGE-1, ROUGE-2 and ROUGE-L, and their average ("rouge").

    By the package rouge-score, words not stemmed: the default of Hugging Face's `evaluate`, with
    which the published figures were made (a run's score is the mean of its items').
    """
    scores = _scorer().score(reference, prediction)
    found = {kind: 100 * float(scores[kind].fmeasure) for kind in KINDS}
    return {**found, "rouge": sum(found.values()) / len(found)}


@cache
def _scorer() -> RougeScorer:
    # here, for all of nltk comes along: a second, for stories alone
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(KINDS), use_stemmer=False)
