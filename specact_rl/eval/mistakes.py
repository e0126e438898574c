"""The most confident mistakes of a gate: what it accepted and should not have, and the reverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from specact_rl.actions.serialise import shown_text
from specact_rl.eval.columns import ProposalColumns, StepTable
from specact_rl.eval.replay import SystemRun
from specact_rl.metrics.values import BoolArray, FloatArray
from specact_rl.types import Message, Proposal

NUM_EACH = 100
"""Mistakes of each kind that are kept."""
MAX_TEXT = 400
"""Characters of a text that are kept; what is cut off shows as an ellipsis."""


def headline_system(runs: Mapping[str, SystemRun]) -> str | None:
    """The system whose mistakes are listed: D, else the first with a gate; None without a gate."""
    gated = [name for name, run in runs.items() if run.system.gated]
    return "D" if "D" in gated else next(iter(gated), None)


def mistake_rows(
    runs: Mapping[str, SystemRun], table: StepTable, columns: Mapping[str, ProposalColumns]
) -> list[dict[str, Any]]:
    """Accepted and wrong by the highest p_accept, then rejected and right by the lowest.

    Steps whose proposal has no label or no score are in neither list. Of steps with the same
    probability the first ones are kept.

    Args:
        runs: By the system's name.
        table: The steps.
        columns: By role; the strong model's among them.
    """
    name = headline_system(runs)
    if name is None:
        return []
    run = runs[name]
    kinds = {
        "accepted_wrong": _first(run.accepted & (run.offered == 0.0), -run.p_accept),
        "rejected_right": _first(~run.accepted & (run.offered == 1.0), run.p_accept),
    }
    proposer, strong = columns[str(run.system.proposer)], columns["strong"]
    rows = []
    for kind, found in kinds.items():
        for i in found:
            step, offered = table.steps[i], proposer.proposals[i][run.pick[i]]
            rows.append(
                {
                    "system": name,
                    "kind": kind,
                    "p_accept": float(run.p_accept[i]),
                    "step_id": step.step_id,
                    "task_id": step.task_id,
                    "action_type": _action_type(offered),
                    "request": _shortened(_request(step.history)),
                    "last": _shortened(_last(step.history)),
                    "proposal": _shortened(offered.text),
                    "fallback": _shortened(strong.proposals[i][0].text),
                    "fallback_acceptable": (
                        None if np.isnan(strong.acceptable[i, 0]) else bool(strong.acceptable[i, 0])
                    ),
                    "reference": (
                        None if step.reference is None else _shortened(shown_text(step.reference))
                    ),
                }
            )
    return rows


def _first(chosen: BoolArray, key: FloatArray) -> list[int]:
    """Indices of the chosen steps with a score, by rising key."""
    found = np.flatnonzero(chosen & ~np.isnan(key))
    return [int(i) for i in found[np.argsort(key[found], kind="stable")][:NUM_EACH]]


def _action_type(proposal: Proposal) -> str | None:
    """Of its first action; None where it has none."""
    actions = [proposal.action] if proposal.action else proposal.actions
    return actions[0].type if actions else None


def _request(history: Sequence[Message]) -> str:
    return next((str(m.get("content") or "") for m in history if m["role"] == "user"), "")


def _last(history: Sequence[Message]) -> str:
    return str(history[-1].get("content") or "") if history else ""


def _shortened(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= MAX_TEXT else one_line[: MAX_TEXT - 1] + "…"
