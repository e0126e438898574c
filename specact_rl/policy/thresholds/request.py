"""A rule with its arguments, as someone asks for it who has scores and labels and no fallback."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specact_rl.errors import ConfigError
from specact_rl.metrics.resampling import Clusters
from specact_rl.metrics.task_loss import TaskLoss
from specact_rl.policy.thresholds.certificates import (
    choose_by_conformal_risk,
    choose_by_target_risk,
    choose_by_task_risk,
)
from specact_rl.policy.thresholds.cuts import ThresholdChoice, ThresholdRule
from specact_rl.policy.thresholds.rules import (
    choose_by_accept_rate,
    choose_by_chow,
    choose_by_cost,
    choose_by_utility,
)

TAKES: dict[ThresholdRule, tuple[str, ...]] = {
    "target_risk": (),
    "task_risk": ("loss",),
    "conformal_risk": ("loss",),
    "accept_rate": ("accept_rate",),
    "utility": ("fallback_accuracy",),
    "chow": ("fallback_accuracy",),
    "cost": ("fallback_accuracy", "budget"),
}
"""Arguments without a default that a rule takes; it needs all of them but `loss`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdRequest:
    """Which rule chooses the threshold, and with what.

    Raises:
        ConfigError: The rule needs an argument that is not given, or takes none that is.
    """

    rule: ThresholdRule = "target_risk"
    target_risk: float = 0.1
    """Of the three risk rules, in (0, 1)."""
    delta: float = 0.1
    """Chance that a promise with confidence is broken, in (0, 1)."""
    loss: TaskLoss | None = None
    """Of a task; None takes the rule's own."""
    accept_rate: float | None = None
    fallback_accuracy: float | None = None
    """Share of rows that the fallback gets right, in [0, 1]; the same for all rows."""
    budget: float | None = None
    """Highest mean cost per row, in units of `fallback_cost`."""
    overhead: float = 0.25
    """Cost of proposing and verifying a row; the source report's 0.15 and 0.10."""
    fallback_cost: float = 1.0
    cost_weight: float = 0.02
    """Accuracy that one unit of cost is worth."""

    def __post_init__(self) -> None:
        """Hold what is given against what the rule takes, and numbers against their ranges."""
        if self.rule not in TAKES:
            raise ConfigError(f"rule must be one of {sorted(TAKES)}, got {self.rule!r}")
        for name in ("loss", "accept_rate", "fallback_accuracy", "budget"):
            given, taken = getattr(self, name) is not None, name in TAKES[self.rule]
            if taken and not given and name != "loss":
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"rule {self.rule!r} needs {name} ({option}), which is not given")
            if given and not taken:
                takers = [rule for rule, names in TAKES.items() if name in names]
                raise ConfigError(f"{name} is for the rules {takers}, got rule {self.rule!r}")
        for name in ("target_risk", "delta"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be in (0, 1), got {getattr(self, name)!r}")
        for name in ("accept_rate", "fallback_accuracy"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} must be in [0, 1], got {value!r}")
        for name in ("budget", "overhead", "fallback_cost", "cost_weight"):
            value = getattr(self, name)
            if value is not None and value < 0.0:
                raise ConfigError(f"{name} must not be negative, got {value!r}")
        if self.rule == "conformal_risk" and self.loss == "wrong_among_accepted":
            raise ConfigError(
                "rule 'conformal_risk' needs a loss that never falls when more is accepted, "
                "'wrong_share' or 'any_wrong', got 'wrong_among_accepted'"
            )

    def choose(
        self, p_accept: ArrayLike, acceptable: ArrayLike, tasks: Clusters, rng: np.random.Generator
    ) -> ThresholdChoice:
        """The threshold on these rows.

        Args:
            p_accept: Calibrated probabilities, shape (n,).
            acceptable: Labels, shape (n,).
            tasks: Task id per row; each its own where rows are independent.
            rng: Draws one row per task for `target_risk`.
        """
        if self.rule == "target_risk":
            return choose_by_target_risk(
                p_accept,
                acceptable,
                target_risk=self.target_risk,
                delta=self.delta,
                clusters=tasks,
                rng=rng,
            )
        if self.rule == "task_risk":
            return choose_by_task_risk(
                p_accept,
                acceptable,
                tasks,
                target_risk=self.target_risk,
                delta=self.delta,
                loss=self.loss or "wrong_among_accepted",
            )
        if self.rule == "conformal_risk":
            return choose_by_conformal_risk(
                p_accept,
                acceptable,
                target_risk=self.target_risk,
                tasks=tasks,
                loss=self.loss or "wrong_share",
            )
        if self.rule == "accept_rate":
            assert self.accept_rate is not None  # as checked
            return choose_by_accept_rate(p_accept, acceptable, accept_rate=self.accept_rate)
        assert self.fallback_accuracy is not None
        if self.rule == "cost":
            assert self.budget is not None
            return choose_by_cost(
                p_accept,
                acceptable,
                self.fallback_accuracy,
                budget=self.budget,
                overhead=self.overhead,
                fallback_cost=self.fallback_cost,
            )
        choose = choose_by_utility if self.rule == "utility" else choose_by_chow
        return choose(
            p_accept,
            acceptable,
            self.fallback_accuracy,
            cost_weight=self.cost_weight,
            fallback_cost=self.fallback_cost,
        )
