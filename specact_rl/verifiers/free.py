"""Verifiers that cost next to nothing: what a trained one has to beat."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from specact_rl.actions.canonical import proposal_hash
from specact_rl.actions.serialise import action_text
from specact_rl.actions.taxonomy import call_context
from specact_rl.metrics.cost import NO_MODEL, ModelSize
from specact_rl.metrics.values import BoolArray, FloatArray
from specact_rl.store import content_hash
from specact_rl.types import ACTION_TYPES
from specact_rl.verifiers.base import Item, Judgements

_WORD = re.compile(r"[\w'-]+")


def _free(log_odds: Sequence[float]) -> Judgements:
    zeros = np.zeros(len(log_odds), dtype=np.int64)
    return Judgements(
        log_odds=np.asarray(log_odds, dtype=np.float64), num_tokens=zeros, num_cached_tokens=zeros
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposerConfidence:
    """The proposer's own log-probability of what it wrote."""

    verifier_id: str = "proposer_logprob"
    size: ModelSize = NO_MODEL

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log p / (1 - p) of the proposal under its own model."""
        return _free([_confidence(item) for item in items])


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAgreement:
    """The share of the proposer's samples at this step that are the same action."""

    verifier_id: str = "sample_agreement"
    size: ModelSize = NO_MODEL

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of the share, with half a count added to either side."""
        return _free([_agreement(item) for item in items])


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearVerifier:
    """Logistic regression on hand features of step and proposal; trains in seconds.

    No task family, no model name: a verifier in use knows neither.
    """

    verifier_id: str
    pipeline: Pipeline = field(repr=False)
    with_confidence: bool
    """Whether the proposer's log-probability is one of the features."""
    size: ModelSize = NO_MODEL

    @classmethod
    def fit(
        cls, items: Sequence[Item], acceptable: BoolArray, *, with_confidence: bool, seed: int
    ) -> LinearVerifier:
        """Fit on labelled items; unparsable ones are left out.

        Raises:
            ValueError: Only one class among the labels.
        """
        known = [i for i, item in enumerate(items) if item.proposal.action is not None]
        labels = np.asarray(acceptable)[known]
        if labels.all() or not labels.any():
            raise ValueError(f"both labels are needed, got {len(known)} rows of one")
        features = _matrix([items[i] for i in known], with_confidence)
        pipeline = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=2000, random_state=seed)
        )
        pipeline.fit(features, labels)
        name = "linear_with_confidence" if with_confidence else "linear"
        weights = content_hash([float(w) for w in pipeline[-1].coef_[0]])
        return cls(
            verifier_id=f"{name}-{weights}", pipeline=pipeline, with_confidence=with_confidence
        )

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of each item."""
        values = np.full(len(items), np.nan)
        known = [i for i, item in enumerate(items) if item.proposal.action is not None]
        if known:
            features = _matrix([items[i] for i in known], self.with_confidence)
            values[known] = self.pipeline.decision_function(features)
        return _free(list(values))


def _confidence(item: Item) -> float:
    logprob = item.proposal.logprob
    if logprob is None or item.proposal.action is None:
        return math.nan
    # log(p / (1 - p)) from log p, kept finite where p rounds to 1
    return logprob - math.log(-math.expm1(min(logprob, -1e-9)))


def _agreement(item: Item) -> float:
    target = proposal_hash(item.proposal, item.step.tools)
    if target is None:
        return math.nan
    same = sum(proposal_hash(s, item.step.tools) == target for s in item.siblings)
    return math.log((same + 0.5) / (len(item.siblings) - same + 0.5))


def _matrix(items: Sequence[Item], with_confidence: bool) -> FloatArray:
    rows = [_features(item, with_confidence) for item in items]
    return np.asarray([list(row.values()) for row in rows], dtype=np.float64)


def _features(item: Item, with_confidence: bool) -> Mapping[str, float]:
    """Named features of one parsed proposal."""
    action, history = item.proposal.action, item.step.history
    assert action is not None
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
        features["confidence"] = _confidence(item)
    return features


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
