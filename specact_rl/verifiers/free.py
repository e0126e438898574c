"""Verifiers that cost next to nothing: what a trained one has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from specact_rl.actions.canonical import proposal_hash
from specact_rl.metrics.cost import NO_MODEL, ModelSize
from specact_rl.metrics.values import BoolArray, FloatArray
from specact_rl.store import content_hash
from specact_rl.verifiers.base import Item, Judgements
from specact_rl.verifiers.features import feature_matrix, has_response
from specact_rl.verifiers.features.step import confidence, no_logprob, step_features
from specact_rl.verifiers.responses import ResponseModel


def free_judgements(log_odds: Sequence[float] | FloatArray) -> Judgements:
    """Judgements that took no token."""
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
        """Log p / (1 - p) of the proposal under its own model; NaN where it is not known.

        Raises:
            ModelError: It is known of none of the actions.
        """
        actions = [item for item in items if item.proposal.action is not None]
        if actions and all(item.proposal.logprob is None for item in actions):
            raise no_logprob(actions[0])
        return free_judgements([confidence(item) for item in items])


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleAgreement:
    """The share of the proposer's samples at this step that are the same action."""

    verifier_id: str = "sample_agreement"
    size: ModelSize = NO_MODEL

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of the share, with half a count added to either side."""
        return free_judgements([_agreement(item) for item in items])


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearVerifier:
    """Logistic regression on hand features; trains in seconds.

    Of one action at a step (items without `response`) it reads the action beside its history
    (`step_features`), and unparsable proposals have no score. Of logged responses (items with
    `response`) it reads all that `hand_features` knows, unparsable text included. Which of the two
    is settled by the items it was fitted on. No task family, no model name: a verifier in use
    knows neither.
    """

    verifier_id: str
    model: StepModel | ResponseModel = field(repr=False)
    size: ModelSize = NO_MODEL

    @classmethod
    def fit(
        cls, items: Sequence[Item], acceptable: BoolArray, *, with_confidence: bool, seed: int
    ) -> LinearVerifier:
        """Fit on labelled items; those that it could not judge are left out.

        Args:
            items: Steps, or logged responses.
            acceptable: Shape (items,).
            with_confidence: Whether the proposer's log-probability is one of the features; logged
                responses have none.
            seed: Of the fit.

        Raises:
            ValueError: Only one class among the labels, or logged responses with confidence.
        """
        labels = np.asarray(acceptable, dtype=bool)
        if any(item.response is not None for item in items):
            if with_confidence:
                raise ValueError("logged responses have no confidence: with_confidence=False")
            known = [i for i, item in enumerate(items) if has_response(item)]
            features = feature_matrix([items[i] for i in known])
            model = ResponseModel.fit(features, labels[known], kinds=("linear",), seed=seed)
            weights = content_hash(
                {
                    name: array.tolist()
                    for name, array in model.arrays().items()
                    if "weights" in name
                }
            )
            return cls(verifier_id=f"linear-{weights}", model=model)
        step_model = StepModel.fit(items, labels, with_confidence=with_confidence, seed=seed)
        name = "linear_with_confidence" if with_confidence else "linear"
        weights = content_hash([float(w) for w in step_model.pipeline[-1].coef_[0]])
        return cls(verifier_id=f"{name}-{weights}", model=step_model)

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of each item."""
        values = np.full(len(items), np.nan)
        of_steps = isinstance(self.model, StepModel)
        known = [
            i
            for i, item in enumerate(items)
            if (item.proposal.action is not None if of_steps else has_response(item))
        ]
        if known:
            chosen = [items[i] for i in known]
            values[known] = (
                self.model.log_odds(chosen)
                if isinstance(self.model, StepModel)
                else self.model.log_odds(feature_matrix(chosen))
            )
        return free_judgements(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """The regression on an action beside its history."""

    pipeline: Pipeline = field(repr=False)
    with_confidence: bool
    """Whether the proposer's log-probability is one of the features."""

    @classmethod
    def fit(
        cls, items: Sequence[Item], labels: BoolArray, *, with_confidence: bool, seed: int
    ) -> StepModel:
        """Fit on the items that are one action.

        Raises:
            ValueError: Only one class among their labels.
        """
        known = [i for i, item in enumerate(items) if item.proposal.action is not None]
        labels = labels[known]
        if labels.all() or not labels.any():
            raise ValueError(f"both labels are needed, got {len(known)} rows of one")
        features = _matrix([items[i] for i in known], with_confidence)
        pipeline = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=2000, random_state=seed)
        )
        pipeline.fit(features, labels)
        return cls(pipeline=pipeline, with_confidence=with_confidence)

    def log_odds(self, items: Sequence[Item]) -> FloatArray:
        """Of items that are one action."""
        values: FloatArray = self.pipeline.decision_function(_matrix(items, self.with_confidence))
        return values


def _agreement(item: Item) -> float:
    target = proposal_hash(item.proposal, item.step.tools)
    if target is None:
        return math.nan
    same = sum(proposal_hash(s, item.step.tools) == target for s in item.siblings)
    return math.log((same + 0.5) / (len(item.siblings) - same + 0.5))


def _matrix(items: Sequence[Item], with_confidence: bool) -> FloatArray:
    rows = [step_features(item, with_confidence) for item in items]
    return np.asarray([list(row.values()) for row in rows], dtype=np.float64)
