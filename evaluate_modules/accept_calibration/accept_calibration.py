"""Whether p_accept means what it says: calibration and discrimination of a verifier."""

import datasets
import evaluate
import numpy as np

from specact_rl.metrics import METRICS
from specact_rl.metrics.calibration import brier_skill_interval
from specact_rl.metrics.discrimination import auroc_interval
from specact_rl.metrics.null_bands import calibration_null_band

INPUTS = """
Args:
    predictions: Calibrated probabilities that a proposal is acceptable, in [0, 1]; not log-odds.
    references: 1 or True where the proposal is acceptable, else 0. Proposals with an unknown label
        are left out by the caller, who says how many.
    clusters: Id of the task that each proposal belongs to. With it AUROC and Brier skill get 95 %
        intervals over resampled tasks, as `_low` and `_high`.
    null_draws: Data sets with perfectly calibrated labels to draw for the null band of the ECE, as
        `ece_null_low` and `_high`; 0 leaves it out.
    seed: Of all draws.

Returns:
    One number by name, those of `specact_rl.metrics.METRICS` first; None where a number is not
    defined on these rows, for instance AUROC with one class only.
"""


class AcceptCalibration(evaluate.Metric):
    """All metrics of probabilities against labels, by name."""

    def _info(self):
        return evaluate.MetricInfo(
            description="\n".join(f"{name}: {metric.summary}" for name, metric in METRICS.items()),
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("bool")}
            ),
        )

    def _compute(self, predictions, references, clusters=None, null_draws=0, seed=0):
        found = {
            name: metric.compute(predictions, references).value for name, metric in METRICS.items()
        }
        of_tasks, of_nulls = np.random.default_rng(seed).spawn(2)
        if clusters is not None:
            intervals = {
                "auroc": auroc_interval(predictions, references, clusters),
                "brier_skill": brier_skill_interval(
                    predictions, references, clusters, rng=of_tasks
                ),
            }
            for name, value in intervals.items():
                found |= {f"{name}_low": value.low, f"{name}_high": value.high}
        if null_draws:
            band = calibration_null_band(
                predictions, references, rng=of_nulls, num_draws=null_draws
            )
            found |= {"ece_null_low": band.low, "ece_null_high": band.high}
        return found
