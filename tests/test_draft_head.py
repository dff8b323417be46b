"""A learned draft head: what it sees, its files, and that no distribution depends on it."""

import json
from copy import deepcopy

import pytest
import torch
from fakes import ConditionalTable, mixed_batch, randomize, small_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import XLNetLMHeadModel

from asarm import Order, load, sample
from asarm.drafting.drafters import HeadDrafter, neighbours, self_drafter
from asarm.drafting.files import CONFIG, WEIGHTS, fits, save_draft_head
from asarm.drafting.head import DraftHead, DraftHeadConfig, Seen
from asarm.loading import load_tokenizer
from asarm.sampling import Sequential
from asarm.sampling.api import prepare
from asarm.sampling.network import DraftRequest
from asarm.sampling.randomness import HashedRandomness

METHODS = [(method, k) for method in ("assd", "onepass") for k in (1, 2, 4)]
VERIFIERS = ("block", "rejection", "gumbel")
OFFSETS = [-1, -2, 1]


def new_head(model, *, seed=0, std=0.4, **config):
    """Random weights in the model's dtype: bad drafts, each depending on those beside it."""
    made = DraftHead(DraftHeadConfig(model.config.d_model, hidden=16, rank=6, **config))
    randomize(made, seed=seed, std=std)
    return made.to(model.dtype).requires_grad_(False)


def headed(*, head=None, **options):
    """A small model with a random head."""
    model = small_model(**options)
    model.set_draft_head(new_head(model, **(head or {})))
    return model


def batch():
    return mixed_batch([24, 20, 24, 9, 2, 17], [1, 0, 12, 3, 1, 2], 60)


# --- what is known of a neighbour ---


@given(st.data())
def test_neighbours_are_known_by_the_row_by_the_head_or_not(data):
    """At the edges of the text and of the padding too; the spare rank asks for nothing."""
    size = data.draw(st.integers(2, 7))
    length = data.draw(st.integers(2, size))
    rows = [*data.draw(st.permutations(range(length))), *range(length, size)]
    num_prompt = data.draw(st.integers(0, length - 1))
    limit = data.draw(st.integers(num_prompt, length - 1))
    rank = data.draw(st.integers(limit, length - 1))
    offsets = data.draw(st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=4))
    ids = torch.randint(3, (1, size), generator=torch.Generator().manual_seed(limit))
    table, randomness = ConditionalTable(length=size), HashedRandomness(torch.tensor([0]))
    order = Order(torch.tensor([rows]), num_prompt, length)
    net, state = prepare(table, ids, order, Sequential(), randomness)
    state.tokens[0, :size] = ids[0, rows]
    start, seen_ranks = torch.tensor([rank]), torch.tensor([limit])
    hidden = torch.zeros(1, 1, table.vocab_size, dtype=table.dtype)
    request = DraftRequest(net, state, 1, hidden, start, seen_ranks, torch.tensor([1]))
    beside, seen = neighbours(request, torch.tensor(offsets))  # (1, 1, N)
    found, seen = request.tokens[0, beside[0]], seen[0]
    for column, offset in enumerate(offsets):
        position = rows[rank] + offset
        before = rows.index(position) if 0 <= position < size else size
        if before >= rank:
            assert seen[0, column] == Seen.NOT
            continue
        assert seen[0, column] == (Seen.BY_ROW if before < limit else Seen.BY_HEAD)
        assert found[0, column] == ids[0, position]


def test_the_code_of_a_row_holds_what_the_head_alone_saw():
    head = DraftHead(DraftHeadConfig(8, hidden=6, rank=4)).double()
    randomize(head, seed=1, std=0.5)
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(30, 8, generator=rng, dtype=torch.float64)
    embedded = torch.randn(30, 3, 8, generator=rng, dtype=torch.float64)
    seen = torch.randint(3, (30, 3), generator=rng)
    changed = head(hidden, embedded, seen)
    for row in range(30):
        inner = head.row(hidden[row])
        for place in range(3):
            inner = inner + head.known[seen[row, place], place]
            if seen[row, place] == Seen.BY_HEAD:
                weight = head.neighbours.weight[:, 8 * place : 8 * place + 8]
                inner = inner + weight @ embedded[row, place]
        expected = head.up @ head.down(torch.nn.functional.gelu(inner))
        torch.testing.assert_close(changed[row], expected)


@pytest.mark.slow_but_one
@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_a_new_head_drafts_as_the_rows_themselves(method, k, verifier):
    model, (ids, order) = small_model(seed=3), batch()
    call = {"sampler": method, "k": k, "verifier": verifier, "seed": 5}
    plain = sample(model, ids, order, **call)
    model.set_draft_head(DraftHead(DraftHeadConfig(32, hidden=16, rank=6)).double())
    with_head = sample(model, ids, order, drafter="head", **call)
    for name in ("tokens", "nfe", "rows", "accepted"):
        assert torch.equal(getattr(plain, name), getattr(with_head, name)), name


