"""What a text's tokens say of its quality without any judge: repetition and copying."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch


def token_entropy(tokens: Sequence[int]) -> float:
    """Compute the entropy in bits of the frequencies of the tokens of one text."""
    probs = torch.tensor(tokens).unique(return_counts=True)[1].double() / len(tokens)
    return float((probs * -probs.log2()).sum())


def distinct(tokens: Sequence[int], n: int) -> float | None:
    """Compute distinct-n (Li et al. 2016): different n-grams over all; 1 where none repeats.

    It is None where there are fewer than n tokens.
    """
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def copied(tokens: Sequence[int], prompt: Collection[int]) -> float | None:
    """Return which fraction of the filled tokens the prompt has, too; None if none was filled.

    Args:
        tokens: the tokens of the whole text.
        prompt: positions that were given.
    """
    given = set(prompt)
    known = {tokens[position] for position in given}
    filled = [token for position, token in enumerate(tokens) if position not in given]
    return sum(token in known for token in filled) / len(filled) if filled else None
