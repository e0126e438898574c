"""A gate whose calibrator and threshold are given, as if they had been chosen."""

from specact_rl.policy.calibrators import PlattCalibrator
from specact_rl.policy.gates import Gate
from specact_rl.policy.thresholds import ThresholdChoice


def make_gate(threshold, *, calibrator=None, choice=None, **fields):
    """A gate of the proposer "cheap".

    Args:
        threshold: Least p_accept that is accepted.
        calibrator: None: p_accept is the sigmoid of the log-odds.
        choice: Fields of the threshold's choice, over those here.
        fields: Of the gate, over those here.
    """
    chosen = {
        "threshold": threshold,
        "rule": "utility",
        "num_rows": 10,
        "num_accepted": 5,
        "num_errors": 1,
        "feasible": True,
        "message": "",
    }
    values = {
        "verifier_id": "v",
        "proposer_id": "cheap",
        "calibration_hash": "abc",
        "num_fit_rows": 10,
        "seed": 0,
    }
    return Gate.from_choice(
        calibrator or PlattCalibrator(slope=1.0, intercept=0.0),
        ThresholdChoice(**chosen | (choice or {})),
        **values | fields,
    )
