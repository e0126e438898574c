"""Verifiers that run a model, against one plain forward pass per row."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from specact_rl.models.loading import num_params
from specact_rl.types import Action
from specact_rl.verifiers.base import items_of
from specact_rl.verifiers.models import ClassifierVerifier, StrongJudge


@pytest.fixture
def items(rollouts, renderer, propose):
    """Four proposals at each step: the expert's twice, a text, and a broken one."""
    rows = []
    for rollout in rollouts[:3]:
        for step in rollout.each_step():
            actions = [
                step.reference,
                Action(type="final_answer", text="Done: t1 ann"),
                step.reference,
                None,
            ]
            rows += [propose(step, action, sample=k) for k, action in enumerate(actions)]
    return items_of(rollouts, rows, renderer)


def row_ids(item, renderer):
    """Prompt and completion, and the length of the prompt."""
    prompt = renderer.prompt_ids(item.step)
    return torch.tensor([prompt + renderer.completion_ids(item.proposal.action)]), len(prompt)


@torch.inference_mode()
def plain_logprob(model, item, renderer):
    ids, start = row_ids(item, renderer)
    logprobs = model(input_ids=ids).logits[0].log_softmax(-1)
    targets = ids[0, start:]
    return float(logprobs[start - 1 : -1].gather(1, targets[:, None]).sum())


@pytest.mark.parametrize("start", [0, 1, 3])
def test_classifier_scores_as_a_plain_forward_pass(classifier, items, renderer, start):
    verifier = ClassifierVerifier(verifier_id="v", model=classifier, renderer=renderer)
    judged = verifier.judge(items)
    for item, value in list(zip(items, judged.log_odds, strict=True))[start::4]:
        if item.proposal.action is None:
            assert np.isnan(value)
            continue
        with torch.inference_mode():
            logits = classifier(input_ids=row_ids(item, renderer)[0]).logits[0]
        expected = logits[1] - logits[0] if len(logits) == 2 else logits[0]
        assert value == pytest.approx(float(expected), abs=1e-4)


def test_classifier_scores_a_batch_as_its_rows(classifier, items, renderer):
    verifier = ClassifierVerifier(verifier_id="v", model=classifier, renderer=renderer)
    alone = [verifier.judge([item]).log_odds[0] for item in items[:8]]
    np.testing.assert_allclose(verifier.judge(items[:8]).log_odds, alone, atol=1e-4)


def test_order_of_the_items_changes_no_score(classifier, items, renderer):
    verifier = ClassifierVerifier(verifier_id="v", model=classifier, renderer=renderer)
    there, back = verifier.judge(items), verifier.judge(items[::-1])
    np.testing.assert_allclose(there.log_odds, back.log_odds[::-1], atol=1e-4)
    assert there.num_tokens.sum() == back.num_tokens.sum()


def test_every_token_is_computed_once(classifier, items, renderer):
    verifier = ClassifierVerifier(verifier_id="v", model=classifier, renderer=renderer)
    judged = verifier.judge(items)
    # Each rollout's longest prompt, and two distinct proposals at each of its steps.
    longest = {}
    proposals = 0
    for item in items:
        name = item.step.rollout_id
        longest[name] = max(longest.get(name, 0), len(renderer.prompt_ids(item.step)))
        if item.proposal.sample < 2:
            proposals += len(renderer.completion_ids(item.proposal.action))
    assert judged.num_tokens.sum() == sum(longest.values()) + proposals
    repeats = [i for i, item in enumerate(items) if item.proposal.sample >= 2]
    assert not judged.num_tokens[repeats].any()


def test_nothing_but_broken_texts_runs_no_model(classifier, items, renderer):
    verifier = ClassifierVerifier(verifier_id="v", model=classifier, renderer=renderer)
    judged = verifier.judge([item for item in items if item.proposal.action is None])
    assert np.isnan(judged.log_odds).all()
    assert not judged.num_tokens.any()


def make_judge(causal_lm, items, renderer, own_action):
    """The strong model's own proposals, with the log-probabilities it gives them."""
    own = {}
    for item in items:
        action = own_action(item)
        proposal = replace(item.proposal, action=action, model_id="strong")
        logprob = plain_logprob(causal_lm, replace(item, proposal=proposal), renderer)
        own[item.step.step_id] = replace(proposal, logprob=logprob)
    return StrongJudge(verifier_id="judge", model=causal_lm, renderer=renderer, own=own)


def test_judge_is_undecided_about_its_own_action(causal_lm, items, renderer):
    judge = make_judge(causal_lm, items, renderer, lambda item: item.step.reference)
    judged = judge.judge(items)
    same = np.array([item.proposal.sample in (0, 2) for item in items])
    # Exactly, though the two log-probabilities came out of different batches.
    assert (judged.log_odds[same] == 0.0).all()
    assert (judged.log_odds[~same] != 0.0).all()


def test_judge_is_undecided_about_its_own_action_in_another_spelling(causal_lm, items, renderer):
    items = [item for item in items if item.proposal.sample == 1][:2]
    spelt = Action(type="final_answer", text="done: T1 Ann.")
    judge = make_judge(causal_lm, items, renderer, lambda item: spelt)
    assert judge.judge(items).log_odds.tolist() == [0.0, 0.0]


def test_judge_compares_the_proposal_with_its_own_action(causal_lm, items, renderer):
    items = items[:8]
    own = Action(type="ask_clarification", text="Which hour?")
    judge = make_judge(causal_lm, items, renderer, lambda item: own)
    for item, value in zip(items, judge.judge(items).log_odds, strict=True):
        if item.proposal.action is None:
            assert np.isnan(value)
            continue
        expected = plain_logprob(causal_lm, item, renderer) - judge.own[item.step.step_id].logprob
        assert value == pytest.approx(expected, abs=1e-3)


def test_size_of_a_verifier_is_that_of_its_model(classifier, causal_lm, renderer):
    verifier = ClassifierVerifier(verifier_id="v", model=classifier, renderer=renderer)
    judge = StrongJudge(verifier_id="j", model=causal_lm, renderer=renderer, own={})
    assert verifier.size.num_params == num_params(classifier) > 0
    assert judge.size.num_params == num_params(causal_lm) > 0
