"""The checker, family by family: the work and the words must both be right."""

import pytest

from specact_rl.actions.canonical import canonical
from specact_rl.envs.workspace.environment import MAX_FINAL_WORDS, Workspace
from specact_rl.envs.workspace.families import FAMILIES, HELD_OUT_FAMILIES
from specact_rl.envs.workspace.state import damaged_fields
from specact_rl.envs.workspace.tools import TOOLS
from specact_rl.types import Action

ALL = [(name, False) for name in FAMILIES] + [(name, True) for name in HELD_OUT_FAMILIES]
every_family = pytest.mark.parametrize(("family", "held_out"), ALL, ids=[name for name, _ in ALL])


def tasks_of(family, held_out, count=6):
    found = []
    for seed in range(5000):
        env = Workspace(seed, held_out=held_out)
        if env.family == family:
            found.append(env)
        if len(found) == count:
            return found
    raise AssertionError(f"fewer than {count} tasks of {family}")


def before_the_answer(env):
    """Do all the work; only the answer is missing."""
    while env.cost_to_go() > 1:
        env.step(env.expert_action())
    return env.snapshot()


def succeeds_with(env, snapshot, text):
    env.restore(snapshot)
    env.step(env.text_action(text))
    assert env.done
    return env.success


@every_family
def test_every_required_word_is_required(family, held_out):
    for env in tasks_of(family, held_out):
        ready = before_the_answer(env)
        assert succeeds_with(env, ready, env.task.final)
        for word in set(env.task.required_words) - {"BLOCKED"}:
            other = env.task.final.replace(word, "t99" if word[1:].isdigit() else "other")
            assert not succeeds_with(env, ready, other), other


@every_family
def test_answer_may_differ_in_what_canonical_form_folds(family, held_out):
    for env in tasks_of(family, held_out):
        ready = before_the_answer(env)
        start, colon, rest = env.task.final.partition(":")
        for text in (f"{env.task.final}.", f"  {start}{colon}  {rest.upper()}"):
            same = canonical(env.text_action(text)) == canonical(env.text_action(env.task.final))
            assert same
            assert succeeds_with(env, ready, text), text


@every_family
def test_too_many_words_fail(family, held_out):
    for env in tasks_of(family, held_out):
        ready = before_the_answer(env)
        room = MAX_FINAL_WORDS - len(env.task.final.split())
        assert succeeds_with(env, ready, env.task.final + " so" * room)
        assert not succeeds_with(env, ready, env.task.final + " so" * (room + 1))


@every_family
def test_refusing_and_complying_are_not_exchangeable(family, held_out):
    for env in tasks_of(family, held_out):
        ready = before_the_answer(env)
        words = " ".join(w for w in env.task.required_words if w != "BLOCKED")
        wrong = f"Done: BLOCKED {words}" if env.task.blocked else f"BLOCKED: {words}"
        assert not succeeds_with(env, ready, wrong)


@every_family
def test_right_answer_before_the_work_is_done_fails(family, held_out):
    for env in tasks_of(family, held_out):
        while env.cost_to_go() > 1:
            assert not succeeds_with(env, here := env.snapshot(), env.task.final)
            env.restore(here)
            env.step(env.expert_action())


@every_family
def test_damage_elsewhere_fails_until_it_is_undone(family, held_out):
    damaged, written = 0, False
    for env in tasks_of(family, held_out, count=20):
        ready = before_the_answer(env)
        written |= any(goal.kind == "set" for goal in env.task.goals)
        for write in writes(env):
            env.restore(ready)
            env.step(write)
            if not damaged_fields(env.task, env.snapshot()):
                continue
            damaged += 1
            if env.done:  # nothing in the catalogue could undo it
                assert not env.success
                continue
            assert env.cost_to_go() > 1
            assert not succeeds_with(env, env.snapshot(), env.task.final)
    assert damaged or not written


def writes(env):
    """A write on every record of its service, with a value that nothing has."""
    for key, name in env.task.names.items():
        tool = TOOLS[key]
        if tool.operation != "set" or key in env.task.hidden:
            continue
        for handle, record in env.task.records.items():
            if handle[0] == tool.service[0]:
                values = {
                    "key": next(k for k in record if k != "title"),
                    "value": "zzz",
                    "name": "zzz",
                    "person": "zoe",
                    "priority": "low" if record.get("priority") != "low" else "high",
                    "hour": 23,
                    "flag": "zzz",
                }
                arguments = {tool.parameters[0]: handle}
                arguments |= {p: values[p] for p in tool.parameters[1:] if p in values}
                quirk = env.task.quirks.get(handle)
                if quirk is not None and "rev" in tool.parameters:
                    arguments["rev"] = quirk.detail
                yield Action(type="file_write", tool=name, arguments=arguments)


@every_family
def test_what_cannot_be_undone_and_was_not_asked_for_ends_the_episode(family, held_out):
    for env in tasks_of(family, held_out):
        start = env.snapshot()
        for key, name in env.task.names.items():
            tool = TOOLS[key]
            if tool.effect != "irreversible":
                continue
            service = {"order", "file", "event"} & set(tool.parameters)
            wanted = {g.target for g in env.task.goals if g.kind == "effect"}
            for handle in [h for h in env.task.records if h not in wanted]:
                if not service or handle[0] != tool.service[0] or handle in env.task.quirks:
                    continue
                env.restore(start)
                env.step(
                    Action(type="tool_call", tool=name, arguments={tool.parameters[0]: handle})
                )
                assert env.done
                assert not env.success
                assert env.cost_to_go() is None


def test_effect_is_done_once_and_no_more():
    env = next(e for e in tasks_of("mail_report", False))
    goal = next(g for g in env.task.goals if g.kind == "effect")
    before_the_answer(env)
    env.step(env.call_action(*goal.call))
    assert env.done
    assert not env.success


def test_program_that_was_read_after_its_patch_is_still_to_be_checked():
    seen = 0
    for env in tasks_of("code_fix", False, count=60):
        if "code_read" not in env.task.names:
            continue
        seen += 1
        while env.cost_to_go() > 2:  # its last check and the answer are missing
            env.step(env.expert_action())
        program = env.expert_action().arguments["program"]
        name = env.task.names["code_read"]
        env.step(Action(type="file_read", tool=name, arguments={"program": program}))
        assert env.cost_to_go() == 2
        assert env.expert_action().tool == env.task.names["check_run"]
    assert seen
