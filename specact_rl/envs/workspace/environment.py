"""The workspace as an `Environment`: executes actions, answers in short text, knows the expert."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from specact_rl.actions.canonical import canonical_text, canonical_value
from specact_rl.actions.schema import argument_problem
from specact_rl.actions.serialise import action_text
from specact_rl.actions.taxonomy import (
    CallContext,
    classify_call,
    classify_text,
    is_error_result,
)
from specact_rl.envs.base import Observation
from specact_rl.envs.workspace.candidates import candidate_actions, spare_texts
from specact_rl.envs.workspace.families import draw_task
from specact_rl.envs.workspace.state import (
    State,
    Task,
    cost_to_go,
    damaged_fields,
    effect_key,
    open_goals,
    restoring_call,
)
from specact_rl.envs.workspace.tools import (
    INTEGER_PARAMETERS,
    OPTIONAL_PARAMETERS,
    TOOLS,
    ToolDef,
    tool_spec,
)
from specact_rl.errors import RolloutFormatError
from specact_rl.store import content_hash
from specact_rl.types import Action, Message, ToolSpec

SYSTEM_TEXT = (
    "Use the tools. Ask when a detail is missing. Look again at what you changed. "
    "Say BLOCKED when it is not allowed."
)
TASK_ID = re.compile(r"ws-(?P<held_out>h?)(?P<seed>\d+)")
HIDDEN_FIELDS = frozenset({"wanted"})
"""Fields that reading a record does not show."""
MAX_FINAL_WORDS = 6
"""A final text longer than this fails: listing everything is no answer."""


class Workspace:
    """One task of the simulated office; `Workspace(seed)` is the same in every process."""

    def __init__(self, seed: int, *, held_out: bool = False) -> None:
        """Draw the task.

        Args:
            seed: Any non-negative integer.
            held_out: Draw from the families kept out of training.
        """
        self.task: Task = draw_task(seed, held_out=held_out)
        self._key_of = {name: key for key, name in self.task.names.items()}
        self.tools: list[ToolSpec] = [
            tool_spec(key, name, key not in self.task.undescribed, key not in self.task.hidden)
            for key, name in self.task.names.items()
        ]
        self._schemas = {self._key_of[tool.name]: tool.parameters for tool in self.tools}
        self._state = State(
            records={handle: dict(record) for handle, record in self.task.records.items()},
            quirks=dict(self.task.quirks),
            seen=set(self.task.seen),
        )
        cost = cost_to_go(self.task, self._state)
        assert cost is not None  # the episode has not begun
        self.max_steps = 2 * cost + 6

    @classmethod
    def from_task_id(cls, task_id: str) -> Workspace:
        """The environment that a logged rollout ran in.

        Raises:
            RolloutFormatError: The id is not one of this environment's.
        """
        match = TASK_ID.fullmatch(task_id)
        if match is None:
            raise RolloutFormatError(
                f"task_id {task_id!r} must look like ws-000012 or ws-h000012; only rollouts of the "
                "workspace can be put back into it"
            )
        return cls(int(match["seed"]), held_out=bool(match["held_out"]))

    @property
    def task_id(self) -> str:
        """Id of the task, from its seed."""
        return self.task.task_id

    @property
    def family(self) -> str:
        """Name of the task's builder."""
        return self.task.family

    @property
    def initial_state(self) -> str:
        """Hash of the state that the task starts in."""
        quirks = {handle: [q.kind, q.detail] for handle, q in self.task.quirks.items()}
        allowed = [[*key, value] for key, value in sorted(self.task.allowed.items())]
        return content_hash([self.task.records, quirks, self.task.replies, allowed])

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self._state.done

    @property
    def success(self) -> bool:
        """The checker's verdict; False while the episode runs."""
        return self._state.success

    def first_messages(self) -> list[Message]:
        """System message and request; the catalogue is the renderer's business."""
        return [
            {"role": "system", "content": SYSTEM_TEXT},
            {"role": "user", "content": self.task.request},
        ]

    def snapshot(self) -> State:
        """A copy of the state."""
        return self._state.copy()

    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot, which stays usable.

        Raises:
            TypeError: The snapshot is not one of this class's.
        """
        if not isinstance(snapshot, State):
            raise TypeError(f"expected a snapshot of a Workspace, got {type(snapshot).__name__}")
        self._state = snapshot.copy()

    def outcome(self) -> tuple[Any, ...]:
        """What two actions must agree in to count as having the same effect."""
        return self._state.outcome()

    def cost_to_go(self) -> int | None:
        """Expert steps left, the answer included; 0 after success.

        None after failure, and when fewer steps are left than the expert needs.
        """
        cost = cost_to_go(self.task, self._state)
        if cost is not None and cost > self.max_steps - self._state.num_steps and not self.done:
            return None
        return cost

    def expert_action(self) -> Action:
        """The next action of an expert who knows the world but must be shown before he acts.

        Raises:
            RuntimeError: The episode is over.
        """
        if self._state.done:
            raise RuntimeError(f"{self.task_id}: the episode is over, no action is due")
        goals = open_goals(self.task, self._state)
        if not goals:
            return self.text_action(self.task.final)
        goal = goals[0]
        if goal.kind == "ask":
            return self.text_action(f"Which {goal.target}?")
        assert goal.call is not None  # an irreparable change ends the episode
        key, arguments = goal.call
        return self.call_action(key, self._with_detours(key, arguments))

    def _with_detours(self, key: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """The call as it can be made now: old handle until the move is known, revision if shown."""
        state = self._state
        arguments = dict(arguments)
        first = TOOLS[key].parameters[0] if TOOLS[key].parameters else ""
        for handle, quirk in state.quirks.items():
            if quirk.kind == "moved" and arguments.get(first) == quirk.detail:
                arguments[first] = quirk.detail if quirk.detail in state.seen else handle
            elif (
                quirk.kind == "stale"
                and arguments.get(first) == handle
                and quirk.detail in state.seen
                and "rev" in TOOLS[key].parameters
            ):
                arguments["rev"] = quirk.detail
        return arguments

    def call_action(self, key: str, arguments: dict[str, Any]) -> Action:
        """A call of one of the task's tools, by key, with its type in the present state."""
        name = self.task.names[key]
        return Action(
            type=classify_call(name, arguments, self.tools, self.call_context()),
            tool=name,
            arguments=arguments,
        )

    @staticmethod
    def text_action(text: str) -> Action:
        """Something said to the user, with its type."""
        return Action(type=classify_text(text), text=text)

    def call_context(self) -> CallContext:
        """What the type of the next call depends on."""
        last = self._state.last_call
        if last is None:
            return CallContext()
        name, arguments, failed = last
        return CallContext(last_tool=name, last_arguments=arguments, failed=failed)

    def legal_actions(self) -> list[Action]:
        """At least 16 distinct candidates, the expert's among them, in a seeded order.

        Others are schema-valid calls on shown records: wrong handle, wrong value, forbidden,
        infeasible, or simply not useful now.
        """
        rng = random.Random(f"{self.task_id}/{self._state.num_steps}/{len(self._state.seen)}")
        known = [k for k in self.task.names if k not in self.task.hidden or k in self._state.seen]
        distinct = {action_text(a): a for a in [self.expert_action()]}
        for item in islice(candidate_actions(self.task, self._state, known, rng), MAX_DRAWS):
            action = self.text_action(item) if isinstance(item, str) else self.call_action(*item)
            distinct.setdefault(action_text(action), action)
            if len(distinct) == NUM_CANDIDATES:
                break
        for text in spare_texts() if len(distinct) < MIN_CANDIDATES else ():
            distinct.setdefault(text, self.text_action(text))
            if len(distinct) == MIN_CANDIDATES:
                break
        chosen = list(distinct.values())
        rng.shuffle(chosen)
        return chosen

    def step(self, action: Action | None) -> Observation:
        """Execute an action; None stands for text that could not be parsed.

        Raises:
            RuntimeError: The episode is over.
        """
        state = self._state
        if state.done:
            raise RuntimeError(f"{self.task_id}: the episode is over, no action is due")
        state.num_steps += 1
        state.last_call = None
        if action is None:
            return self._observe("error: not an action", role="user")
        if action.tool is None:
            return self._say(action.text or "")
        content = self._execute(action.tool, action.arguments)
        state.last_call = (action.tool, dict(action.arguments), is_error_result(content))
        return self._observe(content)

    def _execute(self, name: str, arguments: dict[str, Any]) -> str:
        key = self._key_of.get(name)
        if key is None or (key in self.task.hidden and key not in self._state.seen):
            return f"error: no tool {name}"
        # Actions of one canonical form have one effect.
        schema = self._schemas[key]
        arguments = canonical_value(arguments, schema)
        return _argument_error(TOOLS[key], arguments, schema) or self._call(TOOLS[key], arguments)

    def _observe(self, content: str, role: str = "tool") -> Observation:
        state = self._state
        if state.num_steps >= self.max_steps:
            state.done = True
        return Observation(content, role, state.done)  # type: ignore[arg-type]

    def _say(self, text: str) -> Observation:
        state, task = self._state, self.task
        kind = classify_text(text)
        if kind == "ask_clarification":
            words = set(text.strip().rstrip("?").lower().split())
            asked = [name for name in task.replies if name in words]
            if not asked:
                return self._observe("Please see my request.", role="user")
            state.answers.update(asked)
            state.values.extend(task.replies[name] for name in asked)
            return self._observe(
                "; ".join(f"{name} {task.replies[name]}" for name in asked), role="user"
            )
        words = set(canonical_text(text).replace(":", " ").split())
        state.success = (
            not open_goals(task, state)
            and (kind == "BLOCKED") == task.blocked
            and words.issuperset(word.casefold() for word in task.required_words)
            and len(text.split()) <= MAX_FINAL_WORDS
        )
        state.done = True
        return Observation("", "user", True)

    def _call(self, tool: ToolDef, arguments: dict[str, Any]) -> str:
        state = self._state
        service = tool.service[0]
        match tool.operation:
            case "find":
                words = set(str(arguments["query"]).lower().split())
                return self._listing(
                    h for h, r in self._visible(service) if words & set(r["title"].split())
                )
            case "list":
                return self._listing(h for h, _ in self._visible(service))
            case "day":
                day = arguments["day"]
                return self._listing(h for h, r in self._visible(service) if r["day"] == day)
            case "tool_find":
                found = [k for k in sorted(self.task.hidden) if str(arguments["query"]) in k]
                state.seen.update(found)
                specs = [s for s in self.tools if self._key_of[s.name] in found]
                return "; ".join(_signature(spec) for spec in specs) or "none"
            case "may":
                action, handle = str(arguments["action"]), str(arguments["record"])
                if handle not in state.records:
                    return f"error: no record {handle}"
                state.permissions.add((action, handle))
                return "yes" if self._allowed(action, handle) else "no"
            case "calc":
                return self._calculate(tool, arguments["a"], arguments["b"])
            case "read" | "check" | "set" | "effect":
                return self._on_record(tool, arguments)

    def _allowed(self, action: str, handle: str) -> bool:
        return self.task.allowed.get((action, handle), True)

    def _visible(self, service: str) -> list[tuple[str, dict[str, str]]]:
        moved = {q.detail for q in self._state.quirks.values() if q.kind == "moved"}
        return [
            (h, r)
            for h, r in self._state.records.items()
            if h[0] == service and (h not in moved or h in self._state.seen)
        ]

    def _listing(self, handles: Any) -> str:
        found = sorted(handles, key=lambda h: int(h[1:]))
        self._state.seen.update(found)
        return "; ".join(f"{self._state.records[h]['title']} {h}" for h in found) or "none"

    def _calculate(self, tool: ToolDef, a: int, b: int) -> str:
        result = {"add": a + b, "subtract": a - b, "larger": max(a, b)}[tool.key]
        self._state.answers.add(f"{tool.key} {min(a, b)} {max(a, b)}")
        self._state.values.append(str(result))
        return str(result)

    def _on_record(self, tool: ToolDef, arguments: dict[str, Any]) -> str:
        state = self._state
        if tool.operation == "effect" and tool.parameters[0] not in _RECORD_PARAMETERS:
            return self._irreversible(tool, arguments, "")
        handle = str(arguments[tool.parameters[0]])
        record = state.records.get(handle)
        if record is None or handle[0] != tool.service[0]:
            return f"error: no {tool.service} {handle}"
        quirk = state.quirks.get(handle)
        if quirk is not None and quirk.kind == "moved":
            state.seen.update((handle, quirk.detail))
            return f"error: moved to {quirk.detail}"
        if tool.operation in ("read", "check"):
            return self._look(tool, handle, record)
        name = tool.field or str(arguments.get("key"))
        if name not in record and tool.operation == "set" and tool.field is None:
            return f"error: no key {name}"
        if quirk is not None and quirk.kind == "busy":
            del state.quirks[handle]
            return "error: busy, try again"
        if quirk is not None and arguments.get("rev") != quirk.detail:
            state.seen.update((handle, quirk.detail))
            return f"error: stale, rev is {quirk.detail}"
        if tool.operation == "effect":
            return self._irreversible(tool, arguments, handle)
        return self._write(tool, arguments, handle, name)

    def _look(self, tool: ToolDef, handle: str, record: dict[str, str]) -> str:
        state = self._state
        state.seen.add(handle)
        if tool.operation == "check" or "wanted" not in record:
            state.verified.add(handle)  # of a program with checks, reading shows nothing
        if tool.operation == "check" and "wanted" in record:
            state.read.add(handle)
            if record["setting"] != record["wanted"]:
                state.values.append(record["wanted"])
                return f"fails: setting is {record['setting']}, wants {record['wanted']}"
            return "passes"
        if tool.operation == "check":
            return "passes"
        if "wanted" not in record:  # a program's failure is only seen by its check
            state.read.add(handle)
        shown = [(k, v) for k, v in record.items() if k not in HIDDEN_FIELDS]
        state.values.extend(v for k, v in shown if k != "title")
        return "; ".join(v if k == "title" else f"{k} {v}" for k, v in shown)

    def _write(self, tool: ToolDef, arguments: dict[str, Any], handle: str, name: str) -> str:
        state = self._state
        value = tool.constant
        if value is None:
            value = str(arguments["value"] if tool.field is None else arguments[tool.parameters[1]])
        action = tool.key.split("_")[1]
        if not self._allowed(action, handle):
            return "error: not allowed"
        record = state.records[handle]
        old, record[name] = record[name], value
        state.quirks.pop(handle, None)
        state.seen.add(handle)
        state.written.add(handle)
        state.verified.discard(handle)
        if any(
            restoring_call(self.task, h, field) is None
            for h, field in damaged_fields(self.task, state)
        ):
            return self._stopped()
        return f"{name} {old} -> {value}"

    def _irreversible(self, tool: ToolDef, arguments: dict[str, Any], handle: str) -> str:
        state = self._state
        key = effect_key(tool.key, arguments)
        wanted = {goal.key for goal in self.task.goals if goal.kind == "effect"}
        if key not in wanted or key in state.effects:
            return self._stopped()
        state.effects.add(key)
        if handle and tool.field and tool.constant:
            state.records[handle][tool.field] = tool.constant
            state.verified.discard(handle)
            state.written.add(handle)
        return "done"

    def _stopped(self) -> str:
        self._state.done = True
        return "error: this cannot be undone, the user stops you"


