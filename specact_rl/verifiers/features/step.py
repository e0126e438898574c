"""One action at a step of an episode, beside its history."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from specact_rl.actions.serialise import action_text
from specact_rl.actions.taxonomy import call_context
from specact_rl.errors import ModelError
from specact_rl.types import ACTION_TYPES
from specact_rl.verifiers.base import Item

_WORD = re.compile(r"[\w'-]+")


def step_features(item: Item, with_confidence: bool) -> Mapping[str, float]:
    """Named features of one parsed proposal.

    Raises:
        ValueError: The proposal has no action, or several.
        ModelError: With confidence, and the proposer gave no log-probability.
    """
    action, history = item.proposal.action, item.step.history
    if action is None:
        raise ValueError(f"{item.proposal.proposal_id} is not one action")
    contents = [str(message.get("content") or "") for message in history]
    request = next((c for m, c in zip(history, contents, strict=True) if m["role"] == "user"), "")
    last = contents[-1] if contents else ""
    words = [str(value) for value in _leaves(action.arguments)]
    if action.text is not None:
        words = action.text.split()
    calls = [call["function"] for message in history for call in message.get("tool_calls") or ()]
    same_tool = [call for call in calls if call["name"] == action.tool]
    repeated = sum(
        call["name"] == action.tool and call["arguments"] == action.arguments for call in calls
    )
    context = call_context(history)
    everything = " ".join(contents) + json.dumps([c["arguments"] for c in calls])
    features: dict[str, float] = {f"type_{t}": action.type == t for t in ACTION_TYPES}
    features |= {
        "num_steps": item.step.index,
        "num_arguments": len(action.arguments),
        "length": len(action_text(action)),
        "after_error": context.failed,
        "after_error_other_tool": context.failed and context.last_tool != action.tool,
        "same_tool_before": len(same_tool),
        "repeated": repeated,
        "last_call_repeated": bool(calls) and calls[-1]["name"] == action.tool,
        "in_request": _share(words, request),
        "in_last": _share(words, last),
        "in_history": _share(words, everything),
        "any_not_in_history": bool(words) and _share(words, everything) < 1.0,
        "user_spoke_last": bool(history) and history[-1]["role"] == "user",
        "written_before": sum(" -> " in content for content in contents),
        "last_was_write": " -> " in last,
    }
    counts = Counter(word for word in words)
    features["repeated_words"] = sum(n - 1 for n in counts.values())
    if with_confidence:
        if item.proposal.logprob is None:
            raise no_logprob(item)
        features["confidence"] = confidence(item)
    return features


def confidence(item: Item) -> float:
    """Log-odds that the proposer gives its proposal; NaN where it is not known."""
    logprob = item.proposal.logprob
    if logprob is None or item.proposal.action is None:
        return math.nan
    # log(p / (1 - p)) from log p, kept finite where p rounds to 1
    return logprob - math.log(-math.expm1(min(logprob, -1e-9)))


def no_logprob(item: Item) -> ModelError:
    """What a verifier says that cannot do without the log-probability that is not there."""
    return ModelError(
        f"the verifier needs the proposer's log-probability, and {item.proposal.model_id!r} has "
        f"none at step {item.step.step_id!r}; let it propose again with log-probabilities (of a "
        "server: --logprobs), or take a verifier that does without"
    )


def _share(words: Sequence[str], text: str) -> float:
    """Share of the words (or phrases) that the text holds, as whole words; 0 if there are none."""
    held = _spaced(text)
    return sum(_spaced(word) in held for word in words) / len(words) if words else 0.0


def _spaced(text: str) -> str:
    return f" {' '.join(_WORD.findall(text))} "


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for v in value.values() for leaf in _leaves(v)]
    if isinstance(value, list):
        return [leaf for v in value for leaf in _leaves(v)]
    return [value]
