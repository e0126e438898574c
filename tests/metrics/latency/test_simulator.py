"""Schedules of measured steps: against a simulation event by event, and against closed forms."""

import heapq
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specact_rl.metrics.latency.closed_forms import (
    deep_saving,
    deterministic_saving,
    exponential_saving,
    relative_extra_calls,
)
from specact_rl.metrics.latency.simulator import (
    Trace,
    gated_seconds,
    may_speculate,
    sequential,
    speculative,
)


def trace_of(call, speculator=None, hit=True, *, tool=0.0, wrong=None, episodes=None, **costs):
    """Numbers stand for the same in every step; a wrong guess where there is no right one."""
    n = np.size(call) if np.ndim(call) else np.size(hit)

    def full(value, dtype=np.float64):
        return np.broadcast_to(np.asarray(value, dtype=dtype), (n,)).copy()

    hit = full(hit, np.bool_)
    speculator = full(0.0 if speculator is None else speculator)
    return Trace(
        episodes=full(0 if episodes is None else episodes, np.int64),
        speculator=speculator,
        call=full(call),
        tool=full(tool),
        hit=hit,
        wrong=full(~hit if wrong is None else wrong, np.int64),
        call_cost=full(costs.get("call_cost", 1.0)),
        speculator_cost=full(costs.get("speculator_cost", 0.0)),
    )


def random_trace(rng, lengths, *, max_wrong=2):
    n = int(np.sum(lengths))
    return Trace(
        episodes=np.repeat(np.arange(len(lengths)), lengths),
        speculator=rng.exponential(0.4, n),
        call=rng.exponential(1.0, n),
        tool=np.where(rng.random(n) < 0.3, 0.0, rng.exponential(0.5, n)),
        hit=rng.random(n) < 0.6,
        wrong=rng.integers(0, max_wrong + 1, n),
        call_cost=rng.exponential(3.0, n),
        speculator_cost=rng.exponential(0.5, n),
    )


# ------------------------------------------------- event by event, one episode, objects and a heap


class Node:
    """A state, right or not, whose strong call and guesses are running."""

    def __init__(self, index, right, start):
        self.index, self.right, self.start = index, right, start
        self.alive, self.guessed, self.launched, self.decided_at = True, False, False, None
        self.right_child_coming = False
        self.wrong_below = []


class Reference:
    """Times and costs of one episode, by what happens next."""

    def __init__(self, trace, depth):
        self.t, self.depth, self.T = trace, depth, trace.call.size
        self.queue, self.ids = [], count()
        self.confirmed = -1  # highest confirmed step
        self.calls = self.cost = self.wasted_runs = self.end = 0.0
        self.open = []
        self.right_nodes = {}
        self.start_node(0, True, 0.0, None)
        while self.queue:
            now, _, what, node = heapq.heappop(self.queue)
            if node.alive:
                getattr(self, what)(node, now)

    def row(self, index):
        return min(index, self.T - 1)

    def at(self, when, what, node):
        heapq.heappush(self.queue, (when, next(self.ids), what, node))

    def start_node(self, index, right, now, family):
        if right and index == self.T:
            self.end = max(self.end, now)
            return
        node, row = Node(index, right, now), self.row(index)
        node.family = [node] if family is None else family  # what dies with the wrong guess
        if family is not None:
            family.append(node)
        if right:
            self.right_nodes[index] = node
        self.open.append(node)
        self.at(now + self.t.call[row], "call_done", node)
        self.at(now + self.t.speculator[row], "guesses_ready", node)

    def charge(self, node, now):
        """At the call's end or its cancellation."""
        row = self.row(node.index)
        ran = now - node.start
        share = min(1.0, ran / self.t.call[row])
        self.calls += share
        self.cost += share * self.t.call_cost[row]
        self.cost += min(1.0, ran / self.t.speculator[row]) * self.t.speculator_cost[row]
        self.open.remove(node)

    def guesses_ready(self, node, now):
        node.guessed = True
        self.try_launch(node, now)

    def try_launch(self, node, now):
        if not node.guessed or node.launched or node.decided_at is not None:
            return
        if self.depth is not None and node.index - self.depth > self.confirmed:
            return
        node.launched = True
        row = self.row(node.index)
        tool_done = now + self.t.tool[row]
        hit, wrong = bool(self.t.hit[row]), int(self.t.wrong[row])
        if node.right:
            if hit:
                node.right_child_coming = True
                self.later(tool_done, node.index + 1, True, None)
            for _ in range(wrong):
                self.wasted_runs += 1
                family = []
                node.wrong_below.append(family)
                self.later(tool_done, node.index + 1, False, family)
        else:
            for _ in range(wrong + hit):
                self.wasted_runs += 1
                self.later(tool_done, node.index + 1, False, node.family)

    def later(self, when, index, right, family):
        ticket = Node(index, right, when)
        ticket.family = family
        if family is not None:
            family.append(ticket)
        self.at(when, "arrive", ticket)

    def arrive(self, ticket, now):
        self.start_node(ticket.index, ticket.right, now, ticket.family)

    def call_done(self, node, now):
        node.decided_at = now
        self.charge(node, now)
        if not node.right:
            return
        for family in node.wrong_below:
            for member in family:
                if member.alive and member in self.open:
                    self.charge(member, now)
                member.alive = False
        while (following := self.right_nodes.get(self.confirmed + 1)) is not None:
            if following.decided_at is None:
                break
            self.confirmed += 1
            self.end = max(self.end, now)
            if not following.right_child_coming:
                self.later(now + self.t.tool[following.index], following.index + 1, True, None)
        for other in list(self.open):
            self.try_launch(other, now)


