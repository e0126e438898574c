"""Outcome tables from logs: whose answers, at which steps, with which labels."""

from dataclasses import replace

import pytest

from specact_rl.cli import main
from specact_rl.errors import ConfigError, RolloutFormatError
from specact_rl.eval.columns import ProposalColumns
from specact_rl.eval.log_outcomes import LogAnswers, as_panel, family_of
from specact_rl.logs.responses import request_step, response_messages, response_proposal
from specact_rl.mining.build_rollouts import import_rollouts, read_rollouts
from specact_rl.mining.chunks import PROPOSALS_FILE
from specact_rl.store import read_manifest, read_table, write_jsonl
from specact_rl.types import Action, Proposal, Rollout, StepRecord


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def rollout(policy, number, success, *, trial=0, calls=1, run=None):
    """A policy's answer, with as many calls as asked for; with none it cannot be read."""
    made = [call("look", place=f"p{i}") for i in range(calls)]
    single = (
        Action(type="tool_call", tool="look", arguments={"place": "p0"}) if calls == 1 else None
    )
    step = StepRecord(
        index=0,
        message_index=1,
        executed=single,
        executed_text=None if single else "look(",
        acceptable=success,
    )
    return Rollout(
        rollout_id=f"{run or ''}{policy}/{number}/{trial}",
        task_id=f"task{number}",
        family="f",
        policy=policy,
        trial=trial,
        messages=[
            {"role": "user", "content": f"Request {number}"},
            {"role": "assistant", "content": "", "tool_calls": made},
        ],
        tools=[],
        steps=[step],
        success=success,
        info={"run": run} if run else {},
    )


LOG = [
    *(rollout("ant-1b", i, i < 4) for i in range(6)),
    *(rollout("ant-9b", i, i > 1) for i in range(5)),
    rollout("bee", 0, True),
]


def test_a_response_of_one_call_is_an_action_and_one_of_several_is_several():
    one, two, none = (response_proposal(rollout("m", 0, True, calls=n), 0) for n in (1, 2, 0))
    assert one.action.arguments == {"place": "p0"}
    assert one.actions == []
    assert two.action is None
    assert [a.arguments["place"] for a in two.actions] == ["p0", "p1"]
    assert [p.parsed for p in (one, two, none)] == [True, True, False]
    assert none.parse_error is not None
    assert [p.acceptable for p in (one, two, none)] == [True, True, True]


def test_an_episode_is_all_that_followed_its_request():
    first = rollout("m", 0, True)
    more = [
        {"role": "tool", "content": "nothing there"},
        {"role": "assistant", "content": "Nothing."},
    ]
    final = StepRecord(
        index=1, message_index=3, executed=Action(type="final_answer", text="Nothing.")
    )
    episode = replace(first, messages=first.messages + more, steps=[*first.steps, final])
    proposal = response_proposal(episode, 0)
    assert [a.tool for a in proposal.actions] == ["look", None]
    assert response_messages(episode) == episode.messages[1:]
    assert "[tool] nothing there" in proposal.text
    assert request_step(episode).history == episode.messages[:1]


def test_what_a_log_does_not_say_is_unknown_and_what_is_no_number_is_refused():
    silent = response_proposal(rollout("m", 0, None), 0)
    assert (silent.num_prompt_tokens, silent.seconds, silent.price) == (None, None, None)
    assert silent.acceptable is None
    told = replace(rollout("m", 0, True), info={"input_tokens": 7, "seconds": 0.5, "cost_usd": 0.1})
    proposal = response_proposal(told, 0)
    assert (proposal.num_prompt_tokens, proposal.seconds, proposal.price) == (7, 0.5, 0.1)
    with pytest.raises(RolloutFormatError, match="input_tokens"):
        response_proposal(replace(told, info={"input_tokens": "7"}), 0)


def test_models_are_found_by_a_part_of_their_name_that_no_other_has():
    answers = LogAnswers.of(LOG)
    assert answers.find("9B") == "ant-9b"
    assert answers.find("bee") == "bee"
    with pytest.raises(ConfigError, match="2 of them has"):
        answers.find("ant")
    with pytest.raises(ConfigError, match="none of them"):
        answers.find("cow")


