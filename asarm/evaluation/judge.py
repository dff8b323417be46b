"""Another language model's opinion of a text: perplexity under a causal LM."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from asarm.evaluation.study import Record, key, token_entropy
from asarm.loading import resolve_device

MAX_TOKENS = 960  # of the published evaluation


@dataclass(frozen=True)
class Judge:
    """A causal language model that scores texts as arXiv 2504.20456 does."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase

    def tokens(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @torch.no_grad()
    def perplexity(self, text: str) -> float:
        """exp of the mean -log p of the text's first 960 tokens.

        The first is given the judge's start token; it is not scored where the judge has none.
        """
        start = self.tokenizer.bos_token_id
        most = getattr(self.model.config, "max_position_embeddings", None) or MAX_TOKENS + 1
        ids = self.tokens(text)[: min(MAX_TOKENS, most - 1)]
        ids = ids if start is None else [start, *ids]
        if len(ids) < 2:
            return math.nan
        input_ids = torch.tensor([ids], device=self.model.device)
        logits: Tensor = self.model(input_ids=input_ids).logits[0, :-1]
        return float(cross_entropy(logits.float(), input_ids[0, 1:]).exp())

    def score(self, records: Iterable[Record], done: Iterable[Record] = ()) -> Iterator[Record]:
        """Perplexity of each record's text, and entropy in bits of all its judge tokens.

        Args:
            done: scores of an earlier run, which are not given again.
        """
        found = {(line["judge"], key(line)) for line in done}
        for record in records:
            if (self.name, key(record)) in found:
                continue
            yield {
                "judge": self.name,
                **{name: record[name] for name in ("item", "method", "steps")},
                "judge_perplexity": self.perplexity(record["text"]),
                "judge_entropy": token_entropy(self.tokens(record["text"])),
            }


def load_judge(name: str, device: str | torch.device | None = None) -> Judge:
    """A judge by hub name or folder, in float32.

    Raises:
        ValueError: there is no such model, or the hub cannot be reached.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"judge {name!r} cannot be loaded ({reason}); expected a causal language model, "
            "a folder or a name on the hub that can be reached"
        ) from None
    return Judge(name, model.to(resolve_device(device)).eval(), tokenizer)
