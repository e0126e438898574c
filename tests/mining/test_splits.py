from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.mining.leaks import check_leaks
from specact_rl.mining.splits import (
    DEFAULT_FRACTIONS,
    assign_splits,
    request_key,
    situation_key,
)
from specact_rl.types import SPLITS, ToolSpec


@pytest.fixture(scope="module")
def rollout(make):
    """`rollout(task)`; further facts are its info."""

    def asked(task, request=None, family="f", tools=("x",), trial=0, **info):
        request = f"do {task}" if request is None else request
        tools = [ToolSpec(name=name) for name in tools]
        fields = {"family": family, "tools": tools, "trial": trial, "split": None, "info": info}
        return make.rollout([], task=task, request=request, **fields)

    return asked


@pytest.fixture(scope="module")
def many(rollout):
    return [rollout(f"t{i}") for i in range(2000)]


def split_of(rollouts, fractions=None, seed=0, **options):
    assigned = assign_splits(
        rollouts, fractions=fractions or DEFAULT_FRACTIONS, seed=seed, **options
    )
    return {r.task_id: r.split for r in assigned}


def test_the_default_shares_are_a_distribution_over_all_splits():
    assert set(DEFAULT_FRACTIONS) == set(SPLITS)
    assert sum(DEFAULT_FRACTIONS.values()) == pytest.approx(1)


def test_shares_are_met_on_average(many):
    counts = Counter(split_of(many).values())
    for split, fraction in DEFAULT_FRACTIONS.items():
        # 2000 draws: the standard deviation of a share is at most 0.011
        assert counts[split] / 2000 == pytest.approx(fraction, abs=0.045)


def test_a_task_stays_in_its_split_when_others_come_and_go(many):
    assert split_of(many[:50]).items() <= split_of(many).items()
    assert split_of(list(reversed(many))) == split_of(many)


def test_another_seed_is_another_draw(many):
    assert split_of(many, seed=1) != split_of(many, seed=2)


def test_all_trials_of_a_task_are_together_and_order_is_kept(rollout):
    rollouts = [rollout("a", trial=1), rollout("b"), rollout("a", trial=0)]
    assigned = assign_splits(rollouts, fractions=DEFAULT_FRACTIONS, seed=0)
    assert [replace(r, split=None) for r in assigned] == rollouts
    assert assigned[0].split == assigned[2].split


def test_tasks_of_the_same_request_and_tools_are_together(rollout):
    same = [rollout(f"t{i}", request=f"  Return the CHAIR{'.' * (i % 2)}") for i in range(40)]
    assert len(set(split_of(same).values())) == 1


def test_tasks_of_the_same_request_and_state_are_together_whatever_the_tools(rollout):
    same = [
        rollout(f"t{i}", request="Return it", tools=(f"x{i}",), initial_state={"o7": "chair"})
        for i in range(40)
    ]
    assert len(set(split_of(same).values())) == 1


def test_tasks_are_tied_over_a_third_one(rollout):
    # a and b share tools, b and c share the state: all three are one group, of whatever order.
    chain = [
        rollout("a", "Return it", tools=("x",), initial_state=1),
        rollout("b", "Return it", tools=("x",), initial_state=2),
        rollout("c", "Return it", tools=("y",), initial_state=2),
    ]
    for seed in range(20):
        assert len(set(split_of(chain, seed=seed).values())) == 1


def test_tasks_that_share_nothing_are_drawn_apart(rollout):
    different = [
        rollout(f"t{i}", "Return it", tools=(f"x{i}",), initial_state=i) for i in range(40)
    ]
    assert len(set(split_of(different).values())) > 1


def test_a_split_that_is_not_named_gets_nothing(many):
    assert set(split_of(many[:100], {"test": 0.5, "calibration": 0.5}).values()) == {
        "test",
        "calibration",
    }


def test_held_out_families_are_in_test_and_marked_and_only_there(rollout):
    rollouts = [rollout(f"t{i}", family="new" if i % 4 == 0 else "old") for i in range(100)]
    assigned = assign_splits(
        rollouts, fractions=DEFAULT_FRACTIONS, seed=0, held_out_families=["new"]
    )
    assert {r.split for r in assigned if r.family == "new"} == {"test"}
    assert {r.split for r in assigned if r.family == "old"} == set(SPLITS)
    assert all(r.info["out_of_family"] is (r.family == "new") for r in assigned)


def test_without_held_out_families_nothing_is_marked(many):
    assigned = assign_splits(many[:3], fractions=DEFAULT_FRACTIONS, seed=0)
    assert [r.info for r in assigned] == [{}, {}, {}]


def test_a_held_out_family_that_is_not_there_is_refused(many):
    with pytest.raises(ValueError, match=r"missing \['typo'\]"):
        split_of(many[:3], held_out_families=["typo"])


@pytest.mark.parametrize(
    "fractions", [{"train": 1.0}, {"test": 0.5}, {"test": 1.5, "calibration": -0.5}, {}]
)
def test_fractions_that_are_no_distribution_are_refused(many, fractions):
    with pytest.raises(ValueError, match="shares of"):
        assign_splits(many[:3], fractions=fractions, seed=0)


def test_no_rollouts_have_no_splits():
    assert assign_splits([], fractions=DEFAULT_FRACTIONS, seed=0) == []


def test_keys_see_content_and_not_spelling_or_order(rollout):
    assert request_key(rollout("a", "Do it!")) == request_key(rollout("b", "do  it"))
    assert request_key(rollout("a", "x", tools=("p", "q"))) == request_key(
        rollout("a", "x", tools=("q", "p"))
    )
    assert request_key(rollout("a", "x", tools=("p",))) != request_key(rollout("a", "x"))
    assert situation_key(rollout("a", "x", tools=("p",))) == situation_key(rollout("a", "x"))
    assert situation_key(rollout("a", "x", initial_state=1)) != situation_key(
        rollout("a", "x", initial_state=2)
    )


@settings(deadline=None)
@given(
    specs=st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.sampled_from(["p", "q", "r"]),
            st.sampled_from([("x",), ("y",), ("x", "y")]),
            st.integers(0, 2),
        ),
        max_size=8,
    ),
    seed=st.integers(0, 5),
)
def test_a_split_never_leaks(rollout, specs, seed):
    rollouts = [
        rollout(task, request, tools=tools, trial=i, initial_state=state)
        for i, (task, request, tools, state) in enumerate(specs)
    ]
    assigned = assign_splits(rollouts, fractions=DEFAULT_FRACTIONS, seed=seed)
    check_leaks(assigned)
    assert assign_splits(assigned, fractions=DEFAULT_FRACTIONS, seed=seed) == assigned
