"""What users hand over: models in any state, ids of any integers, texts of any length."""

import re
import threading

import numpy as np
import pytest
import torch
from fakes import mixed_batch, small_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import XLNetConfig, XLNetLMHeadModel

from asarm import AnySubsetTransformer, Order, calibrate, infill, load, log_prob, sample
from asarm.kernels.products import HAS_ONEDNN
from asarm.sampling import sampler_of

IDS, ORDER = mixed_batch([12, 9], [3, 2], 60)
METHODS = pytest.mark.parametrize("method", ["sequential", "assd", "ngram", "onepass"])


@pytest.fixture(scope="module")
def demo():
    return load("demo")


@pytest.fixture
def text(demo):
    words = "Return the name of the file, or None if the file does not exist."
    ids = torch.tensor([demo[1](words)["input_ids"]])
    return ids, Order.random_split(ids.shape[1], 0.3, seed=1)


def same(found, other):
    return torch.equal(found.tokens, other.tokens) and torch.equal(found.log_probs, other.log_probs)


# --- the state of the model ---


def in_training(**config):
    """A network as a user makes it: in train mode, with XLNet's dropout."""
    model = small_model(dropout=0.5, **config).train()
    model.transformer.layer[0].ff.eval()  # a part that somebody froze
    return model


def modes(model):
    return {name: module.training for name, module in model.named_modules()}


@METHODS
def test_dropout_is_off_and_modes_are_left_as_they_were(method):
    model = in_training()
    before, exact = modes(model), small_model()
    assert same(
        sample(model, IDS, ORDER, sampler=method, seed=1),
        sample(exact, IDS, ORDER, sampler=method, seed=1),
    )
    assert torch.equal(log_prob(model, IDS, ORDER), log_prob(exact, IDS, ORDER))
    assert modes(model) == before and before[""] and not before["transformer.layer.0.ff"]


def test_modes_are_left_as_they_were_after_an_error():
    model = in_training()
    with torch.no_grad():
        model.lm_loss.weight.fill_(torch.nan)
    for action in (sample, log_prob):
        with pytest.raises(ValueError, match="gives NaN"):
            action(model, IDS, ORDER)
    assert model.training and model.transformer.layer[1].training


@pytest.mark.slow
def test_filling_blanks_and_calibrating_have_no_dropout_either(demo):
    model, tokenizer = demo
    model.set_dropout(0.5)
    try:
        expected = infill(model, tokenizer, "Return the ___.", length=(1, 3), seed=3)
        model.train()
        found = infill(model, tokenizer, "Return the ___.", length=(1, 3), seed=3)
        calibrate(model, length=64, repeats=1)
        assert model.training and found == expected
    finally:
        model.set_dropout(0.0)
        model.eval()


def test_threads_that_share_a_model_in_train_mode():
    """The first thread to have its answer may not turn dropout on for the others."""
    model, exact = in_training(), small_model()
    expected = [sample(exact, IDS, ORDER, seed=seed) for seed in range(8)]
    found = {}

    def run(seed):
        found[seed] = sample(model, IDS, ORDER, seed=seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(found[seed], expected[seed]) for seed in range(8)) and model.training


