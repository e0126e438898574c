"""Costs of systems, and what they are under other prices.

Relative costs are in steps of system A, the strong model alone.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from specact_rl.eval.results_schema.parts import Metric, Part


class Cost(Part):
    """What a system takes in one unit, relative to A, by who is paid."""

    relative: Metric
    """All together."""
    proposer: float
    """Its part."""
    verifier: float
    """Its part."""
    strong: float
    """Its part."""
    wasted: Metric | None = None
    """Share of the cost that went into proposals that were not executed; null: none is made."""


class CostRow(Part):
    """One system in all units; a unit is null where it is not known."""

    name: str
    """Of the system."""
    n: int
    """Steps."""
    assumed: Cost | None = None
    """The source report's price list; null: other models propose."""
    flops: Cost | None = None
    """Forward FLOPs."""
    seconds: Cost | None = None
    """As measured when outcomes were collected in batches."""
    price: Cost | None = None
    """US dollars."""


class CallPrices(Part):
    """Price of one call at a factor of 1, in strong calls of A."""

    proposer: float | None
    """Of a proposal; null: not known."""
    verifier: float | None
    """Of a judgement; null: not known, or nothing is paid."""
    strong: float | None
    """1 by definition."""


class Tornado(Part):
    """Cost relative to A when one role's price is halved, and when it is doubled."""

    proposer: list[float]
    """Two numbers, in this order."""
    verifier: list[float]
    """Likewise."""
    strong: list[float]
    """Likewise."""


class PricedSystem(Part):
    """One system at the given prices."""

    name: str
    """Of the system."""
    acceptable: float
    """Accuracy where all systems' labels are known."""
    proposer: float
    """Cost relative to A."""
    verifier: float
    """Likewise."""
    strong: float
    """Likewise."""
    tornado: Tornado
    """At other prices."""


class ParetoStretch(Part):
    """A range of factors in which the Pareto set is the same."""

    from_: float = Field(alias="from")
    """Factor of the price."""
    to: float | None
    """null: all above."""
    systems: list[str]
    """By rising cost."""


class BestStretch(Part):
    """A range of factors in which one system has the most accuracy less the worth of its cost."""

    from_: float = Field(alias="from")
    """Factor of the price."""
    to: float | None
    """null: all above."""
    system: str
    """Its name."""


class AgainstA(Part):
    """At which factors of a price a system is cheaper than A."""

    system: str
    """Its name."""
    cheaper: Literal["below", "above", "always", "never"]
    """On which side of `at`."""
    at: Metric | None
    """The factor; null: always or never."""


class PriceAxis(Part):
    """What changes when the price of one role is multiplied."""

    role: Literal["proposer", "verifier", "strong"]
    """Whose price."""
    pareto: list[ParetoStretch]
    """From factor 0 up."""
    best: list[BestStretch]
    """From factor 0 up."""
    against_a: list[AgainstA]
    """Of each other system."""
    factors: list[float]
    """At which resamples were counted. Empty: no system pays this role."""
    on_pareto: dict[str, list[float]]
    """By system, share of resamples in which it is on the Pareto set, at each factor; those that
    never are, are left out."""
    best_share: dict[str, list[float]]
    """Likewise, in which it is the best."""


class Sensitivity(Part):
    """At which prices the order of the systems turns, in one unit of cost."""

    unit: Literal["assumed", "flops", "price"]
    """As in the rows of `costs`."""
    cost_weight: float
    """Accuracy that a strong call is worth where one system is called the best."""
    n: int
    """Steps at which every system's label is known."""
    num_clusters: int
    """Tasks."""
    note: str | None
    """What to mind of intervals; null: nothing."""
    num_resamples: int
    """Draws of tasks."""
    base: CallPrices
    """What is multiplied."""
    systems: list[PricedSystem]
    """Those whose cost is known, but oracles and panels."""
    axes: list[PriceAxis]
    """By role."""
