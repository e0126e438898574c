"""A logged episode as a whole: what was done, what failed, how it ended."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from specact_rl.actions.serialise import OPEN_TAG
from specact_rl.store import canonical_json
from specact_rl.types import Action, Message

NAN = math.nan
_ERROR = re.compile(r"\berror\b|not found|invalid|no such|failed|traceback", re.IGNORECASE)
_NAMES = (
    "episode_steps episode_user_turns episode_results episode_errors episode_error_share "
    "episode_last_error episode_repeats episode_writes episode_tools episode_says "
    "episode_ends_with_call episode_ends_with_question episode_last_words episode_transfers "
    "episode_result_length"
).split()


def episode_features(
    response: Sequence[Message] | None, actions: Sequence[Action]
) -> dict[str, float]:
    """NaN for a response of at most one message, which is no episode."""
    if not response or len(response) < 2:
        return dict.fromkeys(_NAMES, NAN)
    spoken = [m for m in response if m["role"] == "assistant"]
    results = [str(m.get("content") or "") for m in response if m["role"] == "tool"]
    errors = [
        m.get("is_error") is True or bool(_ERROR.search(str(m.get("content") or "")[:300]))
        for m in response
        if m["role"] == "tool"
    ]
    forms = [canonical_json([a.tool, a.arguments]) for a in actions if a.tool is not None]
    writes = sum(a.type == "file_write" for a in actions)
    last = spoken[-1] if spoken else {}
    last_text = str(last.get("content") or "")
    values = (
        len(spoken),
        sum(m["role"] == "user" for m in response),
        len(results),
        sum(errors),
        sum(errors) / len(errors) if errors else 0.0,
        bool(errors) and errors[-1],
        len(forms) - len(set(forms)),
        writes,
        len({a.tool for a in actions if a.tool is not None}),
        sum(a.text is not None for a in actions),
        bool(last.get("tool_calls")) or OPEN_TAG in last_text,
        "?" in last_text,
        math.log1p(len(last_text.split())),
        sum(a.type == "BLOCKED" for a in actions),
        math.log1p(sum(map(len, results))),
    )
    return {name: float(value) for name, value in zip(_NAMES, values, strict=True)}
