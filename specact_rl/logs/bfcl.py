"""Berkeley Function-Calling Leaderboard: result, score and question folders to rollouts.

One rollout per model and test. A single-turn response is one step with the score file's verdict;
a multi-turn test has a step per call, and the verdict belongs to the whole.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from specact_rl.actions.serialise import message_action
from specact_rl.actions.taxonomy import ToolTable, builtin_table
from specact_rl.logs.bfcl_calls import Decoded, assistant_message, decode_response
from specact_rl.logs.bfcl_files import Question, ResultFile, read_questions, result_files
from specact_rl.logs.bfcl_scores import Scores, read_scores
from specact_rl.logs.groups import MIN_GROUP, finished, unlabelled, withheld
from specact_rl.logs.reading import json_rows
from specact_rl.logs.result import Flag, ImportResult
from specact_rl.logs.tool_types import retyped
from specact_rl.store import content_hash
from specact_rl.types import Message, Rollout, StepRecord, ToolSpec

LABEL_SOURCE = "score_file"
_SERVER_ERRORS = ("Error during inference", "Internal error occurred")
_FORMAT_ERROR = "ast_decoder"
_MULTI_TURN = "multi_turn"


def import_bfcl(path: Path) -> ImportResult:
    """A rollout for each result that has a question.

    The step of a single-turn response holds its action where the response is one call, or text
    without a call; several calls are in the message (`tool_calls`), and the step has none. `info`
    keeps the response as it was, `scored` (the leaderboard's verdict), `error_type`, tokens and
    seconds. `success` is withheld where the failure is not the model's own (`info.fault`): a
    server's error, and failures of parallel categories whose server gives one call only
    ("lost_call"). Calls in a format that the leaderboard's decoder refused ("format_error") have
    failed as responses, but nobody has judged them as calls: the step has no label, and they are no
    side of a pair.

    Dropped, by reason: "duplicate_id" (a second result of a test; the first counts),
    "no_question", "no_result" (failures in a score file without result file), "not_a_result" (a
    line without id or result), and in multi-turn logs "malformed_log", "empty_message" (a turn
    ended without a logged text) and "parallel_calls".

    Raises:
        ConfigError: No results, or no questions.
        RolloutFormatError: A line that is not what its file should hold; names path and line.
    """
    files = result_files(path)
    questions = read_questions(path, {file.category for file in files})
    tables = {turns: builtin_table(f"bfcl_{turns}") for turns in ("single_turn", _MULTI_TURN)}
    dropped: Counter[str] = Counter()
    flags: list[Flag] = []
    rollouts: list[Rollout] = []
    for file in files:
        if file.path is None:
            dropped["no_result"] += _num_failures(file)
            flags.append(_flag("score_without_result", file, f"{file.score} has no result file"))
            continue
        rows = _unique_rows(file.path, dropped)
        scores = _scores(file, rows, flags)
        turns = _MULTI_TURN if file.category.startswith(_MULTI_TURN) else "single_turn"
        new = []
        for test, row in rows.items():
            if test not in questions:
                dropped["no_question"] += 1
                continue
            try:
                new.append(_rollout(file, row, questions[test], scores, tables[turns], dropped))
            except (KeyError, TypeError, AttributeError):  # a log of another shape
                dropped["malformed_log"] += 1
        flags += _format_flags(file, new, scores)
        rollouts += new
    one_call = _one_call_groups(rollouts)
    flags += _one_call_flags(one_call)
    rollouts = [
        withheld(r, "lost_call") if r.success is False and _group(r) in one_call else r
        for r in rollouts
    ]
    return finished(rollouts, +dropped, flags)


def _unique_rows(path: Path, dropped: Counter[str]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for _, row in json_rows(path):
        test = row.get("id")
        if not isinstance(test, str) or "result" not in row:
            dropped["not_a_result"] += 1
        elif test in rows:
            dropped["duplicate_id"] += 1
        else:
            rows[test] = row
    return rows


def _num_failures(file: ResultFile) -> int:
    return 0 if file.score is None else sum("id" in row for _, row in json_rows(file.score))


def _scores(
    file: ResultFile, rows: Mapping[str, Mapping[str, Any]], flags: list[Flag]
) -> Scores | None:
    """The verdicts; None, with a flag, where there are none that can be used."""
    if file.score is None:
        flags.append(_flag("no_score", file, "there is no score file: success is unknown"))
        return None
    scores = read_scores(file.score, file.category, rows.keys())
    if scores.doubt is not None:
        flags.append(
            _flag(
                "labels_withheld",
                file,
                f"{scores.doubt}. A score file lists failures only, so that a missing line would "
                "count as a success: all labels of this file are unknown",
            )
        )
        return None
    return scores


def _rollout(
    file: ResultFile,
    row: Mapping[str, Any],
    question: Question,
    scores: Scores | None,
    table: ToolTable,
    dropped: Counter[str],
) -> Rollout:
    test = row["id"]
    scored = None if scores is None else test not in scores.errors
    fault = _server_error(row["result"])
    success = None if fault else scored
    info: dict[str, Any] = {
        "scored": scored,
        "error_type": None if scores is None else scores.errors.get(test),
        "run": file.run,
        **_usage(row),
    }
    if fault:
        info["fault"] = "server_error"
    if question.initial_state is not None:
        # The services start there, but only its likeness matters: two tests may share a request.
        info["initial_state"] = content_hash(question.initial_state)
    messages = list(question.turns[0])
    steps: list[StepRecord] = []
    if not fault and file.category.startswith(_MULTI_TURN):
        messages, steps = _conversation(row, question, dropped)
    elif not fault:
        info["response"] = row["result"]
        messages, steps = _answer(row["result"], messages, question.tools, success)
    rollout = Rollout(
        rollout_id="/".join(part for part in (file.run, file.model, test) if part),
        task_id=test,
        family=file.category,
        policy=file.model,
        trial=file.trial,
        messages=messages,
        tools=question.tools,
        steps=steps,
        success=success,
        info=info,
    )
    if scored is False and not fault and _refused_calls(rollout):
        rollout = unlabelled(rollout, "format_error")
    return retyped(rollout, table)


def _refused_calls(rollout: Rollout) -> bool:
    """Whether the leaderboard's decoder refused a response in which calls can be read."""
    refused = str(rollout.info["error_type"]).startswith(_FORMAT_ERROR)
    return refused and bool(rollout.messages[-1].get("tool_calls"))


def _server_error(result: object) -> bool:
    return isinstance(result, str) and result.startswith(_SERVER_ERRORS)


def _answer(
    response: object, request: list[Message], tools: list[ToolSpec], success: bool | None
) -> tuple[list[Message], list[StepRecord]]:
    """The request with the response after it, and the one step that this is."""
    decoded = decode_response(response, tools)
    message = assistant_message(decoded)
    single = len(decoded.calls) == 1 or (decoded.text.strip() != "" and not decoded.broken)
    raw = response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)
    # Without a call, function-calling output is an empty list: what was said is not in the log.
    said = bool(decoded.calls or decoded.text.strip())
    step = StepRecord(
        index=0,
        message_index=len(request),
        executed=message_action(message, tools, request) if single else None,
        executed_text=raw if said and not single else None,
        acceptable=success,
        label_source=None if success is None else LABEL_SOURCE,
    )
    return [*request, message], [step]


