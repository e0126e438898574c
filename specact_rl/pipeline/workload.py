"""How much a run will read and write, from its tasks alone: rollouts of some of them, tokenised.

The environment needs no model, so that rows which depend on no model are counted, and not guessed,
where all tasks are rolled out. What depends on what a model writes has a bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from specact_rl.envs.collect import EpisodePlan, scripted_rollouts
from specact_rl.envs.labels import StepLabeller
from specact_rl.metrics.values import IntArray
from specact_rl.mining.rows import FirstRows, note_sft_rows, prompt_keys, sft_step_indices
from specact_rl.mining.splits import assign_splits
from specact_rl.pipeline.artifacts import draw_tasks
from specact_rl.presets import Preset
from specact_rl.rendering import Renderer
from specact_rl.types import SPLITS, Rollout, SplitName

PLANNED_TASKS = 200
"""In-family tasks that are rolled out for a plan; a run with no more is planned exactly."""
_SCALED_ROLLOUTS = 20
_RANKED_ROLLOUTS = 12
"""Rollouts at whose steps candidates are listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRollout:
    """A rolled out episode as numbers; tokens are those of the run, scaled where they must be."""

    task_id: str
    out_of_family: bool
    weight: dict[SplitName, float]
    """How many rollouts of the run it stands for, by the split that they are in."""
    prompts: IntArray
    """Tokens of each step's prompt."""
    turns: IntArray
    """Tokens of each step's right action; of the mean one where none is known."""
    sft: IntArray
    """Steps that make a row, by index."""
    distinct: IntArray
    """Steps whose prompt no earlier step has, by index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The rollouts of a run, or some of them with weights."""

    rollouts: list[PlannedRollout]
    num_tasks: int
    """In-family tasks that were rolled out."""
    exact: bool
    """All of the run's."""
    tokens_per_candidate: float
    candidates_per_step: float
    test_tasks: float
    """In-family ones."""
    ranked_steps: float
    """At which candidates are ranked."""

    def total(
        self, splits: Collection[SplitName], value: Callable[[PlannedRollout], float]
    ) -> float:
        """Sum over all rollouts of the run in some splits."""
        return float(sum(sum(r.weight[s] for s in splits) * value(r) for r in self.rollouts))

    def steps(self, *splits: SplitName) -> float:
        """Steps of the run."""
        return self.total(splits, lambda r: len(r.prompts))

    @property
    def longest_prompt(self) -> int:
        """Tokens."""
        return max(int(r.prompts.max()) for r in self.rollouts)

    @property
    def longest_row(self) -> int:
        """Tokens of a prompt with its right action."""
        return max(int((r.prompts + r.turns).max()) for r in self.rollouts)

    @property
    def most_steps(self) -> int:
        """Of a rollout."""
        return max(len(r.prompts) for r in self.rollouts)

    @property
    def mean_turn(self) -> float:
        """Tokens of a right action."""
        return float(np.concatenate([r.turns for r in self.rollouts]).mean())

    @property
    def mean_steps(self) -> float:
        """Of an in-family rollout."""
        return float(np.mean([len(r.prompts) for r in self.rollouts if not r.out_of_family]))


