"""A forest, beside a logistic regression, on hand features: trains on a CPU in seconds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from specact_rl.errors import ConfigError
from specact_rl.metrics.cost import NO_MODEL, ModelSize
from specact_rl.metrics.values import BoolArray
from specact_rl.store import atomic_write, read_json, write_json
from specact_rl.verifiers.base import Item, Judgements
from specact_rl.verifiers.features import feature_matrix, feature_names, has_response
from specact_rl.verifiers.free import free_judgements
from specact_rl.verifiers.responses import ResponseModel

_WEIGHTS, _CONFIG = "trees.safetensors", "verifier.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TreesVerifier:
    """The mean log-odds of a forest and a logistic regression on hand features.

    Judges all that says something, text that could not be parsed included: no gate accepts that,
    but a score over all responses has to count it. The two are averaged because they err
    differently on models that neither has seen (docs/experiments.md).
    """

    verifier_id: str
    model: ResponseModel = field(repr=False)
    size: ModelSize = NO_MODEL

    @classmethod
    def fit(cls, items: Sequence[Item], acceptable: BoolArray, *, seed: int) -> TreesVerifier:
        """Fit on labelled items; those without any response are left out.

        Raises:
            ValueError: Only one class among the labels.
        """
        known = [i for i, item in enumerate(items) if has_response(item)]
        features = feature_matrix([items[i] for i in known])
        labels = np.asarray(acceptable, dtype=bool)[known]
        return cls.of(ResponseModel.fit(features, labels, kinds=("trees", "linear"), seed=seed))

    @classmethod
    def of(cls, model: ResponseModel) -> TreesVerifier:
        """The verifier of a fitted model, named after its arrays."""
        return cls(verifier_id=f"trees-{arrays_digest(model.arrays())}", model=model)

    def judge(self, items: Sequence[Item]) -> Judgements:
        """Log-odds of each item; NaN without any response."""
        values = np.full(len(items), np.nan)
        known = [i for i, item in enumerate(items) if has_response(item)]
        if known:
            values[known] = self.model.log_odds(feature_matrix([items[i] for i in known]))
        return free_judgements(values)

    def save(self, folder: Path) -> None:
        """Write arrays and the names of the features, nothing else."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / _WEIGHTS) as temporary:
            save_file(self.model.arrays(), temporary)
        write_json(
            folder / _CONFIG,
            {
                "kind": "trees",
                "verifier_id": self.verifier_id,
                "features": list(feature_names()),
            },
        )

    @classmethod
    def load(cls, folder: Path) -> TreesVerifier:
        """Back from `save`; scores as it did.

        Raises:
            ConfigError: Not such a folder, of other features than this version computes, or
                changed since.
        """
        config = read_json(folder / _CONFIG)
        if not isinstance(config, dict) or config.get("kind") != "trees":
            raise ConfigError(f"{folder / _CONFIG} must say kind 'trees': not a saved verifier")
        if config.get("features") != list(feature_names()):
            raise ConfigError(
                f"{folder} was fitted on other features than this version computes; fit it again"
            )
        try:
            verifier = cls.of(ResponseModel.of_arrays(load_file(folder / _WEIGHTS)))
        except (OSError, SafetensorError, KeyError, ValueError, IndexError) as error:
            raise ConfigError(f"{folder / _WEIGHTS} cannot be read: {error}") from error
        if verifier.verifier_id != config.get("verifier_id"):
            raise ConfigError(
                f"{folder / _WEIGHTS} holds {verifier.verifier_id}, but {_CONFIG} names "
                f"{config.get('verifier_id')}: the folder was changed after it was saved"
            )
        return verifier


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Hash of named arrays: of what a model is made of."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
