"""Another language model's opinion of a text: perplexity under a causal LM.

Opinions are kept by the text's hash and the judge's fingerprint, so that a text is scored once,
whichever method wrote it and whenever.

Shapes: B texts, L tokens of the longest, V vocabulary.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from asarm.fetch import smollm2_base
from asarm.fingerprint import of_model
from asarm.loading import (
    UNREADABLE,
    check_loaded,
    name_and_revision,
    reason_of,
    resolve_device,
    without_report,
)
from asarm.metrics.repetition import token_entropy
from asarm.run import Record

MAX_TOKENS = 960  # of the published evaluation
BATCH = 4  # texts at a time: of published length they fill a GPU, and logits take 0.8 GB


@dataclass(frozen=True)
class Judge:
    """A causal language model that scores texts as arXiv 2504.20456 does."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def perplexity(self, text: str) -> float:
        """Return the perplexity of one text, see `perplexities`."""
        return self.perplexities([text])[0]

    @torch.no_grad()
    def perplexities(self, texts: Sequence[str]) -> list[float]:
        """Return exp of the mean -log p of each text's first 960 tokens; NaN if nothing is scored.

        The first is given the judge's start token; it is not scored where the judge has none.
        Texts are padded on the right, which a causal model does not see.
        """
        start = self.tokenizer.bos_token_id
        max_length = getattr(self.model.config, "max_position_embeddings", None) or MAX_TOKENS + 1
        found = [self.tokens(text)[: min(MAX_TOKENS, max_length - 1)] for text in texts]
        found = found if start is None else [[start, *ids] for ids in found]
        longest = max(map(len, found))
        if longest < 2:
            return [math.nan] * len(texts)
        lengths = torch.tensor([len(ids) for ids in found])
        is_text = torch.arange(longest) < lengths[:, None]  # (B, L)
        input_ids = torch.zeros(is_text.shape, dtype=torch.long)
        input_ids[is_text] = torch.tensor([i for ids in found for i in ids])
        input_ids, is_text = input_ids.to(self.model.device), is_text.to(self.model.device)
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=is_text.long()).logits
        scored = zip(logits, input_ids, lengths.tolist(), strict=True)
        return [_perplexity(row[: n - 1], ids[1:n]) for row, ids, n in scored]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of its weights, their precision and its tokenizer: another judge has another."""
        return of_model(self.model, self.tokenizer)

    def key_of(self, text: str) -> tuple[str, str, str]:
        """Return what a score is about, as `key` of its line."""
        return self.name, self.fingerprint, hashlib.sha256(text.encode()).hexdigest()[:32]

    def score(
        self, groups: Iterable[Sequence[str]], done: Iterable[Record] = ()
    ) -> Iterator[Record]:
        """Yield the perplexity of each text, and the entropy in bits of all its judge tokens.

        Args:
            groups: texts that are scored together, a few at a time; as long as a group is the
                same, so are its scores, to the bit.
            done: scores of an earlier run, which are not given again.
        """
        found = {key(line) for line in done}
        for group in groups:
            texts = list(dict.fromkeys(group))
            for start in range(0, len(texts), BATCH):
                part = texts[start : start + BATCH]
                keys = [self.key_of(text) for text in part]
                if found.issuperset(keys):
                    continue
                for about, text, value in zip(keys, part, self.perplexities(part), strict=True):
                    if about not in found:
                        found.add(about)
                        yield {
                            **dict(zip(("judge", "fingerprint", "text"), about, strict=True)),
                            "judge_perplexity": value,
                            "judge_entropy": token_entropy(self.tokens(text)),
                        }


def key(score: Record) -> tuple[str, str, str]:
    """Return what a score is about: judge, its fingerprint, and the text's hash."""
    return score["judge"], score["fingerprint"], score["text"]


def load_judge(name: str, device: str | torch.device | None = None) -> Judge:
    """Load a judge by hub name or folder, with "@revision" after it or not; bfloat16 on a GPU.

    "smollm2" is SmolLM2-135M-Instruct, which needs no hub (`asarm.fetch`).

    Raises:
        ValueError: there is no such model, or the hub cannot be reached.
    """
    device = resolve_device(device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    source, revision = name_and_revision(name)
    if name == "smollm2":
        source = str(smollm2_base())
    where = {"revision": revision} if revision else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        with without_report():
            model, report = AutoModelForCausalLM.from_pretrained(
                source, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True, **where
            )
    except UNREADABLE as error:
        raise ValueError(
            f"judge {name!r} cannot be loaded ({reason_of(error)}); expected a causal language "
            "model, a folder or a name on the hub that can be reached"
        ) from None
    check_loaded(f"judge {name}", model, report)
    return Judge(name, model.to(device).eval(), tokenizer)


def _perplexity(logits: Tensor, tokens: Tensor) -> float:
    """Compute the perplexity of tokens (L,) under logits (L, V)."""
    return float(cross_entropy(logits.float(), tokens).exp()) if len(tokens) else math.nan
