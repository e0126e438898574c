"""A verifier of C - S: what it learns, and where it parts from one of C."""

import random

import numpy as np
import pytest
from scipy.special import expit

from specact_rl.envs.episodes import NoisyExpert, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.metrics.discrimination import auroc
from specact_rl.types import Action
from specact_rl.verifiers import VERIFIERS, DifferenceVerifier, TreesVerifier
from specact_rl.verifiers.base import Item


@pytest.fixture(scope="module")
def rows(propose):
    """At each step the expert's action, an invented one and a broken text; and which it is."""
    items, kinds = [], []
    for seed in range(12):
        policy = NoisyExpert(noise=0.3, rng=random.Random(seed))
        for each in run_episode(Workspace(seed), policy, "noisy").each_step():
            invented = Action(type="tool_call", tool="fly", arguments={"to": "moon"})
            for sample, action in enumerate((each.reference, invented, None)):
                proposal = propose(each, action, sample=sample)
                items.append(Item(step=each, proposal=proposal, siblings=(proposal,)))
                kinds.append(sample)
    return items, np.array(kinds)


def differences(verifier, items):
    """E[C - S] from what it calls log-odds."""
    return 2.0 * expit(verifier.judge(items).log_odds) - 1.0


def test_it_estimates_the_difference_and_not_who_is_right(rows):
    items, kinds = rows
    # Invented actions: neither is right. Expert's: both are, at three steps in four, else only the
    # proposal. Broken texts: only the strong model.
    rng = np.random.default_rng(0)
    cheap = kinds == 0
    strong = (kinds == 2) | (cheap & (rng.random(kinds.size) < 0.75))
    found = differences(DifferenceVerifier.fit(items, cheap, strong, seed=0), items)
    for kind, expected in ((0, 0.25), (1, 0.0), (2, -1.0)):
        assert found[kinds == kind].mean() == pytest.approx(expected, abs=0.08)


def test_it_ranks_by_gain_where_being_right_ranks_the_other_way(rows):
    items, kinds = rows
    # The strong model is wrong just where the invented action is accepted half of the time.
    rng = np.random.default_rng(1)
    cheap = (kinds == 0) | ((kinds == 1) & (rng.random(kinds.size) < 0.6))
    strong = kinds == 0
    half = len(items) // 6 * 3
    train = items[:half]
    new = [item for item, kind in zip(items[half:], kinds[half:], strict=True) if kind < 2]
    invented = kinds[half:][kinds[half:] < 2] == 1
    gains = DifferenceVerifier.fit(train, cheap[:half], strong[:half], seed=0).judge(new).log_odds
    right = TreesVerifier.fit(train, cheap[:half], seed=0).judge(new).log_odds
    assert auroc(gains, invented).value > 0.9
    assert auroc(right, invented).value < 0.35  # of 27 and 27: an error of .08


def test_it_judges_a_batch_as_its_rows_and_names_itself_after_what_it_learned(rows):
    items, kinds = rows
    verifier = DifferenceVerifier.fit(items, kinds == 0, kinds == 2, seed=0)
    alone = [verifier.judge([item]).log_odds[0] for item in items[:6]]
    np.testing.assert_array_equal(verifier.judge(items[:6]).log_odds, alone)
    again = DifferenceVerifier.fit(items, kinds == 0, kinds == 2, seed=0)
    other = DifferenceVerifier.fit(items, kinds == 0, kinds == 1, seed=0)
    assert verifier.verifier_id == again.verifier_id != other.verifier_id


def test_it_scores_nothing_where_nothing_was_said(rows, propose):
    items, kinds = rows
    verifier = DifferenceVerifier.fit(items, kinds == 0, kinds == 2, seed=0)
    silent = propose(items[0].step, None)
    silent = type(silent)(**{f: getattr(silent, f) for f in silent.__slots__} | {"text": " "})
    judged = verifier.judge([Item(step=items[0].step, proposal=silent, siblings=(silent,))])
    assert np.isnan(judged.log_odds).all()


def test_one_sided_differences_are_learned_and_none_are_refused(rows):
    items, kinds = rows
    nobody = np.zeros(kinds.size, dtype=bool)
    found = differences(DifferenceVerifier.fit(items, kinds == 0, nobody, seed=0), items)
    assert found[kinds == 0].mean() > 0.9
    with pytest.raises(ValueError, match="must differ somewhere"):
        DifferenceVerifier.fit(items, kinds == 0, kinds == 0, seed=0)


def test_it_is_registered():
    assert VERIFIERS["difference"] is DifferenceVerifier
