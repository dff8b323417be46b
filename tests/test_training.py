"""Training as its users see it: presets, the run's folder, what is refused, what stops it."""

import json
import os
import re
import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from fakes import decoder_folder
from kills import TIMES, outcome, tiny
from transformers import XLNetLMHeadModel

from asarm import load, log_prob
from asarm.data import DataUnavailable
from asarm.data.packed import PackedBlocks
from asarm.lock import LOCK, RunLock
from asarm.schedule import joint_orders
from asarm.training import loop, setup, step, watch
from asarm.training.checkpoint import CHECKSUMS, Checkpoints
from asarm.training.checks import without_idle
from asarm.training.config import TrainingConfig
from asarm.training.loop import train
from asarm.training.objectives import objective_of
from asarm.training.summary import summary

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "configs" / "train").glob("*.yaml"))
MILLION = 1_000_000
SIGTERM = signal.SIGTERM

# the table of presets: start, lowest, highest mask rate; global batch; sequences; learning rate;
# warm-up of masks and of the learning rate
OURS = ("decoder", "demo", "draft_head", "smoke")
PUBLISHED = {
    "nlp": (0.15, 0.85, 0.99, 32, 24, 1e-5, 5000),
    "nlp_continue": (0.90, 0.90, 0.99, 384, 120, 1.2e-4, 5000),
    "nlp_infill": (0.15, 0.60, 0.75, 256, 120, 8e-5, 2500),
    "code": (0.15, 0.85, 0.99, 32, 24, 1e-5, 5000),
    "code_single_line": (0.01, 0.05, 0.25, 256, 120, 8e-5, 2500),
    "any_permutation": (0.15, 0.85, 0.99, 32, 24, 1e-5, 5000),
    "parallel": (0.15, 0.85, 0.99, 32, 24, 1e-5, 5000),
    "parallel_prompt": (0.15, 0.85, 0.99, 32, 24, 1e-5, 5000),
    "parallel_causal": (0.15, 0.85, 0.99, 32, 24, 1e-5, 5000),
}


# what makes a recipe is read in one place, also where it is the default
SAID_ANYWAY = {
    *("start_mask_rate", "min_mask_rate", "max_mask_rate", "learning_rate"),
    *("global_batch_size", "batch_size", "prompt_attention"),
    *("d_model", "n_layer", "n_head", "d_inner"),
}


def preset(name: str) -> TrainingConfig:
    path = ROOT / "configs" / "train" / f"{name}.yaml"
    return TrainingConfig(**yaml.safe_load(path.read_text(encoding="utf-8")))