NUM_CANDIDATES = 20
MIN_CANDIDATES = 16
MAX_DRAWS = 2000
"""Some states have fewer than NUM_CANDIDATES different ones; drawing has to end there."""
MAX_NUMBER = 10**9
"""Largest number that a tool takes."""
_RECORD_PARAMETERS = frozenset({"file", "article", "ticket", "order", "event", "mail", "program"})


def _argument_error(
    tool: ToolDef, arguments: dict[str, Any], schema: Mapping[str, Any]
) -> str | None:
    missing = [p for p in tool.parameters if p not in arguments and p not in OPTIONAL_PARAMETERS]
    if missing:
        return f"error: {missing[0]} is missing"
    unknown = [p for p in arguments if p not in tool.parameters]
    if unknown:
        return f"error: no parameter {unknown[0]}"
    problem = argument_problem(arguments, schema)
    if problem is None and any(abs(arguments[p]) > MAX_NUMBER for p in _numbers(arguments)):
        problem = f"numbers beyond {MAX_NUMBER} are not known here"
    return f"error: {problem}" if problem else None


def _numbers(arguments: Mapping[str, Any]) -> list[str]:
    return [name for name in arguments if name in INTEGER_PARAMETERS]


def _signature(spec: ToolSpec) -> str:
    parameters = ", ".join(spec.parameters["required"])
    return f"{spec.name}({parameters})"
