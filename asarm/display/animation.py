"""A decoding as an animated GIF: a frame for each network call.

A piece is the text that one token adds to what comes before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from asarm.codec import Codec
from asarm.display.spans import given_spans, printable, segments
from asarm.order import Order
from asarm.sampling import Round, SampleResult

DRAFTED, ACCEPTED, REPLACED, DRAWN = "drafted", "accepted", "replaced", "drawn"
MAX_TOKENS = 512  # more cannot be read in a picture
WHITESPACE = {"\n": "⏎", "\t": "⇥", "": "␣"}  # what a token of nothing else is shown as


@dataclass(frozen=True)
class Mark:
    """A token at a blank, and how it came there.

    Attributes:
        token: the id of the token.
        kind: drafted (not yet verified), accepted (a draft), replaced (drawn in place of a
            rejected draft) or drawn (without a draft).
        is_new: whether it was added by the latest call.
    """

    token: int
    kind: str
    is_new: bool = True


@dataclass(frozen=True)
class Frame:
    """What is known after a number of network calls.

    Attributes:
        calls: the number of network calls so far.
        tokens: the number of blanks whose token is final.
        marks: the tokens at blanks, by position.
    """

    calls: int
    tokens: int
    marks: Mapping[int, Mark]


@dataclass(frozen=True)
class Film:
    """A decoding of one text, as it is shown.

    Attributes:
        title: the title of the picture.
        pieces: the final text, cut where its tokens meet; "" for a token that ends no character.
        targets: the positions of the blanks.
        drafts: the text of every token that was drafted, by its id.
        frames: the first shows the blanks, the last the whole text.
    """

    title: str
    pieces: list[str]
    targets: frozenset[int]
    drafts: dict[int, str]
    frames: list[Frame]


def film(
    tokenizer: PreTrainedTokenizerBase,
    result: SampleResult,
    order: Order,
    *,
    title: str,
    whitespace_map: bool = False,
) -> Film:
    """Make the film of a batch's first text, from what `asarm.sample(..., trace=True)` returned.

    Args:
        tokenizer: the model's tokenizer.
        result: the sample, with its trace.
        order: the decoding order.
        title: the title of the picture.
        whitespace_map: whether the text is code in XLNet's vocabulary.

    Raises:
        ValueError: the result has no trace, or the text is too long for a picture.
    """
    if result.trace is None:
        raise ValueError("result has no trace; expected that of asarm.sample(..., trace=True)")
    tokens = result.tokens[0, : int(order.length[0])].tolist()
    check_size(len(tokens))
    targets = frozenset(order.is_target[0].nonzero().flatten().tolist())
    codec, rounds = Codec(tokenizer, whitespace_map=whitespace_map), result.trace[0]
    drafted = {token for own in rounds for _, token in own.drafted}
    drafts = {token: codec.decode([token]) for token in drafted}
    cut = pieces(codec, tokens)
    for i in _closing(tokens, targets, tokenizer.all_special_ids):
        cut[i] = ""
    return Film(title, cut, targets, drafts, list(frames(rounds)))


def check_size(num_tokens: int) -> None:
    """Refuse a text that is too long for a picture."""
    if num_tokens > MAX_TOKENS:
        raise ValueError(
            f"the text has {num_tokens} tokens, more than a picture can show; expected "
            f"{MAX_TOKENS} at most"
        )


def pieces(codec: Codec, tokens: Sequence[int]) -> list[str]:
    """Cut the text of `tokens` where they meet.

    A character that several tokens make together belongs to the last of them.
    """
    every_other = range(0, len(tokens), 2)
    given = given_spans(codec.decode, tokens, every_other)
    text = codec.decode(tokens)
    return [part.text for part in segments(text, given, every_other, len(tokens))]


def _closing(
    tokens: Sequence[int], targets: Collection[int], special: Collection[int]
) -> Iterator[int]:
    """Return positions of the document ends that were put around a text, and are not part of it."""
    for positions in (range(len(tokens)), reversed(range(len(tokens)))):
        for i in positions:
            if i in targets or tokens[i] not in special:
                break
            yield i


def frames(rounds: Sequence[Round]) -> Iterator[Frame]:
    """Yield the state before any network call, and after each.

    The last call of a round verifies its drafts. They are shown as pending after the call before:
    an earlier call of the round, which made them, or else the last call of the round before.
    """

    def ahead(n: int) -> Sequence[tuple[int, int]]:
        before = rounds[n - 1].nfe if n else 0
        is_ahead = n < len(rounds) and rounds[n].is_verified and rounds[n].nfe == before + 1
        return rounds[n].drafted if is_ahead else []

    committed: dict[int, Mark] = {}
    calls = 0
    yield _frame(calls, committed, {}, ahead(0))
    for n, own in enumerate(rounds):
        new = _committed(own)
        # what is committed before the first draft needs no verification
        positions = list(new)
        exact = positions[: positions.index(own.drafted[0][0])] if own.drafted else positions
        while calls + 1 < own.nfe:  # all calls of the round but the last
            calls += 1
            first = {position: new.pop(position) for position in exact if position in new}
            yield _frame(calls, committed, first, own.drafted)
            committed |= first
        calls += 1
        yield _frame(calls, committed, new, ahead(n + 1))
        committed |= new


def _frame(
    calls: int,
    committed: Mapping[int, Mark],
    new: Mapping[int, Mark],
    drafts: Sequence[tuple[int, int]],
) -> Frame:
    old = {position: replace(mark, is_new=False) for position, mark in committed.items()}
    pending = {position: Mark(token, DRAFTED) for position, token in drafts}
    return Frame(calls, len(old) + len(new), {**old, **new, **pending})


def _committed(own: Round) -> dict[int, Mark]:
    """Return what a round committed, by position."""
    kinds = {
        position: ACCEPTED if is_accepted else REPLACED
        for (position, _), is_accepted in zip(own.drafted, own.accepted, strict=True)
    }
    if not own.is_verified:
        kinds = {}
    return {p: Mark(token, kinds.get(p, DRAWN)) for p, token in own.committed}


def shown(text: str, width: int) -> str:
    """Shorten a token's text, without blanks around it, to `width` characters or fewer."""
    word = printable(text).strip()
    if not word:
        return next((sign for space, sign in WHITESPACE.items() if space in text), "")
    return word if len(word) <= width else word[: width - 1] + "…"
