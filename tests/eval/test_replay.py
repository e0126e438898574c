"""Systems over recorded outcomes: who is executed, and what it cost, by hand."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.errors import ConfigError
from specact_rl.eval.baselines import markov_actions, matches, nearest_actions
from specact_rl.eval.columns import (
    ProposalColumns,
    StepTable,
    score_matrix,
    score_seconds,
)
from specact_rl.eval.replay import (
    Judged,
    accept_what_parses,
    offered_proposals,
    run_system,
)
from specact_rl.metrics.call_costs import catch_up_tokens
from specact_rl.metrics.cost import ModelSize
from specact_rl.policy.systems import SYSTEMS, System
from specact_rl.types import Action, Rollout, Score, StepRecord, ToolSpec
from tests.gates import make_gate
from tests.records import make_proposal, make_step

CHEAP, STRONG, VERIFIER = 3, 100, 10
SIZES = {n: ModelSize(num_params=n) for n in (CHEAP, STRONG, VERIFIER)}
"""Weights of the three models."""
TOOL = ToolSpec(name="look", parameters={"type": "object", "properties": {"t": {"type": "string"}}})
NAN = float("nan")


def look(handle):
    return Action(type="retrieval", tool="look", arguments={"t": handle})


def rollout(name, num_steps, unreachable=(), out_of_family=False):
    """A rollout whose reference is to look at t0, t1, ..."""
    messages = [{"role": "user", "content": f"look at {name}"}]
    steps = []
    for i in range(num_steps):
        steps.append(
            StepRecord(
                index=i,
                message_index=len(messages),
                executed=look(f"t{i}"),
                reference=look(f"t{i}"),
                cost_to_go=None if i in unreachable else num_steps - i,
            )
        )
        call = {"type": "function", "function": {"name": "look", "arguments": {"t": f"t{i}"}}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "content": f"{name} {i}"})
    return Rollout(
        rollout_id=name,
        task_id=f"task-{name}",
        family="f",
        policy="p",
        trial=0,
        messages=messages,
        tools=[TOOL],
        steps=steps,
        info={"out_of_family": True} if out_of_family else {},
    )


def proposal(step, sample, action, *, model="cheap", acceptable=True, tokens=5, prompt=10):
    return make_proposal(
        step,
        action or "",
        acceptable,
        sample=sample,
        model=model,
        text="",
        match_level="arguments" if acceptable else "type",
        same_state=acceptable,
        label_source="cost_to_go",
        logprob=None if action is None else -1.0,
        num_prompt_tokens=prompt,
        num_completion_tokens=tokens,
        seconds=1.0,
    )


@pytest.fixture
def table():
    """Three steps of one rollout and one of another."""
    return StepTable.of([rollout("a", 3), rollout("b", 1)])


PROMPTS = (10, 14, 20, 10)


@pytest.fixture
def cheap(table):
    """Sample 0: right, wrong, broken, right. Samples 1 and 2: repeats, and another action."""
    rows = []
    for i, step in enumerate(table.steps):
        right, wrong = look(f"t{step.index}"), look("t9")
        first = [right, wrong, None, right][i]
        second = [right, right, None, wrong][i]
        for k, action in enumerate([first, second, first]):
            ok = action == right
            rows.append(proposal(step, k, action, acceptable=ok, tokens=5 + k, prompt=PROMPTS[i]))
    return ProposalColumns.of(table, rows)


@pytest.fixture
def strong(table):
    """Right, right, right, wrong."""
    rows = [
        proposal(step, 0, look("s"), model="strong", acceptable=i < 3, tokens=7, prompt=PROMPTS[i])
        for i, step in enumerate(table.steps)
    ]
    return ProposalColumns.of(table, rows)


def judged(log_odds, shares_strong=False, num_params=VERIFIER):
    log_odds = np.array(log_odds)
    return Judged(
        verifier_id="v",
        size=ModelSize(num_params=num_params),
        shares_strong=shares_strong,
        log_odds=log_odds,
        seconds=np.full(log_odds.shape, 0.25),
    )


def columns_of_scores(first):
    """The same log-odds for the samples that repeat the first."""
    return [[a, b, a] for a, b in first]


SCORES = columns_of_scores([(2.0, 2.0), (-1.0, 1.0), (NAN, NAN), (-3.0, -4.0)])


def run(name, table, strong, cheap, scores=SCORES, threshold=0.5, **parts):
    system = SYSTEMS[name] if isinstance(name, str) else name
    view = judged(scores, **parts) if system.verifier else None
    gate = make_gate(threshold) if system.gated else None
    return run_system(system, table, strong, SIZES[STRONG], cheap, SIZES[CHEAP], view, gate)


def test_strong_only_is_the_strong_model(table, strong, cheap):
    a = run("A", table, strong, cheap)
    assert a.acceptable.tolist() == [True, True, True, False]
    assert not a.accepted.any()
    # 10, then 4 and 6 more, then 10 of the other rollout; 7 are written each time.
    assert a.flops.tolist() == [2 * STRONG * n for n in (17, 11, 13, 17)]
    assert a.seconds.tolist() == [1.0] * 4


def test_cheap_only_is_the_first_sample_right_or_wrong(table, strong, cheap):
    b = run("B", table, strong, cheap)
    assert b.accepted.all()
    assert b.acceptable.tolist() == [True, False, False, True]
    assert b.flops.tolist() == [2 * CHEAP * n for n in (15, 9, 11, 15)]


def test_gated_system_executes_what_it_accepts_and_pays_the_fallback_for_the_rest(
    table, strong, cheap
):
    # p = sigmoid(log-odds) >= .5 where the log-odds are not negative: the first step alone.
    d = run("D", table, strong, cheap)
    assert d.accepted.tolist() == [True, False, False, False]
    assert d.acceptable.tolist() == [True, True, True, False]
    assert d.num_distinct.tolist() == [1, 1, 0, 1]
    # The verifier reads 10, then 4 more, nothing at the broken one, then 10 of the other rollout.
    # The strong model is first called at the second step, and has 14 to read there.
    expected = [
        2 * CHEAP * 15 + 2 * VERIFIER * (10 + 5),
        2 * CHEAP * 9 + 2 * VERIFIER * (4 + 5) + 2 * STRONG * (14 + 7),
        2 * CHEAP * 11 + 2 * STRONG * (6 + 7),
        2 * CHEAP * 15 + 2 * VERIFIER * (10 + 5) + 2 * STRONG * (10 + 7),
    ]
    assert d.flops.tolist() == expected
    assert d.seconds.tolist() == [1.25, 2.25, 2.0, 2.25]
    assert d.accept_rate == 0.25
    np.testing.assert_allclose(d.p_accept[[0, 1]], [1 / (1 + np.exp(-2)), 1 / (1 + np.e)])
    assert np.isnan(d.p_accept[2])


def test_several_proposals_are_drawn_and_the_verifier_picks_one(table, strong, cheap):
    e = run("E", table, strong, cheap)
    # At the second step the other sample, the right one, scores higher.
    assert e.pick.tolist() == [0, 1, 0, 0]
    assert e.accepted.tolist() == [True, True, False, False]
    assert e.acceptable.tolist() == [True, True, True, False]
    assert e.num_distinct.tolist() == [1, 2, 0, 2]
    # 5 + 6 + 7 tokens are written; repeats are not judged again.
    assert e.flops[0] == 2 * CHEAP * (10 + 18) + 2 * VERIFIER * (10 + 5)
    assert e.flops[1] == 2 * CHEAP * (4 + 18) + 2 * VERIFIER * (4 + 5 + 6)
    assert e.seconds.tolist() == [3.25, 3.5, 4.0, 4.5]


def test_without_fallback_what_was_picked_stands(table, strong, cheap):
    e = run("E-nf", table, strong, cheap)
    assert e.accepted.all()
    assert e.pick.tolist() == [0, 1, 0, 0]
    assert e.acceptable.tolist() == [True, True, False, True]
    assert e.flops[2] == 2 * CHEAP * (6 + 18)


def test_without_a_verifier_every_parsable_proposal_is_executed(table, strong, cheap):
    any_parsable = System(name="parsable", title="", proposer="cheap")
    run_ = run(any_parsable, table, strong, cheap)
    assert run_.accepted.tolist() == [True, True, False, True]
    assert run_.acceptable.tolist() == [True, False, True, True]


def test_without_a_verifier_the_first_of_several_that_parses_is_executed():
    table = StepTable.of([rollout("a", 2)])
    texts = [[None, look("t0")], [None, None]]  # the second sample is right; nothing parses
    rows = [
        proposal(step, k, action, acceptable=action is not None)
        for step, actions in zip(table.steps, texts, strict=True)
        for k, action in enumerate(actions)
    ]
    columns = ProposalColumns.of(table, rows)
    gated = System(name="x-dpo", title="", proposer="cheap_dpo", num_proposals=2, verifier="v")
    reference = accept_what_parses(gated)
    assert (reference.name, reference.verifier) == ("parses-dpo-2", None)
    run_ = run(reference, table, columns, columns)
    assert run_.pick.tolist() == [1, 0]
    assert run_.accepted.tolist() == [True, False]
    assert run_.offered.tolist() == [1.0, 0.0]
    assert run_.parsed.tolist() == [True, False]


def test_unknown_label_is_neither_right_nor_wrong(table, strong):
    known = [proposal(s, 0, look("t"), acceptable=True) for s in table.steps]
    rows = [replace(known[0], acceptable=None, same_state=None, match_level="none"), *known[1:]]
    columns = ProposalColumns.of(table, rows)
    np.testing.assert_array_equal(columns.acceptable[:, 0], [NAN, 1, 1, 1])
    np.testing.assert_array_equal(columns.same_state[:, 0], [NAN, 1, 1, 1])
    accepts = run("D", table, strong, columns, [[5.0]] * 4)
    np.testing.assert_array_equal(accepts.acceptable, [NAN, 1, 1, 1])
    rejects = run("D", table, strong, columns, [[-5.0]] * 4)
    np.testing.assert_array_equal(rejects.acceptable, [1, 1, 1, 0])
    np.testing.assert_array_equal(rejects.offered, [NAN, 1, 1, 1])


def test_judging_strong_model_reads_once_and_writes_what_it_compares_with(table, strong, cheap):
    c = run("C", table, strong, cheap, shares_strong=True, num_params=STRONG)
    # It reads every prompt and writes its own action, to compare with it or to fall back on it.
    assert c.flops.tolist() == [
        2 * CHEAP * 15 + 2 * STRONG * (10 + 5 + 7),
        2 * CHEAP * 9 + 2 * STRONG * (4 + 5 + 7),
        2 * CHEAP * 11 + 2 * STRONG * (6 + 7),
        2 * CHEAP * 15 + 2 * STRONG * (10 + 5 + 7),
    ]


def test_samples_that_are_only_compared_are_paid_for_as_well(table, strong, cheap):
    system = System(name="x", title="", proposer="cheap", verifier="agreement", num_compared=3)
    free = run(system, table, strong, cheap, num_params=0)
    assert free.flops[0] == 2 * CHEAP * (10 + 18)
    assert free.seconds[0] == 3.25
    assert free.num_distinct.tolist() == [1, 1, 0, 1]  # offered


@pytest.mark.parametrize("name", ["C", "D", "E"])
def test_gate_that_accepts_nothing_is_the_strong_model_at_a_higher_price(
    name, table, strong, cheap
):
    never = run(name, table, strong, cheap, threshold=None)
    alone = run("A", table, strong, cheap)
    assert never.acceptable.tolist() == alone.acceptable.tolist()
    assert (never.flops > alone.flops).all()


def test_gate_that_accepts_all_is_the_cheap_model_but_for_what_is_broken(table, strong, cheap):
    always = run("D", table, strong, cheap, threshold=0.0)
    assert always.accepted.tolist() == [True, True, False, True]
    assert always.acceptable.tolist() == [True, False, True, True]


@given(
    scores=st.lists(st.floats(-5, 5), min_size=4, max_size=4),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
)
@settings(max_examples=50, deadline=None)
def test_a_higher_threshold_accepts_a_subset(scores, low, high):
    rollouts = [rollout("a", 4)]
    table = StepTable.of(rollouts)
    rows = [proposal(step, 0, look("t")) for step in table.steps]
    columns = ProposalColumns.of(table, rows)
    runs = [
        run("D", table, columns, columns, [[s] for s in scores], threshold=t)
        for t in sorted((low, high))
    ]
    assert (runs[1].accepted <= runs[0].accepted).all()
    # What is read at once or in parts is read once: the calls' costs differ in what is written.
    saved = runs[1].flops.sum() - runs[0].flops.sum()
    assert saved >= 0


def test_parts_that_are_missing_are_named(table, strong, cheap):
    with pytest.raises(ValueError, match="system D needs its proposer and verifier"):
        run_system(SYSTEMS["D"], table, strong, SIZES[STRONG], cheap, SIZES[CHEAP])
    with pytest.raises(ValueError, match="system D needs its gate"):
        run_system(SYSTEMS["D"], table, strong, SIZES[STRONG], cheap, SIZES[CHEAP], judged(SCORES))
    with pytest.raises(ValueError, match="system E needs 3 samples, got 1"):
        offered_proposals(SYSTEMS["E"], strong, None)


def test_steps_out_of_reach_are_left_out():
    table = StepTable.of([rollout("a", 3, unreachable=(1,)), rollout("b", 1, out_of_family=True)])
    assert [step.step_id for step in table.steps] == ["a/0", "a/2", "b/0"]
    assert table.rollouts.tolist() == [0, 0, 1]
    assert table.out_of_family.tolist() == [False, False, True]
    assert table.task_ids.tolist() == [0, 0, 1]
    assert table.reference_types.tolist() == ["retrieval"] * 3
    assert [step.step_id for step in table.take(table.out_of_family).steps] == ["b/0"]
    assert table.num_out_of_reach == 1


def test_split_without_labelled_steps_is_refused():
    with pytest.raises(ConfigError, match="known to be right"):
        StepTable.of([rollout("a", 1, unreachable=(0,))])


def test_columns_join_by_step_whatever_the_order_of_the_rows(table):
    rows = [
        proposal(step, k, look(f"t{step.index}{k}"), tokens=10 * i + k)
        for i, step in enumerate(table.steps)
        for k in range(2)
    ]
    columns = ProposalColumns.of(table, rows[::-1])
    assert columns.completion_tokens.tolist() == [[0, 1], [10, 11], [20, 21], [30, 31]]
    assert columns.first_of_its_kind.all()


def test_columns_reach_a_level_and_all_below_it(table):
    rows = [proposal(s, 0, look("t"), acceptable=i > 0) for i, s in enumerate(table.steps)]
    columns = ProposalColumns.of(table, rows)
    assert columns.levels["type"][:, 0].tolist() == [True] * 4
    assert columns.levels["arguments"][:, 0].tolist() == [False, True, True, True]


def test_repeats_are_found_by_canonical_form(table):
    actions = [look("t1"), look(" t1 "), None, look("t2")]
    step = table.steps[0]
    one = StepTable.of([rollout("a", 1)])
    columns = ProposalColumns.of(one, [proposal(step, k, a) for k, a in enumerate(actions)])
    assert columns.first_of_its_kind.tolist() == [[True, False, False, True]]
    assert columns.parsed.tolist() == [[True, True, False, True]]
    assert np.isnan(columns.logprob[0, 2])


@pytest.mark.parametrize(
    "samples",
    [[(0, 0), (1, 0), (2, 0)], [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)], []],
    ids=["step missing", "uneven", "none"],
)
def test_incomplete_outcomes_are_refused(table, samples):
    rows = [proposal(table.steps[i], k, look("t")) for i, k in samples]
    with pytest.raises(ConfigError):
        ProposalColumns.of(table, rows)


def test_sample_that_is_there_twice_is_refused(table):
    # Generated and ranked proposals of a model have the same sample numbers: never in one table.
    rows = [proposal(step, 0, look("t")) for step in table.steps for _ in range(2)]
    with pytest.raises(ConfigError, match="once each"):
        ProposalColumns.of(table, rows)


def test_two_models_are_refused(table):
    rows = [proposal(step, 0, look("t"), model=f"m{i}") for i, step in enumerate(table.steps)]
    with pytest.raises(ConfigError, match="one model"):
        ProposalColumns.of(table, rows)


def score(proposal_id, log_odds):
    return Score(
        proposal_id=proposal_id,
        verifier_id="v",
        log_odds=log_odds,
        num_tokens=1,
        num_cached_tokens=0,
        seconds=0.5,
    )


def test_scores_join_by_proposal(table, cheap):
    ids = [p.proposal_id for row in cheap.proposals for p in row]
    scores = [score(name, None if i == 4 else float(i)) for i, name in enumerate(ids)]
    matrix = score_matrix(cheap, scores[::-1])
    np.testing.assert_array_equal(matrix, [[0, 1, 2], [3, np.nan, 5], [6, 7, 8], [9, 10, 11]])
    assert (score_seconds(cheap, scores) == 0.5).all()
    with pytest.raises(ConfigError, match=f"{ids[0]!r} has no score"):
        score_matrix(cheap, scores[1:])


def test_samples_that_no_verifier_was_asked_about_have_no_score(table, cheap):
    asked = [score(row[0].proposal_id, float(i)) for i, row in enumerate(cheap.proposals)]
    nan = np.nan
    expected = [[0, nan, nan], [1, nan, nan], [2, nan, nan], [3, nan, nan]]
    np.testing.assert_array_equal(score_matrix(cheap, asked, 1), expected)
    with pytest.raises(ConfigError, match="has no score"):
        score_matrix(cheap, asked)
    with pytest.raises(ConfigError, match="has no score"):
        score_matrix(cheap, asked[1:], 1)


def test_model_that_was_not_called_catches_up():
    prompts = np.array([10, 15, 22, 8, 12])
    rollouts = np.array([0, 0, 0, 1, 1])
    called = np.array([True, False, True, False, True])
    # 10 at first, 12 more by the third step; the other rollout starts anew.
    assert catch_up_tokens(prompts, rollouts, called).tolist() == [10, 0, 12, 0, 12]


@given(st.lists(st.booleans(), min_size=6, max_size=6))
def test_catching_up_reads_no_token_twice(called):
    prompts = np.array([3, 5, 9, 2, 4, 8])
    rollouts = np.array([0, 0, 0, 1, 1, 1])
    called = np.array(called)
    tokens = catch_up_tokens(prompts, rollouts, called)
    assert (tokens[~called] == 0).all()
    for number in (0, 1):
        here = called & (rollouts == number)
        assert tokens[rollouts == number].sum() == max(prompts[here], default=0)


def step_after(tool, request="go", reference=None, content="ok"):
    messages = [{"role": "user", "content": request}]
    if tool is not None:
        call = {"type": "function", "function": {"name": tool, "arguments": {}}}
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": content},
        ]
    return make_step(history=messages, tools=[TOOL], reference=reference)


def test_markov_baseline_says_what_followed_the_last_tool_most_often():
    train = [
        *[step_after("find", reference=look("t1"))] * 2,
        step_after("find", reference=look("t2")),
        *[step_after("read", reference=look("t3"))] * 4,
        step_after("read"),
    ]
    test = [step_after("find"), step_after("read"), step_after("never seen")]
    # After a tool that was never seen: what is most frequent over all.
    assert markov_actions(train, test) == [look("t1"), look("t3"), look("t3")]


def test_nearest_baseline_copies_the_most_similar_step():
    train = [
        step_after(None, "close the red ticket", look("t1")),
        step_after(None, "refund the blue order", look("t2")),
        step_after(None, "refund the blue order"),
    ]
    test = [
        step_after(None, "please refund a blue order"),
        step_after(None, "the red ticket: close it"),
    ]
    assert nearest_actions(train, test) == [look("t2"), look("t1")]


@pytest.mark.parametrize("baseline", [markov_actions, nearest_actions])
def test_baselines_need_references(baseline):
    with pytest.raises(ValueError, match="no reference"):
        baseline([step_after("find")], [step_after("find")])


def test_matches_compares_with_the_reference_at_a_level():
    steps = [step_after(None, reference=r) for r in (look("t1"), look("t1"), None)]
    actions = [look("t1"), look("t2"), look("t1")]
    levels = {"tool": [True, True, False], "arguments": [True, False, False]}
    for level, expected in levels.items():
        assert matches(steps, actions, level).tolist() == expected


def test_acceptance_of_each_pattern_pays_for_exactly_its_calls(table, strong, cheap):
    """Every pattern of acceptance over the four steps, against a count by hand."""
    lengths = dict(zip(range(4), PROMPTS, strict=True))
    for pattern in itertools.product([False, True], repeat=4):
        scores = [[5.0 if ok else -5.0] * 3 for ok in pattern]
        scores[2] = [NAN] * 3  # broken: never accepted
        d = run("D", table, strong, cheap, scores)
        read = {0: 0, 1: 0}
        total = 0
        for i, ok in enumerate(pattern):
            if ok and i != 2:
                continue
            number = int(table.rollouts[i])
            total += lengths[i] - read[number] + 7
            read[number] = lengths[i]
        free = run("D-nf", table, strong, cheap, scores)
        assert d.flops.sum() - free.flops.sum() == 2 * STRONG * total


def test_a_prompt_that_was_cut_is_read_anew():
    """Shorter than what was read before, it cannot extend it, and no FLOPs are negative."""
    called = np.ones(3, dtype=bool)
    tokens = catch_up_tokens(np.array([30, 20, 26]), np.zeros(3, dtype=np.int64), called)
    assert tokens.tolist() == [30, 20, 6]