def _conversation(
    row: Mapping[str, Any], question: Question, dropped: Counter[str]
) -> tuple[list[Message], list[StepRecord]]:
    """The turns of a multi-turn log: requests, calls and the real results of the tools."""
    messages: list[Message] = []
    steps: list[StepRecord] = []
    for turn in row.get("inference_log") or ():
        if not isinstance(turn, dict):
            continue  # the state of the services after a turn: the model did not see it
        for name, entries in turn.items():
            if name == "begin_of_turn_query":
                messages += [{"role": m["role"], "content": m["content"]} for m in entries]
            elif name.startswith("step_"):
                _add_step(entries, question.tools, messages, steps, dropped)
    return messages, steps


def _add_step(
    entries: Sequence[Mapping[str, Any]],
    tools: list[ToolSpec],
    messages: list[Message],
    steps: list[StepRecord],
    dropped: Counter[str],
) -> None:
    response = next((m["content"] for m in entries if m["role"] == "assistant"), "")
    decoded = decode_response(response, tools)
    message = assistant_message(decoded)
    results = [_text(m["content"]) for m in entries if m["role"] == "tool"]
    if len(decoded.calls) > 1:
        dropped["parallel_calls"] += 1
    elif not decoded.calls and not decoded.text.strip():
        dropped["empty_message"] += 1
        return
    else:
        steps.append(_step(decoded, message, tools, messages, len(steps)))
    messages.append(message)
    messages += [{"role": "tool", "content": result} for result in results]


