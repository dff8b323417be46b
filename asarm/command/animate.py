"""`python -m asarm animate`: a decoding as an animated GIF."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from asarm.codec import Codec
from asarm.command.config import AnimateSettings
from asarm.command.reading import parse_length, without_surrogates
from asarm.display.animation import check_size, film
from asarm.display.animation_drawing import gif
from asarm.distribution import Allowed
from asarm.evaluation.config import DecodingConfig
from asarm.evaluation.example import choose
from asarm.evaluation.study import variant_sampler
from asarm.evaluation.trials import key, trial_order
from asarm.evaluation.variants import Variant
from asarm.infilling.cut_words import Healing
from asarm.infilling.fill import check_sampling
from asarm.infilling.posterior import choose_lengths
from asarm.infilling.request import requested_lengths, templates_of
from asarm.infilling.template import collate, has_blank
from asarm.infilling.unwritten import warn_of_unwritten
from asarm.loading import Model, load, name_and_revision
from asarm.order import Order
from asarm.run import Record, Run, read_settings
from asarm.sampling import OnePass, sample, sampler_of

SAMPLES = "samples.jsonl"
FIELDS = {"item", "model", "method", "steps", "k", "seed", "prompt", "tokens"}


@dataclass(frozen=True)
class Scene:
    """A text that is decoded, and the options of its decoding.

    Attributes:
        model: a backbone.
        tokenizer: the model's tokenizer.
        input_ids: (1, L) token ids.
        order: the decoding order.
        options: the options of `asarm.sample`, the sampler included.
        whitespace_map: whether the text is code in XLNet's vocabulary.
        allowed: the tokens that each position may hold.
        tokens: the text of an earlier run, if it was decoded before.
    """

    model: Model
    tokenizer: PreTrainedTokenizerBase
    input_ids: Tensor
    order: Order
    options: dict[str, Any]
    whitespace_map: bool = False
    allowed: Allowed | None = None
    tokens: list[int] = field(default_factory=list)


def run(settings: AnimateSettings) -> None:
    """Decode, and write the animation.

    Raises:
        ValueError: the source, a setting or the output cannot be served.
    """
    out = Path(settings.out).expanduser()
    if out.suffix.lower() != ".gif" or not out.parent.is_dir():
        raise ValueError(f"out is {settings.out!r}; expected a name.gif in a folder that exists")
    scene = find_scene(settings)
    result = sample(
        scene.model,
        scene.input_ids,
        scene.order,
        allowed=scene.allowed,
        trace=True,
        **scene.options,
    )
    found = film(
        scene.tokenizer,
        result,
        scene.order,
        title=title_of(scene.options, result.k),
        whitespace_map=scene.whitespace_map,
    )
    out.write_bytes(gif(found))
    if scene.tokens not in ([], result.tokens[0].tolist()):
        print(
            "the text is another than the run's, as another device or dtype may give it",
            file=sys.stderr,
        )
    last = found.frames[-1]
    print(f"{out}: {last.tokens} tokens in {last.calls} network calls")


def find_scene(settings: AnimateSettings) -> Scene:
    """Prepare the text or the run that the source of the settings names.

    Raises:
        ValueError: it cannot be decoded.
    """
    source = without_surrogates(settings.source)
    is_name = len(source.split()) == 1
    if is_name and Path(source).expanduser().is_dir():
        return of_run(settings, Path(source).expanduser())
    if is_name and ("/" in source or Path(source).exists()):
        raise ValueError(f"{source} is not a folder; expected a text, or the folder of a run")
    model, tokenizer = load(
        settings.model or "demo",
        revision=settings.revision,
        device=settings.device,
        dtype=settings.dtype,
    )
    options = {
        "sampler": sampler_of(settings.method or OnePass.name, k=settings.k, steps=settings.steps),
        "temperature": settings.temperature,
        "top_k": settings.top_k,
        "top_p": settings.top_p,
        "seed": settings.seed,
    }
    make = with_blanks if has_blank(source, settings.blank) else blanked_out
    return make(model, tokenizer, source, settings, options)


def title_of(options: dict[str, Any], k: int | str | None) -> str:
    """Name the sampler, and the options that change the target distribution."""
    sampler = options["sampler"]
    name = Variant("", sampler.name, getattr(sampler, "steps", None)).name
    filters = ("temperature", "top_k", "top_p")
    shown = [f"{f} {options[f]}" for f in filters if options.get(f) not in (None, 1.0)]
    return ", ".join([name, *([] if k is None else [f"k = {k}"]), *shown])


def with_blanks(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    settings: AnimateSettings,
    options: dict[str, Any],
) -> Scene:
    """Prepare a text with blanks, whose lengths are drawn as `asarm.infill` draws them."""
    codec = Codec(tokenizer, whitespace_map=settings.whitespace_map)
    (template,) = templates_of(codec, [text], blank=settings.blank, spans=None, closed=True)
    warn_of_unwritten(codec, template.texts)
    check_size(sum(len(part.ids) for part in template.parts))
    (ranges,) = requested_lengths([parse_length(settings.length)], [template])
    check_sampling(model, **options)
    posterior = choose_lengths(model, template, ranges)
    ((lengths, _),) = posterior.draw(1, settings.seed)
    if settings.token_healing:
        template, _ = Healing(model, template, **options)(lengths, settings.seed)
    rows = [template.with_gaps(template.sizes(lengths))]
    ids, allowed, order = collate(rows, template.moves, vocab_size=model.vocab_size)
    return Scene(model, tokenizer, ids, order, options, settings.whitespace_map, allowed=allowed)


def blanked_out(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    settings: AnimateSettings,
    options: dict[str, Any],
) -> Scene:
    """Prepare a text of which random tokens, the greater part, are blanked out."""
    codec = Codec(tokenizer, whitespace_map=settings.whitespace_map)
    warn_of_unwritten(codec, [text])
    ids = codec.encode(text)
    if len(ids) < 2:
        raise ValueError(
            f"the text {text!r} has {len(ids)} tokens; expected at least 2, some to be blanked out"
        )
    check_size(len(ids))
    order = Order.random_split(len(ids), settings.prompt_share, seed=settings.seed)
    input_ids = torch.tensor([ids]).masked_fill(order.is_target, 0)
    return Scene(model, tokenizer, input_ids, order, options, settings.whitespace_map)


def of_run(settings: AnimateSettings, folder: Path) -> Scene:
    """Prepare the first trial of a run, as it was decoded."""
    record = _pick(_first_trial(folder), settings)
    config = _settings_of(folder)
    name, revision = name_and_revision(settings.model or record["model"])
    model, tokenizer = load(
        name,
        revision=settings.revision or revision,
        device=settings.device,
        dtype=settings.dtype or config.dtype,
    )
    options = {
        "sampler": variant_sampler(key(record)[1], config),
        "temperature": config.temperature,
        "seed": [record["seed"]],
    }
    order = trial_order(config, [record["item"]])
    input_ids = torch.tensor([record["tokens"]]).masked_fill(order.is_target, 0)
    return Scene(
        model, tokenizer, input_ids, order, options, config.whitespace_map, tokens=record["tokens"]
    )


def _first_trial(folder: Path) -> list[Record]:
    """Read the records of the first trial of a run of the study of samplers."""
    records = Run(folder).read(SAMPLES)
    if not records or not set(records[0]) >= FIELDS:
        raise ValueError(
            f"{folder} has no decodings in {SAMPLES}; expected the folder of a run of "
            "scripts/speculative_decoding.py"
        )
    return choose(records)


def _settings_of(folder: Path) -> DecodingConfig:
    stored = read_settings(folder) or {}
    known = {field.name for field in fields(DecodingConfig)}
    return DecodingConfig(**{name: value for name, value in stored.items() if name in known})


def _pick(records: Sequence[Record], settings: AnimateSettings) -> Record:
    """Choose the record that was requested; if none was, that of onepass, or else the first."""
    found = [
        record
        for record in records
        if settings.method in (None, record["method"]) and settings.steps in (None, record["steps"])
    ]
    if not found:
        there = ", ".join(dict.fromkeys(key(record)[1].name for record in records))
        wanted = Variant("", settings.method or "any method", settings.steps).name
        raise ValueError(f"the first trial of the run has no {wanted}; it has {there}")
    return next((record for record in found if record["method"] == OnePass.name), found[0])
