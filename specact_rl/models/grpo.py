"""What GRPO needs beside TRL's trainer: tasks from rows, in an order, with room for an episode.

Knows rows, the workspace and the limits of a run; nothing of the loss.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import AutoConfig
from trl.trainer.grpo_config import GRPOConfig

from specact_rl.envs.episodes import Episode, expert_policy, run_episode
from specact_rl.envs.trl import REWARDS
from specact_rl.envs.workspace.environment import TASK_ID, Workspace
from specact_rl.errors import ConfigError, ModelError
from specact_rl.models.chat_templates import QWEN3_TRAINING
from specact_rl.models.recipe_arguments import RecipeArguments
from specact_rl.models.training import check_columns, row_place
from specact_rl.rendering import Renderer

SPLIT = "train_proposer"
"""Of the tasks that a proposer may play; the others measure it, or teach its verifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpoArguments(RecipeArguments):
    """Weights of the rewards, each of which is logged by itself as `rewards/NAME/mean`."""

    type_match: float = field(
        default=0.2, metadata={"help": "Weight of steps with the expert's action type, [0, 1]."}
    )
    tool_match: float = field(
        default=0.3, metadata={"help": "Weight of steps with its tool as well, [0, 1]."}
    )
    argument_match: float = field(
        default=0.5, metadata={"help": "Weight of steps with its arguments as well, [0, 1]."}
    )
    task_success: float = field(default=1.0, metadata={"help": "Weight of success, 0 or 1."})
    step_cost: float = field(
        default=0.3, metadata={"help": "Weight of wasted steps by the step limit, [-1, 0]."}
    )

    @property
    def reward_weights(self) -> list[float]:
        """In the order of `REWARDS`."""
        return [getattr(self, name) for name in REWARDS]


def check_arguments(arguments: GrpoArguments, training: GRPOConfig) -> None:
    """Refuse what would be ignored, or would leave nothing to learn from.

    Raises:
        ConfigError: Says which.
    """
    if training.reward_weights is not None:
        raise ConfigError(
            f"reward_weights must not be set: give each weight by its name, {', '.join(REWARDS)}"
        )
    if arguments.allow_truncation:
        raise ConfigError(
            "allow_truncation must be off: prompts of whole episodes are not cut; raise "
            "max_completion_length"
        )
    weights = arguments.reward_weights
    if not all(isinstance(w, int | float) and 0 <= w < math.inf for w in weights) or not any(
        weights
    ):
        raise ConfigError(
            f"the weights of {', '.join(REWARDS)} must be numbers from 0 on, one of them above, "
            f"got {weights!r}"
        )
    if training.scale_rewards == "batch":
        # TRL then looks for zero variance in the batch, not in its groups.
        raise ConfigError(
            "scale_rewards must be none or group: with batch, frac_reward_zero_std would say "
            "nothing of the groups"
        )


def task_ids_of(
    rows: Sequence[Mapping[str, Any]], renderer: Renderer, source: str | Path = "data set"
) -> list[str]:
    """Tasks whose first step is among the rows, each once, in the order of the rows.

    Args:
        rows: Any that begin with the prompt of a task's first step, such as `build_sft.py` writes;
            rows of later steps are passed over.
        renderer: That of the model to be trained.
        source: File of the rows, for error messages.

    Raises:
        ConfigError: A task is not of the workspace or not of the proposer's split, or no row is of
            a first step.
        ModelError: A prompt is not what the environment and the renderer make of its task.
    """
    check_columns(rows, ["prompt", "task_id", "step_id", "split", "history_hash"], source)
    found: dict[str, None] = {}
    for i, row in enumerate(rows):
        where, task_id = row_place(source, i, row), str(row["task_id"])
        if row["split"] != SPLIT:
            raise ConfigError(
                f"{where}: tasks must be of split {SPLIT!r}, got {row['split']!r}; the others are "
                "for what comes after the proposer"
            )
        if not TASK_ID.fullmatch(task_id):
            raise ConfigError(
                f"{where}: task_id must be one of the workspace (ws-000012), got {task_id!r}; "
                "no other environment can be played"
            )
        if task_id in found or not str(row["step_id"]).endswith("/0"):
            continue
        step = Episode(Workspace.from_task_id(task_id), "grpo", 0).current_step()
        expected = renderer.prompt_fields(step)["history_hash"]
        if row["history_hash"] != expected:
            raise ModelError(
                f"{where}: history_hash must be {expected!r}, that of the task's prompt, got "
                f"{row['history_hash']!r}. The row was built with another template, catalogue mode "
                "or version of the environment: rebuild the data set"
            )
        found[task_id] = None
    if not found:
        raise ConfigError(f"{source} must have rows of first steps (step_id ends with /0)")
    return list(found)


