"""Step → chat messages → tokens: the one place text is built, for training and inference alike.

Knows the tokenizer and its chat template, nothing of models. Everything a model is trained on or
asked goes through a `Renderer`, and its hash travels with the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

from specact_rl.actions.serialise import action_message, wire_messages
from specact_rl.errors import ModelError
from specact_rl.types import Action, Message, Rollout, Step, ToolSpec, step_id

if TYPE_CHECKING:  # transformers takes seconds to import, and only the annotation needs it
    from transformers import PreTrainedTokenizerBase

CatalogueMode = Literal["compact", "template"]
"""compact: one line per tool in the system message; template: the chat template's own `tools`."""

JUDGE_QUESTION = """\
You check the next action of an agent before it is executed. Below are its tools, the conversation \
up to now, one message a line, and the action that was proposed. An action is right if it is what \
an expert would do next, or as good: the right tool with the right arguments, or the right words.

Tools:
{tools}

Conversation:
{history}

Proposed next action:
{proposed}

Is the proposed action right? Answer with one word, yes or no."""
"""What a model of a server is asked as judge."""

_COMPLETION_COLUMNS = ("completion", "chosen", "rejected")
_MAX_CACHED_COMPLETIONS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutTokens:
    """A rollout's conversation as tokens, with the place of each step's prompt in it."""

    rollout_id: str
    step_ids: list[str]
    ids: list[int]
    """The whole conversation; ends with a generation prompt if the last action is still due."""
    prompt_lengths: list[int | None]
    """Per step, n such that `ids[:n]` is the step's prompt; None where the template does not keep
    earlier turns as they were, so that the prompt is not a prefix of the conversation."""
    own_prompts: dict[int, list[int]]
    """Prompt of each step whose length is None, by step index."""

    def prompt_ids(self, index: int) -> list[int]:
        """Prompt tokens of the step at `index`."""
        length = self.prompt_lengths[index]
        return self.own_prompts[index] if length is None else self.ids[:length]

    def prompts(self) -> list[StepPrompt]:
        """One reference per step, in order."""
        return [StepPrompt(tokens=self, index=i) for i in range(len(self.step_ids))]

    @classmethod
    def of_prompt(
        cls, prompt_ids: Sequence[int], step_id: str = "", rollout_id: str | None = None
    ) -> RolloutTokens:
        """A single prompt, without the rollout's other ones; its id may be left out."""
        ids = list(prompt_ids)
        return cls(
            rollout_id=step_id if rollout_id is None else rollout_id,
            step_ids=[step_id],
            ids=ids,
            prompt_lengths=[len(ids)],
            own_prompts={},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPrompt:
    """One step's prompt as a place in a tokenised rollout, so that prefixes can be shared."""

    tokens: RolloutTokens
    index: int
    """Position among the steps of the rollout."""

    @property
    def step_id(self) -> str:
        """Id of the step."""
        return self.tokens.step_ids[self.index]

    @property
    def ids(self) -> list[int]:
        """The prompt's tokens."""
        return self.tokens.prompt_ids(self.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """Renders steps and actions with one tokenizer, its chat template and one catalogue mode."""

    tokenizer: PreTrainedTokenizerBase
    catalogue: CatalogueMode
    _completions: dict[str, list[int]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        """Check that turns can be rendered and ended."""
        if self.catalogue not in ("compact", "template"):
            raise ValueError(f"catalogue must be 'compact' or 'template', got {self.catalogue!r}")
        name = self.tokenizer.name_or_path
        if not isinstance(self.tokenizer.chat_template, str):
            raise ModelError(
                f"tokenizer {name!r} must have one chat template, got "
                f"{type(self.tokenizer.chat_template).__name__}; set tokenizer.chat_template"
            )
        if self.tokenizer.eos_token_id is None:
            raise ModelError(f"tokenizer {name!r} has no eos_token, which must end a turn")

    def messages_for(self, step: Step) -> list[Message]:
        """Messages of the prompt, the compact catalogue included where that is the mode."""
        return self._with_catalogue(step.history, step.tools)

    def prompt_fields(self, step: Step) -> dict[str, Any]:
        """The columns of a training row that do not depend on the action.

        `prompt`, `tools` (template mode only) and `history_hash`, the content hash of the prompt's
        tokens, against which `check_parity` holds the row after it has been stored and loaded.
        """
        fields: dict[str, Any] = {"prompt": self.messages_for(step)}
        if self.catalogue == "template":
            fields["tools"] = tool_dicts(step.tools)
        prompt_ids = self.prompt_ids(step)
        return fields | {
            "history_hash": _ids_hash(prompt_ids),
            "num_prompt_tokens": len(prompt_ids),
        }

    def training_row(self, step: Step, action: Action, **columns: Any) -> dict[str, Any]:
        """A TRL prompt/completion row whose tokens are `prompt_ids` + `completion_ids`.

        Args:
            step: Gives the prompt.
            action: Gives the completion.
            **columns: Further columns (ids, labels), stored as they are.
        """
        return {
            **self.prompt_fields(step),
            "completion": [action_message(action)],
            "num_completion_tokens": len(self.completion_ids(action)),
            **columns,
        }

    def prompt_text(self, step: Step) -> str:
        """The prompt as text, up to and including the generation prompt."""
        return self._text(self.messages_for(step), self._tools(step.tools), generation_prompt=True)

    def prompt_ids(self, step: Step) -> list[int]:
        """Tokens of the prompt, up to and including the generation prompt."""
        return self._encode([self.prompt_text(step)])[0]

    def completion_ids(self, action: Action) -> list[int]:
        """Tokens of the assistant turn after the generation prompt, stop token included.

        What a template puts after the stop token (Qwen3: a newline) is left out.

        Raises:
            ModelError: The prompt is not a prefix of prompt and turn, or no stop token follows.
        """
        return self.message_completion_ids(action_message(action))

    def message_completion_ids(self, message: Message) -> list[int]:
        """`completion_ids` of an assistant message."""
        key = json.dumps(message, ensure_ascii=False)
        if key not in self._completions:
            # Rendered after a fixed short prompt, as candidates are many and conversations long;
            # check_parity compares with the turn in its real place.
            prompt: list[Message] = [{"role": "user", "content": "."}]
            prompt_ids, ids = self._prompt_and_turn(prompt, message, None)
            if len(self._completions) >= _MAX_CACHED_COMPLETIONS:
                self._completions.clear()
            self._completions[key] = self._until_stop(ids[len(prompt_ids) :])
        return list(self._completions[key])

    def rollout_ids(self, rollout: Rollout) -> RolloutTokens:
        """The whole conversation tokenised once, and each step's prompt found in it.

        That a prompt is a prefix of the conversation is checked token by token, per step; where it
        is not, the step keeps a prompt of its own.
        """
        messages = self._with_catalogue(rollout.messages, rollout.tools)
        added = len(messages) - len(rollout.messages)
        tools = self._tools(rollout.tools)
        ends = [record.message_index + added for record in rollout.steps]
        texts = [self._text(messages[:end], tools, generation_prompt=True) for end in ends]
        whole = self._text(messages, tools, generation_prompt=len(messages) in ends)
        ids, *prompts = self._encode([whole, *texts])
        shared = [ids[: len(prompt)] == prompt for prompt in prompts]
        pairs = list(zip(prompts, shared, strict=True))
        return RolloutTokens(
            rollout_id=rollout.rollout_id,
            step_ids=[step_id(rollout.rollout_id, record.index) for record in rollout.steps],
            ids=ids,
            prompt_lengths=[len(prompt) if fits else None for prompt, fits in pairs],
            own_prompts={i: prompt for i, (prompt, fits) in enumerate(pairs) if not fits},
        )

    def conversation_ids(self, rollout: Rollout) -> list[int]:
        """The whole conversation as tokens, without looking for the steps' prompts."""
        messages = self._with_catalogue(rollout.messages, rollout.tools)
        text = self._text(messages, self._tools(rollout.tools), generation_prompt=False)
        return self._encode([text])[0]

    @property
    def template_parts(self) -> dict[str, str]:
        """Content hashes (16 hex) of what decides the rendering, by name."""
        tokenizer = self.tokenizer
        special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token]
        added = sorted(tokenizer.get_added_vocab().items())
        return {
            "chat_template": content_hash(tokenizer.chat_template),
            "catalogue": self.catalogue,
            "special_tokens": content_hash(json.dumps([special, added], ensure_ascii=False)),
        }

    @property
    def template_hash(self) -> str:
        """Content hash (16 hex) of chat template, catalogue mode and special tokens."""
        return content_hash(json.dumps(self.template_parts, sort_keys=True))

    def _tools(self, tools: Sequence[ToolSpec]) -> list[dict[str, Any]] | None:
        return tool_dicts(tools) if self.catalogue == "template" and tools else None

    def _with_catalogue(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec]
    ) -> list[Message]:
        if self.catalogue == "template" or not tools:
            return list(messages)
        text = compact_catalogue(tools)
        if not messages or messages[0]["role"] != "system":
            return [{"role": "system", "content": text}, *messages]
        content = messages[0]["content"]
        if not isinstance(content, str):
            raise ValueError(f"the system message must be a string, got {content!r}")
        return [{**messages[0], "content": f"{content}\n\n{text}"}, *messages[1:]]

    def _text(
        self,
        messages: Sequence[Message],
        tools: list[dict[str, Any]] | None,
        *,
        generation_prompt: bool,
    ) -> str:
        shown: list[dict[str, Any] | Callable[..., Any]] | None = [*tools] if tools else None
        text = self.tokenizer.apply_chat_template(
            list(messages), tools=shown, add_generation_prompt=generation_prompt, tokenize=False
        )
        assert isinstance(text, str)
        return text

    def _encode(self, texts: list[str]) -> list[list[int]]:
        # Templates write their own special tokens; adding them again would double the first one.
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)
        return [list(ids) for ids in encoded["input_ids"]]

    def _prompt_and_turn(
        self, prompt: list[Message], message: Message, tools: list[dict[str, Any]] | None
    ) -> tuple[list[int], list[int]]:
        texts = [
            self._text(prompt, tools, generation_prompt=True),
            self._text([*prompt, message], tools, generation_prompt=False),
        ]
        prompt_ids, ids = self._encode(texts)
        if ids[: len(prompt_ids)] != prompt_ids:
            raise ModelError(
                "the tokens of a prompt must be a prefix of the tokens of prompt and turn; for "
                f"{message!r} {_difference(self.tokenizer, prompt_ids, ids)}. Use a template that "
                "keeps the generation prompt (TRL's training templates do)"
            )
        return prompt_ids, ids

    def _until_stop(self, turn: list[int]) -> list[int]:
        stop = self.tokenizer.eos_token_id
        if stop not in turn:
            raise ModelError(
                f"an assistant turn must end with eos_token {self.tokenizer.eos_token!r}, got "
                f"{self.tokenizer.decode(turn)!r}; set tokenizer.eos_token to what ends a turn"
            )
        return turn[: len(turn) - turn[::-1].index(stop)]


