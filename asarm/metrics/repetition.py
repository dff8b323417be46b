"""What a text's tokens say of its quality without any judge: repetition and copying."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch


def token_entropy(tokens: Sequence[int]) -> float:
    """Entropy in bits of the frequencies of the tokens of one text."""
    shares = torch.tensor(tokens).unique(return_counts=True)[1].double() / len(tokens)
    return float((shares * -shares.log2()).sum())


def distinct(tokens: Sequence[int], n: int) -> float | None:
    """Distinct-n (Li et al. 2016): different n-grams over all n-grams; 1 where none repeats.

    None where there are fewer than n tokens.
    """
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def copied(tokens: Sequence[int], prompt: Collection[int]) -> float | None:
    """Share of the filled tokens that stand in the prompt too; None where none was filled.

    Args:
        tokens: of the whole text.
        prompt: positions that were given.
    """
    given = set(prompt)
    known = {tokens[position] for position in given}
    filled = [token for position, token in enumerate(tokens) if position not in given]
    return sum(token in known for token in filled) / len(filled) if filled else None
