"""Models on a table of features with holes: boosted trees and a logistic regression, as arrays.

scikit-learn fits them; what is kept, saved and used to predict is plain numpy, so that a saved
verifier holds numbers only, runs no code when it is loaded, and scores as it did before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from specact_rl.metrics.values import BoolArray, FloatArray

Arrays = dict[str, NDArray[Any]]

MIN_ROWS = 40
"""Fewer rows, or fewer than 5 of a label, teach a constant only."""
_MIN_OF_LABEL = 5
_NUM_QUANTILES = 64
_CHUNK = 512


class Model(Protocol):
    """Log-odds from rows of features."""

    def log_odds(self, features: FloatArray) -> FloatArray:
        """Shape (rows,), from (rows, columns)."""

    def arrays(self) -> Arrays:
        """All that it is made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The base rate, where there is too little to learn more."""

    value: float

    @classmethod
    def fit(cls, labels: BoolArray) -> Constant:
        """Log-odds of the share of True, with half a count added to either side."""
        right = float(labels.sum())
        return cls(value=float(np.log((right + 0.5) / (labels.size - right + 0.5))))

    def log_odds(self, features: FloatArray) -> FloatArray:
        """The same for every row."""
        return np.full(features.shape[0], self.value)

    def arrays(self) -> Arrays:
        """All that it is made of."""
        return {"value": np.array([self.value])}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Constant:
        """Back from `arrays`."""
        return cls(value=float(arrays["value"][0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """Logistic regression on ranks among the training rows; a hole counts as the mean rank.

    Ranks, because hand features are counts with long tails: the tenth unknown word of a response
    says less than the first.
    """

    quantiles: FloatArray
    """Sorted training values, shape (columns, quantiles); NaN for a column without any."""
    centre: FloatArray
    weights: FloatArray
    bias: float

    @classmethod
    def fit(cls, features: FloatArray, labels: BoolArray, *, strength: float, seed: int) -> Linear:
        """Fit with an L2 penalty; `strength` is scikit-learn's C, the inverse of its weight."""
        quantiles = np.full((features.shape[1], _NUM_QUANTILES), np.nan)
        for column, values in zip(quantiles, features.T, strict=True):
            known = values[~np.isnan(values)]
            if known.size:
                column[:] = np.quantile(known, np.linspace(0, 1, _NUM_QUANTILES))
        ranks = _ranks(features, quantiles)
        known = ~np.isnan(ranks)
        counts = np.maximum(1, known.sum(axis=0))
        centre = np.nansum(ranks, axis=0) / counts
        filled = np.where(known, ranks - centre, 0.0)
        spread = filled.std(axis=0)
        scale = np.where(spread > 1e-9, spread, 1.0)
        regression = LogisticRegression(C=strength, max_iter=2000, random_state=seed)
        regression.fit(filled / scale, labels)
        return cls(
            quantiles=quantiles,
            centre=centre,
            weights=regression.coef_[0] / scale,
            bias=float(regression.intercept_[0]),
        )

    def log_odds(self, features: FloatArray) -> FloatArray:
        """Shape (rows,), from (rows, columns)."""
        ranks = _ranks(features, self.quantiles)
        filled = np.where(np.isnan(ranks), 0.0, ranks - self.centre)
        # Row by row, so that a row scores the same in any batch.
        sums: FloatArray = np.einsum("ij,j->i", filled, self.weights)
        return sums + self.bias

    def arrays(self) -> Arrays:
        """All that it is made of."""
        return {
            "quantiles": self.quantiles,
            "centre": self.centre,
            "weights": self.weights,
            "bias": np.array([self.bias]),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Linear:
        """Back from `arrays`."""
        return cls(
            quantiles=arrays["quantiles"],
            centre=arrays["centre"],
            weights=arrays["weights"],
            bias=float(arrays["bias"][0]),
        )


def _ranks(features: FloatArray, quantiles: FloatArray) -> FloatArray:
    """Share of the training values below, ties by half, in [0, 1]; NaN stays."""
    ranks = np.full(features.shape, np.nan)
    for i, column in enumerate(quantiles):
        known = ~np.isnan(features[:, i])
        if np.isnan(column[0]) or not known.any():
            continue
        values = features[known, i]
        below = np.searchsorted(column, values, side="left")
        upto = np.searchsorted(column, values, side="right")
        ranks[known, i] = (below + upto) / (2 * column.size)
    return ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """A sum of regression trees. All their nodes in one row of arrays; a leaf's child is itself."""

    feature: NDArray[np.int64]
    threshold: FloatArray
    """A value up to it goes left."""
    hole_left: BoolArray
    """Whether NaN goes left."""
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: FloatArray
    """Log-odds that a leaf adds; 0 at inner nodes."""
    roots: NDArray[np.int64]
    depth: int
    bias: float

    @classmethod
    def fit(cls, features: FloatArray, labels: BoolArray, *, seed: int, **settings: Any) -> Trees:
        """Fit by gradient boosting; settings are those of `HistGradientBoostingClassifier`."""
        usable = np.array([_varies(column) for column in features.T], dtype=bool)
        booster = HistGradientBoostingClassifier(
            early_stopping=False, random_state=seed, **settings
        )
        booster.fit(features[:, usable], labels)
        names = np.flatnonzero(usable)
        trees = [stage[0].nodes for stage in booster._predictors]
        sizes = np.array([nodes.size for nodes in trees])
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
        nodes = np.concatenate(trees)
        offset = np.repeat(roots, sizes)
        leaf = nodes["is_leaf"].astype(bool)
        own = np.arange(nodes.size)
        return cls(
            feature=np.where(leaf, 0, names[nodes["feature_idx"] * ~leaf]),
            threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
            hole_left=nodes["missing_go_to_left"].astype(bool),
            left=np.where(leaf, own, nodes["left"].astype(np.int64) + offset),
            right=np.where(leaf, own, nodes["right"].astype(np.int64) + offset),
            value=np.where(leaf, nodes["value"], 0.0),
            roots=roots,
            depth=int(nodes["depth"].max()),
            bias=float(np.ravel(booster._baseline_prediction)[0]),
        )

    def log_odds(self, features: FloatArray) -> FloatArray:
        """Shape (rows,), from (rows, columns)."""
        parts = [
            self._sum(features[at : at + _CHUNK]) for at in range(0, features.shape[0], _CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _sum(self, features: FloatArray) -> FloatArray:
        rows = np.arange(features.shape[0])[:, None]
        node = np.broadcast_to(self.roots, (features.shape[0], self.roots.size))
        for _ in range(self.depth):
            value = features[rows, self.feature[node]]
            goes_left = np.where(
                np.isnan(value), self.hole_left[node], value <= self.threshold[node]
            )
            node = np.where(goes_left, self.left[node], self.right[node])
        total: FloatArray = self.value[node].sum(axis=1) + self.bias
        return total

    def arrays(self) -> Arrays:
        """All that it is made of."""
        return {
            "feature": self.feature,
            "threshold": self.threshold,
            "hole_left": self.hole_left,
            "left": self.left,
            "right": self.right,
            "value": self.value,
            "roots": self.roots,
            "depth_and_bias": np.array([self.depth, self.bias]),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Trees:
        """Back from `arrays`."""
        names = ("feature", "threshold", "hole_left", "left", "right", "value", "roots")
        depth, bias = arrays["depth_and_bias"]
        return cls(**{name: arrays[name] for name in names}, depth=int(depth), bias=float(bias))


def learnable(labels: BoolArray) -> bool:
    """Whether there are rows enough, of both labels, to learn more than their share."""
    fewer = min(int(labels.sum()), int((~labels).sum()))
    return labels.size >= MIN_ROWS and fewer >= _MIN_OF_LABEL


def _varies(column: FloatArray) -> bool:
    known = column[~np.isnan(column)]
    return bool(known.size) and bool((known != known[0]).any())
