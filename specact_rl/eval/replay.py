"""Any system over logged steps, without running a model: joins and array operations.

Exact for single steps with a given history. What a whole episode comes to needs live runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.metrics.call_costs import catch_up_tokens
from specact_rl.metrics.cost import NO_MODEL, ModelSize
from specact_rl.metrics.values import BoolArray, FloatArray, IntArray
from specact_rl.policy.gates import Gate
from specact_rl.policy.systems import System
from specact_rl.types import MatchLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A verifier's view of one proposer's columns."""

    verifier_id: str
    size: ModelSize | None
    """Nothing for a verifier that runs no model; None where it is not known."""
    shares_strong: bool
    """Whether it is the strong model itself, which then reads and acts at every step."""
    log_odds: FloatArray
    """Shape (n, k), NaN where unparsable."""
    seconds: FloatArray
    """Shape (n, k)."""
    price: FloatArray | None = None
    """US dollars, NaN where not known, shape (n, k); None: nobody is paid."""
    knows_labels: bool = False
    """An oracle: it need not read a proposal, so that unparsable and repeated ones, whose labels
    may differ, are offered, too."""

    def take(self, keep: BoolArray) -> Judged:
        """What it says at the chosen steps; `keep` has shape (n,)."""
        return replace(
            self,
            log_odds=self.log_odds[keep],
            seconds=self.seconds[keep],
            price=None if self.price is None else self.price[keep],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRun:
    """What a system did at each of n steps; all arrays of shape (n,)."""

    system: System
    accepted: BoolArray
    """The proposal was executed. All False for a system without a proposer."""
    called: BoolArray
    """The strong model was asked, to act or to judge."""
    pick: IntArray
    """Sample that was offered to the gate."""
    p_accept: FloatArray
    """NaN where there is no gate or nothing to judge."""
    offered: FloatArray
    """Whether the proposal that was put before the gate is acceptable, 1 or 0; NaN where that is
    unknown and, everywhere, for a system without a proposer."""
    parsed: BoolArray
    """Whether that proposal parses. All False for a system without a proposer."""
    acceptable: FloatArray
    """Whether what was executed is acceptable, 1 or 0; NaN where the label is unknown."""
    same_state: FloatArray
    """Likewise."""
    levels: dict[MatchLevel, BoolArray]
    flops: FloatArray
    """Forward FLOPs, attention included; cached prefixes not paid twice. NaN where a model's tokens
    or size are not known."""
    seconds: FloatArray
    """As measured when the outcomes were collected in batches; NaN where not known."""
    price: FloatArray
    """US dollars paid for models; NaN where not known."""
    num_distinct: FloatArray
    """Distinct parsable proposals; 0 without a proposer."""

    @property
    def accept_rate(self) -> float:
        """Share of steps whose proposal was executed."""
        return float(self.accepted.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a system's proposer and verifier put before the gate at each of n steps."""

    distinct: BoolArray
    """Parsable samples that repeat no earlier one, shape (n, num_proposals)."""
    pick: IntArray
    """The sample with the highest log-odds, or without a verifier the first that parses; 0 where
    there is none, shape (n,)."""
    log_odds: FloatArray
    """Of the pick; NaN where nothing could be judged, shape (n,)."""


def offered_proposals(system: System, proposer: ProposalColumns, judged: Judged | None) -> Offer:
    """Choose among a system's proposals.

    Raises:
        ValueError: Fewer samples than the system proposes.
    """
    k = system.num_proposals
    if proposer.acceptable.shape[1] < k:
        raise ValueError(f"system {system.name} needs {k} samples, got {proposer.parsed.shape[1]}")
    distinct = proposer.first_of_its_kind[:, :k]
    n = distinct.shape[0]
    if judged is None:
        return Offer(distinct=distinct, pick=distinct.argmax(axis=1), log_odds=np.full(n, np.nan))
    log_odds = judged.log_odds[:, :k]
    offered = ~np.isnan(log_odds) & (distinct | judged.knows_labels)
    scores = np.where(offered, log_odds, -np.inf)
    pick = scores.argmax(axis=1)
    best = scores[np.arange(n), pick]
    return Offer(distinct=distinct, pick=pick, log_odds=np.where(np.isfinite(best), best, np.nan))


def accept_what_parses(system: System) -> System:
    """The reference for a gated system: its proposals, no verifier, all that parses is executed.

    Of several proposals the first that parses.
    """
    several = f"-{system.num_proposals}" if system.num_proposals > 1 else ""
    role = str(system.proposer).replace("_", "-")
    role = role.removeprefix("cheap") if role.startswith("cheap") else f"-{role}"
    return replace(
        system,
        name=f"parses{role}{several}",
        title="reference: accept what parses, no verifier",
        num_compared=1,
        verifier=None,
    )


def run_system(
    system: System,
    table: StepTable,
    strong: ProposalColumns,
    strong_size: ModelSize | None,
    proposer: ProposalColumns | None = None,
    proposer_size: ModelSize | None = None,
    judged: Judged | None = None,
    gate: Gate | None = None,
) -> SystemRun:
    """Join a system's parts.

    Args:
        system: Which parts there are.
        table: The steps.
        strong: The strong model's columns; its sample 0 is the fallback.
        strong_size: Of the strong model; None where it is not known.
        proposer: Columns of the system's proposer; needed unless it has none.
        proposer_size: Of the proposer; None where it is not known.
        judged: Needed where the system has a verifier.
        gate: Needed where it has a verifier and a fallback.

    Raises:
        ValueError: A part that the system needs is missing.
    """
    n = len(table.steps)
    every = np.ones(n, dtype=np.bool_)
    if system.proposer is None:
        return SystemRun(
            system=system,
            accepted=np.zeros(n, dtype=np.bool_),
            called=every,
            pick=np.zeros(n, dtype=np.int64),
            p_accept=np.full(n, np.nan),
            offered=np.full(n, np.nan),
            parsed=np.zeros(n, dtype=np.bool_),
            acceptable=strong.acceptable[:, 0],
            same_state=strong.same_state[:, 0],
            levels={level: hit[:, 0] for level, hit in strong.levels.items()},
            flops=forward_flops(strong_size, table, strong, every, every[:, None]),
            seconds=strong.seconds[:, 0],
            price=strong.price[:, 0],
            num_distinct=np.zeros(n),
        )
    if proposer is None or (system.verifier is not None and judged is None):
        raise ValueError(f"system {system.name} needs its proposer and verifier")
    offer = offered_proposals(system, proposer, judged)
    offered, pick, p_accept = offer.distinct, offer.pick, np.full(n, np.nan)
    if gate is not None:
        p_accept = gate.p_accept(offer.log_odds)
    drawn = max(system.num_proposals, system.num_compared)
    accepted = _accepted(system, offered, p_accept, gate)
    rows = np.arange(n)
    flops = forward_flops(
        proposer_size, table, proposer, every, np.ones((n, drawn), dtype=np.bool_)
    )
    seconds = proposer.seconds[:, :drawn].sum(axis=1)
    price = proposer.price[:, :drawn].sum(axis=1)
    called = ~accepted if system.fallback else np.zeros(n, dtype=np.bool_)
    if judged is not None:
        # Where the strong model judges, its reading is counted with its own action.
        reads = np.asarray(offered.any(axis=1) & (not judged.shares_strong))
        flops += forward_flops(judged.size, table, proposer, reads, offered)
        if judged.shares_strong:  # it compares with its own best action, which it has to write
            called = every
        seconds = seconds + np.where(offered, judged.seconds[:, : offered.shape[1]], 0.0).sum(
            axis=1
        )
        if judged.price is not None:
            price = price + np.where(offered, judged.price[:, : offered.shape[1]], 0.0).sum(axis=1)
    flops += forward_flops(strong_size, table, strong, called, called[:, None])
    seconds = seconds + np.where(called, strong.seconds[:, 0], 0.0)
    price = price + np.where(called, strong.price[:, 0], 0.0)
    return SystemRun(
        system=system,
        accepted=accepted,
        called=called,
        pick=pick,
        p_accept=p_accept,
        offered=proposer.acceptable[rows, pick],
        parsed=proposer.parsed[rows, pick],
        acceptable=np.where(accepted, proposer.acceptable[rows, pick], strong.acceptable[:, 0]),
        same_state=np.where(accepted, proposer.same_state[rows, pick], strong.same_state[:, 0]),
        levels={
            level: np.where(accepted, hit[rows, pick], strong.levels[level][:, 0])
            for level, hit in proposer.levels.items()
        },
        flops=flops,
        seconds=seconds,
        price=price,
        num_distinct=offered.sum(axis=1).astype(np.float64),
    )


def _accepted(
    system: System, offered: BoolArray, p_accept: FloatArray, gate: Gate | None
) -> BoolArray:
    if not system.fallback:
        return np.ones(offered.shape[0], dtype=np.bool_)  # what was proposed stands, come what may
    if system.verifier is None:
        return np.asarray(offered.any(axis=1))
    if gate is None:
        raise ValueError(f"system {system.name} needs its gate")
    return gate.decide(p_accept)


def forward_flops(
    size: ModelSize | None,
    table: StepTable,
    columns: ProposalColumns,
    reads: BoolArray,
    computed: BoolArray,
) -> FloatArray:
    """Forward FLOPs of one model at each step, shape (n,); NaN where they cannot be counted.

    Args:
        size: Of the model; None where it is not known.
        table: The steps.
        columns: Of the prompts, and of the texts that are written or judged.
        reads: Where the prompt is read, from the model's last reading in the rollout on.
        computed: Which samples are written or judged, each by itself behind the prompt, shape
            (n, number of samples up to the last such).
    """
    if size == NO_MODEL:
        return np.zeros(len(table.steps))
    if size is None or not columns.tokens_known:
        return np.full(len(table.steps), np.nan)
    prompt = columns.prompt_tokens
    unread = catch_up_tokens(prompt, table.rollouts, reads)
    lengths = np.where(computed, columns.completion_tokens[:, : computed.shape[1]], 0)
    start = prompt[:, None]
    total = size.flops(prompt - unread, prompt) + size.flops(start, start + lengths).sum(axis=1)
    return np.asarray(total, dtype=np.float64)
