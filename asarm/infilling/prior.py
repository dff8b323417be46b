"""How long blanks are before anything is known of the model: lengths of spans of held-out text.

Shapes: M lengths in question.
"""

from __future__ import annotations

import re
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.corpus import held_out_documents
from asarm.schedule import keyed_generator
from asarm.text import encode_all, private

# of what a blank takes the place, and how many of these a span has at most
MAX_UNITS = {"words": 8, "sentences": 3, "lines": 3}
NUM_SPANS = 3000
SENTENCE_END = re.compile(r"[.?!][\"')\]]*\s*\Z")
SENTENCE_START = re.compile(r"\s*(\Z|[\"'(\[]*[A-Z])")
BETWEEN_SENTENCES = re.compile(r"(?<=[.?!])\s+(?=[A-Z])")


def kind_of_blank(before: str, after: str) -> str:
    """Say what a blank between two texts takes the place of: "words", "sentences" or "lines".

    These are lines where the text before ends with a line end, and sentences where it ends with
    the end of one, or is empty, and the text after begins one, or is empty.
    """
    if before.endswith("\n"):
        return "lines"
    begins = not before.strip() or SENTENCE_END.search(before)
    return "sentences" if begins and SENTENCE_START.match(after) else "words"


def length_prior(
    tokenizer: PreTrainedTokenizerBase, low: int, high: int, kind: str = "words"
) -> Tensor:
    """Return P(m) for m from low to high tokens, (M,): how often held-out spans are so long.

    The spans are 1 to 8 words, 1 to 3 sentences or 1 to 3 lines, as many of each number, of the
    bundled held-out prose and code; each length counts once more than it was seen.
    """
    lengths = _span_lengths(private(tokenizer), kind)
    counts = torch.bincount(lengths, minlength=high + 1)[low : high + 1].double() + 1
    return counts / counts.sum()


@lru_cache(maxsize=24)
def _span_lengths(tokenizer: PreTrainedTokenizerBase, kind: str) -> Tensor:
    """Return how many tokens spans of held-out text have, (NUM_SPANS,)."""
    units, max_units = _units(kind), MAX_UNITS[kind]
    starts = torch.randint(
        len(units) - max_units, (NUM_SPANS,), generator=keyed_generator("length prior", kind)
    )
    spans = ["".join(units[s : s + 1 + i % max_units]) for i, s in enumerate(starts.tolist())]
    return torch.tensor([len(ids) for ids in encode_all(tokenizer, spans)])


def _units(kind: str) -> list[str]:
    """Return the words, sentences or lines of the held-out text, each with what comes before it."""
    if kind == "words":
        return [f" {word}" for d in held_out_documents() for word in d.text.split()]
    if kind == "lines":
        lines = [line for d in held_out_documents("code") for line in d.text.split("\n")]
        return [f"\n{line}" for line in lines if line.strip()]
    paragraphs = [p for d in held_out_documents("prose") for p in d.text.split("\n\n")]
    plain = [" ".join(p.split()) for p in paragraphs if not re.search(r"^\s", p, re.MULTILINE)]
    sentences = [s for p in plain for s in BETWEEN_SENTENCES.split(p) if SENTENCE_END.search(s)]
    return [f" {sentence}" for sentence in sentences]