def _step(
    decoded: Decoded,
    message: Message,
    tools: list[ToolSpec],
    history: list[Message],
    index: int,
) -> StepRecord:
    return StepRecord(
        index=index,
        message_index=len(history),
        executed=None if decoded.broken else message_action(message, tools, history),
        executed_text=decoded.text if decoded.broken else None,
    )


def _text(content: object) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def _usage(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Totals of the log; None where it does not say."""
    return {
        "input_tokens": _total(row.get("input_token_count")),
        "output_tokens": _total(row.get("output_token_count")),
        "seconds": _total(row.get("latency")),
    }


def _total(value: object) -> float | None:
    """The sum of the numbers in nested lists; None without any."""
    numbers = list(_numbers(value))
    return sum(numbers) if numbers else None


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _format_flags(
    file: ResultFile, rollouts: Sequence[Rollout], scores: Scores | None
) -> list[Flag]:
    """Where a model fails by its format more than by its calls."""
    if scores is None or not rollouts:
        return []
    failures = [r for r in rollouts if r.info["scored"] is False]
    unread = [r for r in failures if str(r.info["error_type"]).startswith(_FORMAT_ERROR)]
    fenced = sum(str(r.info.get("response")).lstrip().startswith("```") for r in unread)
    readable = sum(bool(r.messages[-1].get("tool_calls")) for r in unread)
    if len(unread) < MIN_GROUP or 2 * len(unread) < len(rollouts):
        return []
    return [
        _flag(
            "format_failures",
            file,
            f"{len(unread)} of {len(failures)} failures are responses that the leaderboard's "
            f"decoder rejected ({fenced} of them in Markdown fences), and {readable} of these are "
            "calls all the same. Nobody has judged these as calls: their steps have no label, and "
            "they are in no pair. Pairs made of the others teach the format, not the call",
        )
    ]


def _group(rollout: Rollout) -> tuple[str, str]:
    return rollout.info["run"], rollout.family


def _one_call_groups(rollouts: Sequence[Rollout]) -> dict[tuple[str, str], int]:
    """Responses by run and parallel category, where none of them has more than one call."""
    calls: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rollout in rollouts:
        if "parallel" in rollout.family and rollout.info["scored"] is not None:
            calls[_group(rollout)].append(len(rollout.messages[-1].get("tool_calls") or ()))
    return {
        group: len(counts)
        for group, counts in sorted(calls.items())
        if len(counts) >= MIN_GROUP and max(counts) <= 1
    }


def _one_call_flags(groups: Mapping[tuple[str, str], int]) -> list[Flag]:
    return [
        Flag(
            kind="harness_fault",
            group=f"{run} {family}".strip(),
            detail=f"none of {count} responses has more than one call, though the category "
            "asks for several: the server drops all but the first, so that failures here are not "
            "the models'",
        )
        for (run, family), count in groups.items()
    ]


def _flag(kind: str, file: ResultFile, detail: str) -> Flag:
    group = " ".join(part for part in (file.run, file.model, file.category) if part)
    return Flag(kind=kind, group=group, detail=detail)
