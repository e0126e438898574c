"""Rows of costs, sensitivity and schedules from joined outcomes, by hand and by laws."""

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from specact_rl.eval.columns import ProposalColumns, StepTable, effect_of
from specact_rl.eval.cost_report import role_costs
from specact_rl.eval.joined import Outcomes
from specact_rl.eval.latency_report import cost_and_latency_rows
from specact_rl.eval.replay import Judged, run_system
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.latency.simulator import Trace, sequential, speculative
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import PANEL, SYSTEMS, System
from specact_rl.types import Action, ToolSpec
from tests.records import make_proposal, make_step

TASKS, LENGTH = 30, 4
TOOLS = [
    ToolSpec(name="look", effect="read"),
    ToolSpec(name="put", effect="write"),
    ToolSpec(name="burn", effect="irreversible"),
    ToolSpec(name="odd"),
]
SIZES = {"cheap": ModelSize(num_params=1), "strong": ModelSize(num_params=10)}


def step_of(task, index):
    return make_step(
        name=f"{task}/{index}", task_id=f"t{task:02d}", split="test", history=[], tools=TOOLS
    )


def proposal_of(step, role, sample, action, *, right, seconds, price=None, tool=None):
    return make_proposal(
        step, action or "", right, sample=sample, model=role, text="",
        num_prompt_tokens=10 * (step.index + 1), num_completion_tokens=2,
        seconds=seconds, price=price, tool_seconds=tool,
    )  # fmt: skip


def look(what):
    return Action(type="tool_call", tool="look", arguments={"what": what})


class World:
    """A cheap and a strong model; both look, the cheap one now and then at something else."""

    def __init__(
        self, *, seed=0, slow_misses=1.0, tool="look", seconds=True, label=True, price=False,
        tools=None,
    ):  # fmt: skip
        """`tools`: seconds of the strong model's action, and of the cheap one's."""
        rng = np.random.default_rng(seed)
        steps = [step_of(task, index) for task in range(TASKS) for index in range(LENGTH)]
        n = len(steps)
        self.table = StepTable(
            steps=steps,
            task_ids=np.repeat(np.arange(TASKS), LENGTH),
            rollouts=np.repeat(np.arange(TASKS), LENGTH),
            out_of_family=np.zeros(n, dtype=bool),
            reference_types=np.array([""] * n),
            families=np.array([step.family for step in steps]),
            indices=np.array([step.index for step in steps]),
            num_out_of_reach=0,
        )
        self.hit = rng.random(n) < 0.6
        call = np.where(self.hit, 1.0, slow_misses) * rng.uniform(0.8, 1.2, n)
        self.call = call
        cheap, strong = [], []
        for i, step in enumerate(steps):
            right = Action(type="tool_call", tool=tool, arguments={"what": f"a{i}"})
            wrong = Action(type="tool_call", tool=tool, arguments={"what": f"b{i}"})
            guesses = [right if self.hit[i] else wrong, wrong]
            cheap += [
                proposal_of(
                    step, "cheap", k, guess, right=bool(self.hit[i]) if label else None,
                    seconds=0.1 if seconds else None, price=0.001 if price else None,
                    tool=tools and tools[1],
                )
                for k, guess in enumerate(guesses)
            ]  # fmt: skip
            strong.append(
                proposal_of(step, "strong", 0, right, right=True if label else None,
                            seconds=float(call[i]) if seconds else None,
                            price=0.01 if price else None, tool=tools and tools[0])
            )  # fmt: skip
        self.columns = {
            "cheap": ProposalColumns.of(self.table, cheap),
            "strong": ProposalColumns.of(self.table, strong),
        }
        odds = np.where(self.hit, 1.0, -1.0) + rng.normal(0, 0.8, n)
        self.judged = {
            ("classifier", "cheap"): Judged(
                verifier_id="v", size=ModelSize(num_params=2), shares_strong=False,
                log_odds=np.stack([odds, odds - 3.0], axis=1), seconds=np.full((n, 2), 0.05),
            ),
            ("strong_judge", "cheap"): Judged(
                verifier_id="j", size=SIZES["strong"], shares_strong=True,
                log_odds=np.stack([odds, odds - 3.0], axis=1), seconds=np.full((n, 2), 0.05),
            ),
        }  # fmt: skip

    @property
    def parts(self):
        return Outcomes(
            table=self.table, columns=self.columns, judged=self.judged,
            sizes=SIZES,
        )  # fmt: skip

    def run(self, system):
        gated = system.proposer is not None
        return run_system(
            system, self.table, self.columns["strong"], SIZES["strong"],
            self.columns["cheap"] if gated else None, SIZES["cheap"] if gated else None,
            self.judged.get((system.verifier, system.proposer)),
            OpenAbove() if system.gated else None,
        )  # fmt: skip

    def runs(self, names="ABCD"):
        return {name: self.run(SYSTEMS[name]) for name in names}


