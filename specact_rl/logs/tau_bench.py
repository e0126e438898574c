"""tau-bench and tau2-bench result files to rollouts, without what the agent was not meant to see.

`info.task` (tau-bench) and `tasks` (tau2-bench) hold the hidden instruction and the gold actions:
they are never read. A simulated user that thinks aloud quotes the instruction: its `<think>` is cut
out of every user message.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from specact_rl.actions.taxonomy import builtin_table
from specact_rl.errors import RolloutFormatError
from specact_rl.logs.chat import chat_rollout
from specact_rl.logs.groups import finished
from specact_rl.logs.reading import json_value
from specact_rl.logs.result import Flag, ImportResult, files_with
from specact_rl.logs.tool_types import retyped
from specact_rl.types import Rollout, ToolSpec

_THINK = re.compile(r"<think>.*?(?:</think>|\Z)\s*", re.DOTALL)
_DOMAIN = re.compile(r"\b(airline|retail|telecom|banking|mock)\b", re.IGNORECASE)
_RUN_NAME = re.compile(r"(?:tool-calling|act|react|few-shot)-(?P<model>.+)-\d+(?:\.\d+)?_range_.*")
_SUCCESS = 1 - 1e-6
_NOT_THE_AGENT = ("user_error", "infrastructure_error", "unexpected_error")
"""Ways in which a tau2-bench simulation ends that are no failure of the agent."""


@dataclass(slots=True, kw_only=True)
class _Log:
    """What is gathered while reading."""

    rollouts: list[Rollout] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    trials: Counter[tuple[str, str]] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    num_thoughts: Counter[str] = field(default_factory=Counter)
    """User messages that a `<think>` was cut out of, by policy."""
    no_schemas: set[str] = field(default_factory=set)
    """Files whose tools are known by name only."""
    malformed: dict[str, str] = field(default_factory=dict)
    """First malformed record by file."""


def import_tau_bench(path: Path) -> ImportResult:
    """A rollout for each record; the reward belongs to the whole of it.

    The policy is the model that the file or its name gives, else the name. tau-bench files have no
    tool schemas: they are taken from `tools_<domain>.json` (a list of OpenAI tools) beside the
    file or in the imported folder; without it the catalogue is the names that were called.

    Dropped, by reason: "harness_error" (a record of a run that crashed, without conversation),
    "duplicate_id" (a task and trial again), "malformed_record", and the messages that
    `chat_rollout` counts. A tau2-bench run that the user simulator or the infrastructure ended is
    no failure of the agent: its success is withheld.

    Raises:
        ConfigError: There is no `.json` file.
        RolloutFormatError: A file that is no JSON, or neither of the two formats.
    """
    log = _Log()
    for file in files_with(path, "**/*.json"):
        if file.name.startswith("tools_"):
            continue
        name = file.stem if not path.is_dir() else str(file.relative_to(path).with_suffix(""))
        value = json_value(file)
        records = _records(value, name, file, path)
        for i, record in enumerate(records):
            _add(log, record, f"{file}: record {i}", file)
    table = builtin_table("tau_bench")
    rollouts = [retyped(rollout, table) for rollout in _with_called_tools(log.rollouts)]
    return finished(rollouts, log.dropped, _flags(log))


def _records(value: Any, name: str, file: Path, root: Path) -> Iterator[dict[str, Any]]:
    """Rows in the form of `chat_rollout`; {} for a record that is none."""
    if isinstance(value, list):
        return (_tau_record(record, name, file, root) for record in value)
    if isinstance(value, dict) and isinstance(value.get("simulations"), list):
        return _tau2_records(value, name)
    raise RolloutFormatError(
        f"{file}: must be a list of tau-bench records (task_id, reward, info, traj, trial) or a "
        f"tau2-bench object with simulations, got {type(value).__name__}"
    )


def _tau_record(record: Any, name: str, file: Path, root: Path) -> dict[str, Any]:
    if not isinstance(record, dict) or not isinstance(record.get("traj"), list):
        return {}
    messages = record["traj"]
    system = messages[0].get("content") if messages and isinstance(messages[0], dict) else None
    domain = _domain(system, file)
    run = _RUN_NAME.fullmatch(name.rsplit("/", 1)[-1])
    info = record.get("info")
    crashed = isinstance(info, dict) and bool(info.get("error"))
    return {
        "messages": messages,
        "tools": _schemas(domain, file, root),
        "task_id": f"{domain}_{record.get('task_id')}",
        "family": domain,
        "model": run["model"] if run else name,
        "trial": record.get("trial"),
        "reward": record.get("reward"),
        "cost_usd": None,
        "user_cost_usd": info.get("user_cost") if isinstance(info, dict) else None,
        "ended": _ending(messages),
        "fault": "harness_error" if crashed else None,
    }


def _tau2_records(value: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    info = _object(value.get("info"))
    environment = _object(info.get("environment_info"))
    domain = environment.get("domain_name") or "tau2"
    policy = environment.get("policy")
    model = _object(info.get("agent_info")).get("llm") or name
    tools = environment.get("tool_defs")
    for simulation in value["simulations"]:
        if not isinstance(simulation, dict) or not isinstance(simulation.get("messages"), list):
            yield {}
            continue
        try:
            messages = list(_tau2_messages(simulation["messages"]))
        except (AttributeError, TypeError):  # something in it is no object
            yield {}
            continue
        opening = [{"role": "system", "content": policy}] if isinstance(policy, str) else []
        ended = simulation.get("termination_reason")
        reward = _object(simulation.get("reward_info")).get("reward")
        yield {
            "messages": [*opening, *messages],
            "tools": tools if isinstance(tools, list) else None,
            "task_id": f"{domain}_{simulation.get('task_id')}",
            "family": domain,
            "model": model,
            "trial": simulation.get("trial"),
            "reward": reward,
            "cost_usd": simulation.get("agent_cost"),
            "user_cost_usd": simulation.get("user_cost"),
            "seconds": simulation.get("duration"),
            "ended": ended,
            "fault": ended if ended in _NOT_THE_AGENT else None,
        }


def _tau2_messages(messages: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """What the agent saw: without the tools of the user, nor their results."""
    for message in messages:
        if message.get("role") == "tool":
            for result in message.get("tool_messages") or [message]:
                if result.get("requestor", "assistant") == "assistant":
                    yield {
                        "role": "tool",
                        "tool_call_id": result.get("id"),
                        "content": result.get("content"),
                        **({"is_error": True} if result.get("error") else {}),
                    }
            continue
        plain = {"role": message.get("role"), "content": message.get("content")}
        calls = message.get("tool_calls") or []
        if message.get("role") == "user":
            if plain["content"]:
                yield plain
            continue
        made = [
            {
                "id": call.get("id"),
                "type": "function",
                "function": {"name": call.get("name"), "arguments": call.get("arguments")},
            }
            for call in calls
        ]
        yield {**plain, **({"tool_calls": made} if made else {})}


def _add(log: _Log, record: dict[str, Any], where: str, file: Path) -> None:
    if record and record["fault"] == "harness_error" and not record["messages"]:
        log.dropped["harness_error"] += 1
        return
    try:
        if not record:
            raise RolloutFormatError(f"{where}: must have a list of messages")
        if record["tools"] is None:
            log.no_schemas.add(str(file))
        rollout = _rollout(record, where, log)
    except RolloutFormatError as error:
        log.dropped["malformed_record"] += 1
        log.malformed.setdefault(str(file), str(error))
        return
    if rollout.rollout_id in log.seen:
        log.dropped["duplicate_id"] += 1
        return
    log.seen.add(rollout.rollout_id)
    log.rollouts.append(rollout)


def _rollout(record: dict[str, Any], where: str, log: _Log) -> Rollout:
    messages = []
    for message in record["messages"]:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str) and message.get("role") == "user" and "<think>" in content:
            log.num_thoughts[record["model"]] += 1
            message = {**message, "content": _THINK.sub("", content)}
        messages.append(message)
    reward = record["reward"]
    scored = reward >= _SUCCESS if isinstance(reward, int | float) else None
    extra = {
        key: record[key]
        for key in ("cost_usd", "user_cost_usd", "ended", "seconds", "fault")
        if record.get(key) is not None
    }
    row = {
        "messages": messages,
        "tools": record["tools"] or [],
        "id": f"{record['model']}/{record['task_id']}/{record['trial']}",
        "task_id": record["task_id"],
        "family": record["family"],
        "model": record["model"],
        "trial": record["trial"],
        "success": None if record["fault"] else scored,
        "scored": scored,
        **extra,
    }
    return chat_rollout(row, where, log.trials, log.dropped)


def _with_called_tools(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Rollouts without schemas get the names that any rollout of their domain called."""
    called: dict[str, set[str]] = defaultdict(set)
    for rollout in rollouts:
        called[rollout.family].update(
            step.executed.tool
            for step in rollout.steps
            if step.executed is not None and step.executed.tool is not None
        )
    catalogues = {
        family: [ToolSpec(name=name) for name in sorted(names)] for family, names in called.items()
    }
    return [
        rollout if rollout.tools else replace(rollout, tools=catalogues[rollout.family])
        for rollout in rollouts
    ]


