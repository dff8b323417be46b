"""Training a draft head: on the rows that sampling asks, behind weights that stay as they are."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fakes import FakeHub, mixed_batch, randomize, small_model
from kills import outcome, run_to_the_end, tiny
from safetensors.torch import load_file

from asarm import Order, load, log_prob, sample
from asarm.data import Batch
from asarm.drafting.drafters import HeadDrafter
from asarm.drafting.files import CONFIG, WEIGHTS, fits
from asarm.drafting.head import DraftHead, DraftHeadConfig
from asarm.drafting.objective import (
    LAGS,
    DraftDistributions,
    DraftObjective,
    draft_distributions,
    draw_starts,
)
from asarm.metrics.densities import RATES, draft_rejections
from asarm.training import export, loop, setup, step
from asarm.training.config import TrainingConfig
from asarm.training.loop import train
from asarm.training.objectives import objective_of

HEAD = {"learn": "draft_head", "head_hidden": 16, "head_rank": 8, "head_starts": 6}


def headed(seed=3):
    model = small_model(seed=seed, std=0.4)
    head = DraftHead(DraftHeadConfig(32, hidden=16, rank=6)).double()
    randomize(head, seed=5, std=0.4)
    model.set_draft_head(head)
    return model


def batch():
    return mixed_batch([24, 20, 24, 9, 2, 17], [1, 0, 12, 3, 1, 2], 60)


# --- what is learned is what is asked in sampling ---


class Recording:
    """Drafts by the head, and notes after each round what it saw and what it drew from."""

    def __init__(self, model):
        self.drafter, self.rounds = HeadDrafter.of(model), []

    def __call__(self, request):
        drafts = self.drafter(request)
        tokens = request.tokens.scatter(1, request.ranks(), drafts.tokens)
        by_position = tokens.gather(1, request.rank)
        seen = request.state.sequences, by_position, request.start, request.limit, drafts
        self.rounds.append(seen)
        return drafts


@pytest.mark.slow_but_one
@pytest.mark.parametrize("stride", [1, 2, 9])
@pytest.mark.parametrize("verifier", ["block", "gumbel"])
@pytest.mark.parametrize(("method", "k"), [("onepass", 1), ("onepass", 5), ("assd", 5)])
@torch.no_grad()
def test_teacher_forcing_gives_the_distributions_that_drafts_were_drawn_from(
    method, k, verifier, stride
):
    """Rows, neighbours and lags of a training step are those of every round of a sampler."""
    model, (ids, order) = headed(), batch()
    recording = Recording(model)
    options = {"stride": stride} if method == "onepass" else {}
    options |= {"k": k, "verifier": verifier, "drafter": recording}
    sample(model, ids, order, method, **options)
    compared, lags = 0, set()
    for sequences, tokens, start, limit, drafts in recording.rounds:
        distributions = draft_distributions(
            model, model.draft_head, tokens, order[sequences], limit[:, None]
        )
        assert distributions.is_row.shape == (len(tokens), LAGS)
        found = distributions.draft.new_zeros(len(tokens), LAGS, 60)
        found[distributions.is_row] = distributions.draft
        for b, count in enumerate(drafts.count.tolist()):
            if count:
                lag = int(start[b] - limit[b]) - 1  # ranks that the rows saw nothing of, but one
                assert distributions.is_row[b, lag : lag + count].all()
                torch.testing.assert_close(found[b, lag : lag + count], drafts.probs[b, :count])
                compared += count
                lags.add(lag)
    assert compared > 40
    assert (max(lags) > 0) == (stride > 1 and method == "onepass")


def test_distributions_are_those_of_one_row_at_a_time():
    """Whatever other starts and batch mates there are, and no row where no rank is left."""
    model, (ids, order) = headed(), batch()
    starts = draw_starts(order, 5, seed=0, step=0, indices=list(range(len(ids))))
    distributions = draft_distributions(model, model.draft_head, ids, order, starts)
    ranks = starts.repeat_interleave(LAGS, 1) + 1 + torch.arange(LAGS).repeat(5)
    assert torch.equal(distributions.is_row, ranks < order.length[:, None])
    log_probs = log_prob(model, ids, order)
    first = 0
    for b in range(len(ids)):
        for s in range(5):
            arguments = ids[[b]], order[[b]], starts[[b]][:, [s]]
            alone = draft_distributions(model, model.draft_head, *arguments)
            rows = slice(first, first + len(alone.draft))
            torch.testing.assert_close(alone.draft, distributions.draft[rows])
            torch.testing.assert_close(alone.target, distributions.target[rows])
            positions = order.order[b, int(starts[b, s]) + 1 :][: len(alone.target)]
            found = alone.target.gather(1, ids[b, positions, None])[:, 0].log()
            torch.testing.assert_close(found, log_probs[b, positions])
            first = rows.stop
    assert first == len(distributions.draft)


def test_what_is_rejected_is_what_the_distributions_do_not_share():
    distributions = DraftDistributions(
        torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]),
        torch.tensor([[0.5, 0.0, 0.5], [0.2, 0.3, 0.5]]),
        torch.tensor([[False, True], [True, False]]),
    )
    assert distributions.rejected().tolist() == [[0.0, 0.5], [0.0, 0.0]]


def test_starts_depend_on_seed_step_and_place_alone_and_leave_a_rank_behind():
    order = Order(torch.arange(12).expand(3, -1), [1, 9, 11])
    starts = draw_starts(order, 200, seed=0, step=4, indices=[5, 6, 7])
    assert [sorted(set(row)) for row in starts.tolist()] == [[*range(1, 11)], [9, 10], [11]]
    assert torch.equal(draw_starts(order[[1]], 200, seed=0, step=4, indices=[6])[0], starts[1])
    for other in ({"seed": 1}, {"step": 5}, {"indices": [8, 9, 10]}):
        key = {"seed": 0, "step": 4, "indices": [5, 6, 7]} | other
        assert not torch.equal(draw_starts(order, 200, **key), starts)


def test_a_sequence_of_one_target_has_no_draft_and_no_loss():
    model = headed()
    ids, order = torch.randint(7, 60, (2, 6)), Order(torch.arange(6).expand(2, -1), [5, 5])
    starts = draw_starts(order, 3, seed=0, step=0, indices=[0, 1])
    objective = DraftObjective(model, model.draft_head)
    assert objective(ids, order, starts).item() == 0


def test_rejections_are_the_same_however_the_work_is_shared():
    model, rng = headed(), torch.Generator().manual_seed(0)
    ids = torch.randint(7, 60, (5, 16), generator=rng)
    blocks = Batch(ids, torch.tensor([16, 9, 16, 2, 16]), [f"block {i}" for i in range(5)])
    whole = draft_rejections(model, model.draft_head, blocks, range(5), batch_size=5)
    parts = [draft_rejections(model, model.draft_head, blocks, [i], batch_size=1) for i in range(5)]
    torch.testing.assert_close(sum(parts), whole)
    assert 0 < whole[0] < whole[1] and whole[1] > 8 * len(RATES)


# --- runs ---


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """The config of a short run of a model alone, with weights by which neighbours matter."""
    config = tiny(tmp_path_factory.mktemp("backbone"), eval_steps=12, save_steps=12)
    assert train(config).is_finished
    model, _ = load(config.output_dir)
    randomize(model.requires_grad_(False), seed=0, std=0.2)
    model.save_pretrained(config.output_dir)
    return config


def head_run(backbone, folder, **changes):
    changes = {**HEAD, "eval_steps": 4, "save_steps": 2, "dropout": None, **changes}
    return replace(backbone, model=backbone.output_dir, output_dir=str(folder / "run"), **changes)


@pytest.fixture(scope="module")
def finished(backbone, tmp_path_factory):
    """A run that taught a head, to its end."""
    config = head_run(backbone, tmp_path_factory.mktemp("head"))
    assert train(config).is_finished
    return config


def records(config, name="evaluations.jsonl"):
    return [json.loads(line) for line in Path(config.output_dir, name).read_text().splitlines()]


def weights_of(config):
    return load_file(Path(config.output_dir) / "model.safetensors")


def differing(ours, theirs):
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def everything(config):
    head = load_file(Path(config.output_dir) / WEIGHTS)
    return outcome(Path(config.output_dir)) | {name: w.tolist() for name, w in head.items()}


@pytest.mark.slow
def test_the_backbone_is_frozen_bit_for_bit_and_the_head_learned(backbone, finished):
    assert not differing(weights_of(backbone), weights_of(finished))
    model, _ = load(finished.output_dir)
    assert fits(model.draft_head, model)
    assert (model.draft_head.config.hidden, model.draft_head.config.rank) == (16, 8)
    assert all(weight.any() for weight in model.draft_head.parameters())
    lines = records(finished)
    assert lines[-1]["drafts_rejected"] < lines[0]["drafts_rejected"] - 2e-4
    for line in lines:
        assert line["loss"] == line["drafts_rejected"]  # by which the best checkpoint is chosen
        assert line["bits_per_token_0.95"] == lines[0]["bits_per_token_0.95"]


@pytest.mark.slow
@pytest.mark.parametrize("stops", [[1], [5, 9]])
def test_an_interrupted_run_ends_as_one_that_was_not(finished, tmp_path, monkeypatch, stops):
    config = replace(finished, output_dir=str(tmp_path / "run"))
    log = loop.Monitor.log
    for last in stops:
        with monkeypatch.context() as patch:

            def stopping(self, plan, *rest, last=last):
                log(self, plan, *rest)
                if plan.step == last:
                    os.kill(os.getpid(), signal.SIGTERM)

            patch.setattr(loop.Monitor, "log", stopping)
            assert train(config).step == last + 1
    assert train(config).is_finished
    assert everything(config) == everything(finished)


@pytest.mark.slow
def test_both_learn_where_both_are_to(backbone, finished, tmp_path):
    """From the head that there is; what is never used stays frozen, as without a head."""
    config = head_run(
        replace(backbone, output_dir=finished.output_dir), tmp_path, learn="both", max_steps=3
    )
    model, _ = setup.start_model(config)
    frozen = {name.rsplit(".", 1)[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"r_s_bias", "seg_embed"}
    before = load_file(Path(finished.output_dir) / WEIGHTS)
    assert not differing(before, dict(model.draft_head.state_dict()))
    assert train(config).is_finished
    changed = differing(weights_of(config), weights_of(finished))
    assert {n for n in weights_of(config) if n not in changed} == {
        name for name, p in model.named_parameters() if not p.requires_grad
    }
    after = load_file(Path(config.output_dir) / WEIGHTS)
    assert set(differing(before, after)) == set(before)
    assert records(config)[-1]["loss"] != records(config)[-1]["drafts_rejected"]
    model, _ = load(config.output_dir)
    assert fits(model.draft_head, model)


def test_a_model_that_learns_alone_drops_the_head(finished, tmp_path):
    of_head = {name: getattr(TrainingConfig(), name) for name in HEAD if name.startswith("head_")}
    config = head_run(finished, tmp_path, **of_head | {"learn": "model", "max_steps": 1})
    assert setup.start_model(config)[0].draft_head is None
    train(config)
    assert not list(Path(config.output_dir).glob("**/draft_head*"))
    assert "drafts_rejected" not in records(config)[-1]
    assert load(config.output_dir)[0].draft_head is None


@pytest.mark.slow
@pytest.mark.parametrize("learn", ["draft_head", "both"])
def test_two_processes_learn_what_one_learns(backbone, tmp_path, learn):
    found = []
    for processes in (1, 2):
        config = head_run(
            backbone,
            tmp_path,
            **{"learn": learn, "dropout": 0.0, "max_steps": 3, "eval_num_decodes": 0},
        )
        config = replace(config, output_dir=str(tmp_path / f"{processes}"))
        run_to_the_end(config, processes)
        found.append([line["loss"] for line in records(config, "metrics.jsonl")])
        found.append([line["drafts_rejected"] for line in records(config)])
    assert len(found[0]) == 3
    assert found[2] == pytest.approx(found[0], rel=1e-5)
    assert found[3] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.slow
def test_a_head_learns_in_bfloat16(backbone, tmp_path):
    config = head_run(backbone, tmp_path, bf16=True, max_steps=6)
    train(config)
    assert not differing(weights_of(backbone), weights_of(config))
    lines = records(config)
    assert lines[-1]["drafts_rejected"] < lines[0]["drafts_rejected"]


@pytest.mark.slow_but_one
@pytest.mark.parametrize("learn", ["draft_head", "both"])
def test_the_cut_into_micro_batches_changes_no_gradient(backbone, tmp_path, learn):
    def gradients(size):
        config = head_run(backbone, tmp_path, learn=learn, dropout=0.0, batch_size=size)
        model, tokenizer = setup.start_model(config)
        plan = step.plan_step(3, config, 1)
        options = {"seed": 0, "global_batch_size": 8}
        blocks = loop.open_blocks(config, tokenizer, **options).next_batch(plan.indices(0))
        objective = objective_of(config)(model.double(), config)
        with torch.no_grad():  # a new head has gradients for one of its weights only
            objective.head.up.normal_(generator=torch.Generator().manual_seed(0))
        accelerator = loop.new_accelerator(config)
        losses = step.accumulate(objective, blocks, plan, config, accelerator, bf16=False)
        found = {n: p.grad for n, p in objective.named_parameters() if p.grad is not None}
        return losses.sum(), found

    loss, expected = gradients(2)
    only_head = all(name.startswith("head.") for name in expected)
    assert only_head == (learn == "draft_head") and {"head.up", "head.known"} <= set(expected)
    for size in (1, 8):
        torch.testing.assert_close(gradients(size), (loss, expected))


def test_the_loss_that_is_logged_is_that_of_the_draft_rows(backbone, tmp_path):
    config = head_run(backbone, tmp_path, dropout=0.0, max_steps=1, eval_num_decodes=0)
    model, tokenizer = setup.start_model(config)
    options = {"seed": 0, "global_batch_size": 8}
    blocks = loop.open_blocks(config, tokenizer, **options).next_batch(range(8))
    plan = step.plan_step(0, config, 1)
    ids, order, starts = step.micro_batch(
        blocks.input_ids, blocks.lengths, torch.arange(8), plan, config
    )
    model.eval()
    distributions = draft_distributions(model, model.draft_head, ids, order, starts)
    expected = (distributions.rejected().sum(1) / distributions.is_row.sum(1)).mean()
    train(config)
    (line,) = records(config, "metrics.jsonl")
    assert line["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_head_goes_to_the_hub_whole(finished, monkeypatch):
    hub = FakeHub()
    monkeypatch.setattr(export, "HfApi", lambda: hub)
    train(replace(finished, push_to_hub="someone/something"))
    (upload,) = hub.uploads
    folder, patterns = upload["folder_path"], upload["allow_patterns"]
    uploads = [path.name for pattern in patterns for path in folder.glob(pattern)]
    assert {WEIGHTS, CONFIG, "model.safetensors", "config.json"} <= set(uploads)