def plan_workload(
    preset: Preset,
    seed: int,
    plans: list[EpisodePlan],
    renderer: Renderer,
    characters_per_token: float | None,
) -> Workload:
    """Roll out and tokenise the first tasks of a run, all of them where they are few.

    Args:
        preset: What is to be run.
        seed: Of the run.
        plans: All episodes of the run, as `planned_episodes` has them.
        renderer: Of the cheap base, or one in its place.
        characters_per_token: Of the run's tokenizer, where the renderer's is another; None counts
            the renderer's tokens.
    """
    kinds = [(plan.policy, plan.held_out) for plan in plans]
    taken = _first_of_each_kind(kinds)
    chosen = [plans[i] for i in taken]
    exact = len(chosen) == len(plans)
    rollouts = scripted_rollouts(chosen)
    held_out = {r.family for r, plan in zip(rollouts, chosen, strict=True) if plan.held_out}
    rollouts = assign_splits(
        rollouts, fractions=preset.fractions, seed=seed, held_out_families=held_out
    )
    every, some = Counter(kinds), Counter(kinds[i] for i in taken)
    weights = [
        _weights(preset, rollout, every[kinds[i]] / some[kinds[i]], exact)
        for i, rollout in zip(taken, rollouts, strict=True)
    ]
    scale = 1.0
    if characters_per_token is not None:
        scale = _characters_per_token(rollouts, renderer) / characters_per_token
    planned = _as_numbers(rollouts, weights, renderer, scale)
    test = {r.task_id for r, w in zip(rollouts, weights, strict=True) if w["test"]}
    inside = [r for r in rollouts if r.task_id in test and not r.info["out_of_family"]]
    num_inside = len({r.task_id for r in inside})
    test_tasks = num_inside if exact else preset.num_tasks * preset.fractions["test"]
    tasks = set(draw_tasks(inside, preset.num_ranked_tasks, seed))
    ranked = [r for r in inside if r.task_id in tasks]
    per_task = sum(len(r.steps) for r in ranked) / max(1, len(tasks))
    if not exact:  # tasks of more than one policy are a larger part of these than of the run
        steps = sum(len(r.prompts) * r.weight["test"] for r in planned if not r.out_of_family)
        per_task = steps / test_tasks
    candidates, tokens = _candidates(ranked[:_RANKED_ROLLOUTS], renderer, scale)
    return Workload(
        rollouts=planned,
        num_tasks=len({plan.seed for plan in chosen if not plan.held_out}),
        exact=exact,
        tokens_per_candidate=tokens,
        candidates_per_step=candidates,
        test_tasks=test_tasks,
        ranked_steps=per_task * min(preset.num_ranked_tasks, test_tasks),
    )


def _first_of_each_kind(kinds: list[tuple[str, bool]]) -> list[int]:
    """Indices of the first episodes of each policy, in and out of family."""
    seen: Counter[tuple[str, bool]] = Counter()
    taken = []
    for i, kind in enumerate(kinds):
        if seen[kind] < PLANNED_TASKS:
            taken.append(i)
        seen[kind] += 1
    return taken


def _characters_per_token(rollouts: list[Rollout], renderer: Renderer) -> float:
    """Of the renderer's tokenizer, at the last step of some rollouts."""
    steps = [list(rollout.each_step())[-1] for rollout in rollouts[:_SCALED_ROLLOUTS]]
    characters = sum(len(renderer.prompt_text(step)) for step in steps)
    return characters / sum(len(renderer.prompt_ids(step)) for step in steps)


def _weights(
    preset: Preset, rollout: Rollout, stands_for: float, exact: bool
) -> dict[SplitName, float]:
    """A rollout is in its own split where all are rolled out; else in each by its share."""
    if exact or rollout.info["out_of_family"]:
        return {split: stands_for * (split == rollout.split) for split in SPLITS}
    return {split: stands_for * preset.fractions.get(split, 0.0) for split in SPLITS}


def _as_numbers(
    rollouts: list[Rollout],
    weights: list[dict[SplitName, float]],
    renderer: Renderer,
    scale: float,
) -> list[PlannedRollout]:
    first, seen = FirstRows(), set[bytes]()
    for rollout in rollouts:
        note_sft_rows(rollout, "reference", first, Counter())
    planned = []
    for rollout, weight in zip(rollouts, weights, strict=True):
        steps = list(rollout.each_step())
        lengths = [len(prompt.ids) for prompt in renderer.rollout_ids(rollout).prompts()]
        known = [
            len(renderer.completion_ids(step.reference)) if step.reference is not None else 0
            for step in steps
        ]
        keys = prompt_keys(rollout)
        new = [i for i, key in enumerate(keys) if key not in seen]
        seen.update(keys)
        mean = np.mean([n for n in known if n] or [1])
        planned.append(
            PlannedRollout(
                task_id=rollout.task_id,
                out_of_family=bool(rollout.info["out_of_family"]),
                weight=weight,
                prompts=np.ceil(scale * np.array(lengths)).astype(np.int64),
                turns=np.ceil(scale * np.array([n or mean for n in known])).astype(np.int64),
                sft=np.array(sft_step_indices(rollout, "reference", first), dtype=np.int64),
                distinct=np.array(new, dtype=np.int64),
            )
        )
    return planned


def _candidates(rollouts: list[Rollout], renderer: Renderer, scale: float) -> tuple[float, float]:
    """Candidates of a step and tokens of one, on average over some rollouts."""
    counts, tokens = [], []
    for rollout in rollouts:
        labeller = StepLabeller(rollout)
        for step in rollout.each_step():
            actions = labeller.environment_at(step.index).legal_actions()
            counts.append(len(actions))
            tokens += [scale * len(renderer.completion_ids(action)) for action in actions]
    return float(np.mean(counts or [0])), float(np.mean(tokens or [0]))