def metrics(config: TrainingConfig) -> list[dict]:
    lines = Path(config.output_dir, "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is over."""
    config = tiny(tmp_path_factory.mktemp("finished"))
    assert train(config).is_finished
    return config


# --- presets ---


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_are_as_published(name):
    config = preset(name)
    start, low, high, batch, sequences, rate, warmup = PUBLISHED[name]
    masks = config.start_mask_rate, config.min_mask_rate, config.max_mask_rate
    assert masks == (start, low, high)
    assert config.global_batch_size == batch
    assert config.global_batch_size * config.max_steps == sequences * MILLION
    assert config.learning_rate == rate
    assert config.mask_warmup_steps == config.warmup_steps == warmup
    assert (config.length, config.clip_norm, config.loss_scale) == (512, 1.0, "none")
    assert config.objective == ("parallel" if name.startswith("parallel") else "joint")
    assert config.orders == {"permuted" if name == "any_permutation" else "ascending": 1.0}
    assert config.whitespace_map == name.startswith("code")
    setup.check_config(config, 1)
    setup.check_config(config, 4)


def test_presets_name_what_they_reproduce_and_hold_differences_only():
    defaults = vars(TrainingConfig())
    assert {path.stem for path in PRESETS} == {*PUBLISHED, *OURS}
    for path in PRESETS:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert "arXiv" in text.splitlines()[0] or path.stem in (*OURS, "nlp_continue")
        settings = yaml.safe_load(text)
        same = {name for name, value in settings.items() if defaults[name] == value}
        assert same <= SAID_ANYWAY, path


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in PRESETS if path.stem != "decoder"],  # see test_training_decoder.py
    ids=lambda path: path.stem,
)
def test_two_steps_of_every_preset(path, finished, tmp_path):
    small = tiny(tmp_path)
    config = replace(
        preset(path.stem),
        **{
            name: getattr(small, name)
            for name in ["output_dir", "dataset", "cache_dir", "length", "bf16", "trackers"]
            + ["d_model", "n_layer", "n_head", "d_inner", "batch_size", "eval_sequences"]
        },
        global_batch_size=4,
        max_steps=2,
        log_steps=1,
        eval_num_decodes=1,
    )
    if config.model != "scratch":
        config = replace(config, model=finished.output_dir)
    if config.lora_rank is not None:
        sizes = {"num_attention_heads": 2, "head_dim": 8, "intermediate_size": 16}
        config = replace(config, model=str(decoder_folder(tmp_path / "base", **sizes)))
    config = without_idle(config, {"dataset"})
    assert train(config).is_finished
    assert [line["step"] for line in metrics(config)] == [1, 2]
    assert load(config.output_dir)[0].sizes["d_model"] == 16


# --- what comes out ---


def test_the_finished_folder_is_a_model_folder(finished):
    folder = Path(finished.output_dir)
    model, tokenizer = load(folder)
    assert len(tokenizer) == model.vocab_size
    reference = XLNetLMHeadModel.from_pretrained(folder)
    for name, weight in reference.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name
    newest = Checkpoints(folder / "checkpoints", keep=1).newest_whole()
    assert newest == finished.max_steps
    as_saved, _ = load(folder / "checkpoints" / f"step-{newest:07d}" / "model")
    assert torch.equal(as_saved.lm_loss.weight, model.lm_loss.weight)


def test_the_card_says_what_the_model_saw(finished):
    card = Path(finished.output_dir, "README.md").read_text()
    for part in ["text.txt", "12 steps of 8 x 24", "0.05..0.99", "50% ascending", "| 95% |"]:
        assert part in card
    assert "arXiv 2504.20456" in card and "cache_dir" not in card


def test_held_out_figures_and_texts_come_at_every_evaluation(finished):
    folder = Path(finished.output_dir)
    lines = [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 4, 8, 12]
    for line in lines:
        assert {"loss", "bits_per_token_0.15", "bits_per_byte_0.95", "calls_per_target"} <= set(
            line
        )
        text = (folder / "samples" / f"step-{line['step']:07d}.txt").read_text()
        assert text.startswith("=== blanked\n") and "=== filled\n" in text
    assert lines[-1]["loss"] < lines[0]["loss"] - 1


def test_held_out_blocks_are_never_trained_on(finished):
    config, tokenizer = finished, loop.start_model(finished)[1]
    options = {"seed": config.seed, "global_batch_size": config.global_batch_size}
    blocks = loop.open_blocks(config, tokenizer, **options)
    held_out = {tuple(row) for row in blocks.held_out.blocks.input_ids.tolist()}
    trained = set()
    for _ in range(30):
        rows = blocks.next_batch(range(8)).input_ids.tolist()
        trained |= {tuple(row) for row in rows}
    assert len(held_out) == 4 and len(trained) > 50
    assert held_out.isdisjoint(trained)


def test_a_finished_run_says_so_and_stays_as_it_is(finished):
    before = outcome(Path(finished.output_dir))
    result = train(finished)
    assert result.is_finished and result.step == finished.max_steps
    assert outcome(Path(finished.output_dir)) == before
    said = summary(result, finished)
    assert "finished: 12 steps" in said and "--max_steps 24" in said
    assert "step 0" in said and "step 12" in said