@pytest.mark.parametrize("depth", [1, 2, 3, None])
def test_schedules_are_those_of_a_simulation_event_by_event(depth):
    rng = np.random.default_rng(5)
    lengths = [int(k) for k in rng.integers(1, 9, 60)]
    trace = random_trace(rng, lengths, max_wrong=1 if depth is None else 2)
    found = speculative(trace, depth)
    for episode in range(len(lengths)):
        rows = trace.episodes == episode
        fields = {name: getattr(trace, name)[rows] for name in Trace.__slots__}
        want = Reference(Trace(**fields), depth)
        got = [
            getattr(found, name)[episode] for name in ("seconds", "calls", "cost", "wasted_runs")
        ]
        assert got == pytest.approx([want.end, want.calls, want.cost, want.wasted_runs], rel=1e-9)


# ------------------------------------------------------------------------------------ by hand


def test_one_right_guess_is_worth_what_was_done_before_the_decision():
    # Guess at 1, tool until 3, the second call from 3 until 13; the first call ends at 10.
    trace = trace_of([10.0, 10.0], 1.0, [True, False], tool=[2.0, 0.0], wrong=0)
    assert sequential(trace).seconds.tolist() == [22.0]
    assert speculative(trace).seconds.tolist() == [13.0]


def test_nothing_counts_before_the_real_call_has_confirmed_it():
    # The second call, of 1 s, is done at 1.5; the first one confirms at 10.
    trace = trace_of([10.0, 1.0], 0.5, [True, False], wrong=0)
    assert speculative(trace).seconds.tolist() == [10.0]


def test_a_wrong_guess_costs_no_time_and_the_part_of_a_call_until_it_is_found_out():
    # Guess at 2, wrong call from 2 until the decision at 10: 8 of its 16 seconds.
    trace = trace_of([10.0, 16.0], 2.0, [False, False], wrong=[1, 0], speculator_cost=0.5)
    found = speculative(trace, pairs=True)
    assert found.seconds.tolist() == [26.0]
    assert found.calls.tolist() == [2.5]
    assert found.cost.tolist() == [3.5]  # 2.5 calls of 1 and two steps' guesses of 0.5
    assert found.wasted_runs.tolist() == [1.0]
    # Not in pairs, guesses are made beside the wrong call, too, and before it is cancelled.
    assert speculative(trace).cost.tolist() == [4.0]


def test_a_guess_that_comes_late_saves_nothing_and_launches_nothing():
    trace = trace_of([1.0, 1.0], 1.0, [True, True], wrong=1, speculator_cost=1.0)
    found = speculative(trace, depth=None)
    assert found.seconds.tolist() == [2.0]
    assert found.wasted_runs.tolist() == [0.0]
    assert found.cost.tolist() == [4.0]


def test_a_guess_that_is_cut_off_costs_the_part_that_was_made():
    trace = trace_of([1.0, 1.0], 4.0, False, speculator_cost=1.0)
    assert speculative(trace).cost.tolist() == [2.5]


def test_times_of_zero_are_done_at_once():
    trace = trace_of([0.0, 0.0, 0.0], 0.0, [True, False, False], speculator_cost=1.0)
    found = speculative(trace, depth=None)
    assert found.seconds.tolist() == [0.0]
    assert found.calls.tolist() == [3.0]
    assert found.cost.tolist() == [6.0]


