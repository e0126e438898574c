"""The gate: a calibrator and a threshold, frozen and bound to what they were fitted on.

`decide` is the one place where a probability becomes a decision, in replay and live alike. The
reference gates beside it know the answers; they bound what any gate could do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.errors import ConfigError
from specact_rl.metrics.values import (
    BoolArray,
    FloatArray,
    as_labels,
    check_fraction,
    check_lengths,
)
from specact_rl.policy.calibrators import Calibrator, calibrator_from_json
from specact_rl.policy.thresholds import ThresholdChoice
from specact_rl.types import Decision

GATE_FORMAT = 1


def decide(p_accept: FloatArray, threshold: float | None) -> BoolArray:
    """True where p_accept >= threshold; an unscored row (NaN) is never accepted.

    Args:
        p_accept: Calibrated probabilities, shape (n,).
        threshold: None accepts nothing.
    """
    if threshold is None:
        return np.zeros(p_accept.shape, dtype=np.bool_)
    accepted: BoolArray = p_accept >= threshold
    return accepted


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What `gate.json` holds. Build it with `Gate.from_choice` or `Gate.from_json`.

    Scores go in as the calibrator was fitted on them: raw log-odds. For a gate of a table of
    probabilities (`specact calibrate --scale probability`) turn them into log-odds first, with
    `eval.score_table.as_log_odds`.
    """

    gate_id: str
    """Hash of everything below."""
    calibrator: Calibrator
    threshold: float | None
    """Accept iff p_accept >= threshold; None accepts nothing."""
    verifier_id: str
    proposer_id: str
    calibration_hash: str
    """Hash of the calibration split's rows."""
    rule: str
    """Rule that chose the threshold."""
    rule_arguments: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Rows behind the gate, by name, for instance num_fit and num_select."""
    message: str = ""
    """The rule's verdict in plain words."""
    seed: int

    @classmethod
    def from_choice(
        cls,
        calibrator: Calibrator,
        choice: ThresholdChoice,
        *,
        verifier_id: str,
        proposer_id: str,
        calibration_hash: str,
        num_fit_rows: int,
        seed: int,
    ) -> Gate:
        """The gate of a fitted calibrator and a chosen threshold."""
        body: dict[str, Any] = {
            "calibrator": calibrator,
            "threshold": choice.threshold,
            "verifier_id": verifier_id,
            "proposer_id": proposer_id,
            "calibration_hash": calibration_hash,
            "rule": choice.rule,
            "rule_arguments": dict(choice.arguments),
            "counts": {
                "num_fit": num_fit_rows,
                "num_select": choice.num_rows,
                "num_select_accepted": choice.num_accepted,
                "num_select_errors": choice.num_errors,
            },
            "message": choice.message,
            "seed": seed,
        }
        return cls(gate_id=_content_hash({**body, "calibrator": calibrator.to_json()}), **body)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Gate:
        """The gate that `to_json` wrote.

        Raises:
            ConfigError: Other format, missing or unknown fields, or contents that were edited.
        """
        if data.get("format") != GATE_FORMAT:
            raise ConfigError(f"gate format must be {GATE_FORMAT}, got {data.get('format')!r}")
        body = {name: value for name, value in data.items() if name not in ("format", "gate_id")}
        expected = {f.name for f in fields(cls)} - {"gate_id"}
        if set(body) != expected:
            raise ConfigError(
                f"a gate must have the fields {sorted(expected)}; missing: "
                f"{sorted(expected - set(body))}, unknown: {sorted(set(body) - expected)}"
            )
        content_hash = _content_hash(body)
        if data.get("gate_id") != content_hash:
            raise ConfigError(
                f"gate_id must be the hash of the gate's contents {content_hash!r}, got "
                f"{data.get('gate_id')!r}: the file was edited; calibrate again instead"
            )
        threshold = body["threshold"]
        if threshold is not None and not isinstance(threshold, int | float):
            raise ConfigError(f"threshold must be a number or null, got {threshold!r}")
        return cls(
            gate_id=content_hash, **{**body, "calibrator": calibrator_from_json(body["calibrator"])}
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; numbers come back bit by bit."""
        body: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"format": GATE_FORMAT, **body, "calibrator": self.calibrator.to_json()}

    def check_matches(
        self,
        *,
        verifier_id: str | None = None,
        proposer_id: str | None = None,
        calibration_hash: str | None = None,
    ) -> None:
        """Raise ConfigError naming what differs from the ids the gate was fitted for.

        An id that is None is not compared.
        """
        found = {
            "verifier_id": verifier_id,
            "proposer_id": proposer_id,
            "calibration_hash": calibration_hash,
        }
        differing = [
            f"{name}: the gate has {getattr(self, name)!r}, this run has {value!r}"
            for name, value in found.items()
            if value is not None and value != getattr(self, name)
        ]
        if differing:
            raise ConfigError(
                f"gate {self.gate_id} was fitted for something else ({'; '.join(differing)}). "
                "A probability means nothing for another model: calibrate again"
            )

    def p_accept(self, log_odds: Sequence[float | None] | FloatArray) -> FloatArray:
        """Calibrated probabilities, shape (n,); NaN where a score is None or NaN."""
        return self.calibrator.predict(log_odds)

    def decide(self, p_accept: FloatArray) -> BoolArray:
        """True where the proposal is accepted, shape (n,)."""
        return decide(p_accept, self.threshold)

    def decide_one(self, log_odds: float | None) -> Decision:
        """The decision on one raw score; None is a proposal that could not be scored."""
        p = self.p_accept([log_odds])
        accept = bool(self.decide(p)[0])
        if np.isnan(p[0]):
            return Decision(accept=accept, p_accept=None, reason="unparsable")
        reason = "accepted" if accept else "below_threshold"
        return Decision(accept=accept, p_accept=float(p[0]), reason=reason)


ReferenceGate = Callable[[BoolArray, BoolArray, float, np.random.Generator], BoolArray]
"""(cheap_correct, strong_correct, accept_rate, rng) -> accepted, all of shape (n,)."""


def reference_gate(
    name: str,
    cheap_correct: ArrayLike,
    strong_correct: ArrayLike,
    *,
    accept_rate: float,
    rng: np.random.Generator,
) -> BoolArray:
    """Decisions of a gate that needs no verifier, shape (n,).

    Args:
        name: One of GATES.
        cheap_correct: Labels of the proposals, shape (n,), all known.
        strong_correct: Labels of the fallback's actions, shape (n,).
        accept_rate: Share to accept, rounded to whole rows; "always" and "never" ignore it.
        rng: Draws rows, and breaks ties among rows that are worth the same.
    """
    if name not in GATES:
        raise ConfigError(f"reference gate must be one of {sorted(GATES)}, got {name!r}")
    c = as_labels(cheap_correct, "cheap_correct")
    s = as_labels(strong_correct, "strong_correct")
    check_lengths(cheap_correct=c, strong_correct=s)
    return GATES[name](c, s, check_fraction(accept_rate, "accept_rate"), rng)


def _always(
    cheap: BoolArray, _strong: BoolArray, _accept_rate: float, _rng: np.random.Generator
) -> BoolArray:
    return np.ones(cheap.shape, dtype=np.bool_)


def _never(
    cheap: BoolArray, _strong: BoolArray, _accept_rate: float, _rng: np.random.Generator
) -> BoolArray:
    return np.zeros(cheap.shape, dtype=np.bool_)


def _random(
    cheap: BoolArray, _strong: BoolArray, accept_rate: float, rng: np.random.Generator
) -> BoolArray:
    return _accept_highest(np.zeros(cheap.size), accept_rate, rng)


def _oracle(
    cheap: BoolArray, strong: BoolArray, accept_rate: float, rng: np.random.Generator
) -> BoolArray:
    return _accept_highest(cheap.astype(np.float64) - strong, accept_rate, rng)


def _worst(
    cheap: BoolArray, strong: BoolArray, accept_rate: float, rng: np.random.Generator
) -> BoolArray:
    return _accept_highest(strong.astype(np.float64) - cheap, accept_rate, rng)


GATES: dict[str, ReferenceGate] = {
    "always": _always,
    "never": _never,
    "random": _random,
    "oracle": _oracle,
    "worst": _worst,
}


def _accept_highest(worth: FloatArray, accept_rate: float, rng: np.random.Generator) -> BoolArray:
    """True for the round(rate x n) rows of highest worth, ties drawn by lot."""
    by_worth = np.lexsort((rng.random(worth.size), -worth))
    accepted = np.zeros(worth.size, dtype=np.bool_)
    accepted[by_worth[: round(accept_rate * worth.size)]] = True
    return accepted


def _content_hash(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
