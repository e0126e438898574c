"""A forest on hand features: what they learn, and what of them comes back from a folder."""

import json
import random

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression

from specact_rl.envs.episodes import NoisyExpert, run_episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.errors import ConfigError
from specact_rl.metrics.discrimination import auroc
from specact_rl.types import Action
from specact_rl.verifiers import VERIFIERS, LinearVerifier, TreesVerifier
from specact_rl.verifiers.base import Item
from specact_rl.verifiers.tabular import Linear, Trees


def table(rows=400, seed=0):
    """Rows with holes; the label hangs on the first two columns, and on the hole of the third."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 4))
    features[rng.random(rows) < 0.3, 2] = np.nan
    features[:, 3] = np.nan
    signal = features[:, 0] * features[:, 1] + np.isnan(features[:, 2])
    return features, signal + rng.normal(scale=0.3, size=rows) > 0.3


def test_trees_as_arrays_score_as_scikit_learn_does():
    features, labels = table()
    settings = {"n_estimators": 20, "min_samples_leaf": 4}
    ours = Trees.fit(features, labels, seed=3, **settings)
    theirs = ExtraTreesClassifier(random_state=3, **settings).fit(features[:, :3], labels)
    unseen, _ = table(seed=1)
    unseen[:5, :3] = np.nan
    shares = theirs.predict_proba(unseen[:, :3])[:, 1].clip(0.002, 0.998)
    np.testing.assert_allclose(
        ours.log_odds(unseen), np.log(shares / (1 - shares)), rtol=1e-5, atol=1e-6
    )


def test_linear_model_is_a_logistic_regression_on_ranks():
    features, labels = table()
    model = Linear.fit(features, labels, strength=1.0, seed=0)
    # Ranks do not change under a monotone map of the training values, so neither do the scores.
    stretched = np.exp(features)
    again = Linear.fit(stretched, labels, strength=1.0, seed=0)
    np.testing.assert_allclose(model.log_odds(features), again.log_odds(stretched), atol=0.1)
    one = features[:, :1]
    ranks = (np.argsort(np.argsort(one[:, 0])) + 0.5) / len(one)
    plain = LogisticRegression(C=1.0).fit((ranks - ranks.mean())[:, None] / ranks.std(), labels)
    ours = Linear.fit(one, labels, strength=1.0, seed=0)
    assert ours.weights[0] * ranks.std() == pytest.approx(plain.coef_[0, 0], rel=0.05)


def test_a_hole_is_the_mean_rank():
    features, labels = table()
    model = Linear.fit(features, labels, strength=1.0, seed=0)
    assert model.log_odds(np.full((1, 4), np.nan)) == pytest.approx(model.bias)


@pytest.fixture(scope="module")
def labelled(propose):
    """At each step the expert's action, right, an invented one, wrong, and a broken text."""
    rows, labels = [], []
    for seed in range(16):
        policy = NoisyExpert(noise=0.3, rng=random.Random(seed))
        for each in run_episode(Workspace(seed), policy, "noisy").each_step():
            invented = Action(type="tool_call", tool="fly", arguments={"to": "moon"})
            for sample, action in enumerate((each.reference, invented, None)):
                proposal = propose(each, action, sample=sample)
                rows.append(Item(step=each, proposal=proposal, siblings=(proposal,)))
                labels.append(sample == 0)
    return rows, np.array(labels)


def test_trees_verifier_learns_what_its_features_tell(labelled):
    rows, labels = labelled
    judged = TreesVerifier.fit(rows, labels, seed=0).judge(rows)
    assert auroc(judged.log_odds, labels).value > 0.99
    assert not judged.num_tokens.any()


def test_trees_verifier_judges_text_that_could_not_be_parsed(labelled):
    rows, labels = labelled
    judged = TreesVerifier.fit(rows, labels, seed=0).judge(rows)
    assert not np.isnan(judged.log_odds).any()


def test_nothing_said_has_no_score(labelled, propose):
    rows, labels = labelled
    verifier = TreesVerifier.fit(rows, labels, seed=0)
    silent = propose(rows[0].step, None)
    silent = type(silent)(**{f: getattr(silent, f) for f in silent.__slots__} | {"text": " "})
    item = Item(step=rows[0].step, proposal=silent, siblings=(silent,))
    assert np.isnan(verifier.judge([item]).log_odds).all()


def test_trees_verifier_judges_a_batch_as_its_rows(labelled):
    rows, labels = labelled
    verifier = TreesVerifier.fit(rows, labels, seed=0)
    together = verifier.judge(rows[:6]).log_odds
    alone = [verifier.judge([row]).log_odds[0] for row in rows[:6]]
    np.testing.assert_array_equal(together, alone)


def test_trees_verifier_needs_both_labels(labelled):
    rows, _ = labelled
    with pytest.raises(ValueError, match="both labels"):
        TreesVerifier.fit(rows, np.ones(len(rows), dtype=bool), seed=0)


def test_same_data_and_seed_give_the_same_name(labelled):
    rows, labels = labelled
    first = TreesVerifier.fit(rows, labels, seed=0)
    flipped = labels.copy()
    flipped[:4] = ~flipped[:4]
    assert first.verifier_id == TreesVerifier.fit(rows, labels, seed=0).verifier_id
    assert first.verifier_id != TreesVerifier.fit(rows, flipped, seed=0).verifier_id


def test_saved_verifier_comes_back_and_scores_as_it_did(labelled, tmp_path):
    rows, labels = labelled
    verifier = TreesVerifier.fit(rows, labels, seed=0)
    verifier.save(tmp_path / "v")
    loaded = TreesVerifier.load(tmp_path / "v")
    assert loaded.verifier_id == verifier.verifier_id
    np.testing.assert_array_equal(loaded.judge(rows).log_odds, verifier.judge(rows).log_odds)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "verifier.json").unlink(), "no such file"),
        (lambda folder: change(folder / "verifier.json", kind="other"), "not a saved verifier"),
        (lambda folder: change(folder / "verifier.json", features=["a"]), "fit it again"),
        (lambda folder: change(folder / "verifier.json", verifier_id="trees-0"), "was changed"),
        (lambda folder: (folder / "trees.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "trees.safetensors").write_bytes(b"no"), "cannot be read"),
    ],
)
def test_folder_that_is_no_saved_verifier_is_refused(labelled, tmp_path, spoil, words):
    rows, labels = labelled
    TreesVerifier.fit(rows, labels, seed=0).save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ConfigError, match=words):
        TreesVerifier.load(tmp_path)


def test_every_kind_on_hand_features_is_named():
    assert VERIFIERS["trees"] is TreesVerifier
    assert VERIFIERS["linear"] is LinearVerifier