def _flags(log: _Log) -> list[Flag]:
    flags = [
        Flag(
            kind="answer_key_removed",
            group=policy,
            detail=f"{count} user messages began with the simulator's <think>, which quotes the "
            "hidden instruction; it is cut out here, though the agent itself saw it",
        )
        for policy, count in sorted(log.num_thoughts.items())
    ]
    flags += [
        Flag(
            kind="no_tool_schemas",
            group=file,
            detail="the log has no tool schemas: the catalogue holds the names that were called. "
            "Put tools_<domain>.json (a list of OpenAI tools) beside it",
        )
        for file in sorted(log.no_schemas)
    ]
    return flags + [
        Flag(kind="malformed_rows", group=file, detail=f"the first one: {error}")
        for file, error in sorted(log.malformed.items())
    ]


def _domain(system: object, file: Path) -> str:
    for text in (system, *reversed(file.parts)):
        match = _DOMAIN.search(text.replace("_", " ")) if isinstance(text, str) else None
        if match is not None:
            return match[1].lower()
    return "tau"


@cache
def _schemas(domain: str, file: Path, root: Path) -> list[dict[str, Any]] | None:
    """The schemas beside the file or in the imported folder; None when there are none."""
    for folder in dict.fromkeys((file.parent, root)):
        schemas = folder / f"tools_{domain}.json"
        if schemas.is_file():
            value = json_value(schemas)
            if isinstance(value, list):
                return value
            raise RolloutFormatError(f"{schemas}: must be a list of OpenAI tools, got {value!r}")
    return None


def _ending(messages: Sequence[Any]) -> str | None:
    """What the last message is: the user's stop, another user turn, or a tool result."""
    last = messages[-1] if messages and isinstance(messages[-1], dict) else {}
    if last.get("role") == "user":
        return "user_stop" if "###STOP###" in str(last.get("content")) else "user_turn"
    return {"tool": "tool_result", "assistant": "assistant_turn"}.get(str(last.get("role")))


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
