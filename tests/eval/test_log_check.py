import json
from pathlib import Path

import pytest

from specact_rl.eval.log_check import PAIR_SHARE, check_log, detectable, load_log
from specact_rl.eval.log_check_page import NUM_SHOWN, check_page, import_page
from specact_rl.eval.log_verdicts import can_show, verdicts
from specact_rl.logs.groups import MIN_GROUP, finished
from specact_rl.logs.importers import LoadedLog
from specact_rl.logs.result import Flag
from specact_rl.mining.build_rollouts import import_rollouts
from specact_rl.types import Action, Rollout, StepRecord


def rollout(task, policy="m", trial=0, success=None, acts=(), family="f", **step):
    """One user message, then one call of `open` a step; `acts` are the keys it opens."""
    messages = [{"role": "user", "content": f"Do {task}."}]
    steps = []
    for key in acts:
        action = Action(type="tool_call", tool="open", arguments={"key": key})
        steps.append(
            StepRecord(index=len(steps), message_index=len(messages), executed=action, **step)
        )
        call = {"type": "function", "function": {"name": "open", "arguments": {"key": key}}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
    return Rollout(
        rollout_id=f"{policy}/{task}/{trial}",
        task_id=task,
        family=family,
        policy=policy,
        trial=trial,
        messages=messages,
        tools=[],
        steps=steps,
        success=success,
    )


def trials(task, outcomes, policy="m", **more):
    return [rollout(task, policy, i, o == "1", **more) for i, o in enumerate(outcomes)]


def check(rollouts, dropped=None):
    log = LoadedLog(result=finished(list(rollouts), dropped or {}), importer="native", reason="so")
    return check_log(log, Path("logs"))


def answers(found):
    return [verdict.answer for verdict in verdicts(found)]


def test_pairs_are_counted_by_strategy_with_what_the_cap_and_the_split_leave():
    # 4 successes and 3 failures part at the first action: 12 contrasts, but all successes do the
    # same, so that each failure gives one distinct pair. The other task has no contrast.
    good = [rollout("a", trial=i, success=True, acts="x") for i in range(4)]
    bad = [rollout("a", trial=4 + i, success=False, acts=key) for i, key in enumerate("pqr")]
    found = check([*good, *bad, rollout("b", success=True, acts="x")])
    by_name = {s.strategy: s for s in found.strategies}
    assert list(by_name) == ["outcome", "divergence", "approx_prefix", "hard_negative"]
    divergence = by_name["divergence"]
    assert (divergence.num_pairs, divergence.num_kept, divergence.num_tasks) == (3, 3, 1)
    assert divergence.num_expected == pytest.approx(3 * PAIR_SHARE)
    assert divergence.dropped == {"duplicate": 9, "task_without_contrast": 1}
    # all keys are as long as each other
    assert divergence.chosen_longer == 0.0


def test_the_cap_on_a_task_shows_in_what_is_kept_and_is_no_drop():
    rollouts = [rollout("a", success=True, acts="x")]
    rollouts += [
        rollout("a", trial=i + 1, success=False, acts=[f"{i}" * 9]) for i in range(9)
    ]  # 9 different failures
    divergence = check(rollouts).strategies[1]
    assert (divergence.num_pairs, divergence.num_kept) == (9, 8)
    assert divergence.dropped == {}


def test_a_rerun_differs_as_often_as_two_trials_of_a_task_do():
    # a: 2 of 4 succeed, 2 * 2 of 6 pairs of trials disagree; b: none do; c has one trial only
    (agent,) = check([*trials("a", "1100"), *trials("b", "1111"), *trials("c", "1")]).agents
    assert agent.rerun_discordance == pytest.approx((4 / 6 + 0) / 2)
    assert agent.power.discordance == agent.rerun_discordance


def test_without_second_trials_two_runs_are_taken_as_independent():
    (agent,) = check(
        [*trials("a", "1"), *trials("b", "0"), *trials("c", "0"), *trials("d", "0")]
    ).agents
    assert agent.rerun_discordance is None
    assert agent.power.discordance == pytest.approx(2 * 0.25 * 0.75)


def test_a_difference_that_the_disagreement_cannot_reach_is_none():
    # z = 1.960 + 0.842 = 2.802, z^2 = 7.849: 2.802 * sqrt(.25 / (100 + 7.849)) = .1349
    assert detectable(100, 0.25) == pytest.approx(0.1349, abs=1e-4)
    # 2.802 * sqrt(.25 / 17.849) = .3316, but they differ on a quarter of the tasks only
    assert detectable(10, 0.25) is None
    assert detectable(0, 0.25) is None
    assert detectable(100, 0.0) is None


def test_a_pair_has_the_retry_headroom_of_its_stronger_model_beside_the_oracles():
    # weak: a only; strong: a once of two, b, c always. First trials: strong fails a.
    rollouts = [*trials("a", "1", "weak"), *trials("b", "0", "weak"), *trials("c", "0", "weak")]
    rollouts += [*trials("a", "01", "strong"), *trials("b", "11", "strong")]
    rollouts += trials("c", "11", "strong")
    (pair,) = check(rollouts).pairs
    assert (pair.facts.cheap, pair.facts.strong) == ("weak", "strong")
    assert pair.facts.oracle_headroom == pytest.approx(1 / 3)
    # a: one of two succeeds always, on average half: 1/2, b and c nothing
    assert pair.retry_headroom == pytest.approx(1 / 6)
    assert pair.power.discordance == 1.0
    assert not can_show(pair)  # one test task


def test_pairs_with_most_to_gain_come_first():
    rollouts = [r for i, o in enumerate("0011") for r in trials(str(i), o, "low")]
    rollouts += [r for i, o in enumerate("1110") for r in trials(str(i), o, "mid")]
    rollouts += [r for i, o in enumerate("1111") for r in trials(str(i), o, "top")]
    assert [(p.facts.cheap, p.facts.only_cheap) for p in check(rollouts).pairs] == [
        ("low", 1),
        ("low", 0),
        ("mid", 0),
    ]


def test_tasks_that_nobody_solves_are_told_from_those_of_a_broken_category():
    broken = [r for i in range(MIN_GROUP) for r in trials(f"x{i}", "00", family="broken")]
    rollouts = [*broken, *trials("hard", "000"), *trials("easy", "11"), *trials("once", "0")]
    found = check(rollouts)
    never = found.never_solved
    assert (never.num_tasks, never.num_judged) == (MIN_GROUP + 1, MIN_GROUP + 2)
    assert never.num_degenerate == MIN_GROUP
    assert never.examples == ["hard"]
    assert never.by_family == {"broken": MIN_GROUP, "f": 1}
    assert found.num_left_out == MIN_GROUP
    assert [(a.facts.num_tasks, a.facts.accuracy) for a in found.agents] == [(3, 1 / 3)]
    assert found.facts.agents[0].num_tasks == MIN_GROUP + 3
    page = check_page(found)
    assert f"{MIN_GROUP} of them lie in categories flagged below as degenerate" in page
    assert "the model never passes" in page


def test_a_log_of_verdicts_alone_supports_no_training():
    found = check([r for i in range(9) for p in "mn" for r in trials(str(i), str(i % 2), p)])
    assert answers(found)[:3] == ["no", "no", "no"]
    assert "The log has verdicts only" in check_page(found)


def test_a_log_without_verdicts_says_so():
    found = check([rollout("a", acts="xy"), rollout("b", acts="x")])
    assert answers(found) == ["no"] * 5
    page = check_page(found)
    assert "2 rollouts have no verdict" in page
    assert "## Models" not in page


def test_labelled_steps_of_both_kinds_make_a_verifier():
    def labelled(count, acceptable):
        return [
            rollout(f"{acceptable}{i}", acts="x", acceptable=acceptable, label_source="score_file")
            for i in range(count)
        ]

    assert answers(check(labelled(100, True) + labelled(100, False)))[2] == "yes"
    assert answers(check(labelled(100, True) + labelled(99, False)))[2] == "barely"
    assert answers(check(labelled(100, True)))[2] == "no"
    found = check(labelled(3, True) + labelled(1, False))
    assert "4 labelled steps, 75.0 % of them acceptable" in check_page(found)
    assert "| score_file | 3 | 1 | 0 |" in check_page(found)


def test_pairs_in_which_the_better_side_is_longer_are_warned_of():
    def contrasts(good, bad):
        return [
            r
            for i in range(20)
            for r in (
                rollout(f"t{i}", success=True, acts=[good]),
                rollout(f"t{i}", trial=1, success=False, acts=[bad]),
            )
        ]

    assert "may learn length" in check_page(check(contrasts("a long key", "k")))
    mixed = contrasts("a long key", "k")[:20] + contrasts("k", "a long key")[20:]
    assert "may learn length" not in check_page(check(mixed))


def test_a_simulated_user_is_named_as_what_leaves_divergence_without_pairs():
    def spoken(trial, success, words, key):
        made = rollout("a", trial=trial, success=success, acts=["x", key])
        made.messages[0] = {"role": "user", "content": words}
        return made

    found = check([spoken(0, True, "Open it.", "y"), spoken(1, False, "Open it now.", "z")])
    assert found.partings == {"f": {"first_user_message": 1}}
    approx = next(s for s in found.strategies if s.strategy == "approx_prefix")
    assert approx.distances.num_pairs == approx.num_pairs == 1
    page = check_page(found)
    assert "Of 1 pairs of a success and a failure on one task, 1 part at a user's message" in page
    assert f"histories differ by {approx.distances.median:.2f} in the median" in page


def test_categories_are_shown_apart_where_there_are_several():
    def contrast(family, good, bad):
        return [
            rollout(family, success=True, acts=good, family=family),
            rollout(family, trial=1, success=False, acts=bad, family=family),
        ]

    one, two = contrast("one", "x", "y"), contrast("two", "x", "x")
    assert "| one | 1 | 0 | 0 | 1 | 0 | 1 | 1 | 0 |" in check_page(check([*one, *two]))
    assert "| two | 1 | 0 | 0 | 0 | 1 | 0 | 0 | 0 |" in check_page(check([*one, *two]))
    assert "| category |" not in check_page(check(one))


def test_pairs_with_a_side_that_could_not_be_parsed_are_warned_of():
    bad = rollout("a", trial=1, success=False, acts="y")
    bad.steps[0] = StepRecord(index=0, message_index=1, executed=None, executed_text="open(")
    bad.messages[1] = {"role": "assistant", "content": "open("}
    page = check_page(check([rollout("a", success=True, acts="x"), bad]))
    assert "In 1 of 1 pairs of `divergence` the worse side could not be parsed" in page


def test_long_tables_end_with_how_much_is_left_out():
    models = [f"m0{i:02}" for i in range(NUM_SHOWN + 2)]
    rollouts = [r for i, m in enumerate(models) for t in "ab" for r in trials(t, str(i % 2), m)]
    page = check_page(check(rollouts))
    assert "2 further models are in the JSON" in page
    assert page.count("\n| m0") == 2 * NUM_SHOWN
    assert len(check(rollouts).to_json()["agents"]) == NUM_SHOWN + 2


def test_bars_in_names_do_not_break_a_table():
    page = check_page(check(trials("a", "10", "a|b")))
    (row,) = [line for line in page.splitlines() if line.startswith("| a/b")]
    header = next(line for line in page.splitlines() if line.startswith("| model"))
    assert row.count("|") == header.count("|")


def test_the_numbers_are_plain_json():
    found = check([*trials("a", "10", acts="x"), *trials("b", "1", "n")], {"empty": 2})
    body = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert body["dropped"] == {"empty": 2}
    assert body["histogram"] == {"tool_call": 2}


def test_a_rollouts_folder_is_checked_as_the_log_it_came_from(tmp_path, write_rollouts):
    log = write_rollouts(r for i in range(9) for r in trials(f"t{i}", "10", acts=str(i)))
    import_rollouts(log, tmp_path / "out", importer="native")
    folder = load_log(tmp_path / "out")
    assert folder.importer == "rollouts folder"
    ours, theirs = (check_log(read, log).to_json() for read in (folder, load_log(log)))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"importer", "reason"}


