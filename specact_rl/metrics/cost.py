"""What a system costs per step, a rejected proposal's fallback included.

Measured costs are tokens, FLOPs and seconds from the outcome tables; `AssumedCosts` are the source
report's constants, shown beside them. FLOPs are counted by formula from measured tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

from specact_rl.metrics.values import IntArray, check_fraction

Count = TypeVar("Count", int, IntArray)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What a model's forward pass costs."""

    num_params: int
    """Parameters that work on each token (of a mixture: the routed ones); 0 where no model runs."""
    attention_width: int = 0
    """Layers x query heads x head size: the width of all queries of a token."""

    def __post_init__(self) -> None:
        """Reject negative sizes."""
        if self.num_params < 0 or self.attention_width < 0:
            raise ValueError(f"sizes must not be negative, got {self!r}")

    def flops(self, start: Count, stop: Count) -> Count:
        """Floating point operations of computing the tokens at positions [start, stop).

        2 N a token, and 4 x attention_width for each token that it attends to, itself included:
        half for the scores, half for the weighted values. The keys and values of what stands before
        `start` are cached. Norms and activations are left out.

        Args:
            start: Position of the first token, one number or an array.
            stop: Position behind the last one, of the same shape.

        Source: Kaplan et al. (2020), section 2.1, for 2 N; Chowdhery et al. (2022), appendix B, for
            attention, here causal instead of over the whole window.
        """
        pairs = stop * (stop + 1) - start * (start + 1)  # twice the pairs of query and key
        total: Count = 2 * self.num_params * (stop - start) + 2 * self.attention_width * pairs
        return total


NO_MODEL = ModelSize(num_params=0)
"""Of a verifier that runs no model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrice:
    """What a hosted model's tokens cost, in US dollars per million."""

    prompt: float
    cached: float
    """Of prompt tokens that the server had read before."""
    completion: float

    def __post_init__(self) -> None:
        """Reject negative prices, and what is none."""
        for name in ("prompt", "cached", "completion"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"the {name} price must be at least 0, got {getattr(self, name)!r}"
                )

    def dollars(self, num_prompt: int, num_cached: int, num_completion: int) -> float:
        """Price of one request; the cached tokens are among those of the prompt."""
        paid = (num_prompt - num_cached) * self.prompt + num_cached * self.cached
        return (paid + num_completion * self.completion) / 1e6


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
