"""What each gated system would come to at other thresholds, for looking at and not for choosing.

The thresholds lie at quantiles of the test probabilities, beside the frozen one: what is read off
here at any other than the frozen one was chosen on test data and is no result.

The curve of `value_report` is another one: on a grid that looks at no test row and over resampled
tasks, so that it has intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from specact_rl.eval.columns import ProposalColumns
from specact_rl.eval.labelled import known
from specact_rl.eval.replay import Judged, SystemRun
from specact_rl.eval.system_report import assumed_cost
from specact_rl.metrics.call_costs import CallCosts
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.frontier import agreement_rates, oracle_gate, random_gate, worst_gate
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray
from specact_rl.policy.gates import Gate

MAX_POINTS = 101
"""Thresholds of a curve, the frozen one among them."""


def curve_rows(
    runs: Mapping[str, SystemRun],
    gates: Mapping[str, Gate],
    judged: Mapping[tuple[str, str], Judged],
    rollouts: IntArray,
    strong: ProposalColumns,
    strong_size: ModelSize | None,
) -> list[dict[str, Any]]:
    """One row per gated system, whose lists go from accepting nothing to accepting all it can.

    Args:
        runs: By the system's name; A among them.
        gates: The frozen gates, by system.
        judged: By key of the verifier and role of the proposer.
        rollouts: Rollout number per step, ascending, shape (n,).
        strong: The strong model's columns.
        strong_size: Of the strong model; None where it is not known.
    """
    calls = fallback_costs(strong, strong_size, rollouts)
    return [
        {"system": name, **_curve(run, runs["A"], gates[name].threshold, calls, always_called)}
        for name, run in runs.items()
        if run.system.gated and name in gates
        for always_called in [
            judged[str(run.system.verifier), str(run.system.proposer)].shares_strong
        ]
    ]


def fallback_costs(
    strong: ProposalColumns, size: ModelSize | None, rollouts: IntArray
) -> CallCosts | None:
    """FLOPs of the strong model's calls, its sample 0 being the fallback; None where not known.

    Args:
        strong: The strong model's columns.
        size: Of the strong model.
        rollouts: Rollout number per step, ascending, shape (n,).
    """
    if size is None or not strong.tokens_known:
        return None
    prompt = strong.prompt_tokens
    end = prompt + strong.completion_tokens[:, 0]
    return CallCosts(
        reading=np.asarray(size.flops(np.zeros_like(prompt), prompt), dtype=np.float64),
        writing=np.asarray(size.flops(prompt, end), dtype=np.float64),
        rollouts=rollouts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """The thresholds of a curve, by number: number c accepts the steps of codes >= c."""

    codes: IntArray
    """Rank of each step's probability among the distinct ones; -1 without one, shape (n,)."""
    num_values: int
    """Distinct probabilities; the threshold of this number accepts nothing."""
    chosen: IntArray
    """Numbers of the curve's thresholds, falling, shape (k,)."""
    frozen: int
    """Place of the gate's own threshold among the chosen."""
    thresholds: list[float | None]
    """Shape (k,); None accepts nothing."""

    @classmethod
    def of(cls, p_accept: FloatArray, frozen: float | None) -> Cuts:
        """About even steps of the accept rate, and the gate's own threshold exactly."""
        scored = ~np.isnan(p_accept)
        values, inverse = np.unique(p_accept[scored], return_inverse=True)
        codes = np.full(p_accept.size, -1, dtype=np.int64)
        codes[scored] = inverse
        number = values.size if frozen is None else int(np.searchsorted(values, frozen))
        num_accepted = _sums_from(scored, codes, values.size)
        wanted = np.linspace(0.0, num_accepted[0], MAX_POINTS - 1)
        # The strictest threshold that accepts at least as many.
        found = values.size - np.searchsorted(num_accepted[::-1], wanted)
        chosen = np.unique(np.append(found, number))[::-1].astype(np.int64)
        place = int(np.flatnonzero(chosen == number)[0])
        thresholds = [None if c == values.size else float(values[c]) for c in chosen]
        thresholds[place] = frozen
        return cls(
            codes=codes,
            num_values=int(values.size),
            chosen=chosen,
            frozen=place,
            thresholds=thresholds,
        )

    def accepted(self, weights: FloatArray | BoolArray) -> FloatArray:
        """Sum of the weights of the accepted steps at each threshold, shape (k,)."""
        return _sums_from(weights, self.codes, self.num_values)[self.chosen]


