import random

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from specact_rl.mining.balance import class_weights, subsample


def rows(num_positive, num_negative, split="train_verifier"):
    labels = [True] * num_positive + [False] * num_negative
    return [
        {"label": label, "split": split, "proposal_id": f"p{i}"} for i, label in enumerate(labels)
    ]


def test_class_weights_are_scikit_learns():
    labels = [True] * 3 + [False] * 9
    expected = compute_class_weight("balanced", classes=np.array([False, True]), y=labels)
    assert list(class_weights(labels).values()) == pytest.approx(list(expected))


@pytest.mark.parametrize(
    ("num_positive", "num_negative", "fraction", "kept"),
    [
        (90, 10, 0.5, (10, 10)),
        (10, 90, 0.5, (10, 10)),
        (80, 20, 0.75, (60, 20)),  # odds 3: 20 negatives need 60 positives
        (30, 70, 0.75, (30, 10)),
        (30, 10, 0.75, (30, 10)),
    ],
)
def test_subsample_keeps_the_largest_part_of_the_wanted_share(
    num_positive, num_negative, fraction, kept
):
    chosen = subsample(rows(num_positive, num_negative), positive_fraction=fraction, seed=0)
    labels = [row["label"] for row in chosen]
    assert (labels.count(True), labels.count(False)) == kept


def test_subsample_depends_on_the_seed_and_not_on_the_order():
    table = rows(80, 20)
    shuffled = random.Random(0).sample(table, len(table))
    ids = [
        {row["proposal_id"] for row in subsample(some, positive_fraction=0.5, seed=seed)}
        for some, seed in [(table, 0), (shuffled, 0), (table, 1)]
    ]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("split", ["calibration", "test", ""])
def test_only_training_splits_are_balanced(split):
    with pytest.raises(ValueError, match="natural prevalence"):
        subsample(rows(8, 2, split), positive_fraction=0.5, seed=0)


def test_one_label_cannot_be_balanced():
    with pytest.raises(ValueError, match="8 acceptable and 0 unacceptable"):
        subsample(rows(8, 0), positive_fraction=0.5, seed=0)
    with pytest.raises(ValueError, match="0 acceptable and 2 unacceptable"):
        class_weights([False, False])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_the_share_lies_between_0_and_1(fraction):
    with pytest.raises(ValueError, match="positive_fraction"):
        subsample(rows(8, 2), positive_fraction=fraction, seed=0)
