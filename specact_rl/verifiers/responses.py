"""What a verifier on hand features learns of whole responses, by one model or several together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from specact_rl.metrics.values import BoolArray, FloatArray
from specact_rl.verifiers.features import READABLE, feature_names
from specact_rl.verifiers.tabular import Arrays, Constant, Linear, Model, Trees, learnable

Kind = Literal["linear", "trees"]
KINDS: Mapping[str, type[Constant] | type[Linear] | type[Trees]] = {
    "constant": Constant,
    "linear": Linear,
    "trees": Trees,
}
STRENGTH = 0.01
"""Of the logistic regression, see `Linear.fit`."""
FOREST: Mapping[str, Any] = {"n_estimators": 120, "min_samples_leaf": 1, "max_features": 0.3}
"""Both were settled by leaving out each family of models of a public leaderboard, and the questions
it was scored on (docs/experiments.md): random thresholds carry over to other models better than
boosted trees do, which lean on whatever tells the training models apart."""
_PARTS = ("calls", "rest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseModel:
    """Calls that can be read are judged by models of their own, and everything else by others.

    They fail for different reasons. Were they learned together, a response in a form that the
    training data do not have (calls in a Markdown fence) would be taken for its calls; apart, it
    is with the texts that could not be read.
    """

    parts: Mapping[str, tuple[Model, ...]]
    """Of "calls" and "rest": models whose log-odds are averaged."""

    @classmethod
    def fit(
        cls, features: FloatArray, labels: BoolArray, *, kinds: Sequence[Kind], seed: int
    ) -> ResponseModel:
        """Fit on rows of `feature_matrix`.

        Args:
            features: Shape (rows, names); further columns may follow.
            labels: Shape (rows,).
            kinds: Which models to average.
            seed: Of the models.

        Raises:
            ValueError: Only one class among the labels.
        """
        if labels.all() or not labels.any():
            raise ValueError(f"both labels are needed, got {labels.size} rows of one")
        called = _are_calls(features)
        parts: dict[str, tuple[Model, ...]] = {}
        for name, rows in zip(_PARTS, (called, ~called), strict=True):
            if learnable(labels[rows]):
                fitted = (_fitted(kind, features[rows], labels[rows], seed) for kind in kinds)
                parts[name] = tuple(fitted)
            else:
                parts[name] = (Constant.fit(labels[rows] if rows.any() else labels),)
        return cls(parts=parts)

    def log_odds(self, features: FloatArray) -> FloatArray:
        """Shape (rows,)."""
        called = _are_calls(features)
        values = np.zeros(features.shape[0])
        for name, rows in zip(_PARTS, (called, ~called), strict=True):
            if rows.any():
                judged = [model.log_odds(features[rows]) for model in self.parts[name]]
                values[rows] = np.mean(judged, axis=0)
        return values

    def arrays(self) -> Arrays:
        """All that it is made of, by part, place, kind and array."""
        found: Arrays = {}
        for part, models in self.parts.items():
            for place, model in enumerate(models):
                kind = next(name for name, of in KINDS.items() if type(model) is of)
                for name, array in model.arrays().items():
                    found[f"{part}.{place}.{kind}.{name}"] = np.ascontiguousarray(array)
        return found

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ResponseModel:
        """Back from `arrays`.

        Raises:
            KeyError: One is missing.
            ValueError: A name that is none.
        """
        grouped: dict[tuple[str, int, str], Arrays] = {}
        for key, array in arrays.items():
            part, place, kind, name = key.split(".")
            grouped.setdefault((part, int(place), kind), {})[name] = array
        parts: dict[str, tuple[Model, ...]] = {}
        for part, _, kind in sorted(grouped):
            model = KINDS[kind].of_arrays(grouped[part, _, kind])
            parts[part] = (*parts.get(part, ()), model)
        if set(parts) != set(_PARTS):
            raise KeyError(f"parts must be {_PARTS}, got {sorted(parts)}")
        return cls(parts=parts)


def _fitted(kind: Kind, features: FloatArray, labels: BoolArray, seed: int) -> Model:
    if kind == "linear":
        return Linear.fit(features, labels, strength=STRENGTH, seed=seed)
    return Trees.fit(features, labels, seed=seed, **FOREST)


def _are_calls(features: FloatArray) -> BoolArray:
    calls: BoolArray = features[:, feature_names().index(READABLE)] == 1.0
    return calls