def compact_catalogue(tools: Sequence[ToolSpec]) -> str:
    """The documented tools, one line each: `name(arg, optional?, choice=a|b): description`."""
    return "\n".join(["Tools:", *(_catalogue_line(tool) for tool in tools if tool.documented)])


def tool_dicts(tools: Sequence[ToolSpec]) -> list[dict[str, Any]]:
    """The documented tools as chat templates take them. Effects and action types are not shown."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters or {"type": "object", "properties": {}},
            },
        }
        for tool in tools
        if tool.documented
    ]


def shown_messages(messages: Sequence[Message]) -> str:
    """Messages as data, one JSON object a line, as they would go to a server."""
    return "\n".join(json.dumps(m, ensure_ascii=False) for m in wire_messages(messages))


def judge_messages(step: Step, proposed: str) -> list[Message]:
    """The question to a judge as the one message of a conversation.

    What follows the history stands behind it, so that questions at the steps of a rollout begin
    alike and a server that keeps prefixes reads them once.

    Args:
        step: Where.
        proposed: The action, or the messages, as text.
    """
    tools = "\n".join(json.dumps(t, ensure_ascii=False) for t in tool_dicts(step.tools))
    question = JUDGE_QUESTION.format(
        tools=tools or "none", history=shown_messages(step.history), proposed=proposed
    )
    return [{"role": "user", "content": question}]


def check_parity(rows: Sequence[Mapping[str, Any]], renderer: Renderer) -> None:
    """Compare the tokens TRL makes of every row with the tokens used at inference.

    TRL tokenises the templated prompt, then prompt and turn, and trains on the rest. Both are
    done here for each of `completion`, `chosen` and `rejected` that a row has; the prompt is held
    against the row's `history_hash`, the turn against `completion_ids`.

    Raises:
        ModelError: They differ; names the row and the first difference.
    """
    for number, row in enumerate(rows):
        _check_row(row, renderer, where=f"row {number} ({row.get('step_id', 'no step_id')!s})")


def _check_row(row: Mapping[str, Any], renderer: Renderer, where: str) -> None:
    tools = row.get("tools") or None
    if isinstance(tools, str):
        tools = json.loads(tools)
    for message in _assistant_messages(row, where):
        try:
            prompt_ids, ids = renderer._prompt_and_turn(list(row["prompt"]), message, tools)
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from error
        check_prompt(row, prompt_ids, where)
        turn = ids[len(prompt_ids) :]
        expected = renderer.message_completion_ids(message)
        if renderer._until_stop(turn) != expected:
            difference = _difference(renderer.tokenizer, expected, turn)
            raise ModelError(
                f"{where}: the turn's tokens in training must equal those at inference; "
                f"{difference}"
            )


def check_prompt(row: Mapping[str, Any], prompt_ids: Sequence[int], where: str) -> None:
    """Check that a row's prompt has the tokens that it was built with.

    Raises:
        ModelError: They do not hash to the row's `history_hash`; begins with `where`.
    """
    if _ids_hash(prompt_ids) != row.get("history_hash"):
        raise ModelError(
            f"{where}: the prompt's tokens must hash to history_hash {row.get('history_hash')!r}, "
            f"got {_ids_hash(prompt_ids)!r} over {len(prompt_ids)} tokens (built with "
            f"{row.get('num_prompt_tokens')!r}). The row was built with another template or "
            "catalogue mode, or changed when it was stored: rebuild the data set"
        )


def _assistant_messages(row: Mapping[str, Any], where: str) -> Iterator[Message]:
    columns = [name for name in _COMPLETION_COLUMNS if row.get(name) is not None]
    if not columns or "history_hash" not in row:
        raise ModelError(
            f"{where}: a row needs history_hash and one of {', '.join(_COMPLETION_COLUMNS)}, got "
            f"columns {sorted(row)}; build it with Renderer.training_row or prompt_fields"
        )
    for name in columns:
        if len(row[name]) != 1:
            raise ModelError(f"{where}: {name} must be one message, got {len(row[name])}")
        yield row[name][0]


def _catalogue_line(tool: ToolSpec) -> str:
    required = set(tool.parameters.get("required", ()))
    arguments = []
    for name, schema in tool.parameters.get("properties", {}).items():
        text = name if name in required else f"{name}?"
        choices = schema.get("enum") if isinstance(schema, dict) else None
        arguments.append(f"{text}={'|'.join(map(str, choices))}" if choices else text)
    line = f"{tool.name}({', '.join(arguments)})"
    description = " ".join(tool.description.split())
    return f"{line}: {description}" if description else line


def _difference(
    tokenizer: PreTrainedTokenizerBase, expected: Sequence[int], found: Sequence[int]
) -> str:
    both = enumerate(zip_longest(expected, found))
    at = next(i for i, (one, other) in both if one != other)
    window = slice(max(0, at - 2), at + 6)
    return (
        f"they differ from token {at}: {tokenizer.decode(list(expected[window]))!r} against "
        f"{tokenizer.decode(list(found[window]))!r}"
    )


def _ids_hash(ids: Sequence[int]) -> str:
    return content_hash(",".join(map(str, ids)))


def content_hash(text: str) -> str:
    """First 16 hex digits of the text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