@pytest.mark.slow
def test_tensorboard_has_the_curves(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny(tmp_path, trackers=["tensorboard"], max_steps=4)
    train(config)
    events = EventAccumulator(str(Path(config.output_dir, "tensorboard", "asarm")))
    events.Reload()
    assert {"loss", "learning_rate", "held_out/loss"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


def test_a_judge_is_asked_where_one_is_named(finished, tmp_path, monkeypatch):
    class Judge:
        def perplexity(self, text):
            return 7.0 if "<pad>" not in text and text else 0.0

    monkeypatch.setattr(watch, "load_judge", lambda name, device: Judge())
    config = tiny(tmp_path, judge="gpt2", max_steps=1)
    train(config)
    lines = Path(config.output_dir, "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(line)["judge_perplexity"] for line in lines] == [7.0, 7.0]


def test_going_on_from_a_model_starts_with_its_weights(finished, tmp_path):
    config = tiny(tmp_path, model=finished.output_dir, dropout=None, max_steps=1)
    model, _ = setup.start_model(config)
    before, _ = load(finished.output_dir)
    assert torch.equal(model.lm_loss.weight, before.lm_loss.weight)
    assert model.config.dropout == 0.1 and model.training
    assert setup.start_model(replace(config, dropout=0.3))[0].transformer.dropout.rate > 0.29


# --- steps ---


@pytest.mark.slow_but_one
@pytest.mark.parametrize("objective", ["joint", "parallel"])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_the_cut_into_micro_batches_changes_no_gradient(tmp_path, objective, batch_size):
    def gradients(size):
        config = tiny(tmp_path, objective=objective, dropout=0.0, batch_size=size)
        model, tokenizer = setup.start_model(config)
        plan = step.plan_step(3, config, 1)
        options = {"seed": 0, "global_batch_size": 8}
        blocks = loop.open_blocks(config, tokenizer, **options)
        batch = blocks.next_batch(plan.indices(0))
        accelerator = loop.new_accelerator(config)
        objective_ = objective_of(config)(model.double(), config)
        losses = step.accumulate(objective_, batch, plan, config, accelerator, bf16=False)
        return losses.sum(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    torch.testing.assert_close(gradients(batch_size), gradients(2), check_dtype=False)


@pytest.mark.slow
def test_gradient_checkpointing_learns_the_same(finished, tmp_path):
    config = replace(finished, output_dir=str(tmp_path / "run"), gradient_checkpointing=True)
    train(config)
    assert outcome(Path(config.output_dir)) == outcome(Path(finished.output_dir))


# --- what is refused, what is allowed ---


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"d_model": 32}, "d_model = 16, not 32"),
        ({"objective": "parallel"}, "objective = joint, not parallel"),
        ({"seed": 1}, "seed = 0, not 1"),
        ({"learning_rate": 0.5}, "learning_rate = 0.01, not 0.5"),
        ({"length": 32}, "length = 24, not 32"),
    ],
)
def test_settings_that_break_continuation_are_refused(finished, change, says):
    with pytest.raises(ValueError, match=f"{says}; take another --output_dir"):
        train(replace(finished, **change))


def test_harmless_settings_may_change_and_are_noted(finished, capsys):
    train(replace(finished, save_steps=3, keep_checkpoints=5))
    assert "save_steps was 2 and is 3 from here on" in capsys.readouterr().out
    starts = Path(finished.output_dir, "starts.jsonl").read_text().splitlines()
    changed = json.loads(starts[-1])["changed"]
    assert changed == {"save_steps": [2, 3], "keep_checkpoints": [2, 5]}
    train(finished)


def test_fewer_steps_than_were_made_are_refused(finished):
    with pytest.raises(ValueError, match="max_steps is 6, and the run has made 12 steps"):
        train(replace(finished, max_steps=6))


