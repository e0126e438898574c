"""What a system costs per step, a rejected proposal's fallback included.

Measured costs are tokens, FLOPs and seconds from the outcome tables; `AssumedCosts` are the source
report's constants, shown beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specact_rl.metrics.values import check_fraction

SystemLetter = Literal["A", "B", "C", "D", "E"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumedCosts:
    """Cost per call in units of one strong call, as the source report assumed them."""

    cheap: float = 0.15
    """One proposal of the 1.7B model. Leaves out that its prompt is read as well."""
    verifier: float = 0.10
    """One score of the 4B verifier; implied by the report's rows."""
    strong: float = 1.00
    """One call of the 8B model."""

    def __post_init__(self) -> None:
        """Reject negative costs."""
        for name in ("cheap", "verifier", "strong"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"{name} cost must not be negative, got {getattr(self, name)!r}")


def forward_flops(num_params_active: int, num_tokens: int) -> int:
    """Floating point operations of reading or writing tokens, 2·N·tokens; attention left out.

    Args:
        num_params_active: Parameters that work on each token (of a mixture: the routed ones).
        num_tokens: Tokens computed; those whose keys and values were cached do not count.
    """
    if num_params_active < 0 or num_tokens < 0:
        raise ValueError(f"counts must not be negative, got {num_params_active!r}, {num_tokens!r}")
    return 2 * num_params_active * num_tokens


def gated_cost(
    costs: AssumedCosts,
    accept_rate: float,
    *,
    num_proposals: float = 1.0,
    num_scored: float = 1.0,
    fallback: bool = True,
) -> float:
    """Expected cost per step: proposals, their scores, and the strong call on each rejection.

    Args:
        costs: Cost per call.
        accept_rate: Share of steps accepted.
        num_proposals: Proposals made per step.
        num_scored: Proposals scored per step (the distinct ones), on average.
        fallback: False gives the source report's rows, in which a rejected step costs nothing.
    """
    a = check_fraction(accept_rate, "accept_rate")
    tried = num_proposals * costs.cheap + num_scored * costs.verifier
    return tried + (1.0 - a) * costs.strong if fallback else tried


def system_cost(
    system: SystemLetter,
    costs: AssumedCosts,
    *,
    accept_rate: float | None = None,
    num_proposals: int = 3,
    num_scored: float | None = None,
) -> float:
    """Expected cost per step of systems A to E with the fallback paid on each rejection.

    Args:
        system: A strong only, B cheap only, C cheap and a judge, D cheap and a verifier, E several
            proposals of which the verifier picks one.
        costs: Cost per call; for C, `verifier` is the judge's.
        accept_rate: Needed for C, D and E.
        num_proposals: Proposals per step in E.
        num_scored: Distinct proposals per step in E, on average; None means all of them.

    Raises:
        ValueError: No accept rate for a system that has a gate, or an unknown system.
    """
    if system == "A":
        return costs.strong
    if system == "B":
        return costs.cheap
    if system not in ("C", "D", "E"):
        raise ValueError(f"system must be one of A, B, C, D, E, got {system!r}")
    if accept_rate is None:
        raise ValueError(f"system {system} has a gate: accept_rate is needed")
    if system in ("C", "D"):
        return gated_cost(costs, accept_rate)
    scored = float(num_proposals) if num_scored is None else num_scored
    return gated_cost(costs, accept_rate, num_proposals=num_proposals, num_scored=scored)
