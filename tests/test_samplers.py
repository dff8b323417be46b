"""Samplers are values with options of their own; what `sample` makes of them, and who may watch."""

import re
from dataclasses import MISSING, FrozenInstanceError, dataclass, fields
from typing import ClassVar

import pytest
import torch
from fakes import ConditionalTable, mixed_batch, small_model
from hypothesis import given
from hypothesis import strategies as st

from asarm import log_prob, sample
from asarm.drafting.drafters import self_drafter
from asarm.drafting.head import DraftHead, DraftHeadConfig
from asarm.sampling import (
    ASSD,
    SAMPLERS,
    Costs,
    NGram,
    OnePass,
    Parallel,
    Sampler,
    Sequential,
    Speculative,
    lossless_names,
)
from asarm.sampling.api import _execution

PROBLEM = mixed_batch([14, 9, 14, 3], [4, 0, 13, 1], 60)
VALUES = [
    Sequential(),
    Sequential(verifier="gumbel"),
    ASSD(k=5),
    ASSD(k=3, verifier="rejection", draft_temperature=0.5, drafter="self"),
    ASSD(costs=Costs(1.0, 0.1, 0.1)),
    NGram(k=2, tolerance=0.2),
    NGram(),
    OnePass(),
    OnePass(k=4, stride=2, verifier="gumbel"),
    OnePass(k=2, drafter=self_drafter),
    Parallel(steps=3),
    Parallel(steps=4, by="confidence", verifier="gumbel"),
]
every_value = pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).name)
every_name = pytest.mark.parametrize("name", SAMPLERS)
SPECULATIVE = {name for name, kind in SAMPLERS.items() if issubclass(kind, Speculative)}
GOOD = {  # a value of every option
    "k": 3,
    "verifier": "rejection",
    "draft_temperature": 0.5,
    "tolerance": 0.1,
    "costs": Costs(1.0, 0.1, 0.1),
    "drafter": "self",
    "stride": 2,
    "steps": 2,
    "by": "confidence",
}
OPTIONS = {name: {field.name for field in fields(kind)} for name, kind in SAMPLERS.items()}
OURS = {  # the options that our own samplers have
    "sequential": {"verifier"},
    "assd": {"k", "verifier", "draft_temperature", "tolerance", "costs", "drafter"},
    "ngram": {"k", "verifier", "draft_temperature", "tolerance", "costs"},
    "onepass": {"k", "verifier", "draft_temperature", "tolerance", "costs", "drafter", "stride"},
    "parallel": {"steps", "by", "verifier"},
}
BAD = {  # values that an option cannot have, and what is said
    "k": [
        (0, "k is 0; expected at least 1 draft a round, or 'auto'"),
        (None, "k is None; expected"),
    ],
    "verifier": [("maximal", "verifier is 'maximal'; expected one of block, rejection, gumbel")],
    "draft_temperature": [(-1.0, "draft_temperature is -1.0; expected a finite number above 0")],
    "tolerance": [(-0.1, "tolerance is -0.1 with verifier 'block'; expected a finite number from")],
    "drafter": [("best", "drafter is 'best'; expected one of self, head")],
    "stride": [(0, "stride is 0; expected at least 1, or None"), (1.5, "stride is 1.5; expected")],
    "steps": [
        (0, "steps is 0; expected at least 1 network call"),
        (None, "steps is None; expected"),
    ],
    "by": [("luck", "by is 'luck'; expected one of order, confidence")],
}


@pytest.fixture(scope="module")
def model():
    return small_model(seed=3)


def needed(name):
    """The options without which a sampler cannot be, from `GOOD`."""
    return {f.name: GOOD[f.name] for f in fields(SAMPLERS[name]) if f.default is MISSING}


def refused(says, model, *arguments, **options):
    """A ValueError of one line that begins so."""
    with pytest.raises(ValueError, match="^" + re.escape(says)) as error:
        sample(model, *PROBLEM, *arguments, **options)
    assert "\n" not in str(error.value)


