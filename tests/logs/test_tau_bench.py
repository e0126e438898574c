import json

import pytest

from specact_rl.errors import RolloutFormatError
from specact_rl.logs import IMPORTERS
from specact_rl.logs.groups import official_score
from specact_rl.store import read_jsonl, write_jsonl
from specact_rl.types import Rollout

import_tau = IMPORTERS["tau_bench"]
SYSTEM = {"role": "system", "content": "# Airline Agent Policy"}
TOOLS = [{"type": "function", "function": {"name": n}} for n in ("get_user_details", "book_room")]


def call(name, arguments):
    function = {"name": name, "arguments": json.dumps(arguments)}
    made = {"id": "c", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [made]}


def tool(content):
    return {"role": "tool", "tool_call_id": "c", "name": "n", "content": content}


def user(content):
    return {"role": "user", "content": content}


def say(content):
    return {"role": "assistant", "content": content, "tool_calls": []}


def record(task_id=0, trial=0, reward=1.0, traj=None, **info):
    hidden = {"task": {"instruction": "SECRET", "actions": [{"name": "SECRET"}]}}
    traj = traj or [SYSTEM, user("Hi"), say("Your name?"), user("Bo ###STOP###")]
    return {
        "task_id": task_id,
        "trial": trial,
        "reward": reward,
        "info": {**hidden, "reward_info": {"actions": ["SECRET"]}, "user_cost": 0.5, **info},
        "traj": traj,
    }


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


TRAJECTORY = [
    SYSTEM,
    user("Book a room."),
    say("I'm sorry, but I cannot do that."),
    user("Try."),
    call("get_user_details", {"id": "bo"}),
    tool("Error: user not found"),
    call("get_user_details", {"id": "bo_1"}),
    tool("{}"),
    call("book_room", {"room": "r7"}),
    tool("Error: taken"),
    call("get_user_details", {"id": "bo_1"}),
    tool("{}"),
    call("think", {"thought": "…"}),
    tool(""),
    say("Please confirm the booking."),
    user("yes"),
    say("It is booked."),
    user("Person please"),
    call("transfer_to_human_agents", {"summary": "s"}),
    tool("Transfer successful"),
]


def test_steps_have_the_types_of_the_table_and_of_their_context(tmp_path):
    write(tmp_path / "tools_airline.json", TOOLS)
    (rollout,) = import_tau(write(tmp_path / "m.json", [record(traj=TRAJECTORY)])).rollouts
    assert [s.executed.type for s in rollout.steps] == (
        "BLOCKED file_read repair file_write file_read tool_call ask_clarification final_answer "
        "BLOCKED"
    ).split()
    assert [t.name for t in rollout.tools] == ["get_user_details", "book_room"]


def test_without_schemas_the_catalogue_is_what_was_called_and_that_is_flagged(tmp_path):
    rows = [record(traj=TRAJECTORY), record(task_id=1)]
    result = import_tau(write(tmp_path / "m.json", rows))
    names = [[t.name for t in r.tools] for r in result.rollouts]
    assert names[0] == names[1]
    assert names[0] == sorted(
        ["book_room", "get_user_details", "think", "transfer_to_human_agents"]
    )
    assert [f.kind for f in result.flags] == ["no_tool_schemas"]


def test_a_reward_of_one_is_a_success_and_tasks_carry_their_domain(tmp_path):
    rows = [record(reward=r, trial=i) for i, r in enumerate((1.0, 0.0, 0.9999999, 0.5))]
    result = import_tau(write(tmp_path / "m.json", rows))
    assert [r.success for r in result.rollouts] == [True, False, True, False]
    assert {(r.task_id, r.family, r.policy) for r in result.rollouts} == {
        ("airline_0", "airline", "m")
    }
    assert result.rollouts[0].rollout_id == "m/airline_0/0"
    assert result.rollouts[0].info == {"scored": True, "user_cost_usd": 0.5, "ended": "user_stop"}


def test_a_run_file_names_its_model(tmp_path):
    name = "tool-calling-gpt-4o-0.0_range_0-50_user-gpt-4o-llm_0101000000.json"
    assert import_tau(write(tmp_path / name, [record()])).rollouts[0].policy == "gpt-4o"


def test_the_answer_key_is_nowhere(tmp_path):
    thought = "<think>My instruction says SECRET</think>\n\nHello"
    cut_off = "<think>My instruction says SECRET"
    traj = [SYSTEM, user(thought), say("Yes?"), user(cut_off), say("<think>mine</think> Bye")]
    result = import_tau(write(tmp_path / "m.json", [record(traj=traj)]))
    (rollout,) = result.rollouts
    assert "SECRET" not in json.dumps([rollout.messages, rollout.info])
    assert [m["content"] for m in rollout.messages if m["role"] == "user"] == ["Hello", ""]
    assert rollout.messages[-1]["content"] == "<think>mine</think> Bye"
    flag = next(f for f in result.flags if f.kind == "answer_key_removed")
    assert flag.detail.startswith("2 user messages")


