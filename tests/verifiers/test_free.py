"""Verifiers that run no model, against numbers by hand."""

import math

import numpy as np
import pytest

from specact_rl.errors import ModelError
from specact_rl.metrics.cost import NO_MODEL
from specact_rl.metrics.discrimination import auroc
from specact_rl.types import Action
from specact_rl.verifiers import VERIFIERS
from specact_rl.verifiers.base import Item, items_of
from specact_rl.verifiers.features.step import step_features
from specact_rl.verifiers.free import (
    LinearVerifier,
    ProposerConfidence,
    SampleAgreement,
)
from tests.records import make_step


def text(words):
    return Action(type="final_answer", text=words)


def call(tool, **arguments):
    return Action(type="tool_call", tool=tool, arguments=arguments)


@pytest.fixture
def step():
    """A request, a call that failed, and its result."""
    made = {"type": "function", "function": {"name": "close", "arguments": {"ticket": "t12"}}}
    return make_step(
        index=1,
        history=[
            {"role": "system", "content": "Use the tools, r9."},
            {"role": "user", "content": "Close the red lamp ticket (t12)."},
            {"role": "assistant", "content": "", "tool_calls": [made]},
            {"role": "tool", "content": "error: stale, rev is r7"},
        ],
    )


def items(step, propose, actions, logprobs=None):
    logprobs = logprobs or [-1.0] * len(actions)
    pairs = enumerate(zip(actions, logprobs, strict=True))
    rows = [propose(step, a, sample=k, logprob=p) for k, (a, p) in pairs]
    return [Item(step=step, prompt=None, proposal=row, siblings=tuple(rows)) for row in rows]


def test_confidence_is_the_log_odds_of_the_model_s_own_probability(step, propose):
    logprobs = [math.log(0.5), math.log(0.9), math.log(0.2), 0.0, -500.0, None]
    judged = ProposerConfidence().judge(items(step, propose, [text("a")] * 6, logprobs))
    np.testing.assert_allclose(judged.log_odds[:3], [0.0, math.log(9), math.log(0.25)], atol=1e-12)
    assert 20 < judged.log_odds[3] < np.inf  # certain, but finite
    assert judged.log_odds[4] == pytest.approx(-500)
    assert np.isnan(judged.log_odds[5])
    assert not judged.num_tokens.any()


def test_confidence_of_a_proposer_that_has_no_probabilities_is_refused(step, propose):
    unknown = items(step, propose, [None, text("a")], [None, None])
    with pytest.raises(ModelError, match=r"--logprobs"):
        ProposerConfidence().judge(unknown)
    known = items(step, propose, [text("a"), text("b")])
    fitted = LinearVerifier.fit(known, np.array([True, False]), with_confidence=True, seed=0)
    with pytest.raises(ModelError, match=r"'cheap' has none at step"):
        fitted.judge(unknown)


def test_agreement_is_the_share_of_samples_that_are_the_same_action(step, propose):
    actions = [text("Done: t1"), text("done: t1."), text("other"), None]
    judged = SampleAgreement().judge(items(step, propose, actions))
    # 2 of 4, 2 of 4, 1 of 4, with half a count on either side.
    expected = [math.log(2.5 / 2.5), 0.0, math.log(1.5 / 3.5), np.nan]
    np.testing.assert_allclose(judged.log_odds, expected)


def test_agreement_of_all_is_finite_and_the_highest(step, propose):
    one = SampleAgreement().judge(items(step, propose, [text("a")] * 3)).log_odds
    np.testing.assert_allclose(one, math.log(3.5 / 0.5))


def feature(name, step, propose, action):
    (item,) = items(step, propose, [action])
    return step_features(item, with_confidence=False)[name]


@pytest.mark.parametrize(
    ("action", "share"),
    [
        (call("close", ticket="t12"), 1.0),
        (call("close", ticket="t1"), 0.0),  # t12 is another ticket
        (call("find", query="red lamp"), 1.0),
        (call("find", query="lamp red"), 0.0),
        (call("close", ticket="t12", rev="r7"), 0.5),  # the revision came later
        (call("close", ticket="t12", rev="r9"), 0.5),  # not what the system says
        (call("list"), 0.0),
        (text("Close t12"), 1.0),
    ],
)
def test_words_of_the_request_are_whole_words(step, propose, action, share):
    assert feature("in_request", step, propose, action) == share


@pytest.mark.parametrize(
    ("action", "unseen"),
    [
        (call("close", ticket="t12", rev="r7"), False),
        (call("close", ticket="t12", rev="r8"), True),
        (call("close", ticket="t2"), True),
        (call("list"), False),
    ],
)
def test_values_that_were_never_shown_are_noticed(step, propose, action, unseen):
    assert feature("any_not_in_history", step, propose, action) == unseen


