"""How often what a gate accepts is wrong, at one threshold and over all of them."""

import datasets
import evaluate
import numpy as np

from specact_rl.metrics.selective import aurc, e_aurc, gate_errors

INPUTS = """
Args:
    predictions: Confidence that a proposal is acceptable, higher is more; probabilities or
        log-odds.
    references: 1 or True where the proposal is acceptable, else 0.
    threshold: Accept iff the confidence is at least this, on the scale of the predictions. Choose
        it on other rows than these. None leaves the numbers of a single gate out.

Returns:
    aurc and e_aurc, and with a threshold accept_rate, selective_risk, false_accept_rate and
    false_reject_rate; None where a share is of nothing, for instance the risk of a gate that
    accepts nothing.
"""


class SelectiveRisk(evaluate.Metric):
    """Risk among the accepted."""

    def _info(self):
        return evaluate.MetricInfo(
            description="Share of unacceptable proposals among those that a gate accepts.",
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("bool")}
            ),
        )

    def _compute(self, predictions, references, threshold=None):
        found = {"aurc": aurc(predictions, references), "e_aurc": e_aurc(predictions, references)}
        if threshold is not None:
            errors = gate_errors(np.asarray(predictions) >= threshold, references)
            found |= {
                name: getattr(errors, name).value
                for name in (
                    "accept_rate",
                    "selective_risk",
                    "false_accept_rate",
                    "false_reject_rate",
                )
            }
        return found
