"""Choosing where to cut: accept iff p_accept >= threshold.

Thresholds come from calibration rows that the calibrator was not fitted on, never from the rows
that are reported.
"""

from specact_rl.policy.thresholds.bounds import (
    accepted_needed,
    binomial_p_values,
    conformal_step,
    default_start_count,
    fixed_sequence,
    hoeffding_bentkus_p_values,
    max_errors_allowed,
    min_certifiable_count,
)
from specact_rl.policy.thresholds.certificates import (
    choose_by_conformal_risk,
    choose_by_target_risk,
    choose_by_task_risk,
    one_row_per_cluster,
)
from specact_rl.policy.thresholds.cuts import ThresholdChoice, ThresholdRule
from specact_rl.policy.thresholds.feasibility import (
    Feasibility,
    TargetCertificates,
    certify,
    feasibility,
)
from specact_rl.policy.thresholds.request import ThresholdRequest
from specact_rl.policy.thresholds.rules import (
    choose_by_accept_rate,
    choose_by_chow,
    choose_by_cost,
    choose_by_utility,
    chow_accepts,
)

__all__ = [
    "Feasibility",
    "TargetCertificates",
    "ThresholdChoice",
    "ThresholdRequest",
    "ThresholdRule",
    "accepted_needed",
    "binomial_p_values",
    "certify",
    "choose_by_accept_rate",
    "choose_by_chow",
    "choose_by_conformal_risk",
    "choose_by_cost",
    "choose_by_target_risk",
    "choose_by_task_risk",
    "choose_by_utility",
    "chow_accepts",
    "conformal_step",
    "default_start_count",
    "feasibility",
    "fixed_sequence",
    "hoeffding_bentkus_p_values",
    "max_errors_allowed",
    "min_certifiable_count",
    "one_row_per_cluster",
]
