"""The toolkit's own log format: one `Rollout` as JSON a line."""

from __future__ import annotations

from pathlib import Path

from specact_rl.errors import RolloutFormatError
from specact_rl.logs.groups import LogFlags, unknown_tools
from specact_rl.logs.reading import no_rows
from specact_rl.logs.result import ImportResult, jsonl_files
from specact_rl.store import JsonlRecords
from specact_rl.types import Rollout


def import_native(path: Path) -> ImportResult:
    """Rollouts as they are; nothing is dropped. The log may be larger than memory.

    Raises:
        RolloutFormatError: A file without rollouts, a line that is no rollout, a repeated
            rollout_id, a step that points outside its conversation, or a call of a tool that the
            rollout's catalogue lacks; names path and line.
    """
    rollouts = JsonlRecords(Rollout)
    flags = LogFlags()
    first_seen: dict[str, int] = {}
    for file in jsonl_files(path):
        num_before = len(rollouts)
        for number, rollout in rollouts.add(file):
            where = f"{file}:{number}"
            position = len(rollouts)
            earlier = first_seen.setdefault(rollout.rollout_id, position)
            if earlier != position:
                raise RolloutFormatError(
                    f"{where}: rollout_id must be unique, {rollout.rollout_id!r} is also at "
                    f"{rollouts.where(earlier)}"
                )
            _check_steps(rollout, where)
            flags.add(rollout)
        if len(rollouts) == num_before:
            raise no_rows(file)
    rollouts.change = flags.without_broken_labels
    return ImportResult(rollouts=rollouts, dropped={}, flags=flags.found())


def _check_steps(rollout: Rollout, where: str) -> None:
    limit = len(rollout.messages)
    for i, step in enumerate(rollout.steps):
        if step.index != i:
            raise RolloutFormatError(f"{where}: steps[{i}].index must be {i}, got {step.index!r}")
        if not 0 <= step.message_index <= limit:
            raise RolloutFormatError(
                f"{where}: steps[{i}].message_index must be between 0 and the number of messages, "
                f"{limit}, got {step.message_index!r}"
            )
    for i, side, tool in unknown_tools(rollout):
        raise RolloutFormatError(
            f"{where}: steps[{i}].{side}.tool must be in the rollout's tools, "
            f"{[spec.name for spec in rollout.tools]!r}, got {tool!r}. Add its schema there, with "
            "documented: false if the agent is not shown it; a call that the agent made up is no "
            "action: set executed to null and keep the text in executed_text"
        )
