"""The library's models in EleutherAI's lm-evaluation-harness.

Needs the extra "harness": `pip install '.[harness]'` in the checkout. The harness
(0.4.13) looks for no models outside its own package, so this module is run in place of `lm_eval`,
with the same flags:

    python -m asarm.evaluation.harness --model asarm --model_args pretrained=demo \
        --tasks hellaswag,lambada_openai --batch_size 16 --output_path results

or imported before the harness is called:

    import lm_eval
    import asarm.evaluation.harness
    lm_eval.simple_evaluate("asarm", {"pretrained": "demo"}, tasks=["hellaswag"])

Every score is an exact joint log-density, in nats, of a continuation given its context, left to
right, in one network call per batch. What is generated (`generate_until`) is sampled left to right
too, and depends on the harness's seed (--seed) and on the request's number. Word perplexities of a
tokenizer that rewrites text, as XLNet's does, are those of the text that it reads.

Shapes: B batch, L length, V vocabulary.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import groupby

import lm_eval.models  # noqa: F401  # else the harness would know no model but this one
import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from tqdm import tqdm

from asarm.cli import refuse
from asarm.codec import Codec
from asarm.density import joint_log_probs
from asarm.distribution import Distribution
from asarm.infilling.continuation import Stopping, continue_texts
from asarm.loading import load
from asarm.order import Order
from asarm.rows import Backbone
from asarm.schedule import keyed_seed

AUTO_BATCH = 16  # sequences a call where the harness is to choose
Pair = tuple[list[int], list[int]]  # ids of a context, at least one, and of what follows it
Score = tuple[float, bool]  # log-likelihood, and whether greedy decoding would give the same


@register_model("asarm")
class HarnessModel(LM):
    """A model of the library with the interface of the harness.

    Args:
        pretrained: "demo", a folder, or a name on the hub, as in `asarm.load`.
        revision: the branch, tag or commit on the hub.
        batch_size: sequences per network call; "auto" is 16.
        max_batch_size: the largest batch_size that "auto" chooses.
        device: the device; if None, a GPU where there is one. The harness passes "cuda:0" where its
            user names none, which means the CPU where there is no GPU, and the log says so.
        dtype: the dtype of the weights; float32 if None.
        max_length: the largest number of tokens of a context and its continuation together:
            contexts are cut on the left, and longer texts are scored in windows. The published
            models were trained at 512.

    Raises:
        ValueError: an option outside its range, or what `asarm.load` raises.
    """

    def __init__(
        self,
        pretrained: str = "demo",
        *,
        revision: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        device: str | None = None,
        dtype: str | None = None,
        max_length: int = 512,
    ) -> None:
        super().__init__()
        self.batch_size = _batch_size(batch_size, max_batch_size)
        if max_length < 2:
            raise ValueError(f"max_length is {max_length}; expected at least 2 tokens")
        self.max_length = max_length
        self.model, tokenizer = load(
            pretrained, revision=revision, device=_device(device), dtype=dtype
        )
        self.codec = Codec(tokenizer)
        self.document_end: int = tokenizer.eos_token_id  # precedes the first token of a text

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether greedy decoding gives it.

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
        """Return the log-likelihood of each text, in windows of `max_length` by the harness's rule.

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
        """Continue each context, left to right, up to its stop strings; see `continuation`.

        Of `generation_kwargs`, `until`, `max_gen_toks` (256 or half of `max_length`, if not given),
        `do_sample`, `temperature`, `top_k` and `top_p` are served; without `do_sample` and without
        a temperature the most probable token is taken each time.
        """
        longest = min(256, self.max_length // 2)
        asked = [Stopping.of(request.args[1], longest) for request in requests]
        for stopping in asked:
            stopping.room(self.max_length)  # refuses before anything is generated
        todo = sorted(range(len(asked)), key=lambda n: (repr(asked[n]), -len(requests[n].args[0])))
        batches = [
            own[start : start + self.batch_size]
            for _, same in groupby(todo, asked.__getitem__)
            for own in [list(same)]
            for start in range(0, len(own), self.batch_size)
        ]
        texts = [""] * len(requests)
        for chosen in tqdm(batches, desc="asarm", unit="batch", disable=disable_tqdm):
            self._continue(requests, chosen, asked[chosen[0]], texts)
        return texts

    def _continue(
        self, requests: list[Instance], chosen: list[int], stopping: Stopping, texts: list[str]
    ) -> None:
        """Put the continuations of the chosen requests into `texts`."""
        found = continue_texts(
            self.model,
            self.codec,
            [requests[n].args[0] for n in chosen],
            stopping,
            seeds=[keyed_seed(torch.initial_seed(), "generate", n) for n in chosen],
            max_length=self.max_length,
        )
        for n, text in zip(chosen, found, strict=True):
            texts[n] = text
            self.cache_hook.add_partial("generate_until", requests[n].args, text)

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
        """Return the scores of all pairs, batched by length; an empty target scores 0."""
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


def _batch_size(requested: int | str, max_size: int | str | None) -> int:
    """Return the number of a batch's sequences; the harness writes "auto" and "auto:N" as well."""
    if str(requested).split(":")[0] == "auto":
        requested = AUTO_BATCH if max_size is None else min(AUTO_BATCH, int(max_size))
    if not str(requested).isdecimal() or int(requested) < 1:
        raise ValueError(f"batch_size is {requested}; expected a number of at least 1, or auto")
    return int(requested)


def _device(asked: str | None) -> str | None:
    """Return the requested device, or the CPU in place of a GPU that is not there."""
    if str(asked).startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("there is no GPU here for device %s: cpu", asked)
        return "cpu"
    return asked


@dataclass(frozen=True)
class WatchedDistribution(Distribution):
    """A distribution that keeps the largest log-probability of every row that it computes."""

    largest: list[Tensor] = field(default_factory=list)

    def log_probs(self, logits: Tensor, is_allowed: Tensor | None = None) -> Tensor:
        found = super().log_probs(logits, is_allowed)
        self.largest.append(found.amax(-1))
        return found


def joint_scores(model: Backbone, pairs: list[Pair]) -> list[Score]:
    """Compute the score of every target given its prompt, left to right, in one network call."""
    sequences = [torch.tensor([*prompt, *target]) for prompt, target in pairs]
    ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True).to(model.device)
    left_to_right = torch.arange(ids.shape[1]).repeat(len(pairs), 1)
    prompts, lengths = [len(prompt) for prompt, _ in pairs], [len(s) for s in sequences]
    order = Order(left_to_right, prompts, lengths).to(model.device)
    distribution = WatchedDistribution(model.mask_token_id)
    found = joint_log_probs(model, ids, order, distribution)
    # targets are in order of sequence and rank in both, as ranks are positions here
    is_largest = found[order.is_target] == torch.cat(distribution.largest)
    greedy = [bool(part.all()) for part in is_largest.split(order.num_targets.tolist())]
    return list(zip(found.double().sum(1).tolist(), greedy, strict=True))


def main() -> None:
    """Run the harness's command line; errors of its user are reported in one line."""
    try:
        cli_evaluate()
    except (ValueError, OSError) as error:
        refuse(str(error))


if __name__ == "__main__":
    main()
