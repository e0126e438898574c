"""Rows of whole episodes → tokens, with the loss on every action of the policy and nothing else.

A row's side is all that follows its first prompt: the policy's turns, and between them what tools
and users answered. Turns are tokenised where inference would have written them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from specact_rl.errors import ConfigError, ModelError
from specact_rl.models.chat_templates import QWEN3_TRAINING
from specact_rl.models.training import TokenRow, check_columns, row_place, token_rows
from specact_rl.rendering import Renderer, check_prompt
from specact_rl.types import Message, Rollout, StepRecord, ToolSpec

Level = Literal["step", "trajectory"]
"""What the sides of a pair are: one action each, or the rest of an episode."""
LEVELS: tuple[Level, ...] = get_args(Level)


def side_rows(
    rows: Sequence[Mapping[str, Any]],
    renderer: Renderer,
    level: Level,
    source: str | Path = "data set",
) -> list[list[TokenRow]]:
    """Tokens of each pair's chosen and rejected side.

    Raises:
        ConfigError: Rows of the other level, or without a column.
        ModelError: A row was rendered otherwise than `renderer` does, or the template does not
            keep earlier turns as they were.
    """
    columns = ("chosen", "rejected")
    check_columns(rows, ["prompt", *columns], source)
    if level == "trajectory":
        return [
            [
                trajectory_row(row, row[name], renderer, f"{row_place(source, i, row)}, {name}")
                for name in columns
            ]
            for i, row in enumerate(rows)
        ]
    for i, row in enumerate(rows):
        longest = max(len(row[name]) for name in columns)
        if longest > 1:
            raise ConfigError(
                f"{row_place(source, i, row)}: a side must be one action, got {longest} messages; "
                "pairs of whole episodes are trained on with level: trajectory"
            )
    return token_rows(rows, renderer, columns, source)


def trajectory_row(
    row: Mapping[str, Any], messages: Sequence[Message], renderer: Renderer, where: str
) -> TokenRow:
    """Tokens of a prompt and all that follows it, the loss on the assistant's turns.

    Args:
        row: Columns of the prompt, as `Renderer.prompt_fields` builds them.
        messages: What follows; ends with an assistant message.
        renderer: That of the model to be trained.
        where: What errors begin with.

    Raises:
        ConfigError: The last message is another one, or rows bring tools beside a compact
            catalogue.
        ModelError: The prompt was rendered otherwise, or earlier turns are not kept.
    """
    if renderer.catalogue == "compact" and row.get("tools"):
        raise ConfigError(
            f"{where}: rows with a `tools` column need catalogue 'template', got 'compact' (there "
            "the tools are in the system message)"
        )
    if not messages or messages[-1]["role"] != "assistant":
        raise ConfigError(f"{where}: an episode must end with an assistant message")
    start = len(row["prompt"])
    ends = [start + i for i, message in enumerate(messages) if message["role"] == "assistant"]
    conversation = Rollout(
        rollout_id="",
        task_id="",
        family="",
        policy="",
        trial=0,
        messages=[*row["prompt"], *messages],
        tools=[ToolSpec(**tool["function"]) for tool in row.get("tools") or ()],
        steps=[StepRecord(index=i, message_index=end, executed=None) for i, end in enumerate(ends)],
    )
    tokens = renderer.rollout_ids(conversation)
    prompt = tokens.prompt_ids(0)
    check_prompt(row, prompt, where)
    under_loss = [False] * len(tokens.ids)
    stop = 0
    for length, end in zip(tokens.prompt_lengths, ends, strict=True):
        turn = renderer.message_completion_ids(conversation.messages[end])
        if length is None or tokens.ids[length : length + len(turn)] != turn:
            raise ModelError(
                f"{where}: a turn must read in its episode as it does at inference, but message "
                f"{end} does not: the chat template changes earlier turns. Train the "
                f"proposer with one that keeps them (sft_proposer.py's chat_template: "
                f"{QWEN3_TRAINING}), or take pairs of single actions (level: step)"
            )
        stop = length + len(turn)
        under_loss[length:stop] = [True] * len(turn)
    return TokenRow(
        prompt=prompt,
        completion=tokens.ids[len(prompt) : stop],
        under_loss=tuple(under_loss[len(prompt) : stop]),
        where=where,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOnTurns:
    """A collator of pairs that takes the loss off what the policy did not write.

    TRL's DPO trainer puts it on all that follows the prompt, tool results included.
    """

    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]
    masks: Mapping[tuple[int, ...], tuple[int, ...]]
    """By the tokens of a whole sequence, 1 where the loss is on."""

    @classmethod
    def of(
        cls,
        collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]],
        rows: Sequence[TokenRow],
    ) -> LossOnTurns:
        """Over `collate`, for batches of these sequences."""
        return cls(
            collate=collate,
            masks={
                tuple(row.ids): (
                    *(0 for _ in row.prompt),
                    *map(int, row.under_loss or (True,) * len(row.completion)),
                )
                for row in rows
            },
        )

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch with the loss on the policy's turns alone.

        Raises:
            ModelError: The trainer made a sequence that is none of ours.
        """
        batch = self.collate(rows)
        ids: Tensor = batch["input_ids"]
        present = batch["attention_mask"].bool()
        mask: Tensor = batch["completion_mask"]
        for i in range(len(ids)):
            known = self.masks.get(tuple(ids[i][present[i]].tolist()))
            if known is None:
                raise ModelError(
                    "a trainer must train on the tokens of inference, but made another sequence of "
                    "an episode than the renderer; options that change the template must be off"
                )
            mask[i, present[i]] = mask.new_tensor(known)
        return batch