def test_features_see_the_error_and_the_repetition(step, propose):
    again, other = call("close", ticket="t12"), call("find", query="red")
    assert feature("after_error", step, propose, again)
    assert feature("repeated", step, propose, again) == 1
    assert not feature("after_error_other_tool", step, propose, again)
    assert feature("after_error_other_tool", step, propose, other)
    assert feature("repeated", step, propose, other) == 0
    assert not feature("user_spoke_last", step, propose, other)


def test_features_of_a_log_without_system_message_or_history(step, propose):
    bare = make_step(history=[])
    assert feature("in_request", bare, propose, text("hello")) == 0.0
    assert feature("in_request", make_step("hello"), propose, text("hello")) == 1.0


@pytest.fixture
def labelled(rollouts, renderer, propose):
    """At each step the expert's action, right, and an invented one, wrong."""
    rows, labels = [], []
    for rollout in rollouts:
        for each in rollout.each_step():
            rows += [
                propose(each, each.reference, sample=0, logprob=-0.5),
                propose(each, call("fly", to="moon"), sample=1, logprob=-4.0),
                propose(each, None, sample=2),
            ]
            labels += [True, False, False]
    return items_of(rollouts, rows, renderer), np.array(labels)


@pytest.mark.parametrize("with_confidence", [False, True])
def test_linear_verifier_learns_what_its_features_tell(labelled, with_confidence):
    rows, labels = labelled
    verifier = LinearVerifier.fit(rows, labels, with_confidence=with_confidence, seed=0)
    judged = verifier.judge(rows)
    known = np.array([item.proposal.action is not None for item in rows])
    assert ((judged.log_odds > 0) == labels)[known].all()
    assert np.isnan(judged.log_odds[~known]).all()


def test_linear_verifier_judges_a_batch_as_its_rows(labelled):
    rows, labels = labelled
    verifier = LinearVerifier.fit(rows, labels, with_confidence=True, seed=0)
    together = verifier.judge(rows[:6]).log_odds
    alone = [verifier.judge([row]).log_odds[0] for row in rows[:6]]
    np.testing.assert_allclose(together, alone)


def test_linear_verifier_is_named_after_its_weights(labelled):
    rows, labels = labelled
    first = LinearVerifier.fit(rows, labels, with_confidence=False, seed=0)
    again = LinearVerifier.fit(rows, labels, with_confidence=False, seed=0)
    flipped = labels.copy()
    flipped[0] = False
    other = LinearVerifier.fit(rows, flipped, with_confidence=False, seed=0)
    assert first.verifier_id == again.verifier_id != other.verifier_id


def test_linear_verifier_needs_both_labels(labelled):
    rows, _ = labelled
    with pytest.raises(ValueError, match="both labels"):
        LinearVerifier.fit(rows, np.ones(len(rows), dtype=bool), with_confidence=False, seed=0)


def test_linear_verifier_of_nothing_but_broken_texts_is_refused(labelled):
    rows, labels = labelled
    broken = [i for i, item in enumerate(rows) if item.proposal.action is None]
    with pytest.raises(ValueError, match="both labels"):
        LinearVerifier.fit([rows[i] for i in broken], labels[broken], with_confidence=False, seed=0)


def test_verifiers_run_no_model_of_their_own(step, propose):
    for kind in (ProposerConfidence, SampleAgreement):
        assert kind().size == NO_MODEL
        assert kind in VERIFIERS.values()


@pytest.fixture
def responses(labelled):
    """The same as logged responses: the message is there, the history of the step is not read."""
    rows, labels = labelled
    logged = [
        Item(
            step=row.step,
            proposal=row.proposal,
            response=[{"role": "assistant", "content": row.proposal.text}],
            siblings=row.siblings,
        )
        for row in rows
    ]
    return logged * 4, np.tile(labels, 4)


def test_linear_verifier_of_logged_responses_judges_broken_text_too(responses):
    rows, labels = responses
    verifier = LinearVerifier.fit(rows, labels, with_confidence=False, seed=0)
    judged = verifier.judge(rows)
    assert not np.isnan(judged.log_odds).any()
    assert auroc(judged.log_odds, labels).value > 0.95
    alone = [verifier.judge([row]).log_odds[0] for row in rows[:6]]
    np.testing.assert_allclose(judged.log_odds[:6], alone)


def test_logged_responses_have_no_confidence(responses):
    rows, labels = responses
    with pytest.raises(ValueError, match="no confidence"):
        LinearVerifier.fit(rows, labels, with_confidence=True, seed=0)