@pytest.mark.slow_but_one
@METHODS
def test_autocast_and_the_default_dtype_change_nothing(demo, text, method):
    model, (ids, order) = demo[0], text
    expected = sample(model, ids, order, sampler=method), log_prob(model, ids, order)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sample(model, ids, order, sampler=method), log_prob(model, ids, order)
    assert same(found[0], expected[0]) and torch.equal(found[1], expected[1])
    for dtype in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            fresh = load("demo")[0]
            found = sample(fresh, ids, order, sampler=method), log_prob(fresh, ids, order)
        finally:
            torch.set_default_dtype(torch.float32)
        assert same(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.slow_but_one
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_loaded_in_inference_mode(text, dtype):
    ids, order = text
    with torch.inference_mode():
        model, _ = load("demo", dtype=dtype)
    plain, _ = load("demo", dtype=dtype, packed=False)
    assert same(sample(model, ids, order), sample(plain, ids, order))
    assert torch.equal(log_prob(model, ids, order), log_prob(plain, ids, order))


WRITES = {
    "scaled": lambda w: w.data.mul_(0.5),
    "rows swapped": lambda w: w.data.copy_(w.data.flip(0)),
    "columns swapped": lambda w: w.data.copy_(w.data.flip(-1)),
    "one entry": lambda w: w.data.view(-1)[3:4].add_(0.25),
    "other data": lambda w: setattr(w, "data", w.data * 0.5),
}


@pytest.mark.slow_but_one
@pytest.mark.skipif(not HAS_ONEDNN, reason="torch was built without oneDNN")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_what_is_written_through_data_counts(text, write, dtype):
    """As averaging weights or merging adapters does; torch does not count such writes."""
    ids, order = text
    model, _ = load("demo", dtype=dtype)
    plain, _ = load("demo", dtype=dtype, packed=False)
    (
        sample(model, ids, order),
        log_prob(model, ids, order),
    )  # copies are made of the weights as they are
    for network in (model, plain):
        for weight in [*network.transformer.layer[1].parameters(), network.lm_loss.weight]:
            write(weight)
    assert torch.equal(log_prob(model, ids, order), log_prob(plain, ids, order))
    assert same(sample(model, ids, order), sample(plain, ids, order))


@pytest.mark.slow
def test_a_head_that_is_written_through_data_drafts_anew(text):
    ids, order = text
    model, other = load("demo")[0], load("demo")[0]
    sample(model, ids, order)
    for network in (model, other):
        for weight in network.draft_head.parameters():
            weight.data.mul_(-1)
    found, expected = sample(model, ids, order, k=6), sample(other, ids, order, k=6)
    assert same(found, expected) and torch.equal(found.accepted, expected.accepted)


# --- vocabularies ---


def test_no_token_is_removed_where_the_vocabulary_has_no_mask_token(tmp_path):
    config = XLNetConfig(vocab_size=20, d_model=32, n_layer=1, n_head=2, d_inner=64)
    model = AnySubsetTransformer(config)
    ids = torch.tensor([[6, 5, 6, 6, 8, 9, 6, 5]])
    order = Order.from_mask(torch.arange(8)[None] > 3)
    assert log_prob(model, ids, order).isfinite().all()
    sample(model, ids, order)
    model.save_pretrained(tmp_path)
    again = AnySubsetTransformer.from_pretrained(tmp_path)
    assert torch.equal(log_prob(again, ids, order), log_prob(model, ids, order))


def test_xlnets_vocabulary_has_its_mask_token_wherever_nothing_else_is_said():
    sizes = {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}
    assert AnySubsetTransformer(XLNetConfig(**sizes)).mask_token_id == 6
    assert AnySubsetTransformer(XLNetConfig(**sizes, mask_token_id=9)).mask_token_id == 9
    assert AnySubsetTransformer(XLNetConfig(**sizes, mask_token_id=None)).mask_token_id == -1


@pytest.mark.parametrize("size", [70, 40, 60])
def test_the_vocabulary_can_be_resized(tmp_path, size):
    model = small_model()
    kept = min(size, 60)
    before = model.logits(torch.ones(1, 1, 32, dtype=torch.float64))[..., :kept]
    model.resize_token_embeddings(size, mean_resizing=False)
    after = model.logits(torch.ones(1, 1, 32, dtype=torch.float64))
    assert after.shape[-1] == model.vocab_size == size
    assert torch.equal(after[..., :kept], before)
    ids = IDS.clamp(max=size - 1)
    found = sample(model, ids, ORDER)
    torch.testing.assert_close(
        found.log_probs, log_prob(model, found.tokens, ORDER), atol=1e-9, rtol=0
    )
    model.save_pretrained(tmp_path)
    again = AnySubsetTransformer.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(log_prob(again, ids, ORDER), log_prob(model, ids, ORDER))


@pytest.mark.slow
def test_a_head_drafts_for_a_resized_vocabulary(text):
    ids, order = text
    model, _ = load("demo")
    sample(model, ids, order)
    model.resize_token_embeddings(8200, mean_resizing=False)
    with torch.no_grad():
        model.lm_loss.bias[8192:] = -100
    assert torch.equal(sample(model, ids, order).tokens, sample(load("demo")[0], ids, order).tokens)


# --- ids, orders, seeds ---

AS_IDS = {
    "int32": lambda ids: ids.int(),
    "int16": lambda ids: ids.short(),
    "uint8": lambda ids: ids.to(torch.uint8),
    "lists": lambda ids: ids.tolist(),
    "numpy": lambda ids: ids.numpy(),
    "numpy int32": lambda ids: ids.numpy().astype(np.int32),
    "numpy uint16": lambda ids: ids.numpy().astype(np.uint16),
}


@pytest.mark.parametrize("convert", AS_IDS.values(), ids=AS_IDS)
def test_ids_of_any_integers(convert):
    model = small_model()
    found = sample(model, convert(IDS), ORDER)
    assert same(found, sample(model, IDS, ORDER)) and found.tokens.dtype == torch.int64
    assert torch.equal(log_prob(model, convert(IDS), ORDER), log_prob(model, IDS, ORDER))


def test_numbers_of_numpy():
    model = small_model()
    numbers = {"seed": 5, "k": 3, "stride": 2, "top_k": 4}
    others = {name: np.int64(value) for name, value in numbers.items()}
    found = sample(model, IDS, ORDER, **others, temperature=np.float32(0.5))
    assert same(found, sample(model, IDS, ORDER, **numbers, temperature=0.5)) and found.k == 3
    for seeds in (np.array([7, 3]), torch.tensor([7, 3]), (7, np.int32(3))):
        assert same(sample(model, IDS, ORDER, seed=seeds), sample(model, IDS, ORDER, seed=[7, 3]))
    assert same(sample(model, IDS, ORDER, seed=torch.tensor(7)), sample(model, IDS, ORDER, seed=7))


NO_MODEL = XLNetLMHeadModel(XLNetConfig(vocab_size=60, d_model=8, n_layer=1, n_head=2, d_inner=8))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((NO_MODEL, IDS, ORDER), "model is a XLNetLMHeadModel.*asarm.load"),
        ((None, IDS, ORDER), "model is None.*asarm.load"),
        ((small_model(), IDS, ORDER.is_target), r"order is a Tensor of shape \(2, 12\).*from_mask"),
        ((small_model(), IDS, None), "order is None.*from_mask"),
        ((small_model(), [[7, 8], [7]], ORDER), "input_ids is a list.*pad shorter.*right"),
        ((small_model(), None, ORDER), "input_ids is None.*integers"),
        ((small_model(), "a text", ORDER), "input_ids is 'a text'.*integers"),
        ((small_model(), IDS[:0], ORDER[[]]), "no sequences"),
    ],
)
def test_what_is_no_model_no_order_or_no_ids(arguments, says):
    for action in (sample, log_prob):
        with pytest.raises(ValueError) as error:
            action(*arguments)
        assert re.search(says, str(error.value)) and "\n" not in str(error.value)


