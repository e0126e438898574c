"""The records everything else passes around: frozen dataclasses over JSON values, stdlib only.

Knows nothing of files, models or environments. A rollout stores its conversation once; a step
is a place in it, so that its history is `messages[:message_index]` and nothing later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

SCHEMA_VERSION = 1

ActionType = Literal[
    "tool_call",
    "retrieval",
    "file_read",
    "file_write",
    "repair",
    "verifier",
    "ask_clarification",
    "final_answer",
    "BLOCKED",
]
ACTION_TYPES: tuple[ActionType, ...] = get_args(ActionType)

Effect = Literal["read", "write", "irreversible"]

MatchLevel = Literal["none", "type", "tool", "arguments"]
"""How far a proposal agrees with the reference; each level includes the ones before it. Whether
the resulting state is the same, where an environment can tell, is a field of its own."""
MATCH_LEVELS: tuple[MatchLevel, ...] = get_args(MatchLevel)

SplitName = Literal["train_proposer", "train_verifier", "calibration", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

ProposalMode = Literal["generate", "rank"]

Message = dict[str, Any]
"""One OpenAI / Hugging Face chat message: role, content, tool_calls (arguments as a dict)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One structured decision: a tool call, or text to the user. Exactly one of tool and text."""

    type: ActionType
    tool: str | None = None
    """Tool name as the catalogue of the task spells it; None for text."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """JSON values by parameter name; empty for text."""
    text: str | None = None
    """What is said to the user; None for tool calls."""

    def __post_init__(self) -> None:
        """Reject an action that is both a call and a text, or neither."""
        if (self.tool is None) == (self.text is None):
            raise ValueError(
                "an action has either a tool or a text, "
                f"got tool={self.tool!r} and text={self.text!r}"
            )
        if self.text is not None and self.arguments:
            raise ValueError(f"a text action has no arguments, got {self.arguments!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """One tool as the agent may see it."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    """JSON schema of the arguments (an object schema); {} when unknown."""
    effect: Effect | None = None
    """None when a log does not say."""
    action_type: ActionType | None = None
    """Type of a plain call of this tool; None leaves it to the taxonomy (then `tool_call`)."""
    documented: bool = True
    """False: can be called, but is not in the catalogue the agent starts with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One slot of a rollout where an action was due."""

    index: int
    """Position among the steps of its rollout, from 0."""
    message_index: int
    """Number of messages before the action; the history is `messages[:message_index]`."""
    executed: Action | None
    """What the logged policy did; None when its text could not be parsed."""
    executed_text: str | None = None
    """Raw model text when it could not be parsed; None otherwise."""
    finished: bool = True
    """False when the token limit came before the stop token; such text is cut off and no action.
    True also where a log does not say."""
    reference: Action | None = None
    """An action known to be right here (the expert's, a gold call); None when unknown."""
    cost_to_go: int | None = None
    """Expert steps to the goal from before this step; None when unknown or unreachable."""
    acceptable: bool | None = None
    """Label of the executed action; None when unknown."""
    label_source: str | None = None
    """Where `acceptable` comes from, e.g. "cost_to_go", "score_file"; None when unlabelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One logged episode of one policy on one task."""

    rollout_id: str
    task_id: str
    family: str
    """Template or category the task comes from; equal to task_id where there is none."""
    policy: str
    """Name of the model or script that acted."""
    trial: int
    """Repeat count of the policy on this task, from 0."""
    messages: list[Message]
    """The whole conversation, system message first where there is one."""
    tools: list[ToolSpec]
    steps: list[StepRecord]
    split: SplitName | None = None
    """Fixed once at import, by task; None before."""
    success: bool | None = None
    """Verdict of the task's checker; None when not scored."""
    info: dict[str, Any] = field(default_factory=dict)
    """Facts for audits (seed, component rewards). Never shown to a model."""

    def step(self, index: int) -> Step:
        """The step at `index` as a self-contained view."""
        record = self.steps[index]
        return Step(
            step_id=step_id(self.rollout_id, record.index),
            rollout_id=self.rollout_id,
            task_id=self.task_id,
            family=self.family,
            split=self.split,
            index=record.index,
            history=self.messages[: record.message_index],
            tools=self.tools,
            executed=record.executed,
            reference=record.reference,
        )

    def each_step(self) -> Iterator[Step]:
        """All steps in order."""
        return (self.step(i) for i in range(len(self.steps)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step with its history: what a proposer or verifier is shown."""

    step_id: str
    rollout_id: str
    task_id: str
    family: str
    split: SplitName | None
    index: int
    history: list[Message]
    """Messages before the action, nothing later."""
    tools: list[ToolSpec]
    executed: Action | None
    reference: Action | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One row of the proposals table: what one model offered at one step."""

    proposal_id: str
    step_id: str
    task_id: str
    model_id: str
    """Name and hash of the weights and of the chat template."""
    sample: int
    """0 is the greedy (or top-ranked) proposal; 1, 2, … are further ones."""
    mode: ProposalMode
    text: str
    """What the model wrote (generate) or the rendered candidate (rank), without the stop token."""
    finished: bool = True
    """False when the token limit came before the stop token; such text is cut off and no action."""
    action: Action | None
    """None when the text could not be parsed, or is several actions."""
    actions: list[Action] = field(default_factory=list)
    """Where it is several: the calls of a message that makes more than one, or what a logged
    episode did from its first step to its last. [] otherwise."""
    parse_error: str | None
    """Why the text could not be parsed, in words; None when it was."""
    match_level: MatchLevel
    same_state: bool | None
    """Whether it leads to the state that the reference leads to; None where nothing can tell."""
    acceptable: bool | None
    label_source: str
    logprob: float | None
    """Sum over the action's tokens, stop token included, in nats; None when not known."""
    num_candidates: int | None
    """Size of the list a ranked proposal was chosen from; None for free generation."""
    num_prompt_tokens: int | None
    """Length of the prompt, cached or not; None where a log does not say."""
    num_cached_tokens: int
    """Part of the prompt whose keys and values were there already, as far as is known."""
    num_completion_tokens: int | None
    """None where a log does not say."""
    seconds: float | None
    """Share of its batch's wall time; None where a log does not say."""
    price: float | None = None
    """US dollars paid for it; None where nothing says."""
    tool_seconds: float | None = None
    """Wall seconds that the environment took to execute it when it was labelled; None where it was
    not executed, and where a log does not say."""
    num_distinct: int | None = None
    """Distinct parsable actions among the samples of its model at the step up to this one: in the
    last one's row the effective k. None in logs, and in tables from before."""

    @property
    def parsed(self) -> bool:
        """Whether it can be executed: it is an action, or several."""
        return self.action is not None or bool(self.actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One row of the scores table: what one verifier said of one proposal."""

    proposal_id: str
    verifier_id: str
    log_odds: float | None
    """Raw output, higher is better; None when the proposal cannot be scored (unparsable)."""
    num_tokens: int
    """Tokens that this score had to compute; cached ones not counted."""
    num_cached_tokens: int
    seconds: float
    price: float | None = None
    """US dollars paid for it; None where nothing says, or nobody is paid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a gate decided for one proposal."""

    accept: bool
    """True: execute the proposal. False: ask the fallback model."""
    p_accept: float | None
    """Calibrated probability in [0, 1]; None when the gate does not use a verifier."""
    reason: str
    """Machine-readable cause, e.g. "accepted", "below_threshold", "unparsable"."""


def step_id(rollout_id: str, index: int) -> str:
    """Id of a step: unique wherever rollout ids are."""
    return f"{rollout_id}/{index}"


def proposal_id(step_id: str, model_id: str, mode: ProposalMode, sample: int) -> str:
    """Id of a proposal: the same step, model, mode and sample always give the same id."""
    return f"{step_id}@{model_id}:{mode}:{sample}"
