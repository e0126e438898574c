"""A run's joined outcomes as one evaluation table, which `specact evaluate` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from specact_rl.actions.canonical import proposal_hash
from specact_rl.actions.serialise import shown_text
from specact_rl.eval.evaluation_table import SIZES_KEY
from specact_rl.eval.joined import Outcomes
from specact_rl.metrics.values import FloatArray
from specact_rl.store import atomic_write
from specact_rl.types import SplitName, Step


def export_outcomes(outcomes: Mapping[SplitName, Outcomes], path: Path) -> int:
    """Write the outcomes of some splits as a Parquet file; returns the number of rows.

    Evaluated with the same seed, resamples and systems it gives the same numbers, but for steps out
    of reach, which it does not have and so does not count.

    Args:
        outcomes: By split.
        path: Replaced where it exists.
    """
    rows: dict[str, list[Any]] = {}
    sizes: dict[str, dict[str, int]] = {}
    verifiers = sorted({key for found in outcomes.values() for key, _ in found.judged})
    for split, found in outcomes.items():
        for role, columns in found.columns.items():
            size = found.sizes[role]
            if size is not None:
                sizes[columns.model_id] = asdict(size)
            scores = {key: found.judged.get((key, role)) for key in verifiers}
            for key, judged in scores.items():
                if judged is not None and judged.size is not None:
                    sizes[key] = asdict(judged.size)
            for i, (step, samples) in enumerate(
                zip(found.table.steps, columns.proposals, strict=True)
            ):
                of_step = _step_cells(split, i, step, bool(found.table.out_of_family[i]))
                for proposal in samples:
                    k = proposal.sample
                    cells = of_step | {
                        "model": columns.model_id,
                        "sample": k,
                        "acceptable": proposal.acceptable,
                        "parsed": proposal.parsed,
                        "action_hash": proposal_hash(proposal, step.tools),
                        "action_type": proposal.action.type if proposal.action else None,
                        "tool": proposal.action.tool if proposal.action else None,
                        "effect": str(columns.effects[i, k]) or None,
                        "match_level": proposal.match_level,
                        "same_state": proposal.same_state,
                        "logprob": proposal.logprob,
                        "num_prompt_tokens": proposal.num_prompt_tokens,
                        "num_completion_tokens": proposal.num_completion_tokens,
                        "seconds": proposal.seconds,
                        "price": proposal.price,
                        "tool_seconds": proposal.tool_seconds,
                        "text": proposal.text,
                    }
                    for key, judged in scores.items():
                        cells[f"log_odds_{key}"] = judged and _cell(judged.log_odds, i, k)
                        cells[f"seconds_{key}"] = judged and _cell(judged.seconds, i, k)
                    for name, cell in cells.items():
                        rows.setdefault(name, []).append(cell)
    table = pa.table(rows)
    table = table.select([n for n in table.column_names if table.column(n).null_count < len(table)])
    table = table.replace_schema_metadata({SIZES_KEY: json.dumps(sizes)})
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary)
    return int(table.num_rows)


def _step_cells(split: SplitName, order: int, step: Step, out_of_family: bool) -> dict[str, Any]:
    request = next((m.get("content") for m in step.history if m["role"] == "user"), None)
    return {
        "step_id": step.step_id,
        "task_id": step.task_id,
        "rollout_id": step.rollout_id,
        "step_index": step.index,
        "step_order": order,
        "split": split,
        "family": step.family,
        "out_of_family": out_of_family,
        "reference_type": step.reference.type if step.reference else None,
        "request": None if request is None else str(request),
        "last_message": str(step.history[-1].get("content") or "") if step.history else None,
        "reference": shown_text(step.reference) if step.reference else None,
    }


def _cell(values: FloatArray, step: int, sample: int) -> float | None:
    value = float(values[step, sample])
    return None if np.isnan(value) else value