def test_orders_of_single_sequences():
    for number in (0, 1, -1, np.int64(1), torch.tensor(0)):
        one = ORDER[number]
        assert len(one) == 1 and one == ORDER[[int(number)]]
    assert [order == ORDER[[b]] for b, order in enumerate(ORDER)] == [True, True]
    with pytest.raises(IndexError):
        ORDER[2]


def test_orders_are_equal_by_what_they_decode():
    same_again = Order(ORDER.order.clone(), ORDER.num_prompt.clone(), ORDER.length.clone())
    assert same_again == ORDER and hash(same_again) == hash(ORDER)
    assert ORDER[[1, 0]] != ORDER and ORDER[[0]] != ORDER and ORDER != "an order"
    assert Order(ORDER.order, ORDER.num_prompt - 1, ORDER.length) != ORDER


# --- lengths and padding ---


def test_longer_than_trained_is_said_once(demo):
    model = small_model()
    sample(model, IDS, ORDER), log_prob(model, IDS, ORDER)  # nothing is known: nothing is said
    model.config.trained_length = 12
    sample(model, IDS, ORDER), log_prob(model, IDS, ORDER)
    model.config.trained_length = 11
    for action in (sample, log_prob):
        with pytest.warns(UserWarning, match="12 tokens.*trained on 11") as found:
            action(model, IDS, ORDER)
        assert len(found) == 1 and found[0].filename == __file__


