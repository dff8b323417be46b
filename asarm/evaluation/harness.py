"""The library's models in EleutherAI's lm-evaluation-harness, for its log-likelihood tasks.

Needs the extra `asarm[harness]`. The harness (0.4.13) looks for no models outside its own package,
so this module is run in place of `lm_eval`, with the same flags:

    python -m asarm.evaluation.harness --model asarm --model_args pretrained=demo \
        --tasks hellaswag,lambada_openai --batch_size 16 --output_path results

or imported before the harness is called:

    import lm_eval
    import asarm.evaluation.harness
    lm_eval.simple_evaluate("asarm", {"pretrained": "demo"}, tasks=["hellaswag"])

Every score is an exact joint log-density, in nats, of a continuation given its context, left to
right, in one network call per batch. Word perplexities of a tokenizer that rewrites text, as
XLNet's does, are those of the text that it reads.

Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import lm_eval.models  # noqa: F401  # else the harness would know no model but this one
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from tqdm import tqdm

from asarm.codec import Codec
from asarm.density import joint_log_probs
from asarm.distribution import Distribution
from asarm.loading import load
from asarm.order import Order
from asarm.rows import Backbone

Pair = tuple[list[int], list[int]]  # ids of a context, at least one, and of what follows it
Score = tuple[float, bool]  # log-likelihood, and whether greedy decoding would give the same


@register_model("asarm")
class HarnessModel(LM):
    """A model of the library as the harness asks for it.

    Args:
        pretrained: "demo", a folder, or a name on the hub, as in `asarm.load`.
        revision: branch, tag or commit on the hub.
        batch_size: sequences per network call.
        device: where to; a GPU if None and there is one.
        dtype: of the weights; float32 if None.
        max_length: most tokens of a sequence, context and continuation together: contexts are cut
            on the left, and longer texts are scored in windows. The published models were trained
            at 512.

    Raises:
        ValueError: an option outside its range, or what `asarm.load` raises.
    """

    def __init__(
        self,
        pretrained: str = "demo",
        *,
        revision: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int = 512,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size is {batch_size}; expected a number of at least 1")
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}; expected at least 2 tokens")
        self.batch_size = int(batch_size)
        self.max_length = max_length
        self.model, tokenizer = load(pretrained, revision=revision, device=device, dtype=dtype)
        self.codec = Codec(tokenizer)
        self.document_end: int = tokenizer.eos_token_id  # stands before the first token of a text

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is what greedy decoding gives.

        A blank between the two is written with the continuation's first piece, on whichever side
        the task puts it.
        """
        pairs = [self._encode(*request.args) for request in requests]
        scores = self._score(pairs, disable_tqdm=disable_tqdm)
        for request, score in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, score)
        return scores

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of each whole text, in windows of `max_length` with the harness's rule.

        Every token is predicted once; the windows overlap by one token, and the last reaches as
        far back as fits.
        """
        windows = [self._windows(*request.args) for request in requests]
        pairs = [pair for text in windows for pair in text]
        scores = iter(self._score(pairs, disable_tqdm=disable_tqdm))
        totals = [sum((next(scores)[0] for _ in text), 0.0) for text in windows]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Not offered: an any-subset model fills a known number of positions."""
        raise NotImplementedError(
            "asarm models take no generate_until tasks; choose tasks whose output_type is "
            "loglikelihood, loglikelihood_rolling or multiple_choice"
        )

    def _encode(self, context: str, continuation: str) -> Pair:
        target = self.codec.encode(continuation, after=context)
        prompt = self.codec.encode_before(context) or [self.document_end]
        return prompt[-max(1, self.max_length - len(target)) :], target

    def _windows(self, text: str) -> list[Pair]:
        # the harness counts the tokens that a causal model reads, one less than its window holds
        windows = get_rolling_token_windows(
            self.codec.encode(text), self.document_end, self.max_length - 1, context_len=1
        )
        return [make_disjoint_window(window) for window in windows]

    def _score(self, pairs: list[Pair], *, disable_tqdm: bool) -> list[Score]:
        """The scores of all pairs, sequences of like length together; of an empty target 0."""
        scores: list[Score] = [(0.0, True)] * len(pairs)
        todo = [n for n, (_, target) in enumerate(pairs) if target]
        todo.sort(key=lambda n: -len(pairs[n][0]) - len(pairs[n][1]))
        starts = range(0, len(todo), self.batch_size)
        for start in tqdm(starts, desc="asarm", unit="batch", disable=disable_tqdm):
            chosen = todo[start : start + self.batch_size]
            found = joint_scores(self.model, [pairs[n] for n in chosen])
            for n, score in zip(chosen, found, strict=True):
                scores[n] = score
        return scores


@dataclass(frozen=True)
class WatchedDistribution(Distribution):
    """A law that keeps, of every row it is asked about, the largest log-probability."""

    largest: list[Tensor] = field(default_factory=list)

    def log_probs(self, logits: Tensor, is_allowed: Tensor | None = None) -> Tensor:
        found = super().log_probs(logits, is_allowed)
        self.largest.append(found.amax(-1))
        return found


def joint_scores(model: Backbone, pairs: list[Pair]) -> list[Score]:
    """The score of every target given its prompt, left to right; one network call."""
    sequences = [torch.tensor([*prompt, *target]) for prompt, target in pairs]
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(model.device)
    left_to_right = torch.arange(ids.shape[1]).repeat(len(pairs), 1)
    prompts, lengths = [len(prompt) for prompt, _ in pairs], [len(s) for s in sequences]
    order = Order(left_to_right, prompts, lengths).to(model.device)
    law = WatchedDistribution(model.mask_token_id)
    found = joint_log_probs(model, ids, order, law)
    # targets are in order of sequence and rank in both, as ranks are positions here
    is_largest = found[order.is_target] == torch.cat(law.largest)
    greedy = [bool(part.all()) for part in is_largest.split(order.num_targets.tolist())]
    return list(zip(found.double().sum(1).tolist(), greedy, strict=True))


if __name__ == "__main__":
    cli_evaluate()
