"""What a proposer must beat: predictors that look at training steps and copy an action."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from specact_rl.actions.matching import match_level, reaches
from specact_rl.actions.serialise import action_text
from specact_rl.metrics.values import BoolArray
from specact_rl.types import Action, MatchLevel, Step


def markov_actions(train: Sequence[Step], test: Sequence[Step]) -> list[Action]:
    """The reference action that most often followed the tool called last, in training."""
    following: dict[str, Counter[int]] = defaultdict(Counter)
    overall: Counter[int] = Counter()
    actions: list[Action] = []
    index: dict[str, int] = {}
    for step in train:
        if step.reference is None:
            continue
        key = action_text(step.reference)
        if key not in index:
            index[key] = len(actions)
            actions.append(step.reference)
        following[_last_tool(step)][index[key]] += 1
        overall[index[key]] += 1
    if not actions:
        raise ValueError("the training steps have no reference actions")
    return [
        actions[(following.get(_last_tool(step)) or overall).most_common(1)[0][0]] for step in test
    ]


def nearest_actions(train: Sequence[Step], test: Sequence[Step]) -> list[Action]:
    """The reference action of the training step whose request and last messages are most alike."""
    known = [step for step in train if step.reference is not None]
    if not known:
        raise ValueError("the training steps have no reference actions")
    # Takes seconds to import, and evaluations without training steps do not need it.
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=r"[\w']+", sublinear_tf=True, ngram_range=(1, 2))
    train_matrix = vectorizer.fit_transform([_context(step) for step in known])
    similarity = vectorizer.transform([_context(step) for step in test]) @ train_matrix.T
    nearest = np.asarray(similarity.argmax(axis=1)).ravel()
    references = [known[i].reference for i in nearest]
    return [reference for reference in references if reference is not None]


def matches(steps: Sequence[Step], actions: Sequence[Action], level: MatchLevel) -> BoolArray:
    """Whether each action reaches `level` against the step's reference, shape (n,)."""
    return np.array(
        [
            step.reference is not None
            and reaches(match_level(action, step.reference, step.tools), level)
            for step, action in zip(steps, actions, strict=True)
        ],
        dtype=np.bool_,
    )


def _last_tool(step: Step) -> str:
    for message in reversed(step.history):
        if message.get("tool_calls"):
            return str(message["tool_calls"][-1]["function"]["name"])
        if message["role"] == "user":
            return "user"
    return "start"


def _context(step: Step) -> str:
    request = next((m["content"] for m in step.history if m["role"] == "user"), "")
    last = step.history[-1]
    return f"{request} {_last_tool(step)} {last.get('content') or ''} {len(step.history)}"