def test_parallel_launch_ends_with_the_slower_of_two_and_pays_the_part_that_ran():
    speculator, call = np.array([1.0, 1.0, 3.0, 3.0]), np.array([4.0, 4.0, 2.0, 2.0])
    accepted = np.array([True, False, True, False])
    seconds, calls = gated_seconds(speculator, call, accepted, parallel=True)
    assert seconds.tolist() == [1.0, 4.0, 3.0, 3.0]
    assert calls.tolist() == [0.25, 1.0, 1.0, 1.0]
    seconds, calls = gated_seconds(speculator, call, accepted, parallel=False)
    assert seconds.tolist() == [1.0, 5.0, 3.0, 5.0]
    assert calls.tolist() == [0.0, 1.0, 0.0, 1.0]


def test_what_cannot_be_taken_back_or_is_not_known_is_never_speculated_on():
    effects = np.array(["read", "write", "irreversible", ""])
    assert may_speculate(effects).tolist() == [True, False, False, False]
    assert may_speculate(effects, ("read", "write")).tolist() == [True, True, False, False]
    assert may_speculate(effects, ()).tolist() == [False] * 4
    with pytest.raises(ValueError, match="waits for the real decision"):
        may_speculate(effects, ("irreversible",))


# ------------------------------------------------------------------------------------ laws


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 4, None]))
def test_speculation_is_never_slower_and_never_cheaper_than_one_step_after_the_other(seed, depth):
    rng = np.random.default_rng(seed)
    trace = random_trace(rng, rng.integers(1, 7, 5))
    plain, found = sequential(trace), speculative(trace, depth)
    assert (found.seconds <= plain.seconds + 1e-9).all()
    assert (found.calls >= plain.calls).all()
    assert (found.cost >= plain.cost).all()
    # Every decision and every tool run that counts is on the way to the end.
    longest = np.maximum.reduceat(trace.call, np.flatnonzero(np.diff(trace.episodes, prepend=-1)))
    assert (found.seconds >= longest - 1e-9).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_deeper_is_never_slower(seed):
    rng = np.random.default_rng(seed)
    trace = random_trace(rng, rng.integers(1, 9, 4))
    seconds = [speculative(trace, depth).seconds for depth in (1, 2, 3, None)]
    for shallow, deep in zip(seconds, seconds[1:], strict=False):
        assert (deep <= shallow + 1e-9).all()
    assert (seconds[0] <= speculative(trace, pairs=True).seconds + 1e-9).all()


def test_the_order_of_episodes_changes_nothing_but_the_order():
    rng = np.random.default_rng(3)
    trace = random_trace(rng, [3, 1, 5, 2])
    rows = np.concatenate([np.flatnonzero(trace.episodes == e) for e in (2, 0, 3, 1)])
    fields = {name: getattr(trace, name)[rows] for name in Trace.__slots__}
    turned = Trace(**fields | {"episodes": np.repeat(np.arange(4), [5, 3, 2, 1])})
    for name in ("seconds", "calls", "cost", "wasted_runs"):
        first, second = (getattr(speculative(t, 2), name) for t in (trace, turned))
        assert second.tolist() == first[[2, 0, 3, 1]].tolist()


# ------------------------------------------------------------------------------------ closed forms


def exponential_trace(rng, num_episodes, num_steps, p, alpha, beta):
    n = num_episodes * num_steps
    return trace_of(
        rng.exponential(1 / beta, n),
        rng.exponential(1 / alpha, n),
        rng.random(n) < p,
        episodes=np.repeat(np.arange(num_episodes), num_steps),
    )


@pytest.mark.parametrize(("p", "alpha"), [(0.313, 4.0), (0.7, 1.0), (1.0, 1e6)])
@pytest.mark.parametrize("num_steps", [2, 7])
def test_pairs_save_what_the_formula_with_commitment_says_and_less_than_the_papers(
    p, alpha, num_steps
):
    rng, beta, episodes = np.random.default_rng(11), 1.0, 200_000 // num_steps
    trace = exponential_trace(rng, episodes, num_steps, p, alpha, beta)
    plain = sequential(trace).seconds
    saved = plain - speculative(trace, pairs=True).seconds
    share = saved.sum() / plain.sum()
    # Standard error of a ratio of means over independent episodes; 4 of them.
    error = (saved - share * plain).std() / (plain.mean() * np.sqrt(episodes))
    want = exponential_saving(p, alpha, beta, num_steps)
    assert abs(share - want) < 4 * error
    assert share + 4 * error < exponential_saving(p, alpha, beta, num_steps, commit=False)


@pytest.mark.parametrize("num_steps", [2, 3, 10])
def test_with_fixed_times_pairs_save_what_the_paper_says(num_steps):
    rng, p, episodes = np.random.default_rng(2), 0.4, 60_000
    hit = rng.random(episodes * num_steps) < p
    trace = trace_of(4.0, 1.0, hit, episodes=np.repeat(np.arange(episodes), num_steps))
    saved = 1 - speculative(trace, pairs=True).seconds / (4.0 * num_steps)
    error = saved.std() / np.sqrt(episodes)
    assert abs(saved.mean() - deterministic_saving(p, 1.0, 4.0, num_steps)) < 4 * error


