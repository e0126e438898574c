"""Verdicts on D's trained verifier: what it adds to the free ones, and whether it is calibrated."""

from __future__ import annotations

from collections.abc import Iterator

from specact_rl.eval.report.blocks import Finding, Status
from specact_rl.eval.report.lookup import part, verifier, verifier_title
from specact_rl.eval.report.numbers import JSON, detectable, direction, fixed, metric, say

ALPHA = 0.05


def gain_over_free(results: JSON) -> Iterator[Finding]:
    """Did training a verifier pay, beside what costs nothing?"""
    row = verifier(results, "D")
    gains = {
        verifier_title(name): gain
        for name in part(row or {}, "gain_over")
        if (gain := metric(part(row or {}, "gain_over"), name)) is not None
    }
    if row is None or not gains:
        return
    sides = {name: direction(gain) for name, gain in gains.items()}
    beaten = [name for name, side in sides.items() if side == "above"]
    lost = [name for name, side in sides.items() if side == "below"]
    unclear = [name for name, side in sides.items() if side == "open"]
    status: Status = "against" if lost else "open" if unclear else "shown"
    if lost:
        claim = f"The trained verifier is worse than {_and(lost)}, which costs nothing."
    elif unclear:
        claim = f"It is not shown that the trained verifier beats {_and(unclear)}."
    else:
        claim = f"The trained verifier beats every free one ({_and(beaten)})."
    told = [f"{name} {say(gain, signed=True)}" for name, gain in gains.items()]
    auroc = say(metric(row, "auroc"))
    evidence = f"AUROC {auroc}, n = {row['n']} proposals; gain over {'; over '.join(told)}."
    limits = [
        f"{fixed(size, 3)} over {name}"
        for name in unclear
        if (size := detectable(gains[name])) is not None
    ]
    if limits:
        evidence += f" Smaller true gains than about {_and(limits)} would mostly go unseen."
    yield Finding(status=status, claim=claim, evidence=evidence)


def calibration(results: JSON) -> Iterator[Finding]:
    """Are D's probabilities right, and do they say anything?"""
    row = verifier(results, "D")
    error, skill = metric(row, "debiased_ece"), metric(row, "brier_skill")
    if row is None or error is None or error.value is None:
        return
    band = part(row, "null_band")
    evidence = f"Debiased ECE {fixed(error.value, 3)}, n = {row['n']}"
    status: Status = "open"
    claim = "Whether D's probabilities are calibrated cannot be told."
    if band.get("high") is not None:
        evidence += (
            f"; perfectly calibrated probabilities give {fixed(band['low'], 3)} to "
            f"{fixed(band['high'], 3)} (p = {fixed(band['p_value'], 3)})"
        )
        if error.value > band["high"]:
            status, claim = "against", "D's probabilities are miscalibrated on the test split."
        elif band["p_value"] <= ALPHA:
            claim = "D's probabilities are at the edge of what chance explains."
        else:
            claim = "It is not shown that D's probabilities are miscalibrated."
    evidence += "."
    if skill is not None and skill.value is not None:
        evidence += f" Brier skill {fixed(skill.value, 2)}"
        evidence += (
            ": the probabilities say no more than the base rate does."
            if skill.value <= 0.0
            else " over always saying the base rate."
        )
    yield Finding(status=status, claim=claim, evidence=evidence)


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