def test_warm_ups_that_never_end_are_remarked(tmp_path, capsys):
    train(tiny(tmp_path, max_steps=2))
    said = capsys.readouterr().out
    assert "warmup_steps is 3 and max_steps 2: the highest learning rate is never reached" in said
    documents, held_out = re.search(r"data: (\d+) documents, .* (\d+) held out", said).groups()
    assert int(documents) + int(held_out) == 200


@pytest.mark.slow
def test_other_data_under_the_same_name_are_refused(tmp_path):
    config = tiny(tmp_path, max_steps=2)
    train(config)
    with open(config.dataset, "a") as file:
        file.write("\n\nand a new paragraph\n" * 40)
    with pytest.raises(ValueError, match="data"):
        train(replace(config, max_steps=4))


@pytest.mark.slow
def test_overwriting_starts_anew(tmp_path):
    train(tiny(tmp_path, max_steps=2))
    config = tiny(tmp_path, max_steps=3, seed=1, overwrite=True)
    assert train(config).step == 3
    assert [line["step"] for line in metrics(config)] == [1, 2, 3]


@pytest.mark.slow
def test_a_second_run_of_a_folder_is_refused_and_a_dead_one_is_not(tmp_path):
    config = tiny(tmp_path, max_steps=1)
    folder = Path(config.output_dir)
    child = os.fork()
    if not child:  # another process has the folder until it is killed
        with RunLock(folder):
            signal.pause()
        os._exit(0)
    while not (folder / LOCK).exists() or not (folder / LOCK).read_text():
        pass
    with pytest.raises(ValueError, match=f"in use by process {child} on"):
        train(config)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (folder / LOCK).read_text()
    assert train(config).is_finished


# --- what goes wrong on the way ---


def interrupted(config, monkeypatch, at, action):
    """The result of a run in which something happens at a step."""
    accumulate = loop.accumulate

    def acting(objective, batch, plan, *rest, **options):
        loss = accumulate(objective, batch, plan, *rest, **options)
        if plan.step in at:
            action(objective)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(loop, "accumulate", acting)
        return train(config)


@pytest.mark.slow_but_one
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals_stop_behind_a_checkpoint_and_nothing_is_lost(
    finished, tmp_path, monkeypatch, name
):
    config = replace(finished, output_dir=str(tmp_path / "run"))
    number = getattr(signal, name)
    before = signal.getsignal(number)
    result = interrupted(config, monkeypatch, [6], lambda _: os.kill(os.getpid(), number))
    assert (result.step, result.is_finished, result.stopped_by) == (7, False, name)
    assert Checkpoints(Path(config.output_dir, "checkpoints"), keep=1).newest_whole() == 7
    assert f"stopped after step 7 ({name})" in summary(result, config)
    assert signal.getsignal(number) == before
    assert train(config).is_finished
    assert outcome(Path(config.output_dir)) == outcome(Path(finished.output_dir))


@pytest.mark.slow
def test_a_stop_before_the_first_step_is_no_loss(finished, tmp_path, monkeypatch):
    config = replace(finished, output_dir=str(tmp_path / "run"))
    start = loop.start_model

    def stopping(config):
        os.kill(os.getpid(), signal.SIGTERM)
        return start(config)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "start_model", stopping)
        assert train(config).step == 0
    assert train(config).is_finished
    assert outcome(Path(config.output_dir)) == outcome(Path(finished.output_dir))


def spoil(value):
    def action(objective):
        next(p for p in objective.parameters() if p.grad is not None).grad[0] = value

    return action


@pytest.mark.slow_but_one
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_with_bad_gradients_is_not_applied(tmp_path, monkeypatch, value):
    config = tiny(tmp_path, max_steps=3, save_steps=1, keep_checkpoints=5)
    assert interrupted(config, monkeypatch, [1], spoil(value)).is_finished
    folder = Path(config.output_dir, "checkpoints")
    first, second, third = (
        load(folder / f"step-{n:07d}" / "model")[0].state_dict() for n in (1, 2, 3)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(second[name], third[name]) for name in first)
    assert str(value) in str(metrics(config)[1]["grad_norm"])