def check_room(task_ids: Sequence[str], renderer: Renderer, path: str, training: GRPOConfig) -> int:
    """Check that the expert's episode of each task could be sampled, turn by turn.

    Returns:
        Tokens of the longest sequence that may be trained on.

    Raises:
        ConfigError: A limit is too low for it.
        ModelError: The template does not keep earlier turns as they were sampled.
    """
    generation = cast(dict[str, Any], training.generation_kwargs or {})
    turn_limit = int(generation.get("max_new_tokens", 0))
    limit = int(training.max_completion_length or 0)
    longest_prompt = 0
    for task_id in task_ids:
        rollout = run_episode(Workspace.from_task_id(task_id), expert_policy, "expert")
        ids: list[int] = []
        for step in rollout.each_step():
            assert step.executed is not None  # by the expert
            prompt, turn = renderer.prompt_ids(step), renderer.completion_ids(step.executed)
            if prompt[: len(ids)] != ids:
                raise ModelError(
                    f"the template must keep earlier turns as they were sampled, but of {task_id} "
                    f"step {step.index} reads an earlier turn otherwise than it was written. Train "
                    "the proposer with a template that keeps them (sft_proposer.py's "
                    f"chat_template: {QWEN3_TRAINING})"
                )
            if turn_limit and len(turn) > turn_limit:
                raise ConfigError(
                    f"generation_kwargs.max_new_tokens must leave room for the {len(turn)} tokens "
                    f"of the expert's step {step.index} of {task_id}, got {turn_limit}"
                )
            longest_prompt = max(longest_prompt, len(prompt) if not step.index else 0)
            ids = prompt + turn
        needed = len(ids) - len(renderer.prompt_ids(next(rollout.each_step())))
        if needed > limit:
            raise ConfigError(
                f"max_completion_length must leave room for the {needed:,} tokens of the expert's "
                f"episode of {task_id}, answers included, got {limit:,}"
            )
    positions = AutoConfig.from_pretrained(path, trust_remote_code=False).max_position_embeddings
    if longest_prompt + limit > positions:
        raise ConfigError(
            f"prompts of up to {longest_prompt:,} tokens and max_completion_length {limit:,} must "
            f"fit the {positions:,} positions of {path}; lower max_completion_length"
        )
    return longest_prompt + limit


def playing_order(num_tasks: int, training: GRPOConfig) -> list[int]:
    """Which task each group of the run plays: shuffled rounds over all of them, one after another.

    Laid out before training since TRL's sampler begins with its first round again when a run goes
    on in a later one. Ends with a whole batch, as TRL leaves out what does not fill one.
    """
    # TRL has filled these in.
    assert training.generation_batch_size is not None
    assert training.steps_per_generation is not None
    assert training.num_generations is not None
    groups = training.generation_batch_size // training.num_generations
    if training.max_steps > 0:
        updates = training.steps_per_generation * training.num_iterations
        batches = math.ceil(training.max_steps * training.gradient_accumulation_steps / updates)
    else:
        batches = math.ceil(training.num_train_epochs * num_tasks / groups)
    rng = random.Random(f"{training.seed}/playing_order")
    order: list[int] = []
    while len(order) < batches * groups:
        order += rng.sample(range(num_tasks), num_tasks)
    return order[: batches * groups]