def test_without_a_neighbour_that_it_alone_knows_nothing_is_corrected():
    """A head of neighbours only: targets that lie apart are drafted as ever, dense ones not."""
    model = headed(seed=3)
    head = model.draft_head
    with torch.no_grad():
        for weight in (head.row.weight, head.row.bias, head.known, head.down.bias):
            weight.zero_()
    ids, _ = mixed_batch([24], [1], 60)
    for step, is_same in ((3, True), (1, False)):  # offsets reach two to the left
        is_target = torch.arange(24) % step == step - 1
        order = Order.from_mask(is_target if step > 1 else torch.arange(24) > 2)
        by_head, by_row = (
            sample(model, ids, order, k=4, drafter=name, trace=True) for name in ("head", "self")
        )
        assert (by_head.trace == by_row.trace) == is_same


@pytest.mark.parametrize("kind", ["ascending", "backwards", "permuted", "span"])
def test_every_kind_of_order_is_drafted_for(kind):
    size = 18
    rank = {
        "ascending": torch.arange(size),
        "backwards": torch.arange(size).flip(0),
        "permuted": torch.randperm(size, generator=torch.Generator().manual_seed(0)),
        "span": torch.arange(size).roll(9),
    }[kind]
    model, (ids, _) = headed(seed=2), mixed_batch([size], [1], 60)
    for num_prompt in (0, 1, 9):
        order = Order(rank[None], num_prompt)
        expected = sample(model, ids, order, sampler="sequential", verifier="gumbel")
        for method, k in METHODS:
            found = sample(model, ids, order, sampler=method, k=k, verifier="gumbel")
            assert torch.equal(found.tokens, expected.tokens)
            assert (found.nfe <= order.num_targets).all()


# --- batches ---


@pytest.mark.slow_but_one
@pytest.mark.parametrize("verifier", VERIFIERS)
@pytest.mark.parametrize(("method", "k"), METHODS)
def test_batch_mates_change_nothing(method, k, verifier):
    model, (ids, order) = headed(seed=3), batch()
    call = {"sampler": method, "k": k, "verifier": verifier}
    together = sample(model, ids, order, seed=7, **call)
    for b in range(len(ids)):
        alone = sample(model, ids[[b]], order[[b]], seed=7 + b, **call)
        assert torch.equal(alone.tokens[0], together.tokens[b])
        assert alone.nfe[0] == together.nfe[b]
        assert alone.accepted[0] == together.accepted[b]
    assert (together.nfe <= order.num_targets).all()


# --- what drafts ---


def trace(model, **call):
    return sample(model, *batch(), sampler="onepass", k=4, trace=True, **call).trace


def test_the_head_drafts_where_there_is_one_and_self_ignores_it():
    model, bare = headed(seed=3), small_model(seed=3)
    assert (
        trace(model) == trace(model, drafter="head") == trace(model, drafter=HeadDrafter.of(model))
    )
    assert trace(model, drafter="self") == trace(bare) == trace(bare, drafter=self_drafter)
    assert trace(model) != trace(bare)


def test_a_head_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="^drafter is 'head', and the model has no draft head"):
        sample(small_model(), *batch(), drafter="head")
    with pytest.raises(ValueError, match="^drafter is 'learned'; expected one of self, head$"):
        sample(headed(), *batch(), drafter="learned")


def test_what_is_kept_of_a_head_follows_its_weights():
    """The table of changes is made once, and anew when a weight has changed."""
    model = headed(seed=3)
    before = trace(model)
    assert HeadDrafter.of(model) is HeadDrafter.of(model)
    with torch.no_grad():
        model.draft_head.up.mul_(-3)
    changed = trace(model)
    assert changed != before
    other = headed(seed=3)
    other.set_draft_head(deepcopy(model.draft_head))
    assert trace(other) == changed
    with torch.no_grad():
        model.lm_loss.weight.add_(0.1)  # tied to the embeddings
    fresh = headed(seed=3)
    fresh.set_draft_head(new_head(fresh))
    fresh.load_state_dict(model.state_dict())
    fresh.draft_head.load_state_dict(model.draft_head.state_dict())
    assert trace(fresh) == trace(model)


# --- devices and dtypes ---


@pytest.mark.slow_but_one
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_goes_with_the_model(dtype):
    model, (ids, order) = headed(seed=3, std=0.3).to(dtype), batch()
    assert {weight.dtype for weight in model.draft_head.parameters()} == {dtype}
    for method, k in METHODS:
        result = sample(model, ids, order, sampler=method, k=k, drafter="head")
        assert (result.nfe <= order.num_targets).all()
        assert result.log_probs.isfinite().all() and result.log_probs.dtype == torch.float32
    meta = deepcopy(model).to("meta")
    assert {weight.device.type for weight in meta.draft_head.parameters()} == {"meta"}
    assert {weight.device.type for weight in model.draft_head.parameters()} == {"cpu"}


