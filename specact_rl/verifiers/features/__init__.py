"""Hand features of an item: numbers that schema, request and response give, by name.

No task family, no model, no id, no other sample: a verifier in use knows none of them. Which form
a response has (Python, JSON, blocks) is no feature either, because it names the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from weakref import WeakKeyDictionary

import numpy as np

from specact_rl.metrics.values import FloatArray
from specact_rl.types import Action, Proposal, Step
from specact_rl.verifiers.base import Item
from specact_rl.verifiers.features.calls import call_features
from specact_rl.verifiers.features.episode import episode_features
from specact_rl.verifiers.features.form import form_features
from specact_rl.verifiers.features.step import step_features
from specact_rl.verifiers.features.subject import request_features, subject_features
from specact_rl.verifiers.features.words import read

READABLE = "readable"
"""1: calls that a strict reader reads whole; 0: no call is meant; -1: meant, but not to be read so
(fences, arguments without names, broken text)."""

_KEPT: WeakKeyDictionary[Item, FloatArray] = WeakKeyDictionary()


def hand_features(item: Item) -> dict[str, float]:
    """Named features, the same names in the same order for every item.

    NaN where a feature has no meaning: those of calls for a text, those of an episode for a single
    response, those of a step beside its history for a logged response. Unreadable text has
    features too.
    """
    actions = _actions(item)
    calls = [action for action in actions if action.tool is not None]
    tools = item.step.tools
    request = read(_request(item))
    found = form_features(item.proposal)
    found |= call_features(calls, tools, request)
    found |= request_features(request, tools)
    found |= subject_features(calls, tools, request)
    found |= episode_features(item.response, actions)
    found |= _of_step(item)
    return {name: float(value) for name, value in found.items()}


@cache
def feature_names() -> tuple[str, ...]:
    """Names of the columns of `feature_matrix`."""
    return tuple(hand_features(_BLANK))


def feature_matrix(items: Sequence[Item]) -> FloatArray:
    """Features as an array of shape (items, names); computed once for an item that stays."""
    for item in items:
        if item not in _KEPT:
            _KEPT[item] = np.array(list(hand_features(item).values()), dtype=np.float64)
    if not items:
        return np.empty((0, len(feature_names())))
    return np.stack([_KEPT[item] for item in items])


def has_response(item: Item) -> bool:
    """Whether there is anything to judge: an action, text, or a message that says nothing."""
    return item.proposal.parsed or bool(item.proposal.text.strip()) or bool(item.response)


def _actions(item: Item) -> list[Action]:
    action = item.proposal.action
    return [action] if action is not None else item.proposal.actions


def _request(item: Item) -> str:
    users = (m.get("content") for m in item.step.history if m["role"] == "user")
    return "\n".join(content for content in users if isinstance(content, str))


def _of_step(item: Item) -> dict[str, float]:
    if item.response is not None or item.proposal.action is None:
        names = step_features(_BLANK, with_confidence=False)
        return {f"step_{name}": math.nan for name in names}
    found = step_features(item, with_confidence=False)
    return {f"step_{name}": float(value) for name, value in found.items()}


_BLANK = Item(
    step=Step(
        step_id="",
        rollout_id="",
        task_id="",
        family="",
        split=None,
        index=0,
        history=[],
        tools=[],
        executed=None,
        reference=None,
    ),
    proposal=Proposal(
        proposal_id="",
        step_id="",
        task_id="",
        model_id="",
        sample=0,
        mode="generate",
        text="",
        action=Action(type="final_answer", text="."),
        parse_error=None,
        match_level="none",
        same_state=None,
        acceptable=None,
        label_source="none",
        logprob=None,
        num_candidates=None,
        num_prompt_tokens=None,
        num_cached_tokens=0,
        num_completion_tokens=None,
        seconds=None,
    ),
    siblings=(),
)
"""An item that only shows the names of its features."""
