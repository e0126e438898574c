import pytest

from specact_rl.errors import SplitLeakError
from specact_rl.mining.leaks import LeakReport, check_leaks, word_grams


@pytest.fixture
def rollout(make):
    """`rollout(task, request, split)`; further facts are its info."""

    def asked(task, request, split, trial=0, **info):
        return make.rollout([], task=task, request=request, split=split, trial=trial, info=info)

    return asked


def test_the_same_task_in_two_splits_is_an_error_that_names_both(rollout):
    with pytest.raises(
        SplitLeakError, match="same task_id.*'a/p/0'.*'test'.*'a/p/1'.*'calibration'"
    ):
        check_leaks([rollout("a", "x", "test"), rollout("a", "y", "calibration", trial=1)])


def test_the_same_request_in_two_splits_is_an_error_however_it_is_spelt(rollout):
    with pytest.raises(SplitLeakError, match="same request and initial state"):
        check_leaks([rollout("a", "Do it.", "test"), rollout("b", "do  IT", "train_verifier")])


def test_the_same_request_in_the_same_state_is_an_error_and_in_another_is_not(rollout):
    first = rollout("a", "do it", "test", initial_state={"f1": "x", "f2": "y"})
    with pytest.raises(SplitLeakError):
        check_leaks(
            [first, rollout("b", "do it", "calibration", initial_state={"f2": "y", "f1": "x"})]
        )
    report = check_leaks([first, rollout("b", "do it", "calibration", initial_state={"f1": "z"})])
    assert report.num_tasks == {"test": 1, "calibration": 1}


def test_two_tasks_of_one_request_may_share_a_split(rollout):
    report = check_leaks([rollout("a", "do it", "test"), rollout("b", "do it", "test")])
    assert report == LeakReport(num_tasks={"test": 2}, num_sampled=1, near_duplicate_rate=None)


def test_a_rollout_without_a_split_is_refused(rollout):
    with pytest.raises(ValueError, match="'a/p/0' must have a split"):
        check_leaks([rollout("a", "x", None)])


def test_near_duplicates_are_a_rate_over_the_test_requests(rollout):
    words = [f"w{i}" for i in range(12)]
    train = " ".join(words)  # 10 grams
    near = " ".join(words[:11])  # 9 grams, all of them in train: 9 / 10
    far = " ".join([*words[:6], "other", *words[7:]])  # 7 of its 10 grams are in train: 7 / 13
    report = check_leaks(
        [
            rollout("a", train, "train_proposer"),
            rollout("b", near, "test"),
            rollout("c", far, "test"),
            rollout("d", "short one", "test"),
            rollout("e", near + " x y z", "calibration"),
        ]
    )
    assert report.num_sampled == 3
    assert report.near_duplicate_rate == pytest.approx(1 / 3)


def test_the_threshold_itself_is_near(rollout):
    # 4 grams of 6 words, and 5 grams of 7: 4 shared of 5 is exactly 0.8
    report = check_leaks(
        [
            rollout("a", "a b c d e f", "train_verifier"),
            rollout("b", "a b c d e f g", "test"),
        ]
    )
    assert report.near_duplicate_rate == 1.0


def test_a_text_of_few_words_is_one_gram():
    assert word_grams("a b") == {("a", "b")}
    assert word_grams("a b c d") == {("a", "b", "c"), ("b", "c", "d")}


def test_large_tests_are_sampled_the_same_way_each_time(rollout):
    rollouts = [rollout(f"t{i}", f"request number {i}", "test") for i in range(1200)]
    rollouts += [rollout(f"u{i}", f"order number {i}", "train_proposer") for i in range(5)]
    report = check_leaks(rollouts, seed=1)
    assert (report.num_sampled, report.near_duplicate_rate) == (1000, 0.0)
    assert check_leaks(rollouts, seed=1) == report