def test_a_step_with_a_loss_that_is_not_finite_is_not_applied_either():
    model, _ = setup.start_model(TrainingConfig(d_model=16, n_layer=1, n_head=2, d_inner=16))
    config = TrainingConfig()
    optimizer = setup.new_optimizer(model, config)
    before = model.transformer.mask_emb.clone()
    for loss, is_good in ((torch.tensor(torch.inf), False), (torch.tensor(1.0), True)):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        plan = step.plan_step(0, config, 1)
        assert step.apply_gradients(model, optimizer, loss, plan, 1.0)[1] == is_good
        assert torch.equal(model.transformer.mask_emb, before) != is_good


@pytest.mark.slow
def test_many_bad_steps_end_the_run_and_name_step_and_data(tmp_path, monkeypatch):
    config = tiny(tmp_path, max_bad_steps=3, save_steps=1)
    with pytest.raises(ValueError, match="in 3 steps in a row, the last one step 7") as refused:
        interrupted(config, monkeypatch, [4, 5, 6], spoil(float("nan")))
    assert "epoch 0 block" in str(refused.value) and "\n" not in str(refused.value)
    checkpoints = Checkpoints(Path(config.output_dir, "checkpoints"), keep=1)
    model, _ = load(checkpoints.path(checkpoints.newest_whole()) / "model")
    assert model.lm_loss.weight.isfinite().all()