def same(found, expected):
    for name in ("tokens", "log_probs", "nfe", "rows", "rounds", "drafted", "accepted"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("k", "costs", "lossless", "trace"):
        assert getattr(found, name) == getattr(expected, name), name


# --- values and names ---


@every_value
def test_a_value_is_the_name_with_its_options(model, value):
    options = {field.name: getattr(value, field.name) for field in fields(value)}
    found = sample(model, *PROBLEM, value, seed=5, trace=True)
    same(found, sample(model, *PROBLEM, value.name, seed=5, trace=True, **options))
    same(found, sample(model, *PROBLEM, sampler=value, seed=5, trace=True))
    assert found.lossless == value.is_lossless


@every_name
def test_names_and_options_are_those_of_the_values(model, name):
    kind = SAMPLERS[name]
    assert kind.name == name
    assert OPTIONS[name] == OURS.get(name, OPTIONS[name])
    same(
        sample(model, *PROBLEM, name, **needed(name)), sample(model, *PROBLEM, kind(**needed(name)))
    )


def test_onepass_is_what_is_taken_where_nothing_is_said(model):
    same(sample(model, *PROBLEM), sample(model, *PROBLEM, OnePass()))


@every_value
def test_values_are_equal_by_their_options_and_do_not_change(value):
    options = {field.name: getattr(value, field.name) for field in fields(value)}
    assert type(value)(**options) == value and hash(type(value)(**options)) == hash(value)
    with pytest.raises(FrozenInstanceError):
        value.verifier = "gumbel"


@given(st.integers(1, 9), st.integers(1, 9))
def test_values_of_other_k_are_others(k, other):
    assert (OnePass(k=k) == OnePass(k=other)) == (k == other)
    assert OnePass(k=k) != NGram(k=k)


# --- options ---


@every_name
@pytest.mark.parametrize("option", GOOD)
def test_an_option_is_taken_by_the_samplers_that_have_it_and_refused_by_others(model, name, option):
    options = needed(name) | {option: GOOD[option]}
    if option in OPTIONS[name]:
        sample(model, *PROBLEM, name, **options)
        return
    refused(f"sampler '{name}' has no option {option}; its options are ", model, name, **options)
    with pytest.raises(ValueError) as error:
        sample(model, *PROBLEM, name, **options)
    listed = str(error.value).rpartition(" are ")[2]
    assert set(listed.split(", ")) == OPTIONS[name]
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
        SAMPLERS[name](**options)


@every_name
def test_an_option_that_no_sampler_has_is_refused(model, name):
    says = f"sampler '{name}' has no option temprature; its options are "
    refused(says, model, name, **needed(name), temprature=2.0)


@pytest.mark.parametrize(
    ("name", "option", "value", "says"),
    [
        (name, option, value, says)
        for name in SAMPLERS
        for option, cases in BAD.items()
        for value, says in cases
        if option in OPTIONS[name]
    ],
)
def test_every_option_of_every_sampler_is_checked(model, name, option, value, says):
    options = needed(name) | {option: value}
    refused(says, model, name, **options)
    if option != "drafter":  # of which some are functions, and one needs a model with a head
        with pytest.raises(ValueError, match="^" + re.escape(says)):
            SAMPLERS[name](**options)


@pytest.mark.parametrize("name", sorted(SPECULATIVE))
def test_the_temperature_of_drafts_is_the_targets_or_their_own(model, name):
    call = {"k": 3, "trace": True, "temperature": 0.7}
    plain, alike, hot = (
        sample(model, *PROBLEM, name, draft_temperature=t, **call) for t in (None, 0.7, 30.0)
    )
    same(alike, plain)
    assert hot.trace != plain.trace
    if name != "ngram":  # whose drafts are as bad at any temperature
        rates = [float(found.accepted.sum() / found.drafted.sum()) for found in (hot, plain)]
        assert rates[0] < rates[1]


@pytest.mark.parametrize(("k", "stride"), [(1, 1), (2, 1), (3, 99), (5, 99)])
def test_the_stride_that_is_taken_where_none_is_chosen(model, k, stride):
    found = sample(model, *PROBLEM, "onepass", k=k)
    same(found, sample(model, *PROBLEM, "onepass", k=k, stride=stride))
    other = sample(model, *PROBLEM, "onepass", k=k, stride=100 - stride)
    assert k == 1 or not torch.equal(other.rows, found.rows)


@pytest.mark.parametrize("name", sorted(SPECULATIVE))
def test_tolerance_and_the_gumbel_verifier_exclude_one_another(model, name):
    says = "tolerance is 0.1 with verifier 'gumbel'; expected a finite number from 0, and 0 with"
    refused(says, model, name, tolerance=0.1, verifier="gumbel")


def test_an_option_together_with_a_value_is_refused(model):
    says = "k is given together with the sampler ASSD(k=5, "
    refused(says, model, ASSD(k=5), k=3)
    refused(
        "stride is given together with the sampler OnePass(k='auto', ", model, OnePass(), stride=2
    )
    with pytest.raises(ValueError, match="expected its options within it$"):
        sample(model, *PROBLEM, ASSD(k=5), k=3)


def test_steps_of_parallel_are_asked_for(model):
    refused("sampler 'parallel' needs steps; give it, as in steps=8", model, "parallel")
    with pytest.raises(TypeError, match="steps"):
        Parallel()


@pytest.mark.parametrize("wrong", [ASSD, OnePass, Parallel, None, 3, ("assd", 5), print, {}])
def test_what_is_no_sampler_is_refused(model, wrong):
    refused("sampler is ", model, wrong)
    with pytest.raises(
        ValueError, match="expected one of sequential, .* or a value such as asarm."
    ):
        sample(model, *PROBLEM, wrong)


@pytest.mark.parametrize("name", ["ancestral", "ASSD", "", "block"])
def test_an_unknown_name_is_refused(model, name):
    says = f"sampler is {name!r}; expected one of {', '.join(SAMPLERS)}"
    refused(says, model, name)


NO_CHOICE = [name for name in SAMPLERS if "drafter" not in OPTIONS[name]]


@pytest.mark.parametrize("name", NO_CHOICE)
def test_a_sampler_without_a_choice_of_drafters_does_not_ask_for_a_head(model, name):
    """Even where the model has one: no tables are made of it, and no draft is another."""
    headed = small_model(seed=3)
    headed.set_draft_head(DraftHead(DraftHeadConfig(32, hidden=8, rank=4)).double())
    same(
        sample(headed, *PROBLEM, name, **needed(name)),
        sample(model, *PROBLEM, name, **needed(name)),
    )
    assert not hasattr(headed.draft_head, "made")


# --- a sampler of one's own ---


@dataclass(frozen=True)
class Cautious(Sampler):
    """One target a call, as another sampler makes it."""

    name: ClassVar[str] = "cautious"
    can_be_static: ClassVar[bool] = True
    is_lossless: ClassVar[bool] = True

    def round(self, net, state):
        return Sequential().round(net, state)


@dataclass(frozen=True)
class AllAtOnce(Sampler):
    """Another lossy sampler, which says no more than it has to."""

    name: ClassVar[str] = "all at once"
    is_lossless: ClassVar[bool] = False

    def round(self, net, state):
        return Parallel(steps=1).round(net, state)


@pytest.mark.parametrize("execution", ["eager", "static"])
def test_a_sampler_of_ones_own_is_a_value_like_any_other(model, execution):
    found = sample(model, *PROBLEM, Cautious(), execution=execution)
    same(found, sample(model, *PROBLEM, "sequential"))


def test_whatever_is_lossy_gives_the_density_of_its_samples(model):
    """And not the probabilities that it drew with."""
    ids, order = PROBLEM
    found = sample(model, ids, order, AllAtOnce())
    same(found, sample(model, ids, order, Parallel(steps=1)))
    torch.testing.assert_close(found.log_probs, log_prob(model, found.tokens, order))


def test_what_is_left_out_of_a_sampler_is_said_before_anything_is_decoded(model):
    class Unrelated:
        name, is_lossless, round = "unrelated", True, Cautious.round

    for wrong in (Unrelated(), object()):
        refused(f"sampler is a {type(wrong).__name__}; expected one of sequential", model, wrong)
    for missing in ("is_lossless", "round"):
        members = {"name": "half", "is_lossless": True, "round": Cautious.round}
        half = type("Half", (Sampler,), {n: m for n, m in members.items() if n != missing})
        with pytest.raises(TypeError, match=missing):
            half()
    nameless = type("Nameless", (Sampler,), {"is_lossless": True, "round": Cautious.round})
    refused("sampler is a Nameless; expected one of sequential", model, nameless())


def test_lossless_names_are_those_that_no_option_makes_lossy():
    assert lossless_names() == [name for name in SAMPLERS if name != "parallel"]


# --- watching rounds ---


def watched(model, problem, value, **options):
    """What `on_round` is called with, and the result."""
    calls = []
    found = sample(model, *problem, value, on_round=calls.append, seed=3, **options)
    return calls, found


@every_value
def test_rounds_are_seen_as_they_are_made_and_replay_the_text(model, value):
    ids, order = PROBLEM
    calls, found = watched(model, PROBLEM, value)
    same(found, sample(model, ids, order, value, seed=3))
    assert len(calls) == int(found.rounds.max())
    text = ids.where(~order.is_target, -1)
    for number, rounds in enumerate(calls):
        is_unfinished = (text == -1).any(1)
        assert set(rounds) == set(is_unfinished.nonzero()[:, 0].tolist())
        assert set(rounds) == {b for b in range(4) if number < found.rounds[b]}
        for b, step in rounds.items():
            assert len(step.accepted) == len(step.drafted)
            assert set(step.drafted[: sum(step.accepted)]) <= set(step.committed)
            assert step.committed
            for position, token in step.committed:
                assert text[b, position] == -1  # nothing is ever committed twice
                text[b, position] = token
    assert torch.equal(text, found.tokens)


@every_value
def test_what_is_seen_is_what_is_traced(model, value):
    calls, found = watched(model, PROBLEM, value, trace=True)
    assert [[rounds[b] for rounds in calls if b in rounds] for b in range(4)] == found.trace
    assert watched(model, PROBLEM, value)[1].trace is None


@pytest.mark.parametrize("value", [OnePass(k=3), ASSD(k=3)], ids=lambda value: type(value).name)
def test_places_in_the_batch_are_those_of_all_sequences_though_some_have_left(
    model, value, monkeypatch
):
    monkeypatch.setattr("asarm.sampling.rounds.STAYS", 0.99)
    calls, found = watched(model, PROBLEM, value)
    assert [set(rounds) for rounds in calls] == [
        {b for b in range(4) if number < found.rounds[b]} for number in range(len(calls))
    ]


def test_on_round_is_called_before_the_next_round_is_made():
    """So that a text can be shown while it grows."""
    log = []

    class Noting(ConditionalTable):
        def __call__(self, *arguments):
            log.append("call")
            return super().__call__(*arguments)

    model, (ids, order) = Noting(length=4), mixed_batch([4], [1], 60)
    ids %= model.vocab_size
    sample(model, ids, order, "sequential", on_round=lambda rounds: log.append("round"))
    assert log == ["call", "round"] * 3


def test_an_error_while_watching_ends_the_decoding(model):
    def stop(rounds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, *PROBLEM, on_round=stop)
    same(sample(model, *PROBLEM), sample(small_model(seed=3), *PROBLEM))


@pytest.mark.parametrize("execution", ["static", "graph"])
@pytest.mark.parametrize(
    "watching", [{"on_round": print}, {"trace": True}], ids=["on_round", "trace"]
)
def test_rounds_that_never_wait_cannot_be_watched(model, execution, watching):
    says = f"execution is '{execution}' with sampler 'onepass'; expected 'eager': rounds that are"
    refused(says, model, execution=execution, **watching)
    sample(model, *PROBLEM, execution="eager", on_round=lambda rounds: None)


@pytest.mark.parametrize("is_watched", [False, True])
@pytest.mark.parametrize(
    "value", [OnePass(), Sequential(), Parallel(steps=2)], ids=lambda value: type(value).name
)
def test_rounds_on_a_gpu_are_static_unless_they_are_watched(value, is_watched):
    is_eager = is_watched or isinstance(value, Parallel)
    expected = "eager" if is_eager else "static"
    assert _execution(None, value, torch.device("cuda"), is_watched) == expected
    assert _execution(None, value, torch.device("cpu"), is_watched) == "eager"
