"""Which episodes a run logs, and which splits it measures on."""

from __future__ import annotations

from specact_rl.envs.collect import EpisodePlan, plan_episodes
from specact_rl.presets import Preset
from specact_rl.types import SplitName

EVALUATED: tuple[SplitName, ...] = ("calibration", "test")
TASKS_PER_SEED = 100_000
"""Task seeds of run seed n start at n times this, so that runs share no task."""


def planned_episodes(preset: Preset, seed: int) -> list[EpisodePlan]:
    """The logged episodes of a run: the first policy on every task, the others where it says."""
    first = seed * TASKS_PER_SEED
    plans = plan_episodes(
        preset.policies[:1],
        range(first, first + preset.num_tasks),
        held_out_seeds=range(first, first + preset.num_held_out_tasks),
    )
    if preset.policies[1:]:
        plans += plan_episodes(preset.policies[1:], range(first, first + preset.num_tasks_twice))
    return plans
