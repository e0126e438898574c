"""What the numbers come to, in plain words: one sentence each, and the evidence beside it.

A claim is "shown" only when its whole 95 % interval is on one side (and, for a declared contrast,
when it survives Holm's correction). An interval that includes 0 is "not shown", never "equal"; a
missing interval is "cannot say", never evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from specact_rl.eval.report import (
    certificate_sections,
    model_verdicts,
    study_sections,
    system_verdicts,
    verifier_verdicts,
)
from specact_rl.eval.report.blocks import Finding
from specact_rl.eval.report.numbers import JSON


def verdicts(results: JSON) -> list[str]:
    """Every verdict that the results allow, as one line of text each."""
    return [finding.text for finding in findings(results)]


def findings(results: JSON) -> list[Finding]:
    """The same with claim, evidence and status apart."""
    return [finding for judge in JUDGES for finding in judge(results)]


def headlines(results: JSON) -> list[Finding]:
    """The claims that a reader asks about first, without their evidence."""
    return [replace(finding, evidence="") for judge in FIRST for finding in judge(results)]


FIRST: tuple[Callable[[JSON], Iterator[Finding]], ...] = (
    system_verdicts.accuracy_of_d,
    system_verdicts.cost_of_d,
    system_verdicts.gate_of_d,
    verifier_verdicts.gain_over_free,
    verifier_verdicts.calibration,
    certificate_sections.promise_of_d,
)
"""Is D right as often as A, what does it cost, is its verifier worth it, what can it promise?"""
JUDGES: tuple[Callable[[JSON], Iterator[Finding]], ...] = (
    model_verdicts.cheap_against_baselines,
    system_verdicts.strong_against_cheap,
    study_sections.doubts_about_log,
    system_verdicts.accuracy_of_d,
    system_verdicts.cost_of_d,
    system_verdicts.gate_of_d,
    study_sections.gates_at_half,
    verifier_verdicts.gain_over_free,
    verifier_verdicts.worth_of_verifiers,
    verifier_verdicts.difference_target,
    verifier_verdicts.ranking,
    verifier_verdicts.calibration,
    study_sections.unseen_models,
    system_verdicts.several_proposals,
    model_verdicts.preference_training,
    system_verdicts.replay_against_live,
    model_verdicts.new_families,
    system_verdicts.degenerate_gates,
)
"""In the order of the report."""