def test_without_a_limit_of_depth_every_right_guess_saves_the_same():
    hit = np.array([True, True, False, True, True])
    found = speculative(trace_of(4.0, 1.0, hit), depth=None)
    assert found.seconds.tolist() == [5 * 4.0 - 3 * 3.0]  # the last step's guess saves nothing
    # In the mean over all ways to hit: the formula.
    ways = np.array(np.meshgrid(*[[False, True]] * 5)).reshape(5, -1).T
    chance = (0.3 ** ways.sum(1)) * 0.7 ** (5 - ways.sum(1))
    trace = trace_of(4.0, 1.0, ways.ravel(), episodes=np.repeat(np.arange(32), 5))
    saved = 1 - speculative(trace, depth=None).seconds / 20.0
    assert chance @ saved == pytest.approx(deep_saving(0.3, 1.0, 4.0, 5))


def test_calls_beyond_the_sequential_ones_are_those_of_the_paper_when_none_is_cancelled_early():
    # Guesses at once and calls of fixed length: a wrong call has run as long as the decision took.
    rng, p, num_steps, episodes = np.random.default_rng(4), 0.35, 6, 60_000
    hit = rng.random(episodes * num_steps) < p
    trace = trace_of(
        1.0, 0.0, hit, wrong=np.where(hit, 2, 3),
        episodes=np.repeat(np.arange(episodes), num_steps),
    )  # fmt: skip
    extra = speculative(trace, pairs=True).calls / num_steps - 1
    # The paper's last step launches calls that a right guess there does not get to use.
    late = hit.reshape(-1, num_steps)[:, -1] & ~speculative_blocked(hit.reshape(-1, num_steps))
    extra += late / num_steps
    error = extra.std() / np.sqrt(episodes)
    want = relative_extra_calls(p, 3.0, 1e12, 1.0, num_steps)
    assert abs(extra.mean() - want) < 4 * error


def speculative_blocked(hit):
    """Whether the last step follows a right guess and is not guessed itself, shape (episodes,)."""
    blocked = np.zeros(hit.shape[0], dtype=bool)
    for column in hit.T[:-1]:
        blocked = column & ~blocked
    return blocked


# ------------------------------------------------------------------------------------ hits and time


def test_hits_dealt_at_random_promise_more_when_hits_are_on_fast_steps():
    rng, n = np.random.default_rng(8), 4_000
    slow = rng.random(n) < 0.5
    call = np.where(slow, 10.0, 1.0)
    hit = ~slow & (rng.random(n) < 0.8)
    trace = trace_of(call, 0.1, hit, episodes=np.repeat(np.arange(n // 4), 4))
    plain = sequential(trace).seconds.sum()
    joint = 1 - speculative(trace, pairs=True).seconds.sum() / plain
    apart = 1 - speculative(trace.shuffled(rng, 20), pairs=True).seconds.sum() / (20 * plain)
    # A right guess saves min(C, B - 0.1): at most 0.9 here, 2.9 on average when dealt anew.
    assert 0.0 < joint < 0.06
    assert apart > 2.0 * joint


def test_dealing_anew_keeps_the_seconds_the_episodes_and_the_number_of_hits():
    trace = random_trace(np.random.default_rng(1), [2, 3])
    dealt = trace.shuffled(np.random.default_rng(2), 3)
    assert dealt.call.tolist() == trace.call.tolist() * 3
    assert np.unique(dealt.episodes, return_counts=True)[1].tolist() == [2, 3] * 3
    assert dealt.hit.sum() == 3 * trace.hit.sum()
    assert sequential(dealt).seconds.tolist() == sequential(trace).seconds.tolist() * 3


# ------------------------------------------------------------------------------------ refusals


def test_a_trace_that_is_none_is_refused():
    good = trace_of([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"call must be at least 0 and finite, got nan at step 1"):
        replace(good, call=np.array([1.0, np.nan, 1.0]))
    with pytest.raises(ValueError, match="tool must be at least 0"):
        replace(good, tool=np.array([1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="stand together"):
        replace(good, episodes=np.array([0, 1, 0]))
    with pytest.raises(ValueError, match="one entry per row"):
        replace(good, tool=np.zeros(2))
    with pytest.raises(ValueError, match="at least one step"):
        trace_of(np.zeros(0))
    with pytest.raises(ValueError, match="depth must be at least 1"):
        speculative(good, 0)
    with pytest.raises(ValueError, match="pairs are one step deep"):
        speculative(good, 2, pairs=True)