def test_an_import_ends_with_what_was_dropped_and_flagged():
    flag = Flag(kind="harness_fault", group="parallel", detail="all wrong")
    page = import_page(
        importer="bfcl",
        reason="as asked for",
        counts={"rollouts": 1200},
        dropped={"no_row": 3, "x": 0},
        flags=[flag],
    )
    assert "Read as bfcl: as asked for." in page
    assert "rollouts 1,200" in page
    assert "- no row: 3\n" in page
    assert "x: 0" not in page
    assert "- harness_fault, parallel: all wrong" in page


@pytest.fixture
def write_rollouts(tmp_path):
    from specact_rl.store import write_jsonl

    def write(rollouts):
        write_jsonl(tmp_path / "log.jsonl", list(rollouts))
        return tmp_path / "log.jsonl"

    return write


def test_a_pair_with_a_model_that_fails_by_its_format_comes_last_and_is_no_gate():
    rollouts = [r for i, o in enumerate("1000") for r in trials(str(i), o, "fenced")]
    rollouts += [r for i, o in enumerate("0111") for r in trials(str(i), o, "good")]
    flag = Flag(kind="format_failures", group="fenced simple", detail="all fenced")
    result = finished(rollouts, {}, [flag])
    alone = check_log(LoadedLog(result=result, importer="x", reason="so"), Path("logs"))
    assert [pair.faulty for pair in alone.pairs] == ["fenced"]
    assert answers(alone)[3] == "no"
    more = [r for i, o in enumerate("1111") for r in trials(str(i), o, "best")]
    result = finished([*rollouts, *more], {}, [flag])
    found = check_log(LoadedLog(result=result, importer="x", reason="so"), Path("logs"))
    # fenced has more to gain under good (1 task) than good under best (none), and is last still
    assert [pair.faulty for pair in found.pairs] == [None, "fenced", "fenced"]
    assert check_page(found).count("(flagged)") == 2


def test_a_log_of_successes_alone_compares_nothing():
    found = check([rollout(f"t{i}", success=True, acts="x") for i in range(9)])
    assert answers(found)[4] == "no"
    assert "the same verdict everywhere" in check_page(found)


def test_steps_with_several_calls_are_warned_of():
    call = {"type": "function", "function": {"name": "open", "arguments": {}}}
    several = rollout("a", success=True, acts="x")
    several.steps[0] = StepRecord(index=0, message_index=1, executed=None)
    several.messages[1]["tool_calls"] = [call, call]
    assert "100.0 % of the steps hold several calls" in check_page(check([several]))
