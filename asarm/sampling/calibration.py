"""What a model's calls, rows and drafts cost on its device."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch

from asarm.order import Order
from asarm.rows import Backbone
from asarm.sampling.api import sample
from asarm.sampling.cost import Costs
from asarm.sampling.samplers import OnePass

# few rows and drafts, many rows, many drafts: k and stride
PROBES = ((1, 1), (8, 1), (8, 9))


def calibrate(
    model: Backbone, *, length: int = 256, num_targets: int = 64, repeats: int = 5
) -> Costs:
    """Time rounds of `onepass` with few and many rows and drafts, in milliseconds.

    They are for `sample(..., k="auto", costs=...)`; recorded costs give the same texts again.

    Args:
        model: on its device and in its dtype; with its draft head, if it has one.
        length: of the texts, of random tokens.
        num_targets: of a text.
        repeats: of each probe, of which the median counts.

    Raises:
        ValueError: too few targets to distinguish calls, rows and drafts.
    """
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(model.vocab_size, (1, length), generator=rng)
    # neither can be part of a prompt; a backbone need not know a padding token
    special = {model.mask_token_id, getattr(model, "pad_token_id", None)}
    other = next(i for i in range(model.vocab_size) if i not in special)
    ids.apply_(lambda i: other if i in special else i)
    order = Order.random_split(length, 1 - num_targets / length, seed=0)
    rounds = []
    for k, stride in PROBES:
        times = []
        for _ in range(repeats + 1):  # the first is a warm-up
            start = perf_counter()
            found = sample(model, ids, order, OnePass(k=k, stride=stride))
            float(found.log_probs.sum())  # waits for the device
            times.append(1000 * (perf_counter() - start) / int(found.nfe))
        nfe = float(found.nfe)
        rounds.append([1.0, float(found.rows) / nfe, float(found.drafted) / nfe, median(times[1:])])
    system = torch.tensor(rounds, dtype=torch.float64)
    if torch.linalg.matrix_rank(system[:, :3]) < 3:
        raise ValueError(
            f"num_targets is {num_targets}; rounds of so few take the same number of rows: "
            "expected more of them, such as 64"
        )
    solved = torch.linalg.solve(system[:, :3], system[:, 3]).clamp(min=0)
    call, row, draft = solved.tolist()
    return Costs(max(call, 1e-3), row, draft)
