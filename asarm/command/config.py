"""The settings of the commands of `python -m asarm`."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal


def positional(meaning: str) -> Any:
    """Return a setting that the command line takes without a flag."""
    return field(metadata={"help": meaning})


def any_number(meaning: str) -> Any:
    """Return a setting of any number of values that the command line takes without a flag."""
    return field(default_factory=list, metadata={"help": meaning, "nargs": "*", "default": []})


def positionals(settings: type) -> list[Field[Any]]:
    """Return the settings of a command that have no flag."""
    return [f for f in fields(settings) if "help" in f.metadata]


@dataclass(kw_only=True)
class Settings:
    """Which model fills blanks, and how.

    Args:
        model: "demo" (bundled), a local folder, or a hub name.
        revision: the branch, tag or commit of the model on the hub.
        blank: marks a blank in a text; with a backslash before it, or as a part of a longer run of
            its character, it is plain text.
        length: of a blank in tokens: a number, a range LOW-HIGH that the model chooses from, or
            auto, which is 1-32; for several blanks either one for all, or one each with commas
            between them.
        method: onepass, assd, ngram or sequential, which have the same distribution, or parallel.
        k: the largest number of drafts a round; "auto" chooses them round by round.
        steps: network calls of "parallel".
        temperature: the temperature of the distribution that is sampled.
        top_k: keep the k most probable tokens.
        top_p: keep the most probable tokens that together reach this probability.
        seed: the seed of everything random.
        token_healing: write a word that a blank cuts in one piece with what is filled in, where the
            model finds that likelier.
        whitespace_map: read line ends, tabs and double spaces as the published models for code do.
        device: cpu or cuda (mps has no float64); a GPU if null and there is one.
        dtype: the dtype of the weights: float32, bfloat16 or float64; float32 if null.
    """

    model: str | None = "demo"
    revision: str | None = None
    blank: str = "___"
    length: str = "auto"
    method: str | None = "onepass"
    k: int | Literal["auto"] = "auto"
    steps: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    token_healing: bool = True
    whitespace_map: bool = False
    device: str | None = None
    dtype: str | None = None


@dataclass(kw_only=True)
class InfillSettings(Settings):
    """Fill the blanks of texts jointly, and rank the fillings by their probability.

    Args:
        file: a text to fill, instead: the whole file is one text, a last line end apart. It may be
            of any length: a model that knows how long the texts were that it was trained on sees
            that much around the blanks.
        num_samples: fillings that are shown of each text; fewer where drawings coincide.
        best_of: fillings that are drawn, the best num_samples of which are shown; num_samples if
            null.
        json: print a JSON object for each text instead of a table.
    """

    texts: list[str] = any_number(
        'texts to fill, such as "The ship left ___ at dawn."; where there is none, standard input '
        "is read, as one text"
    )
    file: str | None = None
    num_samples: int = 5
    best_of: int | None = None
    json: bool = False


@dataclass(kw_only=True)
class AnimateSettings(Settings):
    """Show a decoding as an animated GIF, a frame for each network call.

    Of a run, the first trial is decoded again, as its record says: --model, --revision, --method,
    --steps, --device and --dtype alone are read.

    Args:
        model: "demo" (bundled), a local folder, or a hub name; demo if null, and of a run its own.
        method: onepass, assd, ngram, sequential or parallel; onepass if null, and of a run its
            first one where it has no onepass.
        k: the largest number of drafts a round; "auto" chooses them round by round.
        prompt_share: fraction of the tokens of a text without blanks that stay visible.
    """

    source: str = positional(
        "a text with blanks; a text without, most of whose tokens are then blanked out at random; "
        "or the folder of a run of scripts/speculative_decoding.py",
    )
    out: str = positional("the GIF to write")
    model: str | None = None
    method: str | None = None
    prompt_share: float = 0.05