class OpenAbove(Gate):
    """Accepts what has positive log-odds."""

    def __init__(self):
        pass

    def p_accept(self, log_odds):
        return 1 / (1 + np.exp(-log_odds))

    def decide(self, p):
        return np.nan_to_num(p) > 0.5


def costs(world, names="ABCD", seed=0):
    found = cost_and_latency_rows(world.runs(names), world.parts, np.random.default_rng(seed))
    return json.loads(json.dumps(found, default=asdict, allow_nan=False))


def latency(world, names="ABCD"):
    return costs(world, names)["latency"]


def row(found, system, mode, depth=None, effects=None):
    [it] = [
        r
        for r in found["rows"]
        if (r["system"], r["mode"], r["depth"]) == (system, mode, depth)
        and (effects is None or r["effects"] == effects)
    ]
    return it


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def found(world):
    return latency(world)


# ------------------------------------------------------------------------------------ schedules


def test_a_gates_schedules_by_hand(world, found):
    accepted = world.runs()["D"].accepted
    assert 0 < accepted.sum() < accepted.size
    before, call = 0.15, world.call
    one_by_one = np.where(accepted, before, before + call).sum() / call.sum()
    beside = np.where(accepted, before, np.maximum(before, call)).sum() / call.sum()
    assert row(found, "D", "sequential")["relative_seconds"]["value"] == pytest.approx(one_by_one)
    assert row(found, "D", "parallel")["relative_seconds"]["value"] == pytest.approx(beside)
    calls = np.where(accepted, before / call, 1.0).mean()
    assert row(found, "D", "parallel")["strong_calls"] == pytest.approx(calls)
    assert row(found, "D", "sequential")["strong_calls"] == pytest.approx(1 - accepted.mean())
    # Whatever a cancelled call had read is lost.
    of_a, of_d = (world.runs()[name].flops for name in "AD")
    cost = (of_d + np.where(accepted, before / call, 0.0) * of_a).sum() / of_a.sum()
    assert row(found, "D", "parallel")["relative_cost"]["value"] == pytest.approx(cost)


def test_one_after_the_other_takes_the_seconds_and_flops_of_the_systems_table(world, found):
    runs = world.runs()
    for name in "BCD":
        it = row(found, name, "sequential")
        for key, of in (("relative_seconds", "seconds"), ("relative_cost", "flops")):
            mine, of_a = getattr(runs[name], of).sum(), getattr(runs["A"], of).sum()
            assert it[key]["value"] == pytest.approx(mine / of_a)


def test_a_judge_that_needs_the_strong_models_own_action_cannot_run_beside_it(found):
    assert [r["mode"] for r in found["rows"] if r["system"] == "C"] == ["sequential"]


def test_guesses_that_hit_save_time_and_those_of_a_gate_waste_less(found):
    free, gated = (row(found, name, "speculative", 1) for name in "BD")
    assert free["relative_seconds"]["high"] < 1.0
    assert free["launch_rate"] == 1.0
    assert gated["launch_rate"] < 1.0
    assert gated["wasted_runs"] < free["wasted_runs"]
    assert gated["hit_rate"] < free["hit_rate"]
    assert free["speed_up"]["value"] == pytest.approx(1 / free["relative_seconds"]["value"])
    assert free["relative_cost"]["value"] > 1.0


def test_the_published_formula_promises_more_than_the_schedule_keeps(found):
    free = row(found, "B", "speculative", 1)
    assert free["formula_saving"] == pytest.approx(2 * free["formula_saving_committed"])


