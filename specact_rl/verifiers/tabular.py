"""Models on a table of features with holes: a forest and a logistic regression, as arrays.

scikit-learn fits them; what is kept, saved and used to predict is plain numpy, so that a saved
verifier holds numbers only, runs no code when it is loaded, and scores as it did before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression

from specact_rl.metrics.values import BoolArray, FloatArray

Arrays = dict[str, NDArray[Any]]

MIN_ROWS = 40
"""Fewer rows, or fewer than 5 of a label, teach a constant only."""
_MIN_OF_LABEL = 5
_NUM_QUANTILES = 64
_CHUNK = 256
_LEAST_SHARE = 0.002
_NODE_ARRAYS = ("feature", "threshold", "hole_left", "left", "right", "share", "roots")


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
    """A forest of extremely randomised trees: the mean of their leaves' shares of True.

    All their nodes in one row of arrays; a leaf's children are itself.
    """

    feature: NDArray[np.int32]
    threshold: FloatArray
    """A value up to it goes left."""
    hole_left: BoolArray
    """Whether NaN goes left."""
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    share: NDArray[np.float32]
    """Share of True among the training rows of a node."""
    roots: NDArray[np.int32]
    depth: int

    @classmethod
    def fit(cls, features: FloatArray, labels: BoolArray, *, seed: int, **settings: Any) -> Trees:
        """Fit; settings are those of `ExtraTreesClassifier`."""
        usable = np.array([_varies(column) for column in features.T], dtype=bool)
        forest = ExtraTreesClassifier(random_state=seed, **settings)
        forest.fit(features[:, usable], labels)
        names = np.flatnonzero(usable)
        trees = [estimator.tree_ for estimator in forest.estimators_]
        sizes = np.array([tree.node_count for tree in trees])
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        offset = np.repeat(roots, sizes)
        left = np.concatenate([tree.children_left for tree in trees])
        right = np.concatenate([tree.children_right for tree in trees])
        leaf, own = left < 0, np.arange(left.size)
        counts = np.concatenate([tree.value[:, 0] for tree in trees])
        column = np.concatenate([tree.feature for tree in trees])
        return cls(
            feature=names[np.where(leaf, 0, column)].astype(np.int32),
            threshold=np.where(leaf, 0.0, np.concatenate([tree.threshold for tree in trees])),
            hole_left=np.concatenate([t.missing_go_to_left for t in trees]).astype(bool),
            left=np.where(leaf, own, left + offset).astype(np.int32),
            right=np.where(leaf, own, right + offset).astype(np.int32),
            share=(counts[:, 1] / counts.sum(axis=1)).astype(np.float32),
            roots=roots.astype(np.int32),
            depth=max(tree.max_depth for tree in trees),
        )

    def log_odds(self, features: FloatArray) -> FloatArray:
        """Shape (rows,), from (rows, columns); finite, since no share counts as 0 or 1."""
        shares = np.zeros(features.shape[0])
        values = features.astype(np.float32)  # as the library compares them
        for at in range(0, features.shape[0], _CHUNK):
            shares[at : at + _CHUNK] = self._mean(values[at : at + _CHUNK])
        shares = np.clip(shares, _LEAST_SHARE, 1 - _LEAST_SHARE)
        odds: FloatArray = np.log(shares / (1 - shares))
        return odds

    def _mean(self, features: NDArray[np.float32]) -> FloatArray:
        rows = np.arange(features.shape[0])[:, None]
        node = np.broadcast_to(self.roots, (features.shape[0], self.roots.size))
        for _ in range(self.depth):
            value = features[rows, self.feature[node]]
            goes_left = np.where(
                np.isnan(value), self.hole_left[node], value <= self.threshold[node]
            )
            node = np.where(goes_left, self.left[node], self.right[node])
        mean: FloatArray = self.share[node].mean(axis=1, dtype=np.float64)
        return mean

    def arrays(self) -> Arrays:
        """All that it is made of."""
        found = {name: getattr(self, name) for name in _NODE_ARRAYS}
        return found | {"depth": np.array([self.depth])}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Trees:
        """Back from `arrays`."""
        nodes = {name: arrays[name] for name in _NODE_ARRAYS}
        return cls(**nodes, depth=int(arrays["depth"][0]))


def learnable(labels: BoolArray) -> bool:
    """Whether there are rows enough, of both labels, to learn more than their share."""
    fewer = min(int(labels.sum()), int((~labels).sum()))
    return labels.size >= MIN_ROWS and fewer >= _MIN_OF_LABEL


def _varies(column: FloatArray) -> bool:
    known = column[~np.isnan(column)]
    return bool(known.size) and bool((known != known[0]).any())