def test_a_copy_has_a_head_of_its_own():
    model = headed(seed=3)
    before = trace(model)
    copy = deepcopy(model)
    assert trace(copy) == before
    with torch.no_grad():
        copy.draft_head.up.mul_(-3)
    assert trace(copy) != before
    assert trace(model) == before


def test_the_head_is_none_of_the_weights_of_the_model():
    model, bare = headed(), small_model()
    assert model.state_dict().keys() == bare.state_dict().keys()
    assert [name for name, _ in model.named_parameters()] == [n for n, _ in bare.named_parameters()]
    model.set_draft_head(None)
    assert model.draft_head is None


# --- files ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model folder with a head, of the tokenizer's vocabulary, in float32."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer()
    model = headed(vocab_size=len(tokenizer), dtype=torch.float32)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of it that may be spoiled."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_model_without_a_head_leaves_none_of_another_behind(copied):
    model, _ = load(copied)
    model.set_draft_head(None)
    model.save_pretrained(copied)
    assert not {WEIGHTS, CONFIG} & {file.name for file in copied.iterdir()}
    assert load(copied)[0].draft_head is None


def message_of(call):
    with pytest.raises(ValueError) as info:
        call()
    assert len(str(info.value).splitlines()) == 1
    return str(info.value)


def test_what_is_saved_is_what_is_loaded(folder, tmp_path):
    model, _ = load(folder)
    head = model.draft_head
    assert head.config == DraftHeadConfig(
        32,
        hidden=16,
        rank=6,
        offsets=OFFSETS,
        backbone=head.config.backbone,
    )
    assert fits(head, model) and not head.training
    assert not any(weight.requires_grad for weight in head.parameters())
    expected = new_head(model).state_dict()
    assert head.state_dict().keys() == expected.keys()
    for name, weight in head.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    save_draft_head(head, tmp_path)
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_other_loaders_do_not_see_the_head(folder):
    assert not [name for name in load_file(folder / "model.safetensors") if "head" in name]
    model, _ = load(folder)
    reference, report = XLNetLMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
    for name, weight in reference.named_parameters():
        assert torch.equal(weight, model.get_parameter(name)), name


@pytest.mark.parametrize("file", [WEIGHTS, CONFIG])
def test_a_folder_without_a_head_has_none(copied, file):
    (copied / file).unlink()
    assert load(copied)[0].draft_head is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_head_is_loaded_in_the_dtype_of_its_model(folder, dtype):
    """And fits the weights all the same, rounded as they are."""
    model, _ = load(folder, dtype=dtype)
    assert {weight.dtype for weight in model.draft_head.parameters()} == {model.dtype}
    assert fits(model.draft_head, model)


def test_a_rounded_model_is_saved_with_its_head_and_loaded_again(folder, tmp_path):
    model, tokenizer = load(folder, dtype="bfloat16")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load(tmp_path, dtype="bfloat16")
    for name, weight in again.draft_head.state_dict().items():
        assert torch.equal(weight, model.draft_head.state_dict()[name]), name


@pytest.mark.parametrize("what", ["other", "larger", "trained on"])
def test_a_head_of_other_weights_is_refused_by_name(copied, what):
    model, _ = load(copied)
    files = {name: (copied / name).read_bytes() for name in (WEIGHTS, CONFIG)}
    if what == "trained on":
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.05)
    else:
        sizes = {"d_model": 64} if what == "larger" else {}
        model = small_model(seed=1, dtype=torch.float32, vocab_size=model.vocab_size, **sizes)
    model.set_draft_head(None)  # or its own would be saved with it
    model.save_pretrained(copied)
    for name, content in files.items():
        (copied / name).write_bytes(content)
    said = message_of(lambda: load(copied))
    assert said.startswith(f"the draft head in {copied} was trained on top of other weights")
    assert WEIGHTS in said


@pytest.mark.parametrize(
    "damage", ["half", "no JSON", "a list", "unknown setting", "other width", "a weight is gone"]
)
def test_damaged_files_are_refused_in_one_line(copied, damage):
    weights, config = copied / WEIGHTS, copied / CONFIG
    settings = json.loads(config.read_text())
    if damage == "half":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "no JSON":
        config.write_text("{")
    elif damage == "a list":
        config.write_text("[1]")
    elif damage == "unknown setting":
        config.write_text(json.dumps(settings | {"depth": 3}))
    elif damage == "other width":
        config.write_text(json.dumps(settings | {"hidden": 17}))
    else:
        kept = load_file(weights)
        kept.pop("up")
        save_file(kept, weights)
    said = message_of(lambda: load(copied))
    assert said.startswith(f"the draft head in {copied} cannot be read (")
    assert "train it anew" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_head_that_are_no_numbers_are_refused(copied, value):
    found = load_file(copied / WEIGHTS)
    found["up"][3, 2] = value
    save_file(found, copied / WEIGHTS)
    assert "weight up of the draft head" in message_of(lambda: load(copied))
