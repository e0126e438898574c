"""A verifier of what accepting gains over the fallback: C - S, not C.

Thresholding P(C | x) is Chow's decision only where P(C | x) - P(S | x) rises with it. Where the
fallback errs on the very proposals that are likely wrong, or is right wherever the proposal is,
something that estimates the difference itself has to decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from specact_rl.metrics.cost import NO_MODEL, ModelSize
from specact_rl.metrics.values import BoolArray, FloatArray
from specact_rl.verifiers.base import Item, Judgements
from specact_rl.verifiers.features import feature_matrix, has_response
from specact_rl.verifiers.free import free_judgements
from specact_rl.verifiers.responses import ResponseModel
from specact_rl.verifiers.tabular import Constant
from specact_rl.verifiers.trees import arrays_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class DifferenceVerifier:
    """The mean difference E[C - S | x] as P(only C is right) - P(only S is right).

    Three classes, each of the two that matter against the rest, by the models of `TreesVerifier` on
    the same features. A regression on C - S would give its rows of 0, mostly five in six, the
    weight; two classifiers, of C and of S, would learn what the two have in common twice, and their
    difference the errors of both.

    What it calls log-odds is that of (1 + E[C - S]) / 2: 0 where accepting and falling back are
    worth the same.
    """

    verifier_id: str
    only_cheap: ResponseModel | Constant = field(repr=False)
    only_strong: ResponseModel | Constant = field(repr=False)
    size: ModelSize = NO_MODEL

    @classmethod
    def fit(
        cls, items: Sequence[Item], cheap_right: BoolArray, strong_right: BoolArray, *, seed: int
    ) -> DifferenceVerifier:
        """Fit on items at which both labels are known; those without any response are left out.

        Args:
            items: Proposals.
            cheap_right: Whether each is right, shape (n,).
            strong_right: Whether the strong model is, on the same step, shape (n,).
            seed: Of the models.

        Raises:
            ValueError: The two never differ, so that there is nothing to learn.
        """
        known = [i for i, item in enumerate(items) if has_response(item)]
        c, s = (np.asarray(right, dtype=np.bool_)[known] for right in (cheap_right, strong_right))
        if not (c != s).any():
            raise ValueError(f"the two models must differ somewhere, got {c.size} rows of one kind")
        features = feature_matrix([items[i] for i in known])
        gain, loss = _fitted(features, c & ~s, seed), _fitted(features, s & ~c, seed)
        arrays = {f"gain.{name}": array for name, array in gain.arrays().items()}
        arrays |= {f"loss.{name}": array for name, array in loss.arrays().items()}
        return cls(
            verifier_id=f"difference-{arrays_digest(arrays)}", only_cheap=gain, only_strong=loss
        )

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of (1 + E[C - S]) / 2 of each item; NaN without any response."""
        values = np.full(len(items), np.nan)
        known = [i for i, item in enumerate(items) if has_response(item)]
        if known:
            features = feature_matrix([items[i] for i in known])
            gain, loss = (
                special.expit(model.log_odds(features))
                for model in (self.only_cheap, self.only_strong)
            )
            values[known] = special.logit((1.0 + gain - loss) / 2.0)
        return free_judgements(values)


def _fitted(features: FloatArray, labels: BoolArray, seed: int) -> ResponseModel | Constant:
    """Constant where there is one class only."""
    if labels.all() or not labels.any():
        return Constant.fit(labels)
    return ResponseModel.fit(features, labels, kinds=("trees", "linear"), seed=seed)
