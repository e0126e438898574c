"""Where things are in a results dict whose every part may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specact_rl.eval.report.numbers import JSON, metric
from specact_rl.metrics.frontier import AgreementRates
from specact_rl.metrics.values import MetricValue

EXACT = 1e-9
"""Rates that differ by less than this are one."""
MAIN_SYSTEMS = ("A", "B", "C", "D", "E", "B-dpo", "D-dpo")
"""Systems in the shorter tables and verdicts; the others are variations."""
VERIFIER_TITLES = {
    "classifier": "trained verifier",
    "reward_model": "reward model",
    "strong_judge": "strong judge",
    "proposer_logprob": "own confidence",
    "sample_agreement": "agreement of samples",
    "linear": "linear features",
    "linear_with_confidence": "linear + confidence",
    "trees": "trees on hand features",
    "trained": "trained verifier",
    "trained_unseen": "trained verifier, its family unseen",
    "model_agreement": "agreement of models",
    "difference": "verifier of the difference",
}


def part(results: JSON, *keys: str) -> Any:
    """The list or dict at a path; an empty dict when it is missing."""
    found: Any = results
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found or {}


def rows(results: JSON, *keys: str) -> list[JSON]:
    """The list of rows at a path; empty when it is missing."""
    return list(part(results, *keys))


def system(results: JSON, name: str) -> JSON | None:
    """A system's row of the replay table."""
    return _named(rows(results, "replay", "systems"), "name", name)


def contrast(results: JSON, better: str, worse: str, level: str = "acceptable") -> JSON | None:
    """A declared contrast of two systems; `level` says what counts as right."""
    found = [
        row
        for row in rows(results, "replay", "contrasts")
        if row.get("better") == better and row.get("level", "acceptable") == level
    ]
    return _named(found, "worse", worse)


def accepts_what_parses(results: JSON, row: JSON | None) -> JSON | None:
    """The reference that executes whatever parses of the proposals that a system's gate gets."""
    wanted = {key: (row or {}).get(key) for key in ("proposer", "num_proposals")}
    if None in wanted.values():
        return None
    return next(
        (
            reference
            for reference in rows(results, "replay", "references")
            if all(reference.get(key) == value for key, value in wanted.items())
        ),
        None,
    )


def verifier(results: JSON, of_system: str) -> JSON | None:
    """The verifier's row of a gated system."""
    return _named(rows(results, "replay", "verifiers"), "system", of_system)


def proposer(results: JSON, role: str) -> JSON | None:
    """A proposer's row."""
    return _named(rows(results, "replay", "proposers"), "role", role)


def verifier_title(name: str) -> str:
    """A verifier's key as a reader would say it."""
    return VERIFIER_TITLES.get(name, name.replace("_", " "))


def action_type_title(name: str) -> str:
    """An action type as a reader would say it: the type `verifier` is no verifier."""
    return {"verifier": "verification", "BLOCKED": "blocked"}.get(name, name.replace("_", " "))


def has_families_held_out(results: JSON) -> bool:
    """Whether the test split has task families that no model was trained on.

    Systems, verifiers and contrasts are measured on the others then.
    """
    return any(part(row, "families", "out_of_family") for row in rows(results, "replay", "systems"))


def overhead(results: JSON) -> float | None:
    """FLOPs of D's proposing and verifying alone, in units of the strong model alone.

    System D without a fallback does just that. It is also the accept rate at which D breaks even
    if a fallback costs what an average strong call does.
    """
    found = metric(system(results, "D-nf"), "relative_flops")
    return None if found is None else found.value


def cost_key(results: JSON) -> str:
    """What cost is read from: FLOPs where they are known, else the share of strong calls."""
    known = any(metric(row, "relative_flops") for row in rows(results, "replay", "systems"))
    return "relative_flops" if known else "strong_calls"


def all_parse(results: JSON) -> bool:
    """Whether every proposal that a gate gets can be read, so that no part of a gate is parsing."""
    gated = [
        rate
        for row in rows(results, "replay", "systems")
        if (rate := row.get("parse_rate")) is not None
    ]
    return bool(gated) and min(gated) >= 1.0


def as_elsewhere(m: MetricValue | None, other: MetricValue | None) -> MetricValue | None:
    """The other one where both are one number: a page gives it one interval, not two."""
    if m is None or other is None or m.value is None or other.value is None:
        return m
    return other if abs(m.value - other.value) < EXACT and m.n == other.n else m


def accept_rate(row: JSON | None) -> float | None:
    """A system's accept rate; None where it has no proposer."""
    found = metric(row, "accept_rate")
    return None if found is None else found.value


def agreement(results: JSON) -> AgreementRates | None:
    """How often D's proposer and its fallback are right, and right alone; None if not known."""
    joint = part(results, "replay", "value", "joint")
    if joint:
        both, cheap_alone, strong_alone = (
            float(joint[key]) for key in ("both", "only_cheap", "only_strong")
        )
        return AgreementRates(
            cheap=both + cheap_alone,
            strong=both + strong_alone,
            only_cheap=cheap_alone,
            only_strong=strong_alone,
        )
    peak = (system(results, "D") or {}).get("peak_oracle")
    cheap, strong = (metric(system(results, name), "acceptable") for name in ("B", "A"))
    if peak is None or cheap is None or strong is None:
        return None
    if cheap.value is None or strong.value is None:
        return None
    # Any right answer picked: strong + only_cheap. Both right: cheap - only_cheap.
    only_cheap = max(0.0, float(peak) - strong.value)
    return AgreementRates(
        cheap=cheap.value,
        strong=strong.value,
        only_cheap=only_cheap,
        only_strong=max(0.0, strong.value - cheap.value + only_cheap),
    )


def _named(found: list[JSON], key: str, name: str) -> JSON | None:
    return next((row for row in found if row.get(key) == name), None)
