"""The workspace's mutable state, the goals of a task, and what is left to do.

A task is a list of goals that an expert with a look behind the curtain ticks off in order; its
cost-to-go is the number of goals still open, plus the errors it cannot avoid meeting on the way
(a stale revision, a moved record, a busy service), plus the final answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from specact_rl.envs.workspace.tools import INTEGER_PARAMETERS, TOOLS

Call = tuple[str, dict[str, Any]]
"""Tool key and arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirk:
    """An error that nobody can foresee but everybody can repair."""

    kind: Literal["stale", "moved", "busy"]
    detail: str = ""
    """Revision to give (stale), new handle (moved), nothing (busy)."""


@dataclass(slots=True)
class State:
    """Everything a snapshot has to keep. Sets hold what the agent has been shown or has done."""

    records: dict[str, dict[str, str]]
    """Field values by handle; the handle's first letter tells the service."""
    quirks: dict[str, Quirk]
    """Not yet overcome, by handle."""
    seen: set[str]
    """Handles, revisions and hidden tool keys the agent has been shown."""
    read: set[str] = field(default_factory=set)
    verified: set[str] = field(default_factory=set)
    """Handles read or checked since they were last written."""
    written: set[str] = field(default_factory=set)
    permissions: set[tuple[str, str]] = field(default_factory=set)
    """(action, handle) pairs that were looked up."""
    answers: set[str] = field(default_factory=set)
    """Fields that the user was asked for, and results of calculations."""
    effects: set[tuple[str, ...]] = field(default_factory=set)
    """Irreversible things that were done, and were asked for."""
    values: list[str] = field(default_factory=list)
    """Field values shown so far, for drawing plausible candidates; in order, may repeat."""
    num_steps: int = 0
    done: bool = False
    success: bool = False
    last_call: tuple[str, dict[str, Any], bool] | None = None
    """Tool as it was called, arguments and whether it failed, of the last step; None after text."""

    def copy(self) -> State:
        """A state that shares nothing mutable with this one."""
        return State(
            {handle: dict(record) for handle, record in self.records.items()},
            dict(self.quirks),
            set(self.seen),
            set(self.read),
            set(self.verified),
            set(self.written),
            set(self.permissions),
            set(self.answers),
            set(self.effects),
            list(self.values),
            self.num_steps,
            self.done,
            self.success,
            self.last_call,
        )

    def outcome(self) -> tuple[Any, ...]:
        """What two actions must agree in to have the same effect: all but counters and wording.

        A copy, which later steps do not change.
        """
        state = self.copy()
        return (
            state.records,
            state.quirks,
            state.seen,
            state.read,
            state.verified,
            state.permissions,
            state.answers,
            state.effects,
            state.done,
            state.success,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One thing to get done with one successful call (or question)."""

    kind: Literal["find", "read", "set", "verify", "effect", "permission", "calc", "ask", "tool"]
    call: Call | None = None
    """None for a question to the user."""
    target: str = ""
    """Handle, field, result or tool key, as the kind needs it."""
    field: str = ""
    value: str = ""
    needed_by: tuple[int, ...] = ()
    """Positions of the goals this one only serves; once they are all met it is met as well.
    Empty: needed for its own sake or for the answer."""

    def met(self, state: State) -> bool:
        """Whether the state shows it, whatever way it came about."""
        match self.kind:
            case "find" | "tool":
                return self.target in state.seen
            case "read":
                return self.target in state.read
            case "set":
                return state.records[self.target][self.field] == self.value
            case "verify":
                return self.target in state.verified
            case "effect":
                return self.key in state.effects
            case "permission":
                return (self.field, self.target) in state.permissions
            case "calc" | "ask":
                return self.target in state.answers

    @property
    def key(self) -> tuple[str, ...]:
        """How `State.effects` writes the effect of this goal's call."""
        assert self.call is not None
        return effect_key(*self.call)


def effect_key(tool: str, arguments: dict[str, Any]) -> tuple[str, ...]:
    """An irreversible call as a hashable value."""
    return (tool, *(f"{name}={arguments[name]}" for name in sorted(arguments)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A request, the world it is made in, and what has to be true in the end."""

    task_id: str
    family: str
    held_out: bool
    request: str
    records: dict[str, dict[str, str]]
    quirks: dict[str, Quirk]
    goals: tuple[Goal, ...]
    final: str
    """What the expert says in the end."""
    required_words: tuple[str, ...]
    """Words that the final text must hold; BLOCKED first where the request is forbidden."""
    replies: dict[str, str]
    """What the user answers, by the field asked for."""
    allowed: dict[tuple[str, str], bool]
    """Permission table by (action, handle)."""
    seen: frozenset[str]
    """Handles in the request."""
    names: dict[str, str]
    """Tool name in this task, by tool key; only these tools exist here."""
    hidden: frozenset[str]
    """Tool keys that the catalogue does not show until they are looked up."""
    undescribed: frozenset[str]
    """Tool keys whose catalogue line has no description."""

    @property
    def blocked(self) -> bool:
        """Whether the right end is to refuse."""
        return self.required_words[0] == "BLOCKED"


def open_goals(task: Task, state: State) -> list[Goal]:
    """Goals still to be met, in the expert's order, damage to be undone first."""
    met = [goal.met(state) for goal in task.goals]
    damage = damaged_fields(task, state) if state.written else []
    to_be_written = {handle for handle, _ in damage} | {
        goal.target
        for goal, ok in zip(task.goals, met, strict=True)
        if goal.kind in ("set", "effect") and not ok
    }
    for i, goal in enumerate(task.goals):
        if goal.kind == "verify" and goal.target in to_be_written:
            met[i] = False  # what was looked at will change: to be read again once it is right
    for i in range(len(task.goals) - 1, -1, -1):  # backwards: a goal serves later ones only
        needed_by = task.goals[i].needed_by
        if needed_by and all(met[j] for j in needed_by):
            met[i] = True
    undo = [
        Goal(kind="set", call=restoring_call(task, handle, name), target=handle, field=name)
        for handle, name in damage
    ]
    return undo + [goal for goal, ok in zip(task.goals, met, strict=True) if not ok]


def damaged_fields(task: Task, state: State) -> list[tuple[str, str]]:
    """(handle, field) pairs that differ from the start and are no goal's business."""
    wanted = {(g.target, g.field) for g in task.goals if g.kind == "set"}
    wanted |= {(g.target, "status") for g in task.goals if g.kind == "effect" and g.target}
    return [
        (handle, name)
        for handle in sorted(state.written)
        for name, value in state.records[handle].items()
        if value != task.records[handle][name] and (handle, name) not in wanted
    ]


def restoring_call(task: Task, handle: str, name: str) -> Call | None:
    """A call of the task's tools that puts a field back to its first value; None if none can."""
    for key in task.names:
        tool = TOOLS[key]
        if tool.operation != "set" or tool.service[0] != handle[0] or tool.constant is not None:
            continue
        value: Any = task.records[handle][name]
        if tool.field is None and name != "title":
            return key, {tool.parameters[0]: handle, "key": name, "value": value}
        if tool.field == name:
            parameter = tool.parameters[1]
            value = int(value) if parameter in INTEGER_PARAMETERS else value
            return key, {tool.parameters[0]: handle, parameter: value}
    return None


def cost_to_go(task: Task, state: State) -> int | None:
    """Steps the expert still needs, the answer included; 0 after success, None after failure."""
    if state.done:
        return 0 if state.success else None
    remaining = open_goals(task, state)
    return len(remaining) + len(unforeseen(state, remaining)) + 1


def unforeseen(state: State, goals: list[Goal]) -> set[str]:
    """Handles on which one of the goals must still run into an error."""
    pending = set()
    for goal in goals:
        if goal.kind not in ("read", "set", "verify", "effect"):
            continue
        for handle, quirk in state.quirks.items():
            if quirk.kind == "moved":
                if goal.target == quirk.detail and quirk.detail not in state.seen:
                    pending.add(handle)
            elif (
                goal.target == handle
                and goal.kind in ("set", "effect")
                and (quirk.kind == "busy" or quirk.detail not in state.seen)
            ):
                pending.add(handle)
    return pending