def test_a_part_that_begins_a_word_is_meant_before_one_inside():
    answers = LogAnswers.of([rollout("oss-20b", 0, True), rollout("oss-120b", 0, True)])
    assert answers.find("20b") == "oss-20b"
    assert answers.find("120b") == "oss-120b"


def test_runs_and_trials_are_models_of_their_own_when_asked_for():
    log = [rollout("m", 0, True, run="r1"), rollout("m", 0, False, run="r2")]
    assert list(LogAnswers.of(log).by_agent) == ["m@r1", "m@r2"]
    trials = [rollout("m", i, i == t, trial=t) for i in range(2) for t in range(2)]
    answers = LogAnswers.of(trials, ["m#2", "other"])
    assert answers.find("m#1") == "m#1"
    assert [r[0].trial for r in answers.by_agent["m#2"].values()] == [1, 1]
    items = answers.items("m#2", ["task0", "task1"], at="m#1")
    assert [(i.proposal.model_id, i.proposal.sample) for i in items] == [("m#2", 0), ("m#2", 0)]
    assert items[0].proposal.step_id == request_step(answers.by_agent["m#1"]["task0"][0]).step_id


def test_a_panel_is_one_proposer_whose_samples_are_the_models():
    answers = LogAnswers.of(LOG)
    tasks = answers.common_tasks(["ant-1b", "ant-9b"])
    assert tasks == [f"task{i}" for i in range(5)]
    rows = [
        [i.proposal for i in answers.items(a, tasks, at="ant-9b")] for a in ("ant-1b", "ant-9b")
    ]
    table = answers.step_table("ant-9b", tasks)
    columns = ProposalColumns.of(table, as_panel("two", rows))
    assert columns.acceptable.tolist() == [[1, 0], [1, 0], [1, 1], [1, 1], [0, 1]]
    assert columns.first_of_its_kind.tolist() == [[True, False]] * 5  # the same call


def test_families_are_told_by_the_letters_that_a_name_begins_with():
    assert family_of("xLAM-7b-fc-r") == family_of("XLAM-1b") == "xlam"
    assert family_of("7b-model") == "7b-model"


@pytest.fixture
def imported(tmp_path):
    write_jsonl(tmp_path / "log.jsonl", LOG)
    import_rollouts(tmp_path / "log.jsonl", tmp_path / "rollouts", importer="native", seed=1)
    return tmp_path / "rollouts"


def test_the_table_of_a_pair_is_written_with_who_is_right(imported, tmp_path, capsys):
    out = tmp_path / "out"
    splits = ["train_proposer", "train_verifier", "calibration", "test"]
    command = ["outcomes", "--from-logs", "--rollouts", str(imported), "--out", str(out)]
    assert main([*command, "--cheap", "1b", "--strong", "9b", "--splits", *splits]) == 0
    manifest = read_manifest(out)
    assert manifest.counts == {
        "proposals": 10,
        "tasks": 5,
        "both": 2,
        "only_cheap": 2,
        "only_strong": 1,
        "neither": 0,
        "unlabelled": 0,
    }
    assert manifest.dropped == {"answered_by_one": 1}
    assert "only strong\t1" in capsys.readouterr().out
    steps = {s.step_id for r in read_rollouts(imported) for s in r.each_step()}
    table = read_table(out / PROPOSALS_FILE, Proposal)
    assert {p.step_id for p in table} <= steps  # so that builders find them
    assert {p.model_id for p in table} == {"ant-1b", "ant-9b"}


def test_the_pair_must_be_named_and_must_be_two(imported, tmp_path, capsys):
    command = ["outcomes", "--from-logs", "--rollouts", str(imported), "--out", str(tmp_path / "o")]
    assert main([*command, "--cheap", "1b"]) == 2
    assert "--strong" in capsys.readouterr().err
    assert main([*command, "--cheap", "1b", "--strong", "1b"]) == 2
    assert "two models" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