def test_records_that_are_none_are_counted_by_reason(tmp_path):
    rows = [
        record(),
        record(),
        {"task_id": 3, "trial": 0, "reward": 0.0, "info": {"error": "500"}, "traj": []},
        {"task_id": 4},
        "no record",
        record(task_id=5, traj=[{"role": "robot", "content": ""}]),
    ]
    result = import_tau(write(tmp_path / "m.json", rows))
    assert len(result.rollouts) == 1
    assert result.dropped == {"duplicate_id": 1, "harness_error": 1, "malformed_record": 3}
    (flag,) = [f for f in result.flags if f.kind == "malformed_rows"]
    assert "record 3" in flag.detail


def test_a_run_that_crashed_midway_is_no_failure_of_the_agent(tmp_path):
    rows = [record(reward=0.0, error="504 from the user's model", traceback="…"), record(trial=1)]
    result = import_tau(write(tmp_path / "m.json", rows))
    assert [(r.success, official_score(r)) for r in result.rollouts] == [
        (None, False),
        (True, True),
    ]
    assert (result.dropped, "harness_errors" in {f.kind for f in result.flags}) == ({}, True)


def test_files_of_a_folder_are_policies_by_their_paths(tmp_path):
    write(tmp_path / "fc" / "4B.json", [record()])
    write(tmp_path / "fc" / "32B.json", [record()])
    assert [r.policy for r in import_tau(tmp_path).rollouts] == ["fc/32B", "fc/4B"]


@pytest.mark.parametrize("text", ['{"a": 1}', "7", '[{"task_id": 0', "[NaN]"])
def test_a_file_of_another_form_is_refused_by_name(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(RolloutFormatError, match=r"m\.json"):
        import_tau(tmp_path / "m.json")


def tau2(*simulations):
    return {
        "info": {
            "agent_info": {"llm": "big"},
            "environment_info": {"domain_name": "retail", "policy": "# Policy"},
        },
        "tasks": [{"id": "3", "user_scenario": "SECRET", "evaluation_criteria": "SECRET"}],
        "simulations": list(simulations),
    }


def simulation(**changes):
    made = {"id": "c", "name": "get_order_details", "arguments": {"id": "7"}}
    own = {"id": "u", "name": "check_sim", "arguments": {}, "requestor": "user"}
    messages = [
        {"role": "assistant", "content": "Hi! How can I help?"},
        {"role": "user", "content": "My order."},
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "id": "c", "content": "no such order", "error": True},
        {"role": "user", "content": None, "tool_calls": [own]},
        {"role": "tool", "id": "u", "content": "SECRET", "requestor": "user"},
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "id": "c", "content": "{}", "error": False},
        {"role": "assistant", "content": "It is on its way."},
    ]
    default = {
        "id": "s1",
        "task_id": "3",
        "trial": 0,
        "termination_reason": "user_stop",
        "duration": 4.5,
        "agent_cost": 0.25,
        "reward_info": {"reward": 1.0, "action_checks": "SECRET"},
        "messages": messages,
    }
    return {**default, **changes}


def test_tau2_shows_the_agents_side_only(tmp_path):
    result = import_tau(write(tmp_path / "r.json", tau2(simulation())))
    (rollout,) = result.rollouts
    assert (rollout.policy, rollout.task_id, rollout.success) == ("big", "retail_3", True)
    assert "SECRET" not in json.dumps([rollout.messages, rollout.info])
    assert [m["role"] for m in rollout.messages] == (
        "system assistant user assistant tool assistant tool assistant".split()
    )
    assert [s.executed.type for s in rollout.steps] == ["file_read", "repair", "final_answer"]
    assert result.dropped == {"no_request": 1}
    assert (rollout.info["cost_usd"], rollout.info["seconds"]) == (0.25, 4.5)


def test_a_fault_of_the_simulator_is_no_failure_of_the_agent(tmp_path):
    broken = simulation(termination_reason="user_error", reward_info={"reward": 0.0})
    stuck = simulation(termination_reason="max_steps", reward_info={"reward": 0.0}, trial=1)
    unscored = simulation(reward_info=None, trial=2)
    result = import_tau(write(tmp_path / "r.json", tau2(broken, stuck, unscored)))
    assert [r.success for r in result.rollouts] == [None, False, None]
    assert [official_score(r) for r in result.rollouts] == [False, False, None]
    assert "user_errors" in {f.kind for f in result.flags}


def test_imported_rollouts_read_back_equal(tmp_path):
    result = import_tau(write(tmp_path / "r.json", tau2(simulation())))
    write_jsonl(tmp_path / "out.jsonl", result.rollouts)
    assert read_jsonl(tmp_path / "out.jsonl", Rollout) == result.rollouts
