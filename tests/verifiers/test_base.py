"""Items, repeats and rows of the scores table."""

import numpy as np
import pytest

from specact_rl.metrics.cost import NO_MODEL
from specact_rl.types import Action
from specact_rl.verifiers.base import Judgements, distinct_items, items_of, scores_of, spread


class Named:
    verifier_id = "v"
    size = NO_MODEL


def text(words):
    return Action(type="final_answer", text=words)


def steps_of(rollouts):
    return [step for rollout in rollouts for step in rollout.each_step()]


def test_items_come_in_the_order_of_the_proposals(rollouts, renderer, propose):
    steps = steps_of(rollouts)
    proposals = [propose(step, text("done")) for step in steps[::-1]]
    items = items_of(rollouts, proposals, renderer)
    assert [item.proposal for item in items] == proposals
    assert [item.step for item in items] == steps[::-1]
    for item in items:
        assert item.prompt.step_id == item.step.step_id
        assert item.prompt.ids == renderer.prompt_ids(item.step)


def test_steps_of_a_rollout_share_its_tokens(rollouts, renderer, propose):
    items = items_of(rollouts, [propose(s, None) for s in steps_of(rollouts)], renderer)
    assert len({id(item.prompt.tokens) for item in items}) == len(rollouts)


def test_siblings_are_of_one_step_model_and_mode(rollouts, renderer, propose):
    first, second = steps_of(rollouts)[:2]
    rows = [propose(first, text("a"), sample=k) for k in range(3)]
    rows += [propose(first, text("a"), model="other"), propose(second, text("a"))]
    rows += [propose(first, text("a"), mode="rank")]
    items = items_of(rollouts, rows, renderer)
    assert [len(item.siblings) for item in items] == [3, 3, 3, 1, 1, 1]
    assert items[1].siblings == tuple(rows[:3])


def test_proposal_without_its_rollout_is_refused(rollouts, renderer, propose):
    step = steps_of(rollouts)[0]
    with pytest.raises(ValueError, match=step.step_id):
        items_of(rollouts[1:], [propose(step, None)], renderer)


def test_one_action_at_one_step_is_one_item(rollouts, renderer, propose):
    first, second = steps_of(rollouts)[:2]
    actions = [text("Done: t1"), text("done:  t1."), None, text("other")]
    rows = [propose(first, action, sample=k) for k, action in enumerate(actions)]
    rows.append(propose(second, text("Done: t1")))
    items = items_of(rollouts, rows, renderer)
    distinct, places = distinct_items(items)
    assert [item.proposal for item in distinct] == [rows[0], rows[3], rows[4]]
    assert places == [0, 0, None, 1, 2]


def test_repeats_have_the_score_of_the_first_and_cost_nothing():
    judged = spread([0, 1, 0, None, 1], [0.5, -2.0], {0: (7, 3), 1: (9, 0)})
    np.testing.assert_array_equal(judged.log_odds, [0.5, -2.0, 0.5, np.nan, -2.0])
    assert judged.num_tokens.tolist() == [7, 9, 0, 0, 0]
    assert judged.num_cached_tokens.tolist() == [3, 0, 0, 0, 0]


def scores(rollouts, renderer, propose, log_odds, num_tokens, seconds):
    step = steps_of(rollouts)[0]
    rows = [propose(step, text(f"w{k}"), sample=k) for k in range(len(log_odds))]
    judged = Judgements(
        log_odds=np.array(log_odds),
        num_tokens=np.array(num_tokens),
        num_cached_tokens=np.zeros(len(log_odds), dtype=np.int64),
    )
    return scores_of(Named(), items_of(rollouts, rows, renderer), judged, seconds)


def test_scores_say_nothing_of_what_cannot_be_judged(rollouts, renderer, propose):
    rows = scores(rollouts, renderer, propose, [1.5, np.nan], [4, 0], 2.0)
    assert [row.log_odds for row in rows] == [1.5, None]
    assert [row.verifier_id for row in rows] == ["v", "v"]
    assert [row.num_tokens for row in rows] == [4, 0]


def test_time_is_shared_by_the_items_that_were_computed(rollouts, renderer, propose):
    # A repeat and a broken text took none, so that systems which leave them out pay it all.
    rows = scores(rollouts, renderer, propose, [1.0, 1.0, np.nan, 2.0], [4, 0, 0, 9], 6.0)
    assert [row.seconds for row in rows] == [3.0, 0.0, 0.0, 3.0]


def test_time_of_a_verifier_without_a_model_is_shared_by_what_it_judged(
    rollouts, renderer, propose
):
    rows = scores(rollouts, renderer, propose, [1.0, np.nan, 2.0], [0, 0, 0], 3.0)
    assert [row.seconds for row in rows] == [1.5, 0.0, 1.5]


def test_time_is_nobody_s_when_nothing_was_judged(rollouts, renderer, propose):
    rows = scores(rollouts, renderer, propose, [np.nan], [0], 3.0)
    assert [row.seconds for row in rows] == [0.0]