def test_hits_on_fast_steps_are_over_promised_by_what_is_dealt_anew():
    even, uneven = latency(World(seed=3)), latency(World(seed=3, slow_misses=8.0))
    gap = row(uneven, "B", "speculative", 1)["over_promise"]
    assert gap["low"] > 0.0
    assert abs(row(even, "B", "speculative", 1)["over_promise"]["value"]) < gap["value"] / 4
    it = row(uneven, "B", "speculative", 1)
    assert it["relative_seconds"]["value"] - it["independent"] == pytest.approx(gap["value"])
    assert it["call_ms_on_misses"] > 5 * it["call_ms_on_hits"]
    # A gate too: it accepts fast steps, whose call was never dear.
    assert row(uneven, "D", "sequential")["over_promise"]["low"] > 0.0


def test_writes_wait_unless_they_are_allowed_and_what_cannot_be_undone_always_waits():
    written = latency(World(tool="put"))
    modes = [(r["depth"], r["effects"]) for r in written["rows"] if r["mode"] == "speculative"]
    assert modes == [(3, ["read", "write"])] * 2
    assert written["effects"] == {"write": 1.0}
    for tool, name in (("burn", "irreversible"), ("odd", "unknown")):
        blocked = latency(World(tool=tool))
        assert all(r["mode"] != "speculative" for r in blocked["rows"])
        assert blocked["effects"] == {name: 1.0}
        assert blocked["breadth"] == {}


def test_a_second_guess_that_is_never_right_covers_nothing_and_saves_nothing(found):
    breadth = found["breadth"]
    assert breadth["coverage"][0] == breadth["coverage"][1]
    assert breadth["effective_draws"] == [pytest.approx(1.0)] * 2
    first, second = breadth["saved_per_second_run"]
    assert first > 0.0 > second  # it makes the first one wait, too
    rows = breadth["rows"]
    saved = 1.0 - rows[0]["relative_seconds"]["value"]
    assert first == pytest.approx(saved / (rows[0]["strong_calls"] - 1.0))
    assert [r["breadth"] for r in breadth["rows"]] == [1, 2]
    assert breadth["rows"][1]["wasted_runs"] > breadth["rows"][0]["wasted_runs"]


# ------------------------------------------------------------------------------------ tools


def test_a_gate_waits_for_the_tool_of_what_it_executes():
    world = World(tools=(0.5, 0.25))
    found, accepted, call = latency(world), world.runs()["D"].accepted, world.call
    alone, before = call + 0.5, 0.15
    after = np.where(accepted, 0.25, 0.5)
    one_by_one = (np.where(accepted, before, before + call) + after).sum() / alone.sum()
    beside = (np.where(accepted, before, np.maximum(before, call)) + after).sum() / alone.sum()
    assert row(found, "D", "sequential")["relative_seconds"]["value"] == pytest.approx(one_by_one)
    assert row(found, "D", "parallel")["relative_seconds"]["value"] == pytest.approx(beside)
    rate = accepted.mean()
    apart = (0.15 + (1 - rate) * call + rate * 0.25 + (1 - rate) * 0.5).sum() / alone.sum()
    assert row(found, "D", "sequential")["independent"] == pytest.approx(apart)
    assert (found["tool_ms_per_step"], found["tool_note"]) == (pytest.approx(500.0), None)
    assert found["ms_per_step"] == pytest.approx(1e3 * call.mean())
    assert found["seconds_per_episode"] == pytest.approx(alone.sum() / TASKS)
    # C's judge acts at every step, but an accepted proposal is what is executed.
    run = world.runs()["C"]
    judged = run.seconds + np.where(run.accepted, 0.25, 0.5)
    sequential = row(found, "C", "sequential")["relative_seconds"]["value"]
    assert sequential == pytest.approx(judged.sum() / alone.sum())


