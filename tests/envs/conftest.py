"""Policies that no agent should have: anything goes, well-formed or not."""

import random

import pytest

from specact_rl.envs.episodes import Episode
from specact_rl.envs.workspace.environment import Workspace
from specact_rl.types import Action

TEXTS = (
    "Which hour, person and priority do you mean?",
    "Which colour?",
    "  Which value?  ",
    "What?!",
)
VALUES = ("", " t5 ", "²", "error", "9" * 40, True, None, -3, 2.5, ["t1"], {"a": 1})


def misuse(env, rng):
    """A call that the catalogue does not allow, with an effect or without."""
    spec = rng.choice(env.tools)
    arguments = {name: rng.choice(VALUES) for name in spec.parameters["properties"]}
    if arguments and rng.random() < 0.5:
        arguments.pop(rng.choice(sorted(arguments)))
    if rng.random() < 0.2:
        arguments["extra"] = "x"
    name = spec.name if rng.random() < 0.8 else rng.choice(["no_such_tool", "", "find_tool"])
    return Action(type="tool_call", tool=name, arguments=arguments)


def rename(env, rng):
    """Write odd values into what may be written."""
    calls = [a for a in env.legal_actions() if a.type == "file_write"]
    if not calls:
        return None
    call = rng.choice(calls)
    arguments = {
        name: rng.choice(["error log", "Error", "12", "²", value])
        if name in ("name", "value") and isinstance(value, str)
        else value
        for name, value in call.arguments.items()
    }
    return Action(type=call.type, tool=call.tool, arguments=arguments)


def wild_action(env, rng):
    """What the worst of policies might do, the expert's action among it; seldom the end."""
    draw = rng.random()
    if draw < 0.35:
        return env.expert_action()
    if draw < 0.65:
        calls = [a for a in env.legal_actions() if a.tool is not None]
        return rng.choice(calls or [None])
    if draw < 0.75:
        return misuse(env, rng)
    if draw < 0.85:
        return rename(env, rng)
    if draw < 0.93:
        return Action(type="ask_clarification", text=rng.choice(TEXTS))
    return None


def wild_states(seed, held_out):
    """An episode in every state that a wild policy comes through, the last one excepted."""
    rng = random.Random(f"wild/{seed}/{held_out}")
    episode = Episode(Workspace(seed, held_out=held_out), "wild", 0)
    while not episode.env.done:
        yield episode
        action = wild_action(episode.env, rng)
        episode.act(action, None if action is not None else "{{")


@pytest.fixture(scope="session")
def wild():
    """`wild(seed, held_out)` yields the episode in each state."""
    return wild_states