@pytest.mark.parametrize(("end", "says"), [(0, "begins"), (-1, "ends")])
def test_padding_that_would_be_read_as_text_is_refused(demo, end, says):
    model, tokenizer = demo
    ids = torch.tensor([tokenizer("Return the name of the file.")["input_ids"]] * 2)
    ids[1, end] = tokenizer.pad_token_id
    is_target = torch.zeros_like(ids, dtype=torch.bool)
    is_target[:, 2:4] = True
    for action in (sample, log_prob):
        with pytest.raises(ValueError, match=f"sequence 1 {says} with <pad>.*pad on the right"):
            action(model, ids, Order.from_mask(is_target))
    lengths = [ids.shape[1], ids.shape[1] - 1]
    if end == -1:
        sample(model, ids, Order.from_mask(is_target, lengths))


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **kwargs or {})
        tensors = found if isinstance(found, tuple | list) else [found]
        sizes = [t.numel() for t in tensors if isinstance(t, torch.Tensor)]
        self.size = max([self.size, *sizes])
        return found


def sample_static(*arguments):
    sample(*arguments, execution="static")


@pytest.mark.slow_but_one
@pytest.mark.parametrize("action", [sample, sample_static, log_prob])
def test_memory_grows_with_the_length_of_a_text_and_not_with_its_square(monkeypatch, action):
    monkeypatch.setattr("asarm.kernels.attention.ENTRIES_KEPT", 2**15)
    monkeypatch.setattr("asarm.backbones.xlnet.ENTRIES_AT_ONCE", 2**15)
    model, largest = small_model(vocab_size=20, dtype=torch.float32), []
    for length in (1024, 2048):
        ids = torch.randint(7, 20, (1, length), generator=torch.Generator().manual_seed(0))
        order = Order.from_mask(torch.arange(length)[None] >= length - 3)
        with Largest() as found:
            action(model, ids, order)
        largest.append(found.size)
    assert largest[1] <= 2.01 * largest[0]


def test_long_prompts_in_blocks_give_the_same(monkeypatch):
    model = small_model()
    ids = torch.randint(7, 60, (2, 300), generator=torch.Generator().manual_seed(0))
    order = Order.random_split(300, 0.9, batch=2, seed=3)
    expected = sample(model, ids, order), log_prob(model, ids, order)
    monkeypatch.setattr("asarm.kernels.attention.ENTRIES_KEPT", 0)
    monkeypatch.setattr("asarm.backbones.xlnet.ENTRIES_AT_ONCE", 2**12)
    for execution in ("eager", "static"):
        found = sample(model, ids, order, execution=execution)
        assert torch.equal(found.tokens, expected[0].tokens)
    found = log_prob(model, ids, order)
    torch.testing.assert_close(found, expected[1], atol=1e-10, rtol=0)


# --- rows ---


class Counting:
    """A model that counts the rows it is given, padding included."""

    def __init__(self, model):
        self.model, self.rows = model, 0

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, content, query, cache=None):
        self.rows += content.positions.numel() + query.positions.numel()
        return self.model(content, query, cache)


@METHODS
@pytest.mark.parametrize("k", [1, 3, 9, 1000, 10**9, 10**30, "auto"])
@pytest.mark.parametrize("stride", [None, 1])
def test_rows_made_are_rows_counted(method, k, stride):
    options = {"drafter": "self", "stride": stride}
    model = Counting(small_model())
    ids, order = mixed_batch([12], [4], 60)
    found = sample(model, ids, order, sampler_of(method, k=k, **options))
    assert model.rows == int(found.rows)
    if k not in (1, 3, "auto"):  # more than the targets are worth as much as the targets
        enough = sample(small_model(), ids, order, sampler_of(method, k=8, **options))
        assert int(found.rows) == int(enough.rows)


@pytest.mark.parametrize("execution", ["eager", "static"])
@pytest.mark.parametrize("method", ["assd", "ngram", "onepass"])
def test_large_k_gives_the_same_text(method, execution):
    model = small_model()
    expected = sample(model, IDS, ORDER, sampler="sequential", verifier="gumbel")
    options = {"sampler": method, "verifier": "gumbel", "execution": execution}
    found = sample(model, IDS, ORDER, k=10**12, **options)
    assert torch.equal(found.tokens, expected.tokens) and found.k == 10**12