def test_a_right_guess_runs_its_tool_while_the_call_still_runs():
    world = World(tools=(0.5, 0.25))
    found = row(latency(world), "B", "speculative", 1)
    n = TASKS * LENGTH
    trace = Trace(
        episodes=np.repeat(np.arange(TASKS), LENGTH), speculator=np.full(n, 0.1), call=world.call,
        tool=np.full(n, 0.5), hit=world.hit, wrong=(~world.hit).astype(int),
        call_cost=np.ones(n), speculator_cost=np.zeros(n),
    )  # fmt: skip
    seconds = speculative(trace).seconds.sum() / sequential(trace).seconds.sum()
    assert found["relative_seconds"]["value"] == pytest.approx(seconds)


def test_seconds_of_tools_are_no_cost_of_models():
    assert costs(World(tools=(0.5, 0.25)))["costs"] == costs(World())["costs"]


def test_tools_that_were_not_all_measured_are_left_out_of_every_row(found):
    world = World(tools=(0.5, 0.25))
    seconds = world.columns["cheap"].tool_seconds
    seconds[3:5, 0] = np.nan
    partly = latency(world)
    assert partly["rows"] == found["rows"]
    assert partly["tool_ms_per_step"] is found["tool_ms_per_step"] is None
    assert "at 2 of 120 steps" in partly["tool_note"]
    assert found["tool_note"] == "none were measured"
    # What cannot be parsed runs no tool.
    world.columns["cheap"].parsed[3:5, 0] = False
    assert latency(world)["tool_note"] is None


def test_without_seconds_there_are_no_schedules(world):
    assert latency(World(seconds=False)) == {}
    assert latency(world, names="A") == {}


def test_episodes_of_one_step_have_nothing_to_speculate_on(world):
    first = np.arange(TASKS * LENGTH) % LENGTH == 0
    parts, runs = world.parts, world.runs()
    one = Outcomes(
        table=parts.table.take(first),
        columns={k: c.take(first) for k, c in parts.columns.items()},
        judged={k: j.take(first) for k, j in parts.judged.items()},
        sizes=SIZES,
    )
    cut = {
        name: replace(
            run,
            **{
                field.name: values[first]
                for field in fields(run)
                if isinstance(values := getattr(run, field.name), np.ndarray)
            },
        )
        for name, run in runs.items()
    }
    rows = cost_and_latency_rows(cut, one, np.random.default_rng(0))["latency"]["rows"]
    assert {r["mode"] for r in rows} == {"sequential", "parallel"}


# ------------------------------------------------------------------------------------ actions


def test_a_guess_is_right_whatever_its_spelling():
    tools = [ToolSpec(name="look", parameters={"properties": {"n": {"type": "integer"}}})]
    world = World()
    table = replace(world.table, steps=[replace(s, tools=tools) for s in world.table.steps])

    def keys(n):
        action = None if n is None else replace(look(""), arguments={"n": n})
        return ProposalColumns.of(
            table,
            [proposal_of(s, "m", 0, action, right=None, seconds=None) for s in table.steps],
        ).keys

    assert (keys(1) == keys("1")).all()
    assert (keys(1) != keys(2)).all()
    assert not keys(None).any()


def test_the_effect_of_several_calls_is_the_worst_of_them():
    step = step_of(0, 0)

    def of(*tools, text=None):
        actions = [Action(type="tool_call", tool=tool) for tool in tools]
        actions += [Action(type="final_answer", text=text)] if text else []
        bare = proposal_of(step, "m", 0, None, right=None, seconds=None)
        return effect_of(step, replace(bare, actions=actions))

    assert of("look", "put", "look") == "write"
    assert of("look", "burn", "put") == "irreversible"
    assert of("look", "odd", "burn") == ""
    assert of("look", "missing") == ""
    assert of(text="Done.") == "irreversible"
    assert of() == ""


# ------------------------------------------------------------------------------------ costs


def test_roles_add_up_to_what_a_system_costs(world):
    for name, run in world.runs().items():
        flops = role_costs(run, "flops", world.parts)
        assert flops.sum(axis=1).tolist() == run.flops.tolist()
        seconds = role_costs(run, "seconds", world.parts)
        assert seconds.sum(axis=1) == pytest.approx(run.seconds)
        assert role_costs(run, "price", world.parts) is None
        assert flops[:, 1].any() == (name in "CD")
        # C's judge is the strong model: it reads the history once, to act, then the proposal.
        assert flops[:, 2].sum() >= (10.0 * 2 * 12 if name in "AC" else 0.0)