def test_out_of_memory_says_what_to_try(tmp_path, monkeypatch):
    def raises(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(loop, "accumulate", raises)
    with pytest.raises(ValueError, match=r"batch_size 2 .* --batch_size 1 \(accumulation 8\)"):
        train(tiny(tmp_path))
    with pytest.raises(ValueError, match="batch_size 1 .* --gradient_checkpointing"):
        train(tiny(tmp_path, batch_size=1))


def test_any_other_error_is_not_hidden(tmp_path, monkeypatch):
    def raises(*arguments, **options):
        raise RuntimeError("a fault")

    monkeypatch.setattr(loop, "accumulate", raises)
    with pytest.raises(RuntimeError, match="a fault"):
        train(tiny(tmp_path))


@pytest.mark.slow
def test_a_full_disk_keeps_the_checkpoint_before(finished, tmp_path, monkeypatch):
    config = replace(finished, output_dir=str(tmp_path / "run"))
    checkpoints = Checkpoints(Path(config.output_dir, "checkpoints"), keep=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    try:
        with pytest.raises(OSError, match="step-0000006 .*File too large.*the one before is kept"):
            interrupted(config, monkeypatch, [4], fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert checkpoints.newest_whole() == 4
    assert not list(checkpoints.folder.glob("*.tmp"))
    assert train(config).is_finished
    assert outcome(Path(config.output_dir)) == outcome(Path(finished.output_dir))


@pytest.mark.slow_but_one
@pytest.mark.parametrize("damage", ["a bit", "half", "no sums", "a file is gone"])
def test_a_damaged_checkpoint_is_passed_over(finished, tmp_path, damage):
    config = replace(finished, output_dir=str(tmp_path / "run"), max_steps=8)
    train(config)
    newest = Path(config.output_dir, "checkpoints", "step-0000008")
    weights = newest / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "a bit":
        content[-5] ^= 1
        weights.write_bytes(content)
    elif damage == "half":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "no sums":
        (newest / CHECKSUMS).unlink()
    else:
        (newest / "data-00000.pt").unlink()
    with pytest.warns(UserWarning, match=r"step-0000008 is damaged \(.*\): going back"):
        train(config)
    assert Checkpoints(newest.parent, keep=1).newest_whole() == 8


@pytest.mark.slow
def test_what_is_damaged_never_costs_a_whole_checkpoint(tmp_path, monkeypatch):
    config = tiny(tmp_path, keep_checkpoints=2)
    train(replace(config, max_steps=10))
    checkpoints = Checkpoints(Path(config.output_dir, "checkpoints"), keep=2)
    assert checkpoints.steps() == [8, 10]
    (checkpoints.path(10) / CHECKSUMS).unlink()
    with pytest.warns(UserWarning, match="step-0000010 is damaged"):
        result = interrupted(config, monkeypatch, [8], lambda _: os.kill(os.getpid(), SIGTERM))
    assert result.step == 9
    assert checkpoints.steps() == [8, 9] and checkpoints.newest_whole() == 9


@pytest.mark.slow
def test_a_checkpoint_that_is_there_is_not_written_again(tmp_path, monkeypatch):
    config = tiny(tmp_path)
    finish, steps = Checkpoints.finish, []

    def noting(self, progress, *rest):
        steps.append(progress.step)
        finish(self, progress, *rest)

    monkeypatch.setattr(Checkpoints, "finish", noting)
    interrupted(config, monkeypatch, [3], lambda _: os.kill(os.getpid(), SIGTERM))
    assert steps == [2, 4]


@pytest.mark.slow
def test_an_error_of_the_data_comes_behind_a_checkpoint(tmp_path, monkeypatch):
    config = tiny(tmp_path)
    next_batch = PackedBlocks.next_batch

    def failing(self, indices):
        if self.consumed == 5 * 8:
            raise ValueError("record 41 is broken")
        return next_batch(self, indices)

    monkeypatch.setattr(PackedBlocks, "next_batch", failing)
    with pytest.raises(ValueError, match="record 41 is broken"):
        train(config)
    assert Checkpoints(Path(config.output_dir, "checkpoints"), keep=1).newest_whole() == 5


@pytest.mark.slow
def test_the_last_checkpoints_and_the_best_are_kept(tmp_path, monkeypatch):
    losses = iter([9.0, 1.0, 3.0, 2.0, 5.0])
    monkeypatch.setattr(loop.Monitor, "evaluate", lambda *_: next(losses))
    config = tiny(tmp_path, save_steps=1, eval_steps=3)
    train(config)
    checkpoints = Checkpoints(Path(config.output_dir, "checkpoints"), keep=2)
    assert checkpoints.steps() == [3, 11, 12]
    progress = checkpoints.progress(12)
    assert (progress.best_step, progress.best_loss) == (3, 1.0)


@pytest.mark.slow
def test_trouble_with_the_data_stops_behind_a_checkpoint(finished, tmp_path, monkeypatch):
    config = replace(finished, output_dir=str(tmp_path / "run"))
    open_blocks = loop.open_blocks

    class Failing:
        def __init__(self, source):
            self.source, self.calls = source, 0

        def __getattr__(self, name):
            return getattr(self.source, name)

        def next_batch(self, indices):
            self.calls += 1
            if self.calls == 6:
                raise DataUnavailable("the network is gone")
            return self.source.next_batch(indices)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "open_blocks", lambda *a, **k: Failing(open_blocks(*a, **k)))
        result = train(config)
    assert (result.step, result.stopped_by) == (5, "the network is gone")
    assert train(config).is_finished
    assert outcome(Path(config.output_dir)) == outcome(Path(finished.output_dir))


def test_the_loss_that_is_logged_is_the_density_of_what_was_drawn(tmp_path):
    config = tiny(tmp_path, dropout=0.0, max_steps=1)
    model, tokenizer = setup.start_model(config)
    model.eval()
    options = {"seed": 0, "global_batch_size": 8}
    batch = loop.open_blocks(config, tokenizer, **options).next_batch(range(8))
    plan = step.plan_step(0, config, 1)
    order = joint_orders(
        batch.lengths, plan.rates, plan.kinds, seed=0, step=0, indices=list(range(8))
    )
    expected = -(log_prob(model, batch.input_ids, order).sum(1) / order.num_targets).mean()
    train(config)
    assert metrics(config)[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)