def _sums_from(weights: FloatArray | BoolArray, codes: IntArray, num_values: int) -> FloatArray:
    """Sum of the weights of codes >= c, by c from 0 to num_values."""
    by_code = np.bincount(codes + 1, weights.astype(np.float64), num_values + 2)[1:]
    return np.asarray(np.cumsum(by_code[::-1])[::-1], dtype=np.float64)


def _curve(
    run: SystemRun,
    strong_only: SystemRun,
    frozen: float | None,
    calls: CallCosts | None,
    always_called: bool,
) -> dict[str, Any]:
    """A curve without its system's name."""
    n, cuts = run.p_accept.size, Cuts.of(run.p_accept, frozen)
    offered_known, strong_known = known(run.offered), known(strong_only.acceptable)
    offered, strong = np.nan_to_num(run.offered), np.nan_to_num(strong_only.acceptable)
    accepted_known, accepted_right = cuts.accepted(offered_known), cuts.accepted(offered)
    right = accepted_right + strong.sum() - cuts.accepted(strong)
    labelled = accepted_known + strong_known.sum() - cuts.accepted(strong_known)
    num_accepted = cuts.accepted(np.ones(n))
    rates = num_accepted / n
    assumed = [assumed_cost(run, float(rate)) for rate in rates]
    return {
        "n": n,
        "frozen": cuts.frozen,
        "threshold": cuts.thresholds,
        "num_accepted": num_accepted.astype(np.int64).tolist(),
        "accept_rate": rates.tolist(),
        "selective_risk": _ratios(accepted_known - accepted_right, accepted_known),
        "acceptable": _ratios(right, labelled),
        "strong_calls": (np.ones(rates.size) if always_called else 1.0 - rates).tolist(),
        "relative_flops": _relative_flops(run, strong_only, calls, cuts, always_called),
        "assumed_cost": None if None in assumed else assumed,
        **_envelopes(run, strong_only, cuts),
    }


def _ratios(above: FloatArray, below: FloatArray) -> list[float | None]:
    return [float(a / b) if b else None for a, b in zip(above, below, strict=True)]


def _relative_flops(
    run: SystemRun, strong_only: SystemRun, calls: CallCosts | None, cuts: Cuts, always_called: bool
) -> list[float] | None:
    total, reference = float(run.flops.sum()), float(strong_only.flops.sum())
    if calls is None or not (np.isfinite(total) and reference > 0.0):
        return None
    if always_called:
        return [total / reference] * cuts.chosen.size
    of_calls = calls.totals(cuts.codes, cuts.num_values)[cuts.chosen]
    return [float(f) for f in (total - of_calls[cuts.frozen] + of_calls) / reference]


def _envelopes(run: SystemRun, strong_only: SystemRun, cuts: Cuts) -> dict[str, list[float] | None]:
    """What random, best and worst gates of the same accept rates and proposals would come to.

    Over the steps whose proposal and fallback are both labelled; None where there is none.
    """
    gates = {"random_gate": random_gate, "oracle_gate": oracle_gate, "worst_gate": worst_gate}
    here = known(run.offered, strong_only.acceptable)
    if not here.any():
        return dict.fromkeys(gates)
    rates = agreement_rates(run.offered[here] == 1.0, strong_only.acceptable[here] == 1.0)
    shares = cuts.accepted(here) / here.sum()
    return {name: [gate(rates, float(a)) for a in shares] for name, gate in gates.items()}