def test_waste_is_what_was_paid_for_proposals_that_were_not_executed(world):
    run = world.runs()["D"]
    [d] = [r for r in costs(world)["costs"] if r["name"] == "D"]
    rejected = (~run.accepted).mean()
    a = 0.25 + rejected
    assert d["assumed"]["relative"]["value"] == pytest.approx(a)
    assert d["assumed"]["wasted"]["value"] == pytest.approx(0.25 * rejected / a)
    assert d["seconds"]["proposer"] == pytest.approx(0.1 / world.call.mean())
    assert d["seconds"]["verifier"] == pytest.approx(0.05 / world.call.mean())
    assert "price" not in d
    [of_a] = [r for r in costs(world)["costs"] if r["name"] == "A"]
    assert of_a["flops"]["relative"]["value"] == 1.0
    assert "wasted" not in of_a["flops"]


def test_prices_at_which_d_costs_what_a_does_are_solved_for(world):
    [assumed, flops] = costs(world)["sensitivity"]
    assert (assumed["unit"], flops["unit"]) == ("assumed", "flops")
    a = world.runs()["D"].accepted.mean()
    by_role = {axis["role"]: axis for axis in assumed["axes"]}
    [d] = [r for r in by_role["proposer"]["against_a"] if r["system"] == "D"]
    # 0.15 x + 0.10 + 1 - a < 1
    assert d["cheaper"] == "below"
    assert d["at"]["value"] == pytest.approx((a - 0.10) / 0.15)
    assert d["at"]["low"] < d["at"]["value"] < d["at"]["high"]
    [d] = [r for r in by_role["strong"]["against_a"] if r["system"] == "D"]
    assert (d["cheaper"], d["at"]["value"]) == ("above", pytest.approx(0.25 / a))
    [d] = [s for s in assumed["systems"] if s["name"] == "D"]
    assert d["tornado"]["strong"] == pytest.approx(
        [(0.25 + (1 - a) * f) / f for f in (0.5, 2.0)]
    )  # fmt: skip
    assert flops["base"]["proposer"] < flops["base"]["strong"] == 1.0


def test_shares_of_resamples_are_of_every_factor_and_add_up(world):
    for unit in costs(world)["sensitivity"]:
        for axis in unit["axes"]:
            best = np.array(list(axis["best_share"].values()))
            assert best.shape[1] == len(axis["factors"]) == 17
            assert best.sum(axis=0) == pytest.approx(np.ones(17), abs=0.01)
            on_set = np.array(list(axis["on_pareto"].values()))
            assert (on_set.sum(axis=0) >= 1.0 - 0.01).all()


def test_without_labels_costs_are_told_and_no_order(world):
    found = costs(World(label=False))
    assert found["sensitivity"] == []
    assert {r["name"] for r in found["costs"]} == set("ABCD")


def test_what_was_paid_in_dollars_is_a_unit_where_it_is_known():
    found = costs(World(price=True))
    assert [row["unit"] for row in found["sensitivity"]] == ["assumed", "flops", "price"]
    [b] = [r for r in found["costs"] if r["name"] == "B"]
    assert b["price"]["relative"]["value"] == pytest.approx(0.1)
    assert found["sensitivity"][2]["base"] == {
        "proposer": pytest.approx(0.1), "verifier": None, "strong": 1.0,
    }  # fmt: skip
    # Nothing is paid for the verifier, so that no factor of its price is worth counting at.
    assert found["sensitivity"][2]["axes"][1]["factors"] == []


def test_oracles_and_panels_have_no_price(world):
    runs = world.runs("AB")
    panel = System(name="vote", title="", proposer=PANEL, fallback=False)
    runs["vote"] = replace(runs["B"], system=panel)
    found = cost_and_latency_rows(runs, world.parts, np.random.default_rng(0))
    assert [r["name"] for r in found["costs"]] == ["A", "B"]


def test_the_order_of_systems_moves_no_interval(world):
    first, second = costs(world, "ABD"), costs(world, "ADB")
    by_name = {r["name"]: r for r in second["costs"]}
    assert all(r == by_name[r["name"]] for r in first["costs"])
