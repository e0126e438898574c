"""Bytes of log mined per second on one core, against bare `orjson.loads`, and the memory it takes.

    python benchmarks/bench_mining.py
    python benchmarks/bench_mining.py --rows-of ../shared/data/tau_bench --megabytes 10000

Writes a log of distinct tasks (made up, or rollouts of a log repeated with other ids and contents),
imports it into a rollouts folder, and mines the folder chunk by chunk: read, checked, mined, pair
rows written. After each chunk, in turns, `orjson.loads` parses the lines that the chunk holds, from
memory. CPU seconds of all threads. No row is rendered by a tokenizer; that is measured by itself at
the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import random
import re
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson

from specact_rl.logs.importers import read_log
from specact_rl.mining.build_rollouts import import_rollouts
from specact_rl.mining.chunks import Tables, open_tables
from specact_rl.mining.pairs import MiningOptions, mine_task
from specact_rl.mining.rows import preference_rows
from specact_rl.rendering import Renderer, check_parity, tool_dicts
from specact_rl.store import RowSpool
from specact_rl.types import Action, Message, Rollout, Step, StepRecord, ToolSpec

MEGABYTE = 1_000_000
BASE = Path(__file__).parents[1] / "specact_rl" / "models" / "bases" / "1m"
STRATEGIES = (["divergence"], ["divergence", "approx_prefix"])
"""What build_preferences mines without being asked, and all that rollouts alone give at steps."""
MINED = {"max_per_task": 8, "options": MiningOptions()}


def main() -> None:
    """Make a log, import it, mine it, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument(
        "--rows-of", type=Path, help="a log whose rollouts are repeated; default: made up"
    )
    parser.add_argument("--rows-rendered", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where the log goes for the time being")
    args = parser.parse_args()
    print(f"{cpu_name()}, {os.cpu_count()} CPUs, Python {platform.python_version()}; one core used")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        log = folder / "log.jsonl"
        in_process(write_log, log, args.megabytes * MEGABYTE, args.rows_of)
        size = log.stat().st_size / MEGABYTE
        seconds, memory = in_process(import_log, log, folder / "rollouts")
        print(f"log of {size:,.0f} MB, {args.rows_of or 'made up'}")
        print(f"imported at {size / seconds:.0f} MB/s, peak memory {memory:.2f} GB")
        for strategies in STRATEGIES:
            (found, pairs), memory = in_process(mine, log, folder, strategies)
            show(found, pairs, memory, strategies)
        (num_rows, seconds), _ = in_process(render, folder, strategies, args.rows_rendered)
        if num_rows:
            print(
                f"rendering, {num_rows} of these rows: {1000 * seconds / num_rows:.1f} ms a row "
                "(tokenised for their counts, then again as TRL will)"
            )


def in_process(function: Any, *args: Any) -> tuple[Any, float]:
    """What a function returns in a process of its own, and that process's peak memory in GB."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_with_memory, (function, args))


def _with_memory(function: Any, args: tuple[Any, ...]) -> tuple[Any, float]:
    result = function(*args)
    return result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def import_log(log: Path, out: Path) -> float:
    """Import, all tasks into one split; returns seconds."""
    started = time.process_time()
    import_rollouts(log, out, importer="native", fractions={"train_verifier": 1.0})
    return time.process_time() - started


class Unrendered:
    """Stands in for a renderer: rows as they would be, without tokens."""

    def prompt_fields(self, step: Step) -> dict[str, Any]:
        """Prompt and tools."""
        return {"prompt": step.history, "tools": tool_dicts(step.tools)}

    def message_completion_ids(self, message: Message) -> list[int]:
        """No tokens."""
        return []


def mine(
    log: Path, folder: Path, strategies: Sequence[str]
) -> tuple[list[tuple[int, float, float]], int]:
    """Bytes, seconds of orjson and of mining for each chunk, and how many pairs were written."""
    tables = rollout_tables(folder)
    measured = []
    next(tables.tasks(), None)  # once before, which makes parsers
    with RowSpool(folder, "pairs") as spool, log.open("rb") as stream:
        for chunk in tables.chunks:
            num_rows = 0
            started = time.process_time()
            for task in tables.read(chunk):
                pairs = mine_task(task, strategies=strategies, **MINED).pairs
                spool.add(task.task_id, preference_rows(pairs, Unrendered()).rows)
                num_rows += len(task.rollouts)
            mining = time.process_time() - started
            lines = list(itertools.islice(stream, num_rows))
            started = time.process_time()
            for line in lines:
                orjson.loads(line)
            parsing = time.process_time() - started
            measured.append((sum(map(len, lines)), parsing, mining))
        assert not stream.readline(), "the chunks must hold all lines"
        return measured, len(spool)


def rollout_tables(folder: Path) -> Tables:
    """The tables of the imported log."""
    return open_tables(folder / "rollouts", [], "train_verifier")


def render(folder: Path, strategies: Sequence[str], limit: int) -> tuple[int, float]:
    """Rows rendered and checked as a builder does it, and the seconds that took."""
    tables = rollout_tables(folder)
    pairs = []
    for task in tables.tasks():
        pairs += mine_task(task, strategies=strategies, **MINED).pairs
        if len(pairs) >= limit:
            break
    # transformers takes half a gigabyte, which is not mining's.
    from specact_rl.models.loading import load_tokenizer

    renderer = Renderer(tokenizer=load_tokenizer(str(BASE)), catalogue="template")
    del pairs[limit:]
    started = time.process_time()
    check_parity(preference_rows(pairs, renderer).rows, renderer)
    return len(pairs), time.process_time() - started


def show(
    found: Sequence[tuple[int, float, float]],
    num_pairs: int,
    memory: float,
    strategies: Sequence[str],
) -> None:
    """Print speeds and their ratio, of all chunks together and one by one."""
    size, parsing, mining = (sum(column) for column in zip(*found, strict=True))
    ratios = [parse / mine for _, parse, mine in found]
    print(f"\n{num_pairs:,} pairs by {', '.join(strategies)}; peak memory {memory:.2f} GB\n")
    print("| | all | median chunk | slowest | fastest |")
    print("|---|---:|---:|---:|---:|")
    rows = {
        "orjson.loads, MB/s": (
            size / MEGABYTE / parsing,
            [s / MEGABYTE / parse for s, parse, _ in found],
        ),
        "mining, MB/s": (
            size / MEGABYTE / mining,
            [s / MEGABYTE / mine for s, _, mine in found],
        ),
    }
    for name, (whole, chunks) in rows.items():
        middle = statistics.median(chunks)
        print(f"| {name} | {whole:.0f} | {middle:.0f} | {min(chunks):.0f} | {max(chunks):.0f} |")
    middle = statistics.median(ratios)
    print(
        f"| mining / orjson | {parsing / mining:.2f} | {middle:.2f} | {min(ratios):.2f} "
        f"| {max(ratios):.2f} |\n\n{len(found)} chunks"
    )


def write_log(path: Path, size: float, rows_of: Path | None) -> None:
    """A log of at least `size` bytes whose tasks all differ, in ids and in every message."""
    base = [] if rows_of is None else list(read_log(rows_of).result.rollouts)
    written = 0
    with path.open("wb") as stream:
        for number in itertools.count():
            for rollout in perturbed(base, number) if base else made_up(number):
                written += stream.write(orjson.dumps(asdict(rollout)) + b"\n")
            if written >= size:
                break
        stream.flush()


def perturbed(rollouts: Sequence[Rollout], number: int) -> Iterator[Rollout]:
    """The rollouts under other ids, with other digits and one more word in every text.

    The same change to all rollouts of a repeat: what was equal among them stays so.
    """
    digits = list("0123456789")
    random.Random(number).shuffle(digits)
    table = str.maketrans("0123456789", "".join(digits))

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return f"{value.translate(table)} v{number}"
        if isinstance(value, list):
            return [changed(item) for item in value]
        if isinstance(value, dict):
            return {key: changed(item) for key, item in value.items()}
        return value

    def action(found: Action | None) -> Action | None:
        if found is None:
            return None
        return replace(found, arguments=changed(found.arguments), text=changed(found.text))

    def message(found: Message) -> Message:
        calls = [
            {**call, "function": {**call["function"], "arguments": changed(arguments)}}
            for call in found.get("tool_calls") or ()
            if (arguments := call["function"]["arguments"]) is not None
        ]
        return {**found, "content": changed(found["content"])} | (
            {"tool_calls": calls} if calls else {}
        )

    for rollout in rollouts:
        yield replace(
            rollout,
            rollout_id=f"{rollout.rollout_id}#{number}",
            task_id=f"{rollout.task_id}#{number}",
            messages=[message(found) for found in rollout.messages],
            steps=[
                replace(step, executed=action(step.executed), reference=action(step.reference))
                for step in rollout.steps
            ],
        )


def made_up(number: int, trials: int = 4, turns: int = 12) -> list[Rollout]:
    """Rollouts of one task as long as those of tau-bench, whose lengths and shares they have.

    All begin alike; from some turn on each draws its own calls and answers.
    """
    shared = random.Random(number)
    tools = _tools()
    rollouts = []
    system = {"role": "system", "content": _words(shared, 1000)}
    request = {"role": "user", "content": _words(shared, 40)}
    alike = shared.randrange(turns)
    chance = shared.choice([0.0, 0.0, 0.5, 0.5, 1.0])
    common = [_turn(shared, tools) for _ in range(turns)]
    for trial in range(trials):
        rng = random.Random(f"{number}/{trial}")
        messages: list[Message] = [system, request]
        steps = []
        for index in range(turns):
            action, answer = common[index] if index < alike else _turn(rng, tools)
            steps.append(StepRecord(index=index, message_index=len(messages), executed=action))
            messages += [_message(action), answer]
        rollouts.append(
            Rollout(
                rollout_id=f"made_up/{number}/{trial}",
                task_id=f"task_{number}",
                family="made_up",
                policy="made_up",
                trial=trial,
                messages=messages,
                tools=tools,
                steps=steps,
                success=rng.random() < chance,
            )
        )
    return rollouts


def _tools() -> list[ToolSpec]:
    rng = random.Random("tools")
    return [
        ToolSpec(
            name=f"tool_{i}",
            description=_words(rng, 30),
            parameters={
                "type": "object",
                "properties": {
                    f"field_{j}": {"type": "string", "description": _words(rng, 12)}
                    for j in range(5)
                },
                "required": ["field_0"],
            },
        )
        for i in range(14)
    ]


def _turn(rng: random.Random, tools: Sequence[ToolSpec]) -> tuple[Action, Message]:
    """An action, and what a tool or the user answers."""
    if rng.random() < 0.5:
        text = _words(rng, 40)
        action = Action(type="ask_clarification", text=text + "?")
        return action, {"role": "user", "content": _words(rng, 20)}
    names = rng.sample(range(5), 3)
    arguments = {f"field_{j}": _words(rng, 2) for j in names}
    action = Action(type="tool_call", tool=rng.choice(tools).name, arguments=arguments)
    record = {f"key_{i}": _words(rng, 4) for i in range(25)}
    return action, {"role": "tool", "content": json.dumps(record)}


def _message(action: Action) -> Message:
    if action.text is not None:
        return {"role": "assistant", "content": action.text}
    call = {"type": "function", "function": {"name": action.tool, "arguments": action.arguments}}
    return {"role": "assistant", "content": "", "tool_calls": [call]}


def _words(rng: random.Random, count: int) -> str:
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(count))


def cpu_name() -> str:
    """Name of the processor as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
