"""All outcome tables of one split, joined to its steps: what every evaluation reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.replay import Judged
from specact_rl.metrics.cost import ModelSize
from specact_rl.metrics.values import BoolArray
from specact_rl.policy.systems import System

STRONG = "strong"
"""Role of the model that falls back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """All outcome tables of one split, joined to its steps."""

    table: StepTable
    columns: dict[str, ProposalColumns]
    """Free-text proposals by role: cheap, strong, cheap_dpo."""
    judged: dict[tuple[str, str], Judged]
    """By key of the verifier and role of the proposer."""
    sizes: dict[str, ModelSize | None]
    """Of the models, by role; None where it is not known."""

    def take(self, keep: BoolArray) -> Outcomes:
        """Those of the chosen steps; `keep` has shape (n,)."""
        return replace(
            self,
            table=self.table.take(keep),
            columns={role: columns.take(keep) for role, columns in self.columns.items()},
            judged={key: judged.take(keep) for key, judged in self.judged.items()},
        )

    def has(self, system: System) -> bool:
        """Whether all that a system needs was collected."""
        if system.proposer is None:
            return STRONG in self.columns
        if system.proposer not in self.columns:
            return False
        return system.verifier is None or (system.verifier, system.proposer) in self.judged


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """Ranked proposals, which stand apart from free text and may cover fewer steps."""

    table: StepTable
    columns: dict[str, ProposalColumns]
    """By role."""
