"""Plausible next calls in a state: what a proposer might wrongly believe in."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from specact_rl.envs.workspace.families import DAYS, FLAGS, KEYS, PEOPLE, WORDS
from specact_rl.envs.workspace.state import Call, State, Task
from specact_rl.envs.workspace.tools import OPTIONAL_PARAMETERS, PRIORITIES, TOOLS

_NO_PUNCTUATION = str.maketrans(",.?()", "     ")
_NUMBER = re.compile(r"[0-9]{1,9}")
_ASKED = ("priority", "hour", "person", "value")


def candidate_actions(
    task: Task, state: State, tool_keys: list[str], rng: random.Random
) -> Iterator[Call | str]:
    """Calls (by tool key) and texts without end, likely confusions first; may repeat."""
    pools = _argument_pools(task, state, rng)
    yield f"Which {rng.choice(_ASKED)}?"
    yield f"Done: {rng.choice(pools['handle'])} {rng.choice(pools['value'])}"
    yield f"BLOCKED: {rng.choice(pools['action'])} {rng.choice(pools['handle'])}"
    yield f"Answer: {rng.choice(pools['value'])}"
    for key in rng.sample(tool_keys, len(tool_keys)):
        yield key, _arguments(key, pools, rng)
    while True:
        key = rng.choice(tool_keys)
        yield key, _arguments(key, pools, rng)


def spare_texts() -> Iterator[str]:
    """Texts for states in which there is little to call; more than any state needs."""
    yield from (f"Which {name}?" for name in _ASKED)
    yield from (f"Answer: {word}" for word in WORDS)


def _argument_pools(task: Task, state: State, rng: random.Random) -> dict[str, list[str]]:
    """Values to fill parameters with: those shown, and one or two that merely could be."""
    request = task.request.translate(_NO_PUNCTUATION).split()
    shown = list(dict.fromkeys([*state.values[-6:], *request]))

    def among(vocabulary: Sequence[str]) -> list[str]:
        return [v for v in shown if v in vocabulary] + [rng.choice(vocabulary)]

    handles = sorted(h for h in state.seen if h in state.records)
    numbers = [v for v in shown if _NUMBER.fullmatch(v)] + [str(rng.randint(8, 49))]
    titles = [r["title"] for r in state.records.values() if set(r["title"].split()) & set(request)]
    return {
        "handle": [*handles, f"{rng.choice('afteopm')}{rng.randint(1, 9)}"],
        "query": [*titles, " ".join(request[-2:])],
        "value": among(WORDS) + among(PEOPLE)[:1] + numbers[:1],
        "text": among(WORDS) + among(PEOPLE) + numbers[:1] + among(PRIORITIES)[:1],
        "person": among(PEOPLE),
        "priority": among(PRIORITIES),
        "key": among(KEYS),
        "day": among(DAYS),
        "flag": FLAGS,
        "name": [record["title"] for record in list(state.records.values())[:2]],
        "action": ["refund", "close", "delete"],
        "number": numbers,
        "rev": sorted(s for s in state.seen if s[0] == "r" and s[1:].isdigit()),
    }


def _arguments(key: str, pools: dict[str, list[str]], rng: random.Random) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for parameter in TOOLS[key].parameters:
        if parameter in OPTIONAL_PARAMETERS:
            if pools["rev"] and rng.random() < 0.5:
                arguments[parameter] = rng.choice(pools["rev"])
        elif parameter in ("hour", "a", "b"):
            arguments[parameter] = int(rng.choice(pools["number"]))
        elif parameter in pools:
            arguments[parameter] = rng.choice(pools[parameter])
        else:
            arguments[parameter] = _handle(parameter[0], pools["handle"], rng)
    return arguments


def _handle(service: str, shown: list[str], rng: random.Random) -> str:
    """A record of the right service mostly; at times one never shown, or another service's."""
    draw = rng.random()
    own = [h for h in shown if h[0] == service]
    if draw < 0.75 and own:
        return rng.choice(own)
    return f"{service}{rng.randint(1, 9)}" if draw < 0.9 else rng.choice(shown)
