import logging

import pytest
from trl import KTOConfig

from specact_rl.errors import ConfigError
from specact_rl.models.unpaired import (
    CutPrompts,
    check_kl_estimate,
    kto_order,
    kto_weights,
)


@pytest.fixture
def training(tmp_path):
    def make(**options):
        options = {"per_device_train_batch_size": 4, "bf16": False, "use_cpu": True} | options
        return KTOConfig(output_dir=str(tmp_path), **options)

    return make


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 0, 0, 0], (3.0, 1.0)), ([1, 1, 0], (1.0, 2.0)), ([1, 0], (1.0, 1.0))],
)
def test_the_rarer_class_weighs_more_so_that_both_weigh_the_same(training, labels, expected):
    weights = kto_weights(labels, training(), "loss")
    assert (weights.desirable_weight, weights.undesirable_weight) == expected
    assert weights.ratio == pytest.approx(1.0)


def test_given_weights_are_kept_and_those_in_range_are_said_with_the_log(training):
    given = training(desirable_weight=2.0, undesirable_weight=0.5)
    weights = kto_weights([1, 0, 0, 0, 0, 0], given, "none")
    # 2 * 1 against 0.5 * 5
    assert weights.ratio == pytest.approx(0.8)
    assert weights.desirable_range == (pytest.approx(2.5), pytest.approx(2.5 * 4 / 3))
    assert weights.to_json() == {
        "num_desirable": 1,
        "num_undesirable": 5,
        "desirable_weight": 2.0,
        "undesirable_weight": 0.5,
        "ratio": weights.ratio,
        "ratio_range": [1.0, 4 / 3],
        "desirable_weight_range": list(weights.desirable_range),
    }


@pytest.mark.parametrize(
    ("weight", "warned"), [(2.9, True), (3.0, False), (4.0, False), (4.1, True)]
)
def test_a_ratio_out_of_range_is_warned_of(training, caplog, weight, warned):
    with caplog.at_level(logging.WARNING, "specact_rl"):
        kto_weights([1, 0, 0, 0], training(desirable_weight=weight), "none")
    assert ("desirable_weight between 3 and 4" in caplog.text) is warned


@pytest.mark.parametrize(
    ("options", "balance", "complaint"),
    [
        ({"desirable_weight": 2.0}, "loss", "leave them out, or set balance: none"),
        ({"undesirable_weight": 0.0}, "none", "above 0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(training, options, balance, complaint):
    with pytest.raises(ConfigError, match=complaint):
        kto_weights([1, 0], training(**options), balance)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"per_device_train_batch_size": 1}, "must be at least 2"),
        (
            {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8},
            "accumulation does not help",
        ),
        ({"train_sampling_strategy": "group_by_length"}, "must be 'sequential'"),
        ({"dataset_num_proc": 2}, "dataset_num_proc must be 1"),
    ],
)
def test_a_kl_term_that_cannot_be_estimated_is_refused(training, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        check_kl_estimate(training(**options))
    check_kl_estimate(training(**options, loss_type="apo_zero_unpaired"))


def test_rows_are_shuffled_by_the_seed(training):
    first = kto_order(12, training(seed=1))
    assert sorted(first) == list(range(12))
    assert first == kto_order(12, training(seed=1))
    assert first not in (list(range(12)), kto_order(12, training(seed=2)))


@pytest.mark.parametrize(("num_rows", "left"), [(8, 8), (9, 8), (10, 10)])
def test_a_row_that_would_be_alone_in_its_batch_is_left_out_and_logged(
    training, caplog, num_rows, left
):
    with caplog.at_level(logging.INFO, "specact_rl"):
        order = kto_order(num_rows, training())
    assert len(set(order)) == left
    assert ("is left out" in caplog.text) is (left < num_rows)
    assert len(kto_order(num_rows, training(loss_type="apo_zero_unpaired"))) == num_rows


def test_prompts_are_cut_at_their_beginning_and_completions_never():
    row = {"prompt_ids": [1, 2, 3, 4], "completion_ids": [5, 6], "KL_completion_ids": [7, 8, 9]}
    [cut] = CutPrompts(collate=lambda rows: rows, max_length=4)([row])
    assert cut == row | {"prompt_ids": [3, 4]}
    for enough in (6, 9, None):
        assert CutPrompts(collate=lambda rows: rows, max_length=enough)([row]) == [row]
