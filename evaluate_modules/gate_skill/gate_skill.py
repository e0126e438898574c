"""What a gate adds to two models: accuracy above a random gate of its own accept rate."""

import datasets
import evaluate
import numpy as np

from specact_rl.metrics.frontier import (
    agreement_rates,
    gate_skill_interval,
    gated_accuracy,
    oracle_gate,
    random_gate,
    worst_gate,
)
from specact_rl.metrics.frontier import gate_skill as skill_of

INPUTS = """
Args:
    predictions: 1 or True where the gate accepted the cheap model's proposal.
    references: 1 or True where that proposal is acceptable.
    strong_references: 1 or True where the strong model's action is, on the same steps.
    clusters: Id of the task that each step belongs to. With it the skill gets a 95 % interval over
        resampled tasks, as `skill_low` and `skill_high`.
    seed: Of the draws.

Returns:
    accuracy of the system, its skill (above the random gate), accept_rate, and the accuracies of
    the reference gates: never, always, random, oracle and worst, the last three at this accept
    rate.
"""


class GateSkill(evaluate.Metric):
    """A gate beside its reference gates."""

    def _info(self):
        label = datasets.Value("bool")
        return evaluate.MetricInfo(
            description="Covariance of a gate's decisions with what accepting gains.",
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": label, "references": label, "strong_references": label}
            ),
        )

    def _compute(self, predictions, references, strong_references, clusters=None, seed=0):
        rates = agreement_rates(references, strong_references)
        accept_rate = float(np.mean(predictions))
        found = {
            "accuracy": gated_accuracy(predictions, references, strong_references),
            "skill": skill_of(predictions, references, strong_references),
            "accept_rate": accept_rate,
            "never": float(np.mean(strong_references)),
            "always": float(np.mean(references)),
            "random": random_gate(rates, accept_rate),
            "oracle": oracle_gate(rates, accept_rate),
            "worst": worst_gate(rates, accept_rate),
        }
        if clusters is not None:
            value = gate_skill_interval(
                predictions,
                references,
                strong_references,
                clusters,
                rng=np.random.default_rng(seed),
            )
            found |= {"skill_low": value.low, "skill_high": value.high}
        return found
